"""Findings and incidents in English.

`data_sentences` writes about the quality of the data; each report writes the sentences of its own frame. Each
finding has one `Wording`. `short` is its line in a repr and on the command line, `long` is for reports.
Nothing parses these sentences: whoever needs a number takes it from the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from .._utils.prose import clock, count, number, span


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
    suspect : function, optional
        Where to look first; empty if the facts do not say.
    unknown : function, optional
        What the evidence does not show, as the end of "not known: ...".
    """

    title: str
    short: Sentence
    more: Sentence | None = None
    suspect: Callable[[Facts], str] | None = None
    unknown: Callable[[Facts], str] | None = None


WORDINGS: dict[str, Wording] = {}


def short(finding: Facts) -> str:
    """Return a finding in one line."""
    return _of_cluster(finding, WORDINGS[finding.code].short(finding, Clock(finding.observed_at)))


def long(finding: Facts, times: Clock | None = None) -> str:
    """Return a finding in full sentences."""
    wording, times = WORDINGS[finding.code], times or Clock(finding.observed_at)
    sentences = [wording.short(finding, times), wording.more(finding, times) if wording.more else ""]
    return _of_cluster(finding, " ".join(filter(None, sentences)))


def _of_cluster(finding: Facts, text: str) -> str:
    return f"{finding.subject['cluster']}: {text}" if "cluster" in finding.subject else text


def incident_title(findings: Sequence[Facts]) -> str:
    """Return what an incident is about, in a few words."""
    first = findings[0]
    subject, facts = first.subject, first.facts
    if "job_version" in subject:
        title = _job_and_version(subject)
    elif first.code == "AF501":
        title = f"restart storm at {first.began_at:%H:%M:%S} ({facts['cause']})"
    elif "node_name" in subject:
        title = f"node {subject['node_name']}"
    else:
        title = f"failed starts ({facts['cause']})"
    return _of_cluster(first, title)


def incident_suspect(findings: Sequence[Facts]) -> str:
    """Return where to look first, as the end of "first suspect: ..."; empty if the evidence does not say."""
    suspects = [wording.suspect(each) for each in findings if (wording := WORDINGS[each.code]).suspect]
    return next(filter(None, suspects), "")


def incident_unknown(findings: Sequence[Facts]) -> str:
    """Return what the evidence of an incident does not show, as the end of "not known: ..."."""
    unknown = WORDINGS[findings[0].code].unknown
    return unknown(findings[0]) if unknown else ""


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


def _first_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


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


# Jobs and their versions

_LOOPS = {
    "failure": "crash loop, exit code {code}",
    "out of memory": "crash loop, out of memory",
    "health check": "restart loop, its health check fails",
    "completed": "restart loop, exits with success but should keep running",
}


def _crash_loop(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    code = "unknown" if facts["exit_code"] is None else facts["exit_code"]
    loop = _LOOPS.get(facts["cause"], "crash loop").format(code=code)
    after = "" if facts["median_run"] is None else f" {_after_start(facts['median_run'])}"
    instances = count(facts["instances"], "instances")
    state = f"{facts['looping']:,} of {instances} still looping" if facts["looping"] else "none still looping"
    return (
        f"{_job(finding.subject)}, task {finding.subject['task']}: {loop}{after}. "
        f"{count(facts['crashes'], 'crashes')} since {times.at(finding.began_at)}; {state}."
    )


def _after_start(length: pd.Timedelta) -> str:
    # "0.0 s" would read like an error
    return f"about {span(length)} after each start" if length >= _SHORTEST else "right after each start"


_SHORTEST = pd.Timedelta("50ms")

WORDINGS["AF201"] = Wording(
    "Crash loop", _crash_loop, unknown=lambda finding: f"why {finding.subject['job_id']} crashes"
)


def _memory(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    tasks, last = count(facts["tasks"], "tasks"), times.at(finding.last_at)
    if facts["confirmed"]:
        kills = count(facts["kills"], "kills")
        return f"{_job(finding.subject)}: out of memory, {kills} in {tasks}, the last at {last}."
    kills = count(facts["kills"], "times")
    killed = f"{tasks} killed by SIGKILL {kills}"
    return f"{_job(finding.subject)}: {killed}, perhaps out of memory, the last at {last}."


def _driver_on_memory(finding: Facts, times: Clock) -> str:
    return "The driver confirms it." if finding.facts["confirmed"] else "The driver does not say why."


def _unknown_of_memory(finding: Facts) -> str:
    if not finding.facts["confirmed"]:
        return f"who killed {_job_and_version(finding.subject)}"
    return f"whether {finding.subject['job_id']} leaks, its limit is too low or its node was short of memory"


WORDINGS["AF202"] = Wording("Out of memory", _memory, _driver_on_memory, unknown=_unknown_of_memory)


def _kill_timeout(finding: Facts, times: Clock) -> str:
    kills = count(finding.facts["kills"], "times")
    return (
        f"{_job(finding.subject)}: killed by force {kills}, because it did not stop within its kill timeout."
    )


WORDINGS["AF203"] = Wording("Kill timeout exceeded", _kill_timeout)


def _worse_version(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    canaries = ", canaries" if facts["canary"] else ""
    placed = f"first placed {times.at(facts['placed_at'])}"
    return (
        f"{_job_and_version(finding.subject, placed)}{canaries}: "
        f"{facts['failed_tasks']:,} of {count(facts['tasks'], 'tasks')} failed. "
        f"Version {facts['base_version']}: {facts['base_failed_tasks']:,} of {facts['base_tasks']:,}."
    )


def _change_of_version(finding: Facts) -> str:
    return f"the change from version {finding.facts['base_version']} to {finding.subject['job_version']}"


WORDINGS["AF401"] = Wording(
    "Version fails more than the one before",
    _worse_version,
    suspect=_change_of_version,
    unknown=lambda finding: f"why {finding.subject['job_id']} fails",
)


# Starts

_STARTS = {
    "artifact": ("artifacts could not be fetched", "the artifact store or the way to it"),
    "driver": ("the driver refused", "the driver, an image or a registry"),
    "setup": ("setup failed", "what their setup needs"),
    "validation": ("the task is invalid", "what they are checked against"),
    "hook": ("a hook failed", "what the hook needs"),
}


def _failed_starts(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    why, _ = _STARTS.get(facts["cause"], ("the task did not run", ""))
    jobs = f"{count(len(facts['jobs']), 'jobs')} ({_first_names(facts['jobs'])})"
    error = f' Most common error: "{facts["error"]}".' if facts["error"] else ""
    when = times.between(finding.began_at, finding.last_at)
    return f"{count(facts['starts'], 'starts')} failed in {jobs} {when}: {why}.{error}"


def _shared_need(finding: Facts) -> str:
    if finding.severity != "critical":
        return ""
    _, shared = _STARTS.get(finding.facts["cause"], ("", "what they need to start"))
    return f"what these jobs share, such as {shared}"


def _cause_of_failed_starts(finding: Facts) -> str:
    return f"what lies behind the failed starts ({finding.facts['cause']})"


WORDINGS["AF204"] = Wording(
    "Artifacts cannot be fetched", _failed_starts, suspect=_shared_need, unknown=_cause_of_failed_starts
)
WORDINGS["AF205"] = Wording(
    "Tasks cannot start", _failed_starts, suspect=_shared_need, unknown=_cause_of_failed_starts
)


# Nodes


def _lost_node(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    lost = f"with {count(facts['lost'], 'allocations')} of {count(facts['jobs'], 'jobs')}"
    sentences = [f"Node {finding.subject['node_name']} was lost at {times.at(facts['lost_at'])} {lost}."]
    if facts["median_to_start"] is not None:
        sentences.append(f"Replacements ran after {span(facts['median_to_start'])} (median).")
    if facts["unplaced"]:
        sentences.append(f"{count(facts['unplaced'], 'allocations')} not replaced.")
    return " ".join(sentences)


WORDINGS["AF301"] = Wording(
    "Node lost", _lost_node, unknown=lambda finding: f"why node {finding.subject['node_name']} was lost"
)


def _lemon(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    return (
        f"Node {finding.subject['node_name']}: "
        f"{facts['observed']:,} of {count(facts['tasks'], 'tasks')} failed, "
        f"{facts['ratio']:.1f} times the {facts['expected']:.1f} expected from its jobs "
        f"(95% interval {facts['lower']:.1f} to {facts['upper']:.1f})."
    )


WORDINGS["AF302"] = Wording(
    "Node fails more than its jobs explain",
    _lemon,
    suspect=lambda finding: "the node itself",
    unknown=lambda finding: f"what is wrong with node {finding.subject['node_name']}",
)


# Several jobs at once

_REQUESTS = {
    "template": ("a template that was rendered again", "what changed the data of the template"),
    "vault": ("a new Vault token", "why the Vault token was renewed"),
    "operator": ("an operator's request", "who asked for the restarts"),
}


def _whole_span(length: str) -> str:
    return span(pd.Timedelta(length)).replace(".0 ", " ")


def _storm(finding: Facts, times: Clock) -> str:
    facts = finding.facts
    tasks, length = count(facts["slots"], "tasks"), span(facts["ended_at"] - facts["began_at"])
    expected = f"{number(facts['expected'])} expected in {_whole_span(facts['window'])}"
    shares = f"{facts['cause_share']:.0%} by cause: {facts['cause']}"
    node = f", {facts['node_name_share']:.0%} on node {facts['node_name']}" if facts["on_one_node"] else ""
    return (
        f"{tasks} of several jobs restarted or failed within {length}, from {times.at(facts['began_at'])} "
        f"({expected}): {shares}{node}."
    )


def _requested_by(finding: Facts) -> str:
    cause = finding.facts["cause"]
    requester, _ = _REQUESTS.get(cause, (f"what they share (cause of each: {cause})", ""))
    return requester


def _cause_of_storm(finding: Facts) -> str:
    return _REQUESTS.get(finding.facts["cause"], ("", "what these tasks have in common"))[1]


WORDINGS["AF501"] = Wording("Restart storm", _storm, suspect=_requested_by, unknown=_cause_of_storm)


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
