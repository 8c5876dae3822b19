"""The tests that make a cause likely: of a node, and of several jobs that begin at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb, factorial

import numpy as np
import pandas as pd

from ..stats import _distributions as distributions
from ._failures import Case
from ._groups import SECOND, Group, Jobs
from ._tables import NEVER, Array, numbers
from .finding import Thresholds


@dataclass(frozen=True)
class NodeTest:
    """Whether a mechanism goes with a node, over all jobs that it hit there.

    Attributes
    ----------
    node : int
        Number of the node.
    groups : list of int
        Positions of the groups most of whose failures are there.
    p : float
        Probability that chance alone puts at least `failed` failed placements on this node, corrected for
        the number of nodes.
    failed, placed, failed_elsewhere, placed_elsewhere : int
        Placements of these jobs.
    instances : int
        Instances that failed there.
    """

    node: int
    groups: list[int]
    p: float
    failed: int
    placed: int
    failed_elsewhere: int
    placed_elsewhere: int
    instances: int


A_START = 5 * SECOND
"""A program that ran for longer than this and much longer than later had got over its start."""

MUCH_LONGER = 2.5
"""What ran this many times as long as the runs after it had run well: they are another thing."""

_MOSTLY = 0.8
"""A group belongs to a node if this share of its failures is there."""


def compare_nodes(case: Case, groups: list[Group]) -> list[NodeTest]:
    """Test each node within strata of job and version, leaving it out of what it is compared with.

    A placement is one trial: it failed by this mechanism or it did not. If the node made no difference, the
    failed placements of a stratum would be spread over all of its placements (hypergeometric).
    """
    instances, rows, node = case.instances, case.evidence.allocations, case.nodes
    nodes = int(node.max()) + 1 if len(node) else 0
    version = numbers(rows["job_version"], -1)
    alloc = case.failures["alloc"].to_numpy()
    placements: dict[int, Array] = {}
    wanted = {group.family for group in groups}
    order = np.argsort(instances.family, kind="stable")
    bounds = np.searchsorted(instances.family[order], [*range(len(instances.families) + 1)])
    for family in wanted:
        placements[family] = order[bounds[family] : bounds[family + 1]]
    candidates: dict[tuple[int, str], list[int]] = {}
    for index, group in enumerate(groups):
        on = np.bincount(node[alloc[group.rows]], minlength=nodes)
        top = int(on.argmax())
        placed = placements[group.family]
        if on[top] >= _MOSTLY * len(group.rows) and np.any(node[placed] != top):
            candidates.setdefault((top, group.kind), []).append(index)
    tests = []
    for (top, _kind), members in candidates.items():
        part = [groups[index] for index in members]
        test = _compare_node(case, part, placements, version, node, top)
        if test:
            # each node that these jobs run on might have been the one
            several = {each for group in part for each in node[placements[group.family]].tolist()}
            p = min(1.0, test[0] * len(several) * len(candidates))
            tests.append(NodeTest(top, members, p, *test[1:]))
    return tests


def _compare_node(
    case: Case, groups: list[Group], placements: dict[int, Array], version: Array, node: Array, top: int
) -> tuple[float, int, int, int, int, int] | None:
    alloc, lane = case.failures["alloc"].to_numpy(), case.instances.lane
    observed, distribution = 0, np.ones(1)
    counts = np.zeros(4, dtype=np.int64)
    hit_instances: set[int] = set()
    elsewhere_instances: set[int] = set()
    for group in groups:
        hit = np.zeros(len(node), dtype=bool)
        hit[alloc[group.rows]] = True
        placed = placements[group.family]
        for each in np.unique(version[placed]):
            stratum = placed[version[placed] == each]
            here = node[stratum] == top
            bad = hit[stratum]
            counts += (int((bad & here).sum()), int(here.sum()), int((bad & ~here).sum()), int((~here).sum()))
            if not bad.any() or here.all() or not here.any():
                continue
            observed += int((bad & here).sum())
            distribution = np.convolve(
                distribution, _hypergeometric(len(stratum), int(bad.sum()), int(here.sum()))
            )
        mine = placed[node[placed] == top]
        hit_instances |= set(lane[mine[hit[mine]]].tolist())
        others = placed[node[placed] != top]
        elsewhere_instances |= set(lane[others[~hit[others]]].tolist())
    if len(distribution) == 1 or not elsewhere_instances:
        return None
    p = float(distribution[observed:].sum())
    # one instance that is always placed there may itself be what fails
    if len(hit_instances) < 2 and not hit_instances & elsewhere_instances:
        return None
    return (p, *(int(value) for value in counts), len(hit_instances))  # type: ignore[return-value]


def _hypergeometric(total: int, bad: int, drawn: int) -> Array:
    return np.asarray(distributions.hypergeom_pmf(np.arange(min(bad, drawn) + 1), total, bad, drawn))


@dataclass(frozen=True)
class OnsetTest:
    """Groups of several jobs that began together.

    Attributes
    ----------
    groups : list of int
        Positions of the groups.
    spread : int
        Time from the first onset to the last.
    p : float
        Probability that chance alone brings this many onsets within `spread`.
    """

    groups: list[int]
    spread: int
    p: float


def settled_before(case: Case, jobs: Jobs, group: Group) -> int:
    """Return how long the job had run without this failure when it began."""
    first = int(jobs.first_created[group.family])
    return max(group.onset - first, 0) if group.onset != NEVER else 0


def typical_run(case: Case, group: Group) -> int:
    """Return the median length of the runs that failed; 0 if none ran."""
    run = case.failures["run"].to_numpy()[group.rows]
    run = run[run >= 0]
    return int(np.median(run)) if len(run) else 0


def share_healthy(case: Case, group: Group) -> float:
    """Return the share of the instances that fail whose first allocation to fail had been called healthy.

    Their replacements say nothing: whatever keeps them from running goes on.
    """
    first = case.instances.first_of_lanes(case.failures["alloc"].to_numpy()[group.rows])
    return float(case.healthy[first].mean())


def begins_with_placement(case: Case, jobs: Jobs, group: Group, limits: Thresholds) -> bool:
    """Return whether a group began at the first placement of its job: such an onset needs no other cause.

    What a deployment has called healthy had run well before, however short a time.
    """
    if share_healthy(case, group) >= limits.critical_share:
        return False
    grace = max(pd.Timedelta(limits.onset_window).value, 3 * typical_run(case, group))
    return settled_before(case, jobs, group) <= grace


_CLIENTS_REPORT = SECOND // 5
"""Onsets closer than this are at once: clients report every fifth of a second."""


AT_ONCE = 10 * SECOND
"""A fault of something shared shows within a few seconds: programs ask for it all the time.

Onsets further apart may still have one cause. To be taken for one, they must fail alike.
"""

_OF_ONE_MOMENT = 3 * SECOND // 2
"""Jobs of any namespace that lose one thing begin to fail within this time."""

UNLIKE = 4 * SECOND
"""What jobs that fail in different ways may have in common shows in all of them sooner."""

_MANY = 40
"""This many onsets in one minute have one cause: they are not searched for smaller groups."""


def compare_onsets(
    case: Case,
    jobs: Jobs,
    groups: list[Group],
    usable: list[int],
    limits: Thresholds,
    alike: Callable[[int, int], bool],
    telling: Callable[[int], bool],
) -> list[OnsetTest]:
    """Find groups of different jobs that began together, against their own rates of onset.

    `alike` says whether two groups fail in the same way, and `telling` whether not every program fails so.
    Jobs of different namespaces that fail in different ways have nothing but the time in common: in a large
    cluster something else always begins.
    """

    def linked(index: int, other: int) -> bool:
        families = case.instances.families
        near = families[groups[index].family][0] == families[groups[other].family][0]
        at_once = abs(groups[index].onset - groups[other].onset) <= _OF_ONE_MOMENT
        return near or at_once or alike(index, other)

    by_kind: dict[str, list[int]] = {}
    for index in sorted(usable, key=lambda index: groups[index].onset):
        by_kind.setdefault(groups[index].kind, []).append(index)
    found: list[OnsetTest] = []
    for members in by_kind.values():
        rate = _Rates(case, jobs, groups, members)
        found += _of_one_kind(members, rate, limits, alike, telling, linked)
    return found


def _of_one_kind(
    members: list[int],
    rate: _Rates,
    limits: Thresholds,
    alike: Callable[[int, int], bool],
    telling: Callable[[int], bool],
    linked: Callable[[int, int], bool],
) -> list[OnsetTest]:
    """Return the tests of groups that fail by one mechanism, which are in order of their onsets."""
    groups = rate.groups
    onsets = np.array([groups[index].onset for index in members])
    ends = np.searchsorted(onsets, onsets + pd.Timedelta(limits.onset_window).value, side="right").tolist()
    taken: set[int] = set()
    found: list[OnsetTest] = []

    def together(start: int) -> OnsetTest | None:
        """Return the test of a group with those that begin soon after it and are linked with it."""
        within = [each for each in members[start : ends[start]] if each not in taken]
        if len(within) <= _MANY:
            first = members[start]
            within = [each for each in within if each == first or linked(first, each)]
        return _best_part(within, rate, limits, alike, telling)

    for start, first in enumerate(members):
        if first in taken:
            continue
        best = together(start)
        # one that stands alone just before the others is not of them
        after = next((at for at in range(start + 1, len(members)) if members[at] not in taken), None)
        following = None if after is None else together(after)
        if best is None or (following and following.p < best.p):
            continue
        near = [index for index in _near(members, onsets, best, groups, limits) if index not in taken]
        more = [index for index in near if _could_be_at_once(groups, [best.groups[0], index], AT_ONCE)]
        more = [index for index in more if any(alike(index, each) for each in best.groups)]
        best = replace(best, groups=best.groups + more)
        taken |= set(best.groups)
        found.append(best)
    return found


def _near(
    members: list[int], onsets: Array, test: OnsetTest, groups: list[Group], limits: Thresholds
) -> list[int]:
    """Return the other onsets within the window about those of a test."""
    window = pd.Timedelta(limits.onset_window).value
    begin, end = (groups[test.groups[place]].onset for place in (0, -1))
    first = int(np.searchsorted(onsets, end - window, side="left"))
    last = int(np.searchsorted(onsets, begin + window, side="right"))
    return [index for index in members[first:last] if index not in test.groups]


def _could_be_at_once(groups: list[Group], several: list[int], within: int) -> bool:
    """Return whether some groups may have begun at once, by the times between which each of them began."""
    earliest = max(groups[index].earliest for index in several)
    return earliest - min(groups[index].latest for index in several) <= within


def _best_part(
    part: list[int],
    rate: _Rates,
    limits: Thresholds,
    alike: Callable[[int, int], bool],
    telling: Callable[[int], bool],
) -> OnsetTest | None:
    """Return the test of those of some onsets, from the first one on, that are the least likely by chance."""
    best = None
    many = len(part) > _MANY
    for end in [len(part)] if many else range(limits.critical_jobs, len(part) + 1):
        several = part[:end]
        spread = rate.groups[several[-1]].onset - rate.groups[several[0]].onset
        as_one = all(alike(several[0], each) for each in several[1:])
        close = _could_be_at_once(rate.groups, several, AT_ONCE if as_one else UNLIKE)
        alone = not many and not close and not (as_one and telling(several[0]))
        if not alone and len({rate.groups[index].family for index in several}) >= limits.critical_jobs:
            test = OnsetTest(several, spread, rate.chance(several, spread))
            best = test if best is None or test.p < best.p else best
    return best


class _Rates:
    """How often the jobs of some groups begin to fail."""

    def __init__(self, case: Case, jobs: Jobs, groups: list[Group], members: list[int]) -> None:
        self.groups = groups
        self._onsets = Counter(groups[index].family for index in members)
        self._watched = {family: case.now - int(jobs.first_created[family]) for family in self._onsets}

    def chance(self, part: list[int], spread: int) -> float:
        """Return the probability that chance brings these onsets so close together."""
        width = max(spread, _CLIENTS_REPORT)
        families = {self.groups[index].family for index in part}
        shares = [self._onsets[each] * width / max(self._watched[each], width) for each in families]
        return chance_of_range(shares, len(self._onsets))


def chance_of_range(shares: list[float], of: int) -> float:
    """Return the probability that chance brings some of a number of onsets into one window.

    If onsets were independent, each would fall anywhere in the time that its job has been watched. Of m
    jobs, k have theirs within a window w with probability C(m, k) times k u^(k-1) - (k-1) u^k, where u is
    the share of the window in that time (the range of uniform points).
    """
    k = len(shares)
    u = float(np.exp(np.mean(np.log(sorted(min(1.0, share) for share in shares)))))
    chance = k * u ** (k - 1) - (k - 1) * u**k
    return float(min(1.0, comb(of, k) * chance))


@dataclass(frozen=True)
class ReturnTest:
    """Groups of several jobs that failed together more than once, with a calm between.

    Attributes
    ----------
    groups : list of int
        Positions of the groups.
    times : list of int
        When each time began, as far as the rings show.
    p : float
        Probability that chance alone brings the spells of all these groups this close together.
    """

    groups: list[int]
    times: list[int]
    p: float


_CALM = 5
"""A spell of failures is over after a calm of this many times the usual gap between two of a task."""

_MOST_SPELLS = 6
"""Of more spells chance brings some together."""


def compare_returns(
    case: Case,
    jobs: Jobs,
    groups: list[Group],
    usable: list[int],
    limits: Thresholds,
    moments: Callable[[int], tuple[int, ...]],
) -> list[ReturnTest]:
    """Find groups of different jobs whose failures came in spells, each of them together.

    Each spell of one job falls anywhere in the time that it has been watched, if they are independent: into
    the `distance` about one of the other's with the probability 2 distance / watched. What comes at an even
    pace has no calm: then `moments` says when several instances of a group ended at once. With one pace, all
    moments of two groups are as far apart as the first: only what is one moment for both counts.
    """
    spells = {index: _spells(case, groups[index]) for index in usable}
    paced = {index: list(moments(index)) for index, times in spells.items() if len(times) == 1}
    spells |= paced
    by_count: dict[tuple[str, int], list[int]] = {}
    for index, times in sorted(spells.items(), key=lambda item: item[1]):
        if 1 < len(times) <= _MOST_SPELLS:
            by_count.setdefault((groups[index].kind, len(times)), []).append(index)

    def chance(index: int, other: int) -> float:
        count = len(spells[index])
        apart = max(abs(a - b) for a, b in zip(spells[index], spells[other], strict=True))
        if apart > SECOND and not paced.keys().isdisjoint((index, other)):
            return 1.0
        since = max(int(jobs.first_created[groups[each].family]) for each in (index, other))
        share = 2 * max(apart, _CLIENTS_REPORT) / max(case.now - since, 1)
        return min(1.0, factorial(count) * share**count)

    found: list[ReturnTest] = []
    for (_, count), members in by_count.items():
        pairs, taken = comb(len(members), 2), set[int]()
        for place, index in enumerate(members):
            near = [each for each in members[place + 1 : place + 1 + _MANY] if each not in taken]
            tests = {each: min(1.0, pairs * chance(index, each)) for each in near if index not in taken}
            part = [index, *(each for each, p in tests.items() if p < limits.significance_level)]
            if len({groups[each].family for each in part}) > 1:
                taken |= set(part)
                times = [min(spells[each][n] for each in part) for n in range(count)]
                found.append(ReturnTest(part, times, max(tests[each] for each in part[1:])))
    return found


def _spells(case: Case, group: Group) -> list[int]:
    """Return when each spell of a group's failures began, as far as the rings show."""
    owner, at = (case.failures[name].to_numpy()[group.rows] for name in ("owner", "at"))
    owner, at = owner[at != NEVER], at[at != NEVER]
    order = np.lexsort((at, owner))
    gaps = np.diff(at[order])[np.diff(owner[order]) == 0]
    if not len(gaps):
        return []
    # the calm between two spells is among the gaps: it is long, and rare
    usual = float(np.quantile(gaps, 0.25))
    at = np.sort(at)
    begins: list[int] = at[np.append(True, np.diff(at) > _CALM * usual)].tolist()
    return begins
