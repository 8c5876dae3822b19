"""Incidents, causes and their evidence in English."""

from __future__ import annotations

import re
from typing import Any, Protocol

import pandas as pd

from .._utils.prose import clock, count, listed, span
from ..stats.vocabulary import SIGNALS
from . import gone_sentences, quiet_sentences, run_sentences


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
            return f"{node} {'was unreachable' if facts.get('ran_on') else 'lost'}"
        if cause.mechanism == "restart":
            return f"{node} restarted, or its client"
        fail = _fails(cause.mechanism, facts) if len(incident.jobs) == 1 else None
        return f"{node}: {who} {fail or _they_fail(cause.mechanism, facts)} there"
    if cause.kind == "common cause":
        shared = cause.subject.get("shared")
        what = _they_fail(cause.mechanism, facts)
        return f"{count(len(incident.jobs), 'jobs')} {what}{f' ({shared})' if shared else ' at once'}: {who}"
    part = _part_of_job(facts)
    if "undecided" in facts:
        return str(quiet_sentences.title(who, facts))
    if cause.kind == "job version":
        version = f"version {cause.subject['job_version']}{part}"
        return f"{who} {version} {_fails(cause.mechanism, facts)}"
    if cause.mechanism == "requested restart":
        return f"Restarts on request ({_REQUESTERS.get(facts['requester'], 'reason unknown')}): {who}"
    if cause.mechanism == "purge":
        return f"{who} {_were(incident)} purged"
    if cause.mechanism == "stop":
        return f"{who} {_were(incident)} {'purged' if facts['purge'] else 'stopped'}"
    if cause.mechanism == "preemption":
        return f"{who} {_were(incident)} preempted by {listed(facts['preempted_by'])}"
    if cause.mechanism == "scale":
        groups = [str(each["task_group"]) for each in facts["scaled"]]
        part = f" (group {listed(groups)})" if facts["others_run"] else ""
        return f"{who}{part} was {'scaled' if facts['by_request'] else 'set'} to 0"
    if cause.mechanism == "failed by hand":
        return f"{who}: an operator failed the deployment of version {facts['job_version']}"
    if cause.mechanism == "migration" and facts.get("one_by_one"):
        return f"{count(facts['moved'], 'allocations')} stopped and replaced (by an operator, one by one)"
    if cause.mechanism == "migration":
        off = f" off {listed(facts['off'])}" if facts["off"] else ""
        return f"{count(facts['moved'], 'allocations')} moved{off}{' (drained)' if facts['drained'] else ''}"
    if cause.kind == "kill timeout":
        return f"{who}: killed by force when stopped"
    if cause.kind == "placement":
        who += _part_of_job(facts)
        if facts["running"] and not facts["running_newest"] and facts["job_version"] is not None:
            return f"{who} version {facts['job_version']} cannot be placed"
        in_full = " in full" if facts["running"] else ""
        if len(incident.jobs) > 1:
            return f"{count(len(incident.jobs), 'jobs')} cannot be placed{in_full}: {who}"
        return f"{who} cannot be placed{in_full}"
    if quiet := quiet_sentences.title(who, facts):
        return quiet
    if "unhealthy" in facts:
        return f"{who}: deployment unhealthy"
    if cause.kind == "unknown":
        return f"{who}: {'restarts' if 'restarts' in facts else 'failures'} of unknown cause"
    return f"{who}{part} {_fails(cause.kind, facts)}"


def _fails(mechanism: str, facts: dict[str, Any]) -> str:
    """Return how a job fails, as a verb."""
    if mechanism == "template" and "script" in (facts.get("error") or ""):
        return "fails in the change script of its template"
    if mechanism == "driver" and _of_hook(facts.get("error")):
        return "cannot be set up"
    if mechanism == "killed" and not facts.get("signal"):
        return f"ends with exit code {facts['exit_code']}"
    return _VERBS.get(mechanism, "fails")


def _they_fail(mechanism: str, facts: dict[str, Any]) -> str:
    """Return how several jobs fail, as a verb."""
    if mechanism == "killed" and not any(each.get("signal") for each in facts.get("parts") or [facts]):
        return f"end with exit code {facts['exit_code']}"
    return _PLURAL.get(mechanism, "fail")


def _of_hook(error: str | None) -> bool:
    """Return whether an error begins with the name of the hook that failed: the driver was not asked yet."""
    return re.match(r"[a-z_]+: ", error or "") is not None


def _were(incident: Story) -> str:
    return "was" if len(incident.jobs) == 1 else "were"


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
    "deployment": "fails to deploy",
    "start": "does not start",
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
    full = (job if namespace in ("default", "") else f"{namespace}/{job}" for namespace, job in jobs)
    return listed(full, 3)


# Summaries


def summary(incident: Story) -> str:
    """Return what happened, with its numbers, in one or two sentences."""
    parts = [f"{title(incident)}.", _how_often(incident), _state(incident)]
    return " ".join(part for part in parts if part)


def _how_often(incident: Story) -> str:
    facts = incident.facts
    if facts.get("runs"):
        return f"{run_sentences.failed(facts, for_good=incident.state == 'gave up')}{mechanism(facts)}."
    if "failures" in facts:
        least = "at least " if incident.began_before and facts["failures"] > 1 else ""
        hit, wanted = facts["instances"], facts["instances_wanted"]
        of = f"{hit:,} of " if hit < wanted else ""
        which = f" ({facts['instance']})" if facts.get("instance") else ""
        which = f" (on {facts['only_node']})" if facts.get("only_node") else which
        where = f" in {of}{count(max(hit, wanted) if of else hit, 'instances')}{which}"
        failures = f"{least}{count(facts['failures'], 'failures')}"
        return first_upper(f"{failures}{where}{_since(incident)}{mechanism(facts)}.")
    if "deployment" in facts:
        return f'Nomad says: "{facts["reason"]}".' if facts["reason"] else "Its deployment failed."
    if "failed_by_hand" in facts:
        return f'Nomad says{_at(incident)}: "{facts["reason"]}".'
    if facts.get("ran_on"):
        return f"{count(facts['ran_on'], 'allocations')} kept running and reconnected{_back(incident)}."
    if "lost" in facts:
        lost = f"{count(facts['lost'], 'allocations')} of {count(facts['jobs'], 'jobs')}{_at(incident)}"
        return f"{lost}, {facts['running_again']:,} replaced and running."
    if "requester" in facts:
        reason = f" ({facts['reason']})" if facts["reason"] else ""
        are = "is" if facts["more"] == 1 else "are"
        more = f" {facts['more']:,} earlier {are} no longer on record." if facts["more"] else ""
        return f"{count(facts['restarts'], 'restarts')} of {count(facts['tasks'], 'tasks')}{reason}.{more}"
    if "restarts" in facts:
        restarts = f"{count(facts['restarts'], 'restarts')} of {count(facts['tasks'], 'tasks')}"
        return f"{restarts} {'is' if facts['restarts'] == 1 else 'are'} no longer on record."
    if "kills" in facts:
        return f"{count(facts['kills'], 'kills')}: the tasks did not stop within their kill timeout."
    if "moved" in facts:
        return f"{'It belongs' if facts['moved'] == 1 else 'They belong'} to {names(incident.jobs)}."
    if "stopped" in facts:
        return f"Somebody asked for it{_at(incident)}."
    if "preempted" in facts:
        return f"{count(facts['preempted'], 'allocations')} preempted{_at(incident)}, and replaced."
    if "purged" in facts:
        whose = "its" if facts["purged"] == 1 else "their"
        return f"None of {whose} allocations is left: how they ran is not on record."
    if "scaled" in facts:
        return _scaled(facts, incident)
    if "gone" in facts:
        return gone_sentences.details(facts, _at(incident))
    if quiet := quiet_sentences.numbers(facts, shortened):
        return quiet
    if "unhealthy" in facts:
        words = f': "{facts["message"]}"' if facts["message"] else ""
        return f"{count(facts['unhealthy'], 'allocations')} did not become healthy{words}."
    if "queued" in facts:
        return f"{_queued(facts)}: {facts['lacking']}{_since_what(facts)}.{_asked(facts)}"
    if "node_name" in facts:
        again = f"{count(facts['tasks'], 'tasks')} started again{_at(incident)}"
        return f"{again}; the end of their runs is not on record."
    return ""


def _scaled(facts: dict[str, Any], incident: Story) -> str:
    """Return which groups were scaled to 0, from how many, when and how."""
    groups = [f"group {each['task_group']} from {each['old']} to 0" for each in facts["scaled"]]
    how = "by a scaling request" if facts["by_request"] else f"by version {facts['job_version']}"
    return f"{first_upper(listed(groups))}{_at(incident)}, {how}."


def first_upper(text: str) -> str:
    """Return a text that begins a sentence."""
    return text[:1].upper() + text[1:]


def _queued(facts: dict[str, Any]) -> str:
    queued, running = facts["queued"], facts["running"]
    if queued is None:
        return "Waiting" if not running else f"{count(running, 'instances')} run, others wait"
    do, does = "waits" if queued == 1 else "wait", "is" if running == 1 else "are"
    if facts.get("runs_waiting"):
        waits = f"{count(facts['runs_waiting'], 'runs')} {'waits' if facts['runs_waiting'] == 1 else 'wait'}"
        return f"{waits}, {running:,} {does} running" if running else waits
    waits = f"{queued:,} of {count(facts['instances_wanted'], 'instances')} {do}"
    if running and not facts["running_newest"] and facts["job_version"] is not None:
        versions = ", ".join(map(str, facts["versions_running"]))
        newest = f"{waits} for version {facts['job_version']}"
        return f"{newest}, {running:,} {does} still running version {versions}"
    if running + queued > facts["instances_wanted"] and 0 < facts["running_newest"] < running:
        # the old version of what waits runs on
        new, old = facts["running_newest"], running - facts["running_newest"]
        newer = f"{new:,} {'is' if new == 1 else 'are'} running it"
        older = "1 is running an older version" if old == 1 else f"{old:,} are running older versions"
        return f"{waits} for version {facts['job_version']}, {newer}, {older}"
    return f"{waits}, {running:,} {does} running" if running else waits


def _asked(facts: dict[str, Any]) -> str:
    """Return what a job asks for that its earlier versions did not, and which nodes are closed to it."""
    asked = out = ""
    if facts["asked"]:
        asked = f" Since version {facts['asked_since']} it asks for {listed(facts['asked'])}."
    if facts["left_out"]:
        left = [f"{node} ({why})" for node, why in facts["left_out"]]
        out = f" {listed(left)} {'accepts' if len(left) == 1 else 'accept'} no allocations."
    if facts.get("still_on") and not facts["asked"]:
        on, changed = facts["still_on"], facts.get("node_changed")
        many = count(on["instances"], "instances")
        are = "is" if on["instances"] == 1 else "are"
        asked = f" {many} {are} still running on {listed(on['nodes'])}"
        asked += f"; {changed['node']} had changed {span(changed['before'])} before." if changed else "."
    return f"{asked}{out}"


def _since_what(facts: dict[str, Any]) -> str:
    if facts.get("preempted_by"):
        return f"; it was preempted by {listed(facts['preempted_by'])}"
    if facts.get("moved_from"):
        return f"; it had to leave {listed(facts['moved_from'])}"
    if facts.get("lost_with"):
        return f"; it was lost with {listed(facts['lost_with'])}"
    return ""


def mechanism(facts: dict[str, Any]) -> str:
    """Return how it failed, as the end of a sentence; empty if nothing says."""
    if facts.get("error"):
        return f': "{shortened(facts["error"])}"'
    if facts.get("exit_code") is not None or facts.get("signal"):
        return f": {ends(facts)}"
    return ""


def shortened(text: str) -> str:
    """Cut a long text in its middle: errors begin with what was done and end with why it failed."""
    return text if len(text) <= 200 else f"{text[:79]} … {text[-118:]}"


def ends(facts: dict[str, Any]) -> str:
    """Return how the runs that failed ended, and after how long."""
    if facts.get("exits"):  # several ways: each with its number
        most = 4 if len(facts["exits"]) == 4 else 3  # "others" are never one
        ways = [f"{_way(each)} ({count(each['times'], 'times')})" for each in facts["exits"][:most]]
        what = ", ".join(ways) + (", and others" if len(facts["exits"]) > most else "")
    else:
        what = _way(facts)
    run, low, high = (facts.get(name) for name in ("median_run", "short_run", "long_run"))
    if run is None:
        return what
    first = "" if facts.get("first_run") is None else f" (the first time after {span(facts['first_run'])})"
    start = "its start" if facts["failures"] == 1 else "each start"
    if seen := facts.get("runs_seen"):  # what most runs were is not known
        start = "the only start on record" if seen == 1 else f"the {seen:,} starts on record"
    if low is not None and high is not None:
        return f"{what}, mostly {span(low)} to {span(high)} after {start}{first}"
    return f"{what}, {_after(run, start)}{first}"


def _way(facts: dict[str, Any]) -> str:
    signal = facts.get("signal")
    return f"signal {SIGNALS.get(signal, signal)}" if signal else f"exit code {facts.get('exit_code')}"


def _after(run: pd.Timedelta, start: str) -> str:
    # "0.0 s" would read like an error
    return f"about {span(run)} after {start}" if run >= pd.Timedelta("50ms") else f"right after {start}"


def _at(incident: Story) -> str:
    if incident.began_at is None:
        return ""
    return f" at {clock(incident.began_at, incident.observed_at)} UTC"


def _back(incident: Story) -> str:
    return "" if incident.last_at is None else f" at {clock(incident.last_at, incident.observed_at)} UTC"


_MUCH_EARLIER = pd.Timedelta("1min")
"""From here on, when failures began by their counters is told, and not the first one left on record."""


def _since(incident: Story) -> str:
    if incident.began_at is None:
        return ""
    earlier = " or earlier" if incident.began_before else ""
    word = "since" if incident.state == "ongoing" else "from"
    begin = clock(incident.began_at, incident.observed_at)
    about = incident.facts.get("began_about")
    if earlier and about is not None and incident.began_at - about >= _MUCH_EARLIER:
        begin = f"about {clock(about, incident.observed_at)}"
        earlier = " or earlier" if incident.facts["older_gone"] else ""
    if incident.state == "ongoing" or incident.last_at is None:
        return f" {word} {begin} UTC{earlier}"
    if clock(incident.last_at) == clock(incident.began_at) and not begin.startswith("about"):
        return f" at {begin} UTC{earlier}"
    return f" {word} {begin}{earlier} to {clock(incident.last_at, incident.began_at)} UTC"


def _state(incident: Story) -> str:
    facts = incident.facts
    if incident.state == "ongoing" and facts.get("instances_bad") and not facts.get("runs"):
        do = "does" if facts["instances_bad"] == 1 else "do"
        wanted = count(facts["instances_wanted"], "instances")
        again = ""
        if facts.get("next_try") is not None:
            again = f"; Nomad tries again at {clock(facts['next_try'], incident.observed_at)} UTC"
        return f"{facts['instances_bad']:,} of {wanted} {do} not run well now{again}."
    if incident.state == "gave up" and facts.get("instances_bad") and not facts.get("runs"):
        wanted = count(facts["instances_wanted"], "instances")
        return f"Nomad has given up on {facts['instances_bad']:,} of {wanted}: no retries are left."
    if incident.state == "gave up" and facts.get("runs"):
        return f"Nomad does not try {'it' if facts['failed_runs'] == 1 else 'them'} again."
    if "lost" in facts and facts["back"] is not True:
        if facts["back"] is False:
            return "The node is still down."
        if incident.state == "recovered":
            return "Whether the node is back is not on record."
    if incident.state == "stopped" and facts.get("ended_by"):
        return f"{_ENDED[facts['ended_by']]}."
    if incident.state == "stopped" and facts.get("replaced_by") is not None:
        since = span(facts["replaced_for"])
        return f"Version {facts['replaced_by']} has replaced it, and runs (for {since} so far)."
    if {"purged", "scaled", "stopped", "failed_by_hand"} & set(facts) or quiet_sentences.title("", facts):
        return ""  # the title says already that it is ongoing
    if incident.state == "recovered" and facts.get("runs") and facts.get("failed_runs"):
        return "Its last run succeeded."  # of one run in three that fails, nothing else is known
    return {
        "ongoing": "It is ongoing.",
        "gave up": "Nomad has given up: no retries are left.",
        "recovered": "It has recovered." if {"failures", "lost", "deployment"} & set(facts) else "",
        "stopped": "What failed is no longer desired.",
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
    if cause.kind == "placement" and cause.mechanism == "hang":
        return f"runs of {subject['job_id']} that do not end"
    if cause.kind == "crash" and any(each.fact in _FROM_OUTSIDE for each in cause.supporting):
        return "the program exits because of something outside it, which is not on record"
    if cause.kind == "common cause" and cause.mechanism == "killed":
        return "a signal from outside to all of these jobs; who sent it is not on record"
    if cause.kind == "driver" and any(_of_hook(each.numbers.get("error")) for each in cause.supporting):
        return "a step before the start of the task"
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
        "operator": _OPERATOR.get(str(cause.mechanism), "an operator"),
        "drain": "a drain",
        "placement": "no node has what it needs",
    }.get(cause.kind, "unknown")


_FROM_OUTSIDE = ("ends by clock", "ends in turn")
"""Evidence that instances ended because of something outside them, however long each had run."""

_OPERATOR = {
    "promotion": "nobody has promoted it",
    "withdrawal": "the new version of the job asks for it",
    "failed by hand": "an operator failed its deployment",
}


def not_known(incident: Story) -> str:
    """Return what the evidence of an incident does not show, as the end of "not known: ..."."""
    cause, who = incident.cause, names(incident.jobs)
    if cause.kind == "node":
        node = cause.subject["node_name"]
        if cause.mechanism != "lost":
            return f"what is wrong with node {node}"
        return f"why node {node} was {'unreachable' if incident.facts.get('ran_on') else 'lost'}"
    if cause.kind == "common cause" and cause.mechanism != "killed":
        shared = cause.subject.get("shared")
        return f"why {shared} failed" if shared else "what these jobs have in common"
    return {
        "killed": f"who killed {who}",
        "common cause": f"who killed {who}",
        "out of memory": f"whether {who} leaks, its limit is too low or its node was short of memory",
        "unknown": f"why {who} failed",
        "placement": f"when there will be room for {who}",
        "kill timeout": f"why {who} did not stop in time",
        "operator": "whether it was intended",
        "drain": "why the node was drained",
    }.get(cause.kind, f"why {who} {'fails' if len(incident.jobs) == 1 else 'fail'}")
