"""Incidents, causes and their evidence in English."""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd

from .._utils.prose import clock, count, number, span
from ..stats.vocabulary import SIGNALS


class Fact(Protocol):
    """A fact with its numbers; evidence is such a fact."""

    @property
    def fact(self) -> str: ...
    @property
    def numbers(self) -> dict[str, Any]: ...


class Story(Protocol):
    """What a title is made of; incidents are such stories."""

    @property
    def state(self) -> str: ...
    @property
    def cause(self) -> Any: ...
    @property
    def jobs(self) -> list[tuple[str, str]]: ...
    @property
    def nodes(self) -> list[str]: ...
    @property
    def began_at(self) -> pd.Timestamp | None: ...
    @property
    def last_at(self) -> pd.Timestamp | None: ...
    @property
    def began_before(self) -> bool: ...
    @property
    def facts(self) -> dict[str, Any]: ...
    @property
    def observed_at(self) -> pd.Timestamp | None: ...


# Titles


def title(incident: Story) -> str:
    """Return what happened to whom, in a few words."""
    cause, facts = incident.cause, incident.facts
    who = names(incident.jobs)
    if cause.kind == "node":
        node = f"Node {cause.subject['node_name']}"
        if cause.mechanism == "lost":
            return f"{node} lost"
        if cause.mechanism == "restart":
            return f"{node} restarted, or its client"
        return f"{node}: {who} {_PLURAL.get(cause.mechanism, 'fail')} there"
    if cause.kind == "common cause":
        shared = cause.subject.get("shared")
        what = _PLURAL.get(cause.mechanism, "fail")
        return f"{count(len(incident.jobs), 'jobs')} {what}{f' ({shared})' if shared else ' at once'}: {who}"
    part = _part_of_job(facts)
    if cause.kind == "job version":
        version = f"version {cause.subject['job_version']}{part}"
        return f"{who} {version} {_VERBS.get(cause.mechanism, 'fails')}"
    if cause.mechanism == "requested restart":
        return f"Restarts on request ({_REQUESTERS.get(facts['requester'], 'reason unknown')}): {who}"
    if cause.mechanism == "migration":
        off = f" off {_list(facts['off'])}" if facts["off"] else ""
        return f"{count(facts['moved'], 'allocations')} moved{off}{' (drained)' if facts['drained'] else ''}"
    if cause.kind == "kill timeout":
        return f"{who}: killed by force when stopped"
    if cause.kind == "placement":
        return f"{who} cannot be placed"
    if "waiting" in facts:
        return f"{who} does not start"
    if "unhealthy" in facts:
        return f"{who}: deployment unhealthy"
    if cause.kind == "unknown":
        return f"{who}: {'restarts' if 'restarts' in facts else 'failures'} of unknown cause"
    return f"{who}{part} {_VERBS.get(cause.kind, 'fails')}"


def _part_of_job(facts: dict[str, Any]) -> str:
    """Return which part of a job fails, in brackets; empty if it is all of it."""
    parts = []
    if facts.get("groups_of_job", 1) > 1 and facts["task_group"]:
        parts.append(f"group {facts['task_group']}")
    if facts.get("tasks_of_job", 1) > 1 and len(facts["tasks"]) == 1:
        parts.append(f"task {facts['task']}")
    if facts.get("canaries_only"):
        parts.append("canary")
    return f" ({', '.join(parts)})" if parts else ""


_VERBS = {
    "crash": "crashes",
    "killed": "is killed",
    "out of memory": "runs out of memory",
    "artifact": "cannot download its artifact",
    "driver": "cannot be started by its driver",
    "template": "cannot render its template",
    "secrets": "cannot get its secrets",
    "health check": "fails its health check",
    "volume": "cannot mount its volume",
    "run duration": "exceeds its longest run duration",
}
_PLURAL = {
    "crash": "crash",
    "killed": "are killed",
    "out of memory": "run out of memory",
    "artifact": "cannot download artifacts",
    "driver": "cannot be started by their driver",
    "template": "cannot render templates",
    "secrets": "cannot get secrets",
    "health check": "fail health checks",
    "volume": "cannot mount volumes",
    "run duration": "exceed their longest run duration",
}
_REQUESTERS = {
    "operator": "by an operator",
    "template": "template rendered again",
    "secrets": "new secrets",
    "signal": "signal sent by an operator",
}


def names(jobs: list[tuple[str, str]]) -> str:
    """Return the names of jobs, three at most; the namespace where it is not the default."""
    shown = [job if namespace in ("default", "") else f"{namespace}/{job}" for namespace, job in jobs[:3]]
    return ", ".join(shown) + (f" and {len(jobs) - 3:,} more" if len(jobs) > 3 else "")


# Summaries


def summary(incident: Story) -> str:
    """Return what happened, with its numbers, in one or two sentences."""
    parts = [f"{title(incident)}.", _how_often(incident), _state(incident)]
    return " ".join(part for part in parts if part)


def _how_often(incident: Story) -> str:
    facts = incident.facts
    if facts.get("runs"):
        return f"{facts['failed_runs']:,} of {count(facts['runs'], 'runs')} failed{mechanism(facts)}."
    if "failures" in facts:
        least = "at least " if incident.began_before and facts["failures"] > 1 else ""
        hit, wanted = facts["instances"], facts["instances_wanted"]
        of = f"{hit:,} of " if hit < wanted else ""
        where = f" in {of}{count(max(hit, wanted) if of else hit, 'instances')}"
        failures = f"{least}{count(facts['failures'], 'failures')}"
        return _first_upper(f"{failures}{where}{_since(incident)}{mechanism(facts)}.")
    if facts.get("ran_on"):
        return f"{count(facts['ran_on'], 'allocations')} were out of reach{_at(incident)}, and ran on."
    if "lost" in facts:
        lost = f"{count(facts['lost'], 'allocations')} of {count(facts['jobs'], 'jobs')}{_at(incident)}"
        return f"{lost}, {facts['running_again']:,} replaced and running."
    if "requester" in facts:
        reason = f" ({facts['reason']})" if facts["reason"] else ""
        return f"{count(facts['restarts'], 'restarts')} of {count(facts['tasks'], 'tasks')}{reason}."
    if "restarts" in facts:
        restarts = f"{count(facts['restarts'], 'restarts')} of {count(facts['tasks'], 'tasks')}"
        return f"{restarts} are not on record any more."
    if "kills" in facts:
        return f"{count(facts['kills'], 'kills')}: the tasks did not stop within their kill timeout."
    if "moved" in facts:
        return f"They are of {count(facts['jobs'], 'jobs')}."
    if "waiting" in facts:
        words = f' "{facts["message"]}"' if facts["message"] else ""
        return (
            f"{count(facts['waiting'], 'allocations')} wait, the longest for {span(facts['longest'])}.{words}"
        )
    if "unhealthy" in facts:
        words = f': "{facts["message"]}"' if facts["message"] else ""
        return f"{count(facts['unhealthy'], 'allocations')} did not become healthy{words}."
    if "queued" in facts:
        return f"{_queued(facts)}: {facts['lacking']}{_since_what(facts)}."
    if "node_name" in facts:
        again = f"{count(facts['tasks'], 'tasks')} started again{_at(incident)}"
        return f"{again}; the end of their runs is not on record."
    return ""


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _queued(facts: dict[str, Any]) -> str:
    queued, running = facts["queued"], facts["running"]
    if queued is None:
        return "Waiting" if not running else f"{count(running, 'allocations')} run, others wait"
    do = "waits" if queued == 1 else "wait"
    return f"{queued:,} of {count(queued + running, 'allocations')} {do}"


def _since_what(facts: dict[str, Any]) -> str:
    if facts.get("preempted_by"):
        return f"; it had to make room for {_list(facts['preempted_by'])}"
    if facts.get("moved_from"):
        return f"; it had to leave {_list(facts['moved_from'])}"
    return ""


def mechanism(facts: dict[str, Any]) -> str:
    """Return how it failed, as the end of a sentence; empty if nothing says."""
    if facts.get("error"):
        return f': "{_shortened(facts["error"])}"'
    if facts.get("exit_code") is not None or facts.get("signal"):
        return f": {_exit(facts)}"
    return ""


def _shortened(text: str) -> str:
    """Cut a long text in its middle: errors begin with what was done and end with why it failed."""
    return text if len(text) <= 200 else f"{text[:79]} … {text[-118:]}"


def _exit(facts: dict[str, Any]) -> str:
    signal, code = facts.get("signal"), facts.get("exit_code")
    what = f"signal {SIGNALS.get(signal, signal)}" if signal else f"exit code {code}"
    run = facts.get("median_run")
    after = "" if run is None else f", {_after(run, 'its' if facts['failures'] == 1 else 'each')}"
    return f"{what}{after}"


def _after(run: pd.Timedelta, which: str) -> str:
    # "0.0 s" would read like an error
    return (
        f"about {span(run)} after {which} start"
        if run >= pd.Timedelta("50ms")
        else f"right after {which} start"
    )


def _at(incident: Story) -> str:
    if incident.began_at is None:
        return ""
    return f" at {clock(incident.began_at, incident.observed_at)} UTC"


def _since(incident: Story) -> str:
    if incident.began_at is None:
        return ""
    earlier = " or earlier" if incident.began_before else ""
    word = "since" if incident.state == "ongoing" else "from"
    begin = clock(incident.began_at, incident.observed_at)
    if incident.state == "ongoing" or incident.last_at is None:
        return f" {word} {begin} UTC{earlier}"
    if clock(incident.last_at) == clock(incident.began_at):
        return f" at {begin} UTC{earlier}"
    return f" {word} {begin}{earlier} to {clock(incident.last_at, incident.began_at)} UTC"


def _state(incident: Story) -> str:
    facts = incident.facts
    if incident.state == "ongoing" and "instances_bad" in facts and not facts.get("runs"):
        do = "does" if facts["instances_bad"] == 1 else "do"
        wanted = count(facts["instances_wanted"], "instances")
        return f"{facts['instances_bad']:,} of {wanted} {do} not run well now."
    if incident.state == "gave up" and facts.get("instances_bad") and not facts.get("runs"):
        wanted = count(facts["instances_wanted"], "instances")
        return f"Nomad has given up on {facts['instances_bad']:,} of {wanted}: no retries are left."
    if incident.state == "stopped" and facts.get("ended_by"):
        return f"{_ENDED[facts['ended_by']]}."
    return {
        "ongoing": "It goes on.",
        "gave up": "Nomad has given up: no retries are left.",
        "recovered": "It has recovered." if "failures" in facts or "lost" in facts else "",
        "stopped": "What failed is not wanted any more.",
    }[incident.state]


_ENDED = {"purge": "The job was purged", "operator stop": "An operator stopped the job"}


# Causes


def hypothesis(cause: Any) -> str:
    """Return a cause in a few words."""
    subject = cause.subject
    if cause.kind == "job version":
        return f"the change to version {subject['job_version']} of {subject['job_id']}"
    if cause.kind == "node":
        return f"node {subject['node_name']}"
    if cause.kind == "common cause":
        return f"what these jobs share: {subject.get('shared', 'not identified')}"
    return {
        "crash": "the program ends by itself",
        "killed": "a signal from outside; who sent it is not on record",
        "out of memory": "memory runs out",
        "kill timeout": "the tasks take longer to stop than their kill timeout",
        "artifact": "an artifact cannot be downloaded",
        "driver": "the driver cannot start the task",
        "template": "a template",
        "secrets": "secrets: Vault or workload identity",
        "health check": "a health check",
        "volume": "a volume",
        "run duration": "the longest run duration allowed",
        "operator": "an operator",
        "drain": "a drain",
        "placement": "no node has what it needs",
    }.get(cause.kind, "unknown")


def not_known(incident: Story) -> str:
    """Return what the evidence of an incident does not show, as the end of "not known: ..."."""
    cause, who = incident.cause, names(incident.jobs)
    if cause.kind == "node":
        node = cause.subject["node_name"]
        return f"why node {node} was lost" if cause.mechanism == "lost" else f"what is wrong with node {node}"
    if cause.kind == "common cause":
        return (
            "what these jobs have in common"
            if "shared" not in cause.subject
            else f"why {cause.subject['shared']} failed"
        )
    return {
        "killed": f"who killed {who}",
        "out of memory": f"whether {who} leaks, its limit is too low or its node was short of memory",
        "unknown": f"why {who} failed",
        "placement": f"when there will be room for {who}",
    }.get(cause.kind, f"why {who} fails")


def evidence(fact: Fact) -> str:
    """Return a fact as a sentence."""
    return str(_EVIDENCE[fact.fact](fact.numbers))


def _list(jobs: list[str]) -> str:
    return ", ".join(jobs[:5]) + (f" and {len(jobs) - 5:,} more" if len(jobs) > 5 else "")


def _compared(n: dict[str, Any]) -> str:
    def side(version: int, failures: int, hours: float, starts: int) -> str:
        ran = f"in {span(pd.Timedelta(hours=hours))} of running" if hours else f"in {count(starts, 'starts')}"
        return f"version {version}: {count(failures, 'failures')} {ran}"

    new = side(n["job_version"], n["failures"], n["hours"], n["starts"])
    old = side(n["base_version"], n["base_failures"], n["base_hours"], n["base_starts"])
    where = f" on {n['node_name']}, where alone it failed" if n.get("node_name") else ""
    since = ", from its first failure on" if n.get("since_onset") else ""
    return f"{_first_upper(new)}; {old}{since}{where} (p = {number(n['p'])})."


def _placed(n: dict[str, Any]) -> str:
    return f"version {n['job_version']} was first placed"


_EVIDENCE: dict[str, Any] = {
    "error": lambda n: (
        f'Nomad says: "{_shortened(n["error"] or "no words")}" ({count(n["failures"], "times")}).'
    ),
    "oom killed": lambda n: f"The driver reports that memory ran out ({count(n['failures'], 'times')}).",
    "failed without a word": lambda n: f"{count(n['failures'], 'failures')} without a reason on record.",
    "exits": lambda n: _first_upper(f"{_exit(n)}, {count(n['failures'], 'times')}."),
    "sigkill": lambda n: f"SIGKILL that Nomad did not send ({count(n['failures'], 'times')}).",
    "same length": lambda n: f"Each run lasted about as long ({span(n['median_run'])}).",
    "driver denies oom": lambda n: (
        f"The driver says oom_killed: false ({count(n['failures'], 'times')}); raw_exec, and servers before "
        "1.7, say so whatever happened."
    ),
    "version compared": _compared,
    "soon after version": lambda n: (
        f"It began {'at most ' if n.get('at_most') else ''}{span(n['delay'])} after {_placed(n)}."
    ),
    "long after version": lambda n: (
        f"It began {'at least' if n.get('at_least') else 'only'} {span(n['delay'])} after {_placed(n)}."
    ),
    "began before version": lambda n: f"It began before {_placed(n)}.",
    "change touches": lambda n: f"Version {n['job_version']} changed {_list(n['fields'])}.",
    "stable before": lambda n: f"A deployment of version {n['base_version']} had been healthy.",
    "later version well": lambda n: "A later version runs.",
    "ran well": lambda n: (
        f"Instances of version {n['job_version']} ran {'at least ' if n.get('at_least') else ''}"
        f"{span(n['ran_well'])} before they failed."
    ),
    "healthy deploy": lambda n: (
        f"Its deployment had called {count(n['allocations'], 'allocations')} of version {n['job_version']} "
        "healthy."
    ),
    "others at once": lambda n: f"Other jobs began to fail at the same time: {_list(n['jobs'])}.",
    "only on node": lambda n: (
        f"What failed ({count(n['failed'], 'allocations')}) was on {n['node_name']}; "
        f"what did not ({count(n['elsewhere'], 'allocations')}) was elsewhere."
    ),
    "others well on node": lambda n: (
        f"{count(n['allocations'], 'allocations')} of other jobs run well on {n['node_name']}."
    ),
    "node compared": lambda n: (
        f"On {n['node_name']} {n['failed']:,} of {count(n['placed'], 'placements')} failed, elsewhere "
        f"{n['failed_elsewhere']:,} of {n['placed_elsewhere']:,} (p = {number(n['p'])})."
    ),
    "fault of node": lambda n: (
        f'{n["node_name"]} alone says: "{_shortened(n["error"])}" ({count(n["jobs"], "jobs")}).'
    ),
    "unhealthy version": lambda n: (
        f"No allocation of version {n['job_version']} became healthy "
        f"({count(n['unhealthy'], 'allocations')}); "
        f"{count(n['base_healthy'], 'allocations')} of version {n['base_version']} had."
    ),
    "begun together": lambda n: (
        f"{count(len(n['jobs']), 'jobs')} began to fail within {span(n['spread'])}: {_list(n['jobs'])} "
        f"(p = {number(n['p'])})."
    ),
    "failed together again": lambda n: (
        f"{count(len(n['jobs']), 'jobs')} failed together {len(n['times'])} times "
        f"({_list([f'{time:%H:%M:%S}' for time in n['times']])} UTC): {_list(n['jobs'])} "
        f"(p = {number(n['p'])})."
    ),
    "shared": lambda n: f"The errors of {count(len(n['jobs']), 'jobs')} name {n['what']}.",
    "not deployed": lambda n: f"These had not been deployed before: {_list(n['jobs'])}.",
    "lost with node": lambda n: f"{count(n['lost'], 'allocations')} were lost with {n['node_name']}.",
    "reconnected": lambda n: (
        f"{n['node_name']} was out of reach and came back: {count(n['lost'], 'allocations')} ran on."
    ),
    "started again": lambda n: (
        f"{count(n['tasks'], 'tasks')} on {n['node_name']} started a second time; no end is on record."
    ),
    "restart requested": lambda n: (
        f"{count(n['restarts'], 'restarts')} were requested{': ' + repr(n['reason']) if n['reason'] else ''}."
    ),
    "killed by force": lambda n: f"SIGKILL after Nomad's request to stop ({count(n['kills'], 'times')}).",
    "moved": lambda n: (
        f"The servers moved {count(n['moved'], 'allocations')}"
        f"{'; a drain of ' + _list(n['off']) + ' is on record' if n['drained'] else ''}."
    ),
    "restarts not on record": lambda n: (
        f"The counter says {count(n['restarts'], 'restarts')} more than the events show."
    ),
    "never started": lambda n: f"{count(n['waiting'], 'allocations')} have not started.",
    "unhealthy deploy": lambda n: (
        f'The deployment says: "{n["message"]}".'
        if n["message"]
        else f"The deployment calls {count(n['unhealthy'], 'allocations')} unhealthy."
    ),
    "only in datacenter": lambda n: (
        f"What failed ({count(n['failed'], 'allocations')}) was in datacenter {n['datacenter']}; "
        f"{count(n['well'], 'allocations')} in {_list(n['well_in'])} run well."
    ),
    "only new ones": lambda n: (
        f"Only the {count(n['new'], 'instances')} placed since {clock(n['since'])} UTC fail; "
        f"the {n['old']:,} placed before run well."
    ),
    "rollback fails": lambda n: (
        f"Version {n['job_version']}, which is version {n['same_as']} again, fails as well."
    ),
    "preempted": lambda n: f"{_list(n['jobs'])} preempted {count(n['allocations'], 'allocations')} of it.",
    "moved from node": lambda n: (
        f"{count(n['allocations'], 'allocations')} had to leave {_list(n['nodes'])}."
    ),
    "constraint": lambda n: f"Version {n['job_version']} brought the constraint {_list(n['constraints'])}.",
    "not placed": lambda n: f"The newest evaluation says: {n['lacking']}.",
}


def change(row: dict[str, Any]) -> str:
    """Return a row of the change ledger, with what it changed, as a line."""
    who = row.get("job_id") or row.get("node_name") or ""
    version = f" {row['version_after']}" if row.get("version_after") is not None else ""
    fields = [f"{each['path']} {each['kind']}" for each in row.get("diff", ())]
    what = f"{row['kind']}{version} of {who}"
    early = row["before"] >= pd.Timedelta(0)
    bound = "at most " if row.get("at_most") else ""
    when = f"{bound}{span(abs(row['before']))} {'before' if early else 'after'}"
    return f"{when}: {what}{': ' if fields else ''}{_list(fields)}"


# The verdict


def verdict(incidents: list[Any], account: Any, all_clear: bool) -> str:
    """Return what the whole diagnosis says, in one sentence or two."""
    levels = {
        each: sum(incident.severity == each for incident in incidents)
        for each in ("critical", "warning", "info")
    }
    if all_clear:
        info = levels["info"]
        failed = sum("failures" in incident.facts for incident in incidents)
        if failed:  # how they failed is known; whether it is explained is for people to say
            others = f" {count(info - failed, 'things')} more to know." if info > failed else ""
            past = count(failed, "small incidents")
            return f"Nothing is wrong now: {past} of the past, each told below.{others}"
        noted = f" {count(info, 'things')} to know." if info else ""
        return f"All clear: every failure, loss and restart on record is explained.{noted}"
    if not account.allocations and not account.unreadable and not incidents:
        return "No allocation is in the evidence: nothing can be said."
    parts = [f"{levels[each]:,} {each}" for each in ("critical", "warning") if levels[each]]
    parts += [f"{levels['info']:,} info"] if levels["info"] or not parts else []
    text = f"{count(len(incidents), 'incidents')}: {', '.join(parts)}."
    if account.unexplained:
        text += f" {count(account.unexplained, 'failures')} or restarts have no explanation."
    if account.unreadable:
        text += f" {count(account.unreadable, 'allocations')} could not be read."
    return text
