"""Whether a version of a job brought its failures: by an exact test, by runs, or by its last change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..stats import _distributions as distributions
from ._changes import AFTER
from ._comparisons import A_START, MUCH_LONGER, typical_run
from ._groups import SECOND, Group
from ._investigation import (
    Investigation,
    alike,
    began_at_once,
    first_seen,
    job_of,
    keys_of,
    length_of,
    related,
)
from ._rhythm import as_evidence, compare_rhythm
from ._tables import NEVER, moment
from ._versions import Cliff, VersionTest
from .incident import Evidence, Hypothesis

_AS_LONG = 1.5
"""The first run, with its start, is as long as the others if it took less than this many times as long."""


_MOMENT = 3 * SECOND
"""Instances that fail within this time of each other failed in one moment."""


_TELLING = 0.05
"""A version that never started is worth its numbers from here on; to be likely, it takes more."""


def by_version(look: Investigation, index: int) -> Hypothesis | None:
    """Return that a version of its job brought a group's failures; None if nothing speaks for that.

    It is likely only if all of this holds: the failures began soon after the version and not before it, what
    ran before had run well, a test or the change itself speaks for it, and nothing says that several jobs or
    instances met something from outside. Else it is possible.
    """
    test, group = look.versions.get(index), look.groups[index]
    if test is None:
        return _by_runs(look, group) or _by_last_change(look, group)
    if not test.failures:
        return None
    job = look.case.instances.families[group.family]
    differs = test.is_worse(look.limits.significance_level)
    compared = _compared(look, group, test)
    onset = _onset(look, group, test, differs)
    others = _others_at(look, index, test)
    fields = look.ledger.fields_touching(job, test.version, group.kind)
    never_ran = not test.hours and not test.base_failures
    telling = differs or (never_ran and test.p < _TELLING)
    supporting = [compared] if telling else []
    supporting += onset.supporting + _what_else_fits(look, group, test, fields if onset.began_with else [])
    if not supporting:
        return None
    against = [compared] if test.base_failures and not differs else []
    apart = test.ran_since < 0  # else nothing parts the version from what a template rendered just before
    if not apart:
        against.append(_too_short(look, group, test))
    against += [*onset.against, *_failing_rollbacks(look, group, test)]
    if test.healthy:
        against.append(Evidence("healthy deploy", {"job_version": test.version, "allocations": test.healthy}))
    if others:
        against.append(began_at_once(look, others, max(group.onset, test.placed_at)))
    rows = group.rows[look.made_by[look.failures["alloc"][group.rows]] == test.version]
    rhythm = compare_rhythm(look.case, rows, look.limits.significance_level)
    by_clock = rhythm is not None and rhythm.by_clock
    # each run ends so long after its start, the first one, too: it brought that along
    from_first = max(test.ran_well, test.delay) <= _AS_LONG * onset.run
    by_age = not by_clock and rhythm is not None and from_first
    if rhythm and by_clock:
        against.append(as_evidence(rhythm))
    elif rhythm and by_age:
        supporting.append(as_evidence(rhythm, from_first=True))
    came_first = onset.is_soon and onset.began_with and not (onset.late or onset.together or others)
    exposed = test.base_hours > 0 or test.base_starts > 0 or look.ledger.was_stable(job, test.base)
    enough = test.failures >= look.limits.version_tasks or bool(fields)
    # without a test, what came first needs more for it than the time, and nothing against it
    more = not against and not _MORE_THAN_TIME.isdisjoint(each.fact for each in supporting)
    cliff = test.cliff if apart and not differs and not by_clock else None
    falls = cliff is not None and from_first and cliff.p_of_all < look.limits.significance_level
    apart_by_age = cliff is not None and cliff.base_past and not (cliff.past or cliff.base_failed)
    if cliff and cliff.failed > 1 and (falls or apart_by_age):
        supporting.append(_cliff_told(look, test, cliff, falls))
    sure = differs or falls or (not test.base_failures and enough and (more or by_age))
    confidence = "likely" if came_first and exposed and sure and apart and not by_clock else "possible"
    subject = {**job_of(look, group), "job_version": test.version}
    return Hypothesis("job version", group.kind, subject, confidence, supporting, against)


_MORE_THAN_TIME = {"change touches", "changed group first", "later version well"}
"""What speaks for a version, apart from failures that began after it."""


def _cliff_told(look: Investigation, test: VersionTest, cliff: Cliff, falls: bool) -> Evidence:
    """Return how many runs got past the age at which a version fails."""
    numbers = {
        "job_version": test.version, "base_versions": list(cliff.base_versions), "age": length_of(cliff.age),
        "failed": cliff.failed, "runs": cliff.failed + cliff.past, "base_past": cliff.base_past,
        "base_runs": cliff.base_past + cliff.base_failed, "whole": cliff.whole,
        "p": cliff.p_of_all if falls else cliff.p, "few": not falls,
    }  # fmt: skip
    return Evidence("past the age", numbers)


def _too_short(look: Investigation, group: Group, test: VersionTest) -> Evidence:
    """Return that the previous version ran too shortly, with what its template rendered, to have failed."""
    submitted = look.ledger.submitted_at(look.case.instances.families[group.family], test.version)
    at = submitted if submitted != NEVER else test.placed_at
    numbers = {
        "job_version": test.version, "base_version": test.base, "rendered_at": moment(test.rendered_at),
        "before": length_of(at - test.rendered_at), "ran": length_of(test.ran_since),
        "run": length_of(typical_run(look.case, group)),
    }  # fmt: skip
    return Evidence("too short to compare", numbers)


def _compared(look: Investigation, group: Group, test: VersionTest) -> Evidence:
    """Return how often a version and the previous one failed."""
    counts = {
        "job_version": test.version, "base_version": test.base, "failures": test.failures,
        "starts": test.starts, "base_failures": test.base_failures, "base_starts": test.base_starts,
        "hours": test.hours, "base_hours": test.base_hours, "p": test.p,
        "node_name": None if test.node is None else look.case.node_names[test.node],
        "since_onset": test.since_onset,
        "since_render": None if test.ran_since >= 0 else moment(test.rendered_at),
    }  # fmt: skip
    return Evidence("version compared", counts, keys_of(look, group.rows))


@dataclass(frozen=True)
class _Onset:
    """When a version's failures began, and what that says of it.

    Attributes
    ----------
    run : int
        How long a run that fails usually takes.
    began_with, is_soon : bool
        They did not begin before the version; they began within the time that a change is held to.
    late, together : bool
        It ran well at first; its instances had run for long and fell in one moment. Then it met something.
    supporting, against : list of Evidence
    """

    run: int
    began_with: bool
    is_soon: bool
    late: bool
    together: bool
    supporting: list[Evidence]
    against: list[Evidence]


def _onset(look: Investigation, group: Group, test: VersionTest, differs: bool) -> _Onset:
    """Compare when a group's failures began with when a version was placed, or changed in place."""
    run = typical_run(look.case, group)
    soon = max(pd.Timedelta(look.limits.change_window).value, 3 * run)
    placed = {"job_version": test.version, "placed_at": moment(test.placed_at)}
    # in a truncated event history, the first failure left is not the first one: only a bound is known
    cut = test.least_delay != test.most_delay
    # the version before may have failed by then, too
    seen = group_began - test.placed_at if (group_began := first_seen(look, group)) != NEVER else -1
    at_most = placed | {
        "delay": length_of(min(test.most_delay, seen) if cut and seen >= 0 else test.most_delay),
        "at_most": cut,
    }
    at_least = placed | {"delay": length_of(test.least_delay), "at_least": cut}
    began_with = differs or test.placed_at == NEVER or group.onset >= test.placed_at
    submitted = look.ledger.submitted_at(look.case.instances.families[group.family], test.version)
    own_onset = _onset_of_version(look, group, test.version)
    if NEVER not in (submitted, own_onset) and own_onset < submitted - AFTER.value:
        # updated in place: its allocations are older than the version
        began_with = False
        placed |= {"placed_at": moment(submitted)}
    supporting, against = [], []
    if not began_with:
        against.append(Evidence("began before version", {**placed, "began_at": moment(group.onset)}))
    elif test.delay <= soon:
        supporting.append(Evidence("soon after version", at_most))
    elif test.least_delay > soon or not cut:
        against.append(Evidence("long after version", at_least))
    # a version that ran well at first, and then failed at every start, met something new
    late = _is_late(look, test, run)
    if late:
        ran = {"ran_well": length_of(test.least_ran_well), "at_least": cut}
        against.append(Evidence("ran well", {**placed, **ran}))
    # instances that had run for long and fall in one moment met something from outside
    together = test.failed > 1 and 0 <= test.fell_within <= _MOMENT and test.ran_well > max(A_START, 5 * run)
    if together:
        fell = {"instances": test.failed, "spread": length_of(test.fell_within)}
        against.append(Evidence("fell together", {**placed, **fell}))
    return _Onset(run, began_with, test.delay <= soon, late, together, supporting, against)


def _what_else_fits(
    look: Investigation, group: Group, test: VersionTest, fields: list[str]
) -> list[Evidence]:
    """Return what speaks for a version besides its failures and their times; `fields` touch what failed."""
    version = {"job_version": test.version}
    found = [Evidence("change touches", {**version, "fields": fields})] if fields else []
    if test.changed_groups:
        found.append(Evidence("changed group first", {**version, "groups": list(test.changed_groups)}))
    if released := _released_with(look, group, test.version):
        found.append(released)
    if test.later_well:
        found.append(Evidence("later version well", version))
    return found


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
    found = look.ledger.version_before(job, group.onset, pd.Timedelta(look.limits.change_window).value)
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
            version = look.ledger.brought_by(job, version)
            if not bad and not failed.get(version):
                good_first[version] = good_first.get(version, 0) + 1
            runs[version] = runs.get(version, 0) + 1
            failed[version] = failed.get(version, 0) + (bad and run in failing)
    if len(runs) < 2:
        return None
    total, bad_ones = sum(runs.values()), sum(failed.values())
    worst = max(failed, key=lambda version: failed[version] / runs[version])
    p = distributions.hypergeom_sf(failed[worst] - 1, total, bad_ones, runs[worst]) * len(runs)
    # too few runs for a test may still part without an exception
    parts = bad_ones == failed[worst] == runs[worst] > 1 and total - runs[worst] > 1
    # one that ran well several times met something new
    if good_first.get(worst, 0) > 1 or (p >= look.limits.significance_level and not parts):
        return None
    counts = {
        "job_version": worst, "runs": runs[worst], "failed": failed[worst], "others": total - runs[worst],
        "failed_others": bad_ones - failed[worst], "is_newest": worst == max(runs), "p": min(1.0, float(p)),
    }  # fmt: skip
    supporting = [Evidence("runs by version", counts, keys_of(look, group.rows))]
    if fields := look.ledger.fields_touching(job, worst, group.kind):
        supporting.append(Evidence("change touches", {"job_version": worst, "fields": fields}))
    # an outage while it was the newest looks the same, unless an older one ran well again after it
    again = [each for each in runs if each > worst and look.ledger.same_as(job, each) is not None]
    likely = bool(again) and not any(failed[each] for each in again) and failed[worst] == runs[worst]
    subject = {**job_of(look, group), "job_version": worst}
    return Hypothesis("job version", group.kind, subject, "likely" if likely else "possible", supporting)


def _is_late(look: Investigation, test: VersionTest, run: int) -> bool:
    """Return whether a version ran well at first: then it met something new, and is not the first suspect."""
    if test.ran_well > max(pd.Timedelta(look.limits.onset_window).value, 5 * run):
        return True
    healthy = test.healthy >= look.limits.critical_share * test.failed
    return bool(test.healthy) and healthy and test.ran_well > max(A_START, MUCH_LONGER * run)


def begins_with_version(look: Investigation, index: int) -> bool:
    """Return whether a group began right after a new version, which fails more than the previous one."""
    test, group = look.versions[index], look.groups[index]
    run = typical_run(look.case, group)
    soon = max(pd.Timedelta(look.limits.change_window).value, 3 * run)
    return (
        test.delay <= soon and not _is_late(look, test, run) and test.is_worse(look.limits.significance_level)
    )


def _others_at(look: Investigation, index: int, test: VersionTest) -> list[int]:
    """Return the groups of other jobs that began when this version began to fail.

    Those that have a cause together already, and fail in another way, say nothing of this one.
    """
    group, window = look.groups[index], pd.Timedelta(look.limits.onset_window).value
    onset = max(group.onset, test.placed_at)
    return [
        other
        for other in look.began_near(onset, window)
        if other not in look.deployed
        and not _begins_after(look, index, other, test)
        and (other not in look.joined or alike(look, group, look.groups[other]))
        and look.groups[other].family != group.family
        and related(look, group, look.groups[other])
        and (look.groups[other].kind == group.kind or look.groups[other].severity != "info")
    ]


def _begins_after(look: Investigation, index: int, other: int, test: VersionTest) -> bool:
    """Return whether another job began later, and in another way, than a version that failed at once."""
    group, its = look.groups[index], look.groups[other]
    # one that never became healthy fails since it was placed, even if a truncated history shows later
    at_once = not test.healthy and not _is_late(look, test, typical_run(look.case, group))
    return at_once and its.onset > test.placed_at and not alike(look, group, its)
