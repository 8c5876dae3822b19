"""The causes of one job's failures: how they show, its version, memory, its node, others at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from ..stats import _distributions as distributions
from ._changes import AFTER
from ._comparisons import typical_run
from ._groups import ONGOING, SECOND, STOPPED, Group
from ._investigation import (
    NAMED_ERRORS,
    Investigation,
    describe,
    job_of,
    keys_of,
    length_of,
    make_incident,
    name_of,
)
from ._places import where_it_shows
from ._rhythm import Rhythm, compare_rhythm
from ._tables import NEVER, moment
from ._versions import VersionTest
from .finding import SEVERITIES
from .incident import Evidence, Hypothesis, Incident


def explain_group(look: Investigation, index: int) -> Incident:
    group = look.groups[index]
    rhythm = compare_rhythm(look.case, group.rows, look.limits.level)
    if rhythm and rhythm.by_clock:
        describe(look, group)["median_run"] = None  # how long they had run means nothing
    how = by_mechanism(look, group)
    by_clock = [_of_rhythm(rhythm)] if rhythm and rhythm.by_clock else []
    by_age = [_of_rhythm(rhythm)] if rhythm and not rhythm.by_clock and group.kind == "killed" else []
    shows = [*by_clock, *where_it_shows(look, [group])]
    against = [*how.contradicting, *by_age]
    hypotheses = [replace(how, supporting=[*how.supporting, *shows], contradicting=against)]
    if memory := _by_memory(look, group, by_clock):
        hypotheses.append(memory)
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
    if group.state == STOPPED and group.last_at != NEVER:
        job = look.case.instances.families[group.family]
        incident.facts["ended_by"] = look.ledger.ended_by(job, group.last_at - AFTER.value)
    if best is version and index in look.versions and incident.began_at is not None:
        # a stray failure of the previous version is not its beginning
        placed_at = moment(look.versions[index].placed_at)
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
    exits = {name: facts[name] for name in ("exit_code", "signal", "exits", "median_run", "failures")}
    evidence = [Evidence("exits", exits, keys)]
    # who sent a signal is not on record
    confidence = "certain" if group.kind == "crash" else "possible"
    return Hypothesis(group.kind, group.kind, subject, confidence, evidence)


_AS_LONG = 1.5
"""The first run, with its start, is as long as the others if it took less than this many times as long."""


def _of_rhythm(rhythm: Rhythm, *, from_first: bool = False) -> Evidence:
    """Return that ends keep to the clock, or to their own age, as evidence."""
    numbers = {
        "instances": rhythm.instances, "ends": rhythm.ends, "times": rhythm.rounds, "p": rhythm.p,
        "apart": length_of(rhythm.apart), "youngest": length_of(rhythm.youngest),
        "oldest": length_of(rhythm.oldest), "from_first": from_first,
    }  # fmt: skip
    return Evidence("ends by clock" if rhythm.by_clock else "ends by age", numbers)


def _by_memory(look: Investigation, group: Group, by_clock: list[Evidence]) -> Hypothesis | None:
    """Return that memory may have run out, after a SIGKILL that nothing else explains."""
    if group.kind != "killed":
        return None
    rows = look.case.failures.iloc[group.rows]
    sigkill = (rows["signal"] == 9) | (rows["code"] == 137)
    if not bool(sigkill.any()):
        return None
    told = int((sigkill & rows["told"]).sum())
    supporting = [Evidence("sigkill", {"failures": int(sigkill.sum())}, keys_of(look, group.rows))]
    run = rows["run"][rows["run"] > 0]
    if len(run) > 2 and float(run.std() / run.mean()) < 0.2 and not by_clock:
        supporting.append(Evidence("same length", {"median_run": length_of(int(run.median()))}))
    # measured: drivers without memory accounting say "false" whatever happened
    against = [*by_clock, *([Evidence("driver denies oom", {"failures": told})] if told else [])]
    return Hypothesis("out of memory", "killed", job_of(look, group), "possible", supporting, against)


def by_version(look: Investigation, index: int) -> Hypothesis | None:
    test, group = look.versions.get(index), look.groups[index]
    if test is None:
        return _by_runs(look, group) or _by_last_change(look, group)
    if not test.failures:
        return None
    run = typical_run(look.case, group)
    counts = {
        "job_version": test.version, "base_version": test.base, "failures": test.failures,
        "starts": test.starts, "base_failures": test.base_failures, "base_starts": test.base_starts,
        "hours": test.hours, "base_hours": test.base_hours, "p": test.p,
        "node_name": None if test.node is None else look.case.node_names[test.node],
        "since_onset": test.since_onset,
    }  # fmt: skip
    keys = keys_of(look, group.rows)
    supporting, against = [], []
    differs = test.is_worse(look.limits.level)
    compared = Evidence("version compared", counts, keys)
    if differs:
        supporting.append(compared)
    elif test.base_failures:
        against.append(compared)
    soon = max(pd.Timedelta(look.limits.after_change).value, 3 * run)
    placed = {"job_version": test.version, "placed_at": moment(test.placed_at)}
    # in a truncated event history, the first failure left is not the first one: only a bound is known
    cut = test.least_delay != test.most_delay
    at_most = placed | {"delay": length_of(test.most_delay), "at_most": cut}
    at_least = placed | {"delay": length_of(test.least_delay), "at_least": cut}
    job = look.case.instances.families[group.family]
    began_with = differs or test.placed_at == NEVER or group.onset >= test.placed_at
    submitted = look.ledger.submitted_at(job, test.version)
    own_onset = _onset_of_version(look, group, test.version)
    if NEVER not in (submitted, own_onset) and own_onset < submitted - AFTER.value:
        # updated in place: its allocations are older than the version
        began_with = False
        placed |= {"placed_at": moment(submitted)}
    if not began_with:
        against.append(Evidence("began before version", {**placed, "began_at": moment(group.onset)}))
    elif test.delay <= soon:
        supporting.append(Evidence("soon after version", at_most))
    elif test.least_delay > soon or not cut:
        against.append(Evidence("long after version", at_least))
    fields = look.ledger.fields_touching(job, test.version, group.kind)
    if fields and began_with:
        supporting.append(Evidence("change touches", {"job_version": test.version, "fields": fields}))
    if test.changed_groups:
        changed = {"job_version": test.version, "groups": list(test.changed_groups)}
        supporting.append(Evidence("changed group first", changed))
    if released := _released_with(look, group, test.version):
        supporting.append(released)
    if test.later_well:
        supporting.append(Evidence("later version well", {"job_version": test.version}))
    # a version that ran well at first, and then failed at every start, met something new
    late = _is_late(look, test, run)
    if late:
        ran = {"ran_well": length_of(test.least_ran_well), "at_least": cut}
        against.append(Evidence("ran well", {**placed, **ran}))
    # instances that had run for long and fall in one moment met something from outside
    together = test.failed > 1 and 0 <= test.fell_within <= _MOMENT and test.ran_well > max(_A_START, 5 * run)
    if together:
        fell = {"instances": test.failed, "spread": length_of(test.fell_within)}
        against.append(Evidence("fell together", {**placed, **fell}))
    against += _failing_rollbacks(look, group, test)
    if test.healthy:
        against.append(Evidence("healthy deploy", {"job_version": test.version, "allocations": test.healthy}))
    others = _others_at(look, index, test)
    if others:
        against.append(_at_once(look, others, max(group.onset, test.placed_at)))
    if not supporting:
        return None
    rows = group.rows[look.made_by[look.failures["alloc"][group.rows]] == test.version]
    rhythm = compare_rhythm(look.case, rows, look.limits.level)
    outside = by_age = False
    if rhythm and rhythm.by_clock:
        outside = True
        against.append(_of_rhythm(rhythm))
    elif rhythm and max(test.ran_well, test.delay) <= _AS_LONG * run:
        # each run ends so long after its start, the first one, too: it brought that along
        by_age = True
        supporting.append(_of_rhythm(rhythm, from_first=True))
    first_change = began_with and test.delay <= soon and not (late or together or others)
    exposed = test.base_hours > 0 or test.base_starts > 0 or look.ledger.was_stable(job, test.base)
    enough = test.failures >= look.limits.version_tasks or bool(fields)
    # without a test, what came first needs more for it than the time, and nothing against it
    more = not against and not _MORE_THAN_TIME.isdisjoint(each.fact for each in supporting)
    sure = differs or (not test.base_failures and enough and (more or by_age))
    likely = first_change and exposed and sure and not outside
    subject = {**job_of(look, group), "job_version": test.version}
    return Hypothesis(
        "job version", group.kind, subject, "likely" if likely else "possible", supporting, against
    )


_MORE_THAN_TIME = {"change touches", "changed group first", "later version well"}
"""What speaks for a version, apart from failures that began after it."""


def _released_with(look: Investigation, group: Group, version: int) -> Evidence | None:
    """Return which other jobs got a new version when this one did, and which of them fail now."""
    job = look.case.instances.families[group.family]
    others = look.ledger.released_with(job, version)
    if not others:
        return None
    failing = {look.case.instances.families[each.family] for each in look.groups if each.severity != "info"}
    at = look.ledger.submitted_at(job, version)
    names = list(dict.fromkeys(name for (_, name), _ in others))
    bad = list(dict.fromkeys(name for (space, name), _ in others if (space, name) in failing))
    spread = length_of(max(abs(time - at) for _, time in others))
    return Evidence("released together", {"jobs": names, "failing": bad, "spread": spread})


def _failing_rollbacks(look: Investigation, group: Group, test: VersionTest) -> Iterator[Evidence]:
    """Yield the later versions that brought an older specification back, and fail all the same."""
    job = look.case.instances.families[group.family]
    failing = look.made_by[look.failures["alloc"][group.rows]]
    for each in np.unique(failing[failing >= test.version]).tolist():
        older = look.ledger.same_as(job, each)
        if older is not None and older < test.version:
            yield Evidence("rollback fails", {"job_version": each, "same_as": older})


def _onset_of_version(look: Investigation, group: Group, version: int) -> int:
    """Return when the allocations of a version began to fail; failures of older ones do not count."""
    rows = {name: look.failures[name][group.rows] for name in ("alloc", "at")}
    of_version = look.made_by[rows["alloc"]] == version
    known = rows["at"][of_version & (rows["at"] != NEVER)]
    return int(known.min()) if len(known) else NEVER


def _by_last_change(look: Investigation, group: Group) -> Hypothesis | None:
    """Return the version submitted just before the failures began, of a job without anything to compare.

    Its older allocations have been collected: what is left is that the change came just before.
    """
    if group.onset == NEVER or group.began_before or look.case.instances.has_runs[group.family]:
        return None
    job = look.case.instances.families[group.family]
    found = look.ledger.version_before(job, group.onset, pd.Timedelta(look.limits.after_change).value)
    if found is None:
        return None
    version, base, at = found
    delay = {"job_version": version, "placed_at": moment(at), "delay": length_of(group.onset - at)}
    supporting = [Evidence("soon after version", delay)]
    if fields := look.ledger.fields_touching(job, version, group.kind):
        supporting.append(Evidence("change touches", {"job_version": version, "fields": fields}))
    if look.ledger.was_stable(job, base):
        supporting.append(Evidence("stable before", {"base_version": base}))
    subject = {**job_of(look, group), "job_version": version}
    return Hypothesis("job version", group.kind, subject, "possible", supporting)


_MOMENT = 3 * SECOND
"""Instances that fail within this time of each other failed in one moment."""


def _by_runs(look: Investigation, group: Group) -> Hypothesis | None:
    """Return the version of a periodic or parameterized job whose runs fail, and those of others do not.

    A run is a job of its own, and its version is its own: the time tells which version of the parent made it.
    """
    if not group.failed_runs:
        return None
    job = look.case.instances.families[group.family]
    outcomes = look.jobs.outcomes.get(group.family, [])
    created = look.case.evidence.allocations["created_at"].to_numpy()
    mine = look.of_family(group.family)
    made = dict(zip(look.case.instances.run[mine[::-1]].tolist(), created[mine[::-1]].tolist(), strict=True))
    failing = set(look.case.instances.run[look.failures["alloc"][group.rows]].tolist())
    runs: dict[int, int] = {}
    failed: dict[int, int] = {}
    good_first: dict[int, int] = {}
    for run, bad in outcomes:
        version = look.ledger.version_at(job, made[run])
        if version is not None:
            if not bad and not failed.get(version):
                good_first[version] = good_first.get(version, 0) + 1
            runs[version] = runs.get(version, 0) + 1
            failed[version] = failed.get(version, 0) + (bad and run in failing)
    if len(runs) < 2:
        return None
    total, bad_ones = sum(runs.values()), sum(failed.values())
    worst = max(failed, key=lambda version: failed[version] / runs[version])
    p = distributions.hypergeom_sf(failed[worst] - 1, total, bad_ones, runs[worst]) * len(runs)
    # one that ran well several times met something new
    if p >= look.limits.level or good_first.get(worst, 0) > 1:
        return None
    counts = {
        "job_version": worst, "runs": runs[worst], "failed": failed[worst], "others": total - runs[worst],
        "failed_others": bad_ones - failed[worst], "p": min(1.0, float(p)),
    }  # fmt: skip
    supporting = [Evidence("runs by version", counts, keys_of(look, group.rows))]
    if fields := look.ledger.fields_touching(job, worst, group.kind):
        supporting.append(Evidence("change touches", {"job_version": worst, "fields": fields}))
    # an outage while it was the newest looks the same, unless an older one ran well again after it
    again = [each for each in runs if each > worst and look.ledger.same_as(job, each) is not None]
    likely = bool(again) and not any(failed[each] for each in again) and failed[worst] == runs[worst]
    subject = {**job_of(look, group), "job_version": worst}
    return Hypothesis("job version", group.kind, subject, "likely" if likely else "possible", supporting)


_A_START = 5 * SECOND
"""A program that ran for longer than this and much longer than later had got over its start."""


def _is_late(look: Investigation, test: VersionTest, run: int) -> bool:
    """Return whether a version ran well at first: then it met something new, and is not the first suspect."""
    if test.ran_well > max(pd.Timedelta(look.limits.together).value, 5 * run):
        return True
    healthy = test.healthy >= look.limits.critical_share * test.failed
    return bool(test.healthy) and healthy and test.ran_well > max(_A_START, 5 * run)


def begins_with_version(look: Investigation, index: int) -> bool:
    """Return whether a group began right after a new version, which fails more than the previous one."""
    test, group = look.versions[index], look.groups[index]
    run = typical_run(look.case, group)
    soon = max(pd.Timedelta(look.limits.after_change).value, 3 * run)
    return test.delay <= soon and not _is_late(look, test, run) and test.is_worse(look.limits.level)


def _others_at(look: Investigation, index: int, test: VersionTest) -> list[int]:
    """Return the groups of other jobs that began when this version began to fail.

    Those that have a cause together already, and fail in another way, say nothing of this one.
    """
    group, window = look.groups[index], pd.Timedelta(look.limits.together).value
    onset = max(group.onset, test.placed_at)
    return [
        other
        for other in look.began_near(onset, window)
        if other not in look.deployed
        and not _begins_after(look, index, other, test)
        and (other not in look.joined or alike(look, group, look.groups[other]))
        and look.groups[other].family != group.family
        and _related(look, group, look.groups[other])
        and (look.groups[other].kind == group.kind or look.groups[other].severity != "info")
    ]


def _begins_after(look: Investigation, index: int, other: int, test: VersionTest) -> bool:
    """Return whether another job began later, and in another way, than a version that failed at once."""
    group, its = look.groups[index], look.groups[other]
    # one that never became healthy fails since it was placed, even if a truncated history shows later
    at_once = not test.healthy and not _is_late(look, test, typical_run(look.case, group))
    return at_once and its.onset > test.placed_at and not alike(look, group, its)


def alike(look: Investigation, group: Group, other: Group) -> bool:
    """Return whether two groups fail in the same way: by kind, and by exit code or error."""
    mine, its = describe(look, group), describe(look, other)
    return all(mine[name] == its[name] for name in ("kind", "exit_code", "signal", "error"))


def _related(look: Investigation, group: Group, other: Group) -> bool:
    """Return whether two jobs have more in common than the time: their namespace, or how they fail."""
    families = look.case.instances.families
    return families[group.family][0] == families[other.family][0] or alike(look, group, other)


def fails_in_a_telling_way(look: Investigation, group: Group) -> bool:
    """Return whether a group fails in another way than most programs do: they exit with 1."""
    facts = describe(look, group)
    return bool(facts["error"] or facts["signal"] or facts["exit_code"] not in (None, 0, 1))


def _with_others(look: Investigation, index: int) -> Hypothesis | None:
    group, window = look.groups[index], pd.Timedelta(look.limits.together).value
    if index not in look.usable:
        return None
    others = [
        other
        for other in look.began_near(group.onset, window)
        if look.groups[other].family != group.family
        and look.groups[other].kind == group.kind
        and _related(look, group, look.groups[other])
    ]
    if not others:
        return None
    evidence = _at_once(look, others, group.onset)
    return Hypothesis("common cause", group.kind, {}, "possible", [evidence])


def _after_template(look: Investigation, index: int) -> Hypothesis | None:
    """Return that what a template renders may be the cause, if one was rendered again when it began.

    The ring of a loop soon loses its template's event. Another task that reads the same may still show it.
    """
    group = look.groups[index]
    if index not in look.usable or group.kind in NAMED_ERRORS:
        return None
    times, alloc = look.renders
    first, last = group.earliest - SECOND, group.latest + SECOND
    begin, end = np.searchsorted(times, [first, last])
    families = look.case.instances.families
    near = [
        int(family)
        for family in np.unique(look.case.instances.family[alloc[begin:end]])
        if families[family][0] == families[group.family][0]
    ]
    if not near:
        return None
    at = times[begin:end][np.isin(look.case.instances.family[alloc[begin:end]], near)]
    jobs = [families[family][1] for family in near]
    evidence = Evidence("template rendered", {"jobs": jobs, "at": moment(int(at[0]))})
    return Hypothesis("template", group.kind, job_of(look, group), "possible", [evidence])


def _at_once(look: Investigation, others: list[int], onset: int) -> Evidence:
    """Return that other groups began about when one did, the first of them first."""
    times: dict[str, int] = {}
    for each in sorted(others, key=lambda index: look.groups[index].onset):
        times.setdefault(name_of(look, each), look.groups[each].onset - onset)
    apart = [length_of(time) for time in times.values()]
    return Evidence("others at once", {"jobs": list(times), "apart": apart})


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
