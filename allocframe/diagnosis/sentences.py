"""Findings in English.

`incident_sentences` and `evidence_sentences` write about incidents and their causes, `data_sentences` about
the quality of the data; each report writes the sentences of its own frame. Each finding has one `Wording`.
`short` is its line in a repr and on the command line, `long` is for reports. Nothing parses these sentences:
whoever needs a number takes it from the facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from .._utils.prose import clock, count, listed
from . import gone_sentences, quiet_sentences
from .incident_sentences import mechanism, shortened


class Facts(Protocol):
    """What a sentence is made of; findings are such facts."""

    @property
    def code(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def subject(self) -> dict[str, Any]: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    @property
    def began_at(self) -> pd.Timestamp | None: ...
    @property
    def last_at(self) -> pd.Timestamp | None: ...
    @property
    def observed_at(self) -> pd.Timestamp | None: ...


@dataclass(frozen=True)
class Clock:
    """Writes times: without today's date, and without the zone if the text around has said it."""

    today: pd.Timestamp | None = None
    zone: str = " UTC"

    def at(self, moment: pd.Timestamp | None) -> str:
        """Return one moment."""
        return "an unknown time" if moment is None else f"{clock(moment, self.today)}{self.zone}"

    def between(self, first: pd.Timestamp | None, last: pd.Timestamp | None) -> str:
        """Return a span of time; both ends in the same minute are one moment."""
        if first is None or last is None or clock(first) == clock(last):
            return f"at {self.at(first)}"
        return f"from {clock(first, self.today)} to {clock(last, first)}{self.zone}"


Sentence = Callable[[Facts, Clock], str]


@dataclass(frozen=True)
class Wording:
    """The English for one code.

    Attributes
    ----------
    title : str
        The name of the rule.
    short : function
        The finding in one line.
    more : function, optional
        What a report adds to it.
    """

    title: str
    short: Sentence
    more: Sentence | None = None


WORDINGS: dict[str, Wording] = {}


def short(finding: Facts) -> str:
    """Return a finding in one line."""
    return _of_cluster(finding, WORDINGS[finding.code].short(finding, Clock(finding.observed_at)))


def long(finding: Facts) -> str:
    """Return a finding in full sentences."""
    wording, times = WORDINGS[finding.code], Clock(finding.observed_at)
    sentences = [wording.short(finding, times), wording.more(finding, times) if wording.more else ""]
    return _of_cluster(finding, " ".join(filter(None, sentences)))


def _of_cluster(finding: Facts, text: str) -> str:
    return f"{finding.subject['cluster']}: {text}" if "cluster" in finding.subject else text


# Names of things


def _namespace(subject: dict[str, Any], *remarks: str) -> str:
    namespace = subject.get("namespace", "default")
    inside = ", ".join([*([] if namespace == "default" else [f"namespace {namespace}"]), *remarks])
    return f" ({inside})" if inside else ""


def _job(subject: dict[str, Any]) -> str:
    version = "" if subject.get("job_version") is None else f" v{subject['job_version']}"
    return f"{subject['job_id']}{version}{_namespace(subject)}"


def _job_and_version(subject: dict[str, Any], *remarks: str) -> str:
    version = "" if subject["job_version"] is None else f" version {subject['job_version']}"
    return f"{subject['job_id']}{version}{_namespace(subject, *remarks)}"


# The data


def _truncated(finding: Facts, times: Clock) -> str:
    truncated, total = finding.facts["tasks_truncated"], count(finding.facts["tasks"], "tasks")
    have = "has" if truncated == 1 else "have"
    return f"{truncated:,} of {total} {have} lost older events (Nomad keeps the last 10 per task)."


def _lower_bounds(finding: Facts, times: Clock) -> str:
    return "Counts from their events are lower bounds."


WORDINGS["AF101"] = Wording("Events truncated", _truncated, _lower_bounds)


def _incomplete(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    if facts["reason"] == "cluster missing":
        return f"the cluster was not fetched: {facts['error']}"
    if facts["reason"] == "no task states":
        return "The snapshot holds no task states, so restarts and failures are unknown."
    return f"The snapshot is incomplete: {'; '.join(facts['notes'])}"


WORDINGS["AF102"] = Wording("Snapshot incomplete", _incomplete)


def _misfits(finding: Facts, times: Clock) -> str:
    values, fields = finding.facts["values"], ", ".join(finding.facts["fields"])
    have, are = ("has", "is") if values == 1 else ("have", "are")
    return (
        f"{count(values, 'values')} {have} an unexpected type and {are} missing from the tables ({fields})."
    )


WORDINGS["AF103"] = Wording("Values of an unexpected type", _misfits)


def _skewed(finding: Facts, times: Clock) -> str:
    runs, nodes = finding.facts["runs"], count(finding.facts["nodes"], "nodes")
    end, they = ("ends", "it starts") if runs == 1 else ("end", "they start")
    return f"{count(runs, 'runs')} on {nodes} {end} before {they}: clocks were set back there."


WORDINGS["AF104"] = Wording("Clock set back", _skewed)


# What failed. The facts are those of the incident's part that is about this job.


def _failing(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    runs = facts.get("runs")
    how = mechanism(facts)
    if runs:
        return f"{_job(finding.subject)}: {facts['failed_runs']:,} of {count(runs, 'runs')} failed{how}."
    task = f", task {finding.subject['task']}" if finding.subject.get("task") else ""
    failures = count(facts["failures"], "failures")
    bad, wanted = facts["instances_bad"], count(facts["instances_wanted"], "instances")
    now = f"{bad:,} of {wanted} do not run well now" if bad else "none fails now"
    when = times.between(finding.began_at, finding.last_at)
    return f"{_job(finding.subject)}{task}: {failures} {when}{how}; {now}."


WORDINGS["AF201"] = Wording("Crash loop", _failing)
WORDINGS["AF202"] = Wording("Out of memory", _failing)
WORDINGS["AF204"] = Wording("Artifacts cannot be downloaded", _failing)
WORDINGS["AF205"] = Wording("Tasks cannot start", _failing)
WORDINGS["AF206"] = Wording("Tasks fail, but not in a loop", _failing)


def _kill_timeout(finding: Facts, times: Clock) -> str:
    kills = count(finding.facts["kills"], "times")
    return (
        f"{_job(finding.subject)}: killed by force {kills}, because it did not stop within its kill timeout."
    )


WORDINGS["AF203"] = Wording("Kill timeout exceeded", _kill_timeout)


def _unexplained(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    if "restarts" in facts:
        return f"{_job(finding.subject)}: {count(facts['restarts'], 'restarts')} that no event explains."
    return f"{_job(finding.subject)}: {count(facts['unhealthy'], 'allocations')} run and are unhealthy."


WORDINGS["AF207"] = Wording("Unexplained failures or restarts", _unexplained)


def _quiet(finding: Facts, times: Clock) -> str:
    who = _job({**finding.subject, "job_version": None})
    title = quiet_sentences.title(who, finding.facts)
    return f"{title}. {quiet_sentences.numbers(finding.facts, shortened)}"


WORDINGS["AF209"] = Wording("Start takes too long", _quiet)
WORDINGS["AF210"] = Wording("Run does not end", _quiet)
WORDINGS["AF211"] = Wording("Periodic runs were not launched", _quiet)
WORDINGS["AF402"] = Wording("Deployment waits for an operator", _quiet)
WORDINGS["AF602"] = Wording("Instances are missing", _quiet)
WORDINGS["AF603"] = Wording("Job is not scheduled", _quiet)


def _gone(finding: Facts, times: Clock) -> str:
    who = _job({**finding.subject, "job_version": None})
    title = gone_sentences.title(who, finding.facts)
    return f"{title}. {gone_sentences.details(finding.facts, f' at {times.at(finding.began_at)}')}"


WORDINGS["AF403"] = Wording("A version removed something in use", _gone)


def _requested(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    if "moved" in facts:
        what = "were stopped one by one" if facts.get("one_by_one") else "were moved"
        return f"{count(facts['moved'], 'allocations')} of {count(facts['jobs'], 'jobs')} {what}."
    if "stopped" in facts:
        return f"{count(facts['stopped'], 'jobs')} {'purged' if facts['purge'] else 'stopped'}."
    if "preempted" in facts:
        return f"{count(facts['preempted'], 'allocations')} preempted and replaced."
    if "purged" in facts:
        return f"{count(facts['purged'], 'jobs')} purged, with all allocations."
    if "failed_by_hand" in facts:
        return (
            f"An operator failed the deployment of version {facts['job_version']} of {_job(finding.subject)}."
        )
    if "scaled" in facts:
        groups = ", ".join(str(each["task_group"]) for each in facts["scaled"])
        part = f", group {groups}," if facts["others_run"] else ""
        return f"{_job(finding.subject)}{part} was scaled to 0 in version {facts['job_version']}."
    who = {"unknown": "for an unknown reason"}.get(facts["requester"], f"by {facts['requester']}")
    return f"{count(facts['restarts'], 'restarts')} of {count(facts['tasks'], 'tasks')} requested {who}."


WORDINGS["AF208"] = Wording("Restarts and moves on request", _requested)


# Nodes, versions, several jobs


def _lost_node(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    lost = f"with {count(facts['lost'], 'allocations')} of {count(len(facts['jobs']), 'jobs')}"
    waiting = f" {count(facts['not_replaced'], 'allocations')} not replaced." if facts["not_replaced"] else ""
    return f"Node {finding.subject['node_name']} was lost at {times.at(finding.began_at)} {lost}.{waiting}"


WORDINGS["AF301"] = Wording("Node lost", _lost_node)


def _lemon(finding: Facts, times: Clock) -> str:
    jobs = f"{count(len(finding.facts['jobs']), 'jobs')} ({listed(finding.facts['jobs'], 3)})"
    return f"Node {finding.subject['node_name']}: {jobs} fail there and run well elsewhere."


WORDINGS["AF302"] = Wording("Jobs fail on one node only", _lemon)


def _restarted_node(finding: Facts, times: Clock) -> str:
    node = f"Node {finding.subject['node_name']}, or its client, restarted at {times.at(finding.began_at)}"
    return f"{node}: the end of some runs is not on record."


WORDINGS["AF303"] = Wording("Node restarted", _restarted_node)


def _worse_version(finding: Facts, times: Clock) -> str:
    when = times.between(finding.began_at, finding.last_at)
    return f"{_job_and_version(finding.subject)} fails and the previous version did not, {when}."


WORDINGS["AF401"] = Wording("Version fails more than the previous one", _worse_version)


def _together(finding: Facts, times: Clock) -> str:
    jobs = f"{count(len(finding.facts['jobs']), 'jobs')} ({listed(finding.facts['jobs'], 3)})"
    shared = finding.subject.get("shared")
    what = f"share {shared}" if shared else "began to fail at once"
    return f"{jobs} {what}, {times.between(finding.began_at, finding.last_at)}."


WORDINGS["AF501"] = Wording("Several jobs fail at once", _together)


# Room and resources


def _unplaced(finding: Facts, times: Clock) -> str:
    subject, facts = finding.subject, finding.facts
    queued = "" if facts["queued"] is None else f", {facts['queued']:,} waiting"
    lacking = "; ".join(filter(None, (facts["exhausted"], facts["constraints"]))) or "no node fits"
    tries = count(facts["evaluations"], "evaluations")
    return (
        f"{_job(subject)}, group {subject['task_group']}: not placed in {tries}{queued}. Reason: {lacking}."
    )


WORDINGS["AF601"] = Wording("Allocations cannot be placed", _unplaced)


def _samples(facts: dict[str, Any]) -> str:
    return f"{count(facts['samples'], 'samples')} of {count(facts['tasks'], 'tasks')}"


def _memory_of_reserved(facts: dict[str, Any]) -> str:
    return f"{facts['memory_max_mib']:,.0f} of {facts['memory_requested_mib']:,.0f} MiB"


def _tight(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    return (
        f"{_job(finding.subject)}, task {finding.subject['task']}: "
        f"used up to {_memory_of_reserved(facts)} reserved "
        f"({facts['memory_max_share']:.0%}), in {_samples(facts)}."
    )


WORDINGS["AF701"] = Wording("Memory close to what is reserved", _tight)


def _idle(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    cpu = f"{facts['cpu_p95_mhz']:,.0f} of {facts['cpu_requested_mhz']:,.0f} MHz"
    return (
        f"{_job(finding.subject)}, task {finding.subject['task']}: "
        f"used at most {_memory_of_reserved(facts)} reserved, "
        f"and at most {cpu} in 95% of {_samples(facts)}."
    )


WORDINGS["AF702"] = Wording("Far more reserved than used", _idle)
