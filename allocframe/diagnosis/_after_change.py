"""Jobs that ran well, and began to fail in the moment in which another job was changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ._comparisons import A_START, AT_ONCE, MUCH_LONGER, UNLIKE, chance_of_range
from ._groups import SECOND, Group
from ._investigation import NAMED_ERRORS, Investigation, keys_of, length_of, name_of, related
from ._other_changes import Change
from ._tables import NEVER, moment
from .incident import Evidence, Hypothesis

_LEAST = 3
"""Fewer instances that fall in one moment say too little."""


@dataclass(frozen=True)
class Fall:
    """The moment in which the instances of a job that had run well began to fail.

    Attributes
    ----------
    index : int
        Position of the group.
    first, last : int
        When the first of its instances fell, and the last.
    instances : int
        How many did.
    """

    index: int
    first: int
    last: int
    instances: int


@dataclass(frozen=True)
class AfterChange:
    """Jobs that fell in the moment in which another one was changed.

    Attributes
    ----------
    falls : list of Fall
        In order of time.
    change : Change
        What was done to the other job.
    p : float
        Probability that chance alone brings all of it into one moment.
    """

    falls: list[Fall]
    change: Change
    p: float


def find_after_change(look: Investigation, taken: set[int]) -> Iterator[AfterChange]:
    """Yield the jobs, none of them changed itself, that fell together just after another one was changed.

    That two jobs begin to fail at once may be chance. The change in the same moment is a third event.
    """
    free = [index for index in look.usable if index not in taken | look.deployed]
    falls = [fall for index in free if (fall := _fall_of(look, index))]
    falls.sort(key=lambda fall: fall.first)
    used: set[int] = set()
    for place, first in enumerate(falls):
        if first.index in used:
            continue
        group = look.groups[first.index]
        members, families = [first], {group.family}
        for other in falls[place + 1 :]:
            its = look.groups[other.index]
            if other.first - first.first > UNLIKE:
                break
            is_new = other.index not in used and its.family not in families
            if is_new and its.kind == group.kind and related(look, group, its):
                members.append(other)
                families.add(its.family)
        found = _with_change(look, members) if len(members) > 1 else None
        if found and sum(fall.instances for fall in members) >= _LEAST:
            used |= {fall.index for fall in members}
            yield found


def _fall_of(look: Investigation, index: int) -> Fall | None:
    """Return when the instances of a job fell; None if not all of them ran well before, or not in a moment.

    An instance fell when its last long run ended. What had failed now and then before that, by itself, does
    not change it.
    """
    group = look.groups[index]
    job = look.case.instances.families[group.family]
    rows = group.rows[look.failures["at"][group.rows] != NEVER]
    owner = look.failures["owner"][rows]
    if group.kind in NAMED_ERRORS or look.case.instances.has_runs[group.family] or not len(rows):
        return None
    if np.any(owner < 0) or look.case.lost_restarts[owner].any():
        return None  # the first failures are not on record
    lane, at = look.case.instances.lane[look.failures["alloc"][rows]], look.failures["at"][rows]
    order = np.lexsort((at, lane))
    lane, at, run = lane[order], at[order], look.failures["run"][rows][order]
    ends = np.append(lane[1:] != lane[:-1], True)
    later = run[ends & ~np.append(True, ends[:-1])]  # the newest of each instance that failed again
    short = float(np.median(later)) if len(later) else 0
    is_long = run > max(A_START, MUCH_LONGER * short)
    lane, well = lane[is_long], at[is_long]
    well = well[np.append(lane[1:] != lane[:-1], True)] if len(lane) else well
    first, last = (int(well.min()), int(well.max())) if len(well) else (NEVER, NEVER)
    most = look.limits.critical_share * max(group.wanted, 1)
    if len(well) < len(group.lanes) or len(well) < most or last - first > UNLIKE:
        return None
    window = pd.Timedelta(look.limits.change_window).value
    if look.ledger.version_before(job, first, window):
        return None  # it may be its own doing
    return Fall(index, first, last, len(well))


def _with_change(look: Investigation, falls: list[Fall]) -> AfterChange | None:
    """Return the change of another job just before some falls, if chance hardly brings all of it together."""
    groups = [look.groups[fall.index] for fall in falls]
    jobs = {look.case.instances.families[group.family] for group in groups}
    first, last = falls[0].first, falls[-1].first
    change = look.ledger.others.last_before(jobs, first, AT_ONCE)
    if change is None:
        return None
    width = max(last - change.at, SECOND // 5)  # clients report every fifth of a second
    watched = [look.case.now - int(look.jobs.first_created[group.family]) for group in groups]
    often = [_times_fallen(look, group) for group in groups]
    since = look.case.now - max(watched)
    changes = look.ledger.others.count_since(jobs, since)
    shares = [n * width / max(time, width) for n, time in zip(often, watched, strict=True)]
    shares.append(changes[change.job] * width / max(*watched, width))
    failing = {group.family for group in look.groups if group.kind == groups[0].kind}
    p = chance_of_range(shares, len(failing) + len(changes))
    return AfterChange(falls, change, p) if p < look.limits.significance_level else None


def _times_fallen(look: Investigation, group: Group) -> int:
    """Return how many times a job has begun to fail in that way."""
    return sum(other.family == group.family and other.kind == group.kind for other in look.groups)


def evidence_of_change(look: Investigation, found: AfterChange) -> list[Evidence]:
    """Return what fell, when, and what had been changed."""
    groups = [look.groups[fall.index] for fall in found.falls]
    first, last = found.falls[0].first, max(fall.last for fall in found.falls)
    numbers = {
        "jobs": [name_of(look, fall.index) for fall in found.falls],
        "instances": sum(fall.instances for fall in found.falls),
        "spread": length_of(last - first), "p": found.p, **_what_changed(found),
    }  # fmt: skip
    keys = keys_of(look, np.concatenate([group.rows for group in groups]))
    return [Evidence("fell after change", numbers, keys)]


def by_change(look: Investigation, found: AfterChange) -> Hypothesis | None:
    """Return that the new version of the other job may be the cause."""
    change = found.change
    if change.version is None:
        return None
    namespace, job = change.job
    subject = {"namespace": namespace, "job_id": job, "job_version": change.version}
    evidence = Evidence("changed just before", _what_changed(found))
    kind = look.groups[found.falls[0].index].kind
    return Hypothesis("job version", kind, subject, "possible", [evidence])


def _what_changed(found: AfterChange) -> dict[str, object]:
    change = found.change
    return {
        "change": change.kind, "changed_job": change.job[1], "job_version": change.version,
        "changed_at": moment(change.at), "before": length_of(found.falls[0].first - change.at),
    }  # fmt: skip
