"""The causes of one job's failures: how they show, memory, a template, its node, others at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from ._changes import AFTER
from ._comparisons import typical_run
from ._groups import ONGOING, SECOND, STOPPED, Group
from ._investigation import (
    NAMED_ERRORS,
    Investigation,
    began_at_once,
    describe,
    job_of,
    keys_of,
    length_of,
    make_incident,
    related,
)
from ._places import where_it_shows
from ._rhythm import as_evidence, rhythm_of
from ._tables import NEVER, moment
from ._version_cause import by_version
from .finding import SEVERITIES
from .incident import Evidence, Hypothesis, Incident


def explain_group(look: Investigation, index: int) -> Incident:
    """Return the incident of one group of failures, with all its possible causes, the likeliest first."""
    group = look.groups[index]
    rhythm = rhythm_of(look, index)
    if rhythm and rhythm.by_clock:
        describe(look, group)["median_run"] = None  # how long they had run means nothing
    how = by_mechanism(look, group)
    by_clock = [as_evidence(rhythm)] if rhythm and rhythm.by_clock else []
    by_age = [as_evidence(rhythm)] if rhythm and not rhythm.by_clock and group.kind == "killed" else []
    shows = [*by_clock, *where_it_shows(look, [group])]
    against = [*how.contradicting, *by_age]
    # that it exits is certain; that something outside made it, or sent the signal, is a test's answer
    confidence = "likely" if by_clock and how.kind in ("crash", "killed") else how.confidence
    supporting = [*how.supporting, *shows]
    hypotheses = [replace(how, confidence=confidence, supporting=supporting, contradicting=against)]
    if memory := _by_memory(look, [group], by_clock):
        hypotheses.append(memory)
    if by_clock and group.kind == "crash" and set(describe(look, group)["exit_codes"]) == {0}:
        # a program that is asked to end by a signal ends with success
        hypotheses.append(Hypothesis("killed", "crash", job_of(look, group), "possible", by_clock))
    version = by_version(look, index)
    if version:
        hypotheses.append(version)
    if template := _after_template(look, index):
        hypotheses.append(template)
    if shared := _with_others(look, index):
        hypotheses.append(shared)
    if node := _on_one_node(look, group):
        hypotheses.append(node)
    best = version if version and version.confidence == "likely" else hypotheses[0]
    if best is version and index in look.versions and group.state == ONGOING:
        _end_with_its_version(look, group, look.versions[index].version)
    severity = group.severity
    if best is version and severity == "info":
        severity = "warning"  # a deploy that failed is more than a single failure
    incident = make_incident(look, [index], best, hypotheses, severity, group.state)
    if version and (of_runs := [each for each in version.supporting if each.fact == "runs by version"]):
        incident.facts["runs_by_version"] = of_runs[0].numbers
    if group.state == STOPPED and group.last_at != NEVER:
        job = look.case.instances.families[group.family]
        incident.facts["ended_by"] = look.ledger.ended_by(job, group.last_at - AFTER.value)
    if best is version and index in look.versions and incident.began_at is not None:
        # a stray failure of the previous version is not its beginning
        placed_at = moment(look.versions[index].placed_at)
        about = incident.facts["began_about"]
        if placed_at is not None and about is not None and about < placed_at:
            incident.facts["began_about"] = None
        if placed_at is not None and incident.began_at < placed_at:
            incident = replace(incident, began_at=placed_at + length_of(look.versions[index].delay))
    return incident


def _end_with_its_version(look: Investigation, group: Group, version: int) -> None:
    """Note that failures which a version brought ended with it, if a later one runs everywhere and well.

    Whether what runs now is well for long is for later to tell; what failed is gone.
    """
    rows, instances = look.case.evidence.allocations, look.case.instances
    mine = (instances.family == group.family) & instances.wanted & instances.final
    its = look.made_by
    failed = np.zeros(len(rows), dtype=bool)
    failed[look.failures["alloc"][group.rows]] = True
    runs = rows["client_status"].eq("running").to_numpy(dtype=bool)
    if not mine.any() or not np.all(its[mine] > version) or not np.all((runs & ~failed)[mine]):
        return
    started = np.full(len(rows), NEVER, dtype=np.int64)
    np.maximum.at(started, look.case.evidence.tasks["alloc"], look.case.evidence.tasks["started"])
    group.state, group.severity = STOPPED, max(group.severity, "warning", key=SEVERITIES.index)
    describe(look, group)
    known = started[mine][started[mine] != NEVER]
    group.facts["replaced_by"] = int(its[mine].max())
    group.facts["replaced_for"] = length_of(max(look.case.now - int(known.max(initial=NEVER)), 0))
    if not len(known):
        group.facts["replaced_by"] = None


def by_mechanism(look: Investigation, group: Group) -> Hypothesis:
    """Return how a group fails: certain where Nomad or the exit says so, unknown where nothing does."""
    facts = describe(look, group)
    keys = keys_of(look, group.rows)
    subject = {**job_of(look, group), "task": facts["task"]}
    error = facts["error"]
    if group.kind in NAMED_ERRORS:
        evidence = [Evidence("error", {"error": error, "failures": group.total}, keys)]
        return Hypothesis(group.kind, group.kind, subject, "certain", evidence)
    if group.kind == "out of memory":
        evidence = [Evidence("oom killed", {"failures": len(group.rows)}, keys)]
        return Hypothesis(group.kind, group.kind, subject, "certain", evidence)
    if group.kind == "unknown":
        evidence = [Evidence("failed without a word", {"failures": group.total, "error": error}, keys)]
        return Hypothesis("unknown", None, subject, "unknown", evidence)
    exits = {name: facts[name] for name in _OF_EXITS}
    evidence = [Evidence("exits", exits, keys)]
    # who sent a signal is not on record
    confidence = "certain" if group.kind == "crash" else "possible"
    return Hypothesis(group.kind, group.kind, subject, confidence, evidence)


def how_they_show(look: Investigation, groups: list[Group], by_clock: list[Evidence]) -> list[Hypothesis]:
    """Return how groups fail that have one cause; of what is killed at once, that memory may have run out.

    That they were killed from outside is what the cause itself says.
    """
    if groups[0].kind != "killed":
        return [by_mechanism(look, groups[0])]
    memory = _by_memory(look, groups, by_clock)
    return [memory] if memory else []


_OF_EXITS = (
    "exit_code", "signal", "exits", "median_run", "short_run", "long_run", "first_run", "runs_seen",
    "failures",
)  # fmt: skip


def _by_memory(look: Investigation, groups: list[Group], by_clock: list[Evidence]) -> Hypothesis | None:
    """Return that memory may have run out, after a SIGKILL that nothing else explains."""
    if groups[0].kind != "killed":
        return None
    places = np.concatenate([group.rows for group in groups])
    rows = look.case.failures.iloc[places]
    sigkill = (rows["signal"] == 9) | (rows["code"] == 137)
    if not bool(sigkill.any()):
        return None
    told = int((sigkill & rows["told"]).sum())
    # without a signal, the program ended by itself with the code that shells give for a kill
    by_signal = int((rows["signal"] == 9).sum())
    supporting = [
        Evidence(fact, {"failures": times}, keys_of(look, places))
        for fact, times in (("sigkill", by_signal), ("exit like sigkill", int(sigkill.sum()) - by_signal))
        if times
    ]
    run = rows["run"][rows["run"] > 0]
    # jobs that started together and are killed at once have run as long, whatever killed them
    own = len(groups) == 1 and not by_clock
    if own and len(run) > 2 and float(run.std() / run.mean()) < 0.2:
        supporting.append(Evidence("same length", {"median_run": length_of(int(run.median()))}))
    # measured: drivers without memory accounting say "false" whatever happened
    against = [*by_clock, *([Evidence("driver denies oom", {"failures": told})] if told else [])]
    subject = job_of(look, groups[0]) if len(groups) == 1 else {}
    return Hypothesis("out of memory", "killed", subject, "possible", supporting, against)


def _with_others(look: Investigation, index: int) -> Hypothesis | None:
    group, window = look.groups[index], pd.Timedelta(look.limits.onset_window).value
    if index not in look.usable:
        return None
    others = [
        other
        for other in look.began_near(group.onset, window)
        if look.groups[other].family != group.family
        and look.groups[other].kind == group.kind
        and related(look, group, look.groups[other])
    ]
    if not others:
        return None
    evidence = began_at_once(look, others, group.onset)
    return Hypothesis("common cause", group.kind, {}, "possible", [evidence])


def _after_template(look: Investigation, index: int) -> Hypothesis | None:
    """Return that what a template renders may be the cause, if one was rendered again when it began.

    The ring of a loop soon loses its template's event. Another task that reads the same may still show it.
    """
    group, test = look.groups[index], look.versions.get(index)
    if group.kind in NAMED_ERRORS:
        return None
    families = look.case.instances.families
    found = {}
    if test and test.ran_since >= 0:  # as good a suspect as the version
        found[group.family] = test.rendered_at
    elif index in look.usable:
        found = _rendered_at_onset(look, group)
    if not found:
        return None
    jobs = [families[family][1] for family in sorted(found)]
    evidence = Evidence("template rendered", {"jobs": jobs, "at": moment(min(found.values()))})
    return Hypothesis("template", group.kind, job_of(look, group), "possible", [evidence])


def _rendered_at_onset(look: Investigation, group: Group) -> dict[int, int]:
    """Return the jobs of a group's namespace of which a template was rendered again as it began, and when."""
    times, alloc = look.renders
    # a run that fails with what was rendered lasts as long as those after it
    most = pd.Timedelta(look.limits.change_window).value
    reach = SECOND + min(3 * typical_run(look.case, group) // 2, most)
    begin, end = np.searchsorted(times, [group.earliest - reach, group.latest + SECOND])
    families = look.case.instances.families
    of = look.case.instances.family[alloc]
    found: dict[int, int] = {}
    for family in np.unique(of[begin:end]).tolist():
        at = times[begin:end][of[begin:end] == family]
        if family != group.family:
            at = at[at >= group.earliest - SECOND]
            # one that is rendered again and again while this job falls and rises reads this job's service
            since = times[(of == family) & (times >= group.earliest - SECOND)]
            if np.sum(np.diff(since) > _SPLAY) >= 2:
                continue
        if len(at) and families[family][0] == families[group.family][0]:
            found[family] = int(at[0])
    return found


_SPLAY = 5 * SECOND
"""Nomad spreads the restarts for one change of a template over this time, by default."""


def _on_one_node(look: Investigation, group: Group) -> Hypothesis | None:
    """Return that the node may be the cause, if all failures are on one and others run the job well."""
    alloc = np.unique(look.failures["alloc"][group.rows])
    on = np.unique(look.case.nodes[alloc])
    mine = look.case.instances.family == group.family
    elsewhere = mine & (look.case.nodes != on[0])
    often = len(group.rows) >= look.limits.loop_restarts
    if len(on) != 1 or not often or not elsewhere.any() or not look.case.node_names[on[0]]:
        return None
    node = {"node_name": look.case.node_names[on[0]]}
    only = {**node, "failed": len(alloc), "elsewhere": int(elsewhere.sum())}
    against = []
    neighbours = (look.case.nodes == on[0]) & ~mine
    neighbours[np.unique(look.case.failures["alloc"])] = False
    running = look.case.evidence.allocations["client_status"].eq("running").to_numpy(dtype=bool)
    if (well := int((neighbours & running).sum())) > 0:
        against.append(Evidence("others well on node", {**node, "allocations": well}))
    evidence = [Evidence("only on node", only, keys_of(look, group.rows))]
    return Hypothesis("node", group.kind, node, "possible", evidence, against)
