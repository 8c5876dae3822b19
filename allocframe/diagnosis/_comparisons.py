"""The tests that make a cause likely: of a node, of a version, and of several jobs that begin at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb

import numpy as np
import pandas as pd

from ..stats import _distributions as distributions
from ._attempts import FAILURES
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
        Probability that chance puts so many failed placements on this node, for all nodes together.
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


_MOSTLY = 0.8
"""A group belongs to a node if this share of its failures is there."""


def compare_nodes(case: Case, groups: list[Group], node: Array) -> list[NodeTest]:
    """Test each node within strata of job and version, leaving it out of what it is compared with.

    A placement is one trial: it failed by this mechanism or it did not. If the node made no difference, the
    failed placements of a stratum would be spread over all of its placements (hypergeometric).
    """
    instances, rows = case.instances, case.evidence.allocations
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
        Probability that chance brings so many onsets so close together.
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
    """Return the share of the failed allocations that their deployment had called healthy."""
    alloc = np.unique(case.failures["alloc"].to_numpy()[group.rows])
    healthy = case.evidence.allocations["deployment_healthy"].iloc[alloc].astype("boolean")
    return float(healthy.fillna(False).mean())


def begins_with_placement(case: Case, jobs: Jobs, group: Group, limits: Thresholds) -> bool:
    """Return whether a group began at the first placement of its job: such an onset needs no other cause.

    What a deployment has called healthy had run well before, however short a time.
    """
    if share_healthy(case, group) >= limits.critical_share:
        return False
    grace = max(pd.Timedelta(limits.together).value, 3 * typical_run(case, group))
    return settled_before(case, jobs, group) <= grace


_CLIENTS_REPORT = SECOND // 5
"""Onsets closer than this are at once: clients report every fifth of a second."""


def compare_onsets(
    case: Case, jobs: Jobs, groups: list[Group], usable: list[int], limits: Thresholds
) -> list[OnsetTest]:
    """Find groups of different jobs that began together, against their own rates of onset.

    If onsets were independent, each would fall anywhere in the time that its job has been watched. Of m jobs,
    k have theirs within a window w with probability C(m, k) times k u^(k-1) - (k-1) u^k, where u is the share
    of the window in that time (the range of uniform points).
    """
    window = pd.Timedelta(limits.together).value
    found, taken = [], set[int]()
    by_kind: dict[str, list[int]] = {}
    for index in usable:
        by_kind.setdefault(groups[index].kind, []).append(index)
    for members in by_kind.values():
        members.sort(key=lambda index: groups[index].onset)
        onsets = np.array([groups[index].onset for index in members])
        start = 0
        while start < len(members):
            end = int(np.searchsorted(onsets, onsets[start] + window, side="right"))
            part = [index for index in members[start:end] if index not in taken]
            families = {groups[index].family for index in part}
            if len(families) >= limits.critical_jobs:
                spread = int(onsets[end - 1] - onsets[start])
                found.append(OnsetTest(part, spread, _together(case, jobs, groups, part, spread, members)))
                taken |= set(part)
                start = end
            else:
                start += 1
    return found


def _together(
    case: Case, jobs: Jobs, groups: list[Group], part: list[int], spread: int, members: list[int]
) -> float:
    families = {groups[index].family for index in part}
    counts = {family: sum(groups[index].family == family for index in members) for family in families}
    width = max(spread, _CLIENTS_REPORT)
    shares = []
    for family in families:
        watched = max(case.now - int(jobs.first_created[family]), width)
        shares.append(min(1.0, counts[family] * width / watched))
    shares.sort()
    k, others = len(shares), len({groups[index].family for index in members})
    u = float(np.exp(np.mean(np.log(shares))))
    chance = k * u ** (k - 1) - (k - 1) * u**k
    return float(min(1.0, comb(others, k) * chance))


@dataclass(frozen=True)
class VersionTest:
    """How often a version fails, against the one before.

    Attributes
    ----------
    version, base : int
        The version that fails, and the one before it in the evidence.
    p : float
        Probability of so many failures with the new version if both fail alike.
    failures, base_failures : int
        Failures by this mechanism.
    hours, base_hours : float
        Time that their tasks ran.
    starts, base_starts : int
        Starts tried.
    placed_at : int
        When the version was first placed.
    delay : int
        From then to its first failure.
    ran_well : int
        How long its instances ran before they began to fail.
    failed : int
        Its allocations that failed.
    healthy : int
        Those of them that the deployment had called healthy.
    later_well : bool
        A later version runs without this failure.
    """

    version: int
    base: int
    p: float
    failures: int
    base_failures: int
    hours: float
    base_hours: float
    starts: int
    base_starts: int
    placed_at: int
    delay: int
    ran_well: int
    failed: int
    healthy: int
    later_well: bool

    def is_worse(self, level: float) -> bool:
        """Return whether the version fails more: not by chance, and at least twice as often."""
        if self.p >= level:
            return False
        times_run = self.hours > 0 and self.base_hours > 0
        return not times_run or self.failures * self.base_hours >= 2 * self.base_failures * self.hours


def compare_versions(case: Case, groups: list[Group]) -> dict[int, VersionTest]:
    """Test, for each group whose job has several versions, each failing one against the one before it.

    Of several that fail, the one with the clearest difference counts: a second bad version is no worse than
    the first, and a stray crash after a rollback says nothing.
    """
    rows = case.evidence.allocations
    version = numbers(rows["job_version"], -1)
    family = case.instances.family
    pairs = pd.DataFrame({"family": family, "version": version})
    several = pairs[pairs["version"] >= 0].groupby("family")["version"].nunique()
    tested = [
        index
        for index, group in enumerate(groups)
        if several.get(group.family, 0) > 1 and not case.instances.has_runs[group.family]
    ]
    if not tested:
        return {}
    attempts = _attempts_of(case, {groups[index].family for index in tested})
    results = {index: _compare_each(case, groups[index], version, attempts) for index in tested}
    tests = max(sum(len(each) for each in results.values()), 1)
    return {
        index: replace(best, p=min(1.0, best.p * tests))
        for index, each in results.items()
        if each
        for best in [min(each, key=lambda test: (test.p, test.placed_at))]
    }


def _compare_each(
    case: Case, group: Group, version: Array, attempts: dict[int, pd.DataFrame]
) -> list[VersionTest]:
    """Return the test of each failing version against the one that was placed before it."""
    mine = (case.instances.family == group.family) & (version >= 0)
    created = case.evidence.allocations["created_at"].to_numpy()
    table = pd.DataFrame({"version": version[mine], "at": created[mine]})
    # in order of placement: a job that was purged and registered anew counts from 0 again
    order = table.sort_values(["at", "version"], kind="stable")["version"].drop_duplicates().tolist()
    before = dict(zip(order[1:], order, strict=False))
    failing = version[case.failures["alloc"].to_numpy()[group.rows]]
    blamed = [each for each in order[1:] if np.any(failing == each)]
    return [_compare_version(case, group, version, attempts, each, before[each]) for each in blamed]


def _attempts_of(case: Case, families: set[int]) -> dict[int, pd.DataFrame]:
    family = case.instances.family[case.attempts["alloc"].to_numpy()]
    part = case.attempts[np.isin(family, sorted(families))]
    names, _ = pd.factorize(case.evidence.tasks["task"])
    part = part.assign(family=family[np.isin(family, sorted(families))], name=names[part["owner"].to_numpy()])
    return {int(rows["family"].iloc[0]): rows for _, rows in part.groupby("family")}


def _compare_version(
    case: Case, group: Group, version: Array, attempts: dict[int, pd.DataFrame], blamed: int, base: int
) -> VersionTest:
    rows = case.evidence.allocations
    alloc, owner = case.failures["alloc"].to_numpy(), case.failures["owner"].to_numpy()
    failing = version[alloc[group.rows]]
    mine = case.instances.family == group.family
    part = attempts.get(group.family)
    names, _ = pd.factorize(case.evidence.tasks["task"])
    owners = owner[group.rows]
    tasks = set(names[owners[owners >= 0]].tolist())
    kind = FAILURES.index(group.kind)
    counts = {}
    for each in (blamed, base):
        failures = int((failing == each).sum())
        run, starts = 0.0, failures
        if part is not None:
            of_version = part[(version[part["alloc"].to_numpy()] == each) & part["name"].isin(tasks)]
            run = float(of_version["run"].clip(lower=0).sum())
            starts = max(failures, len(of_version))
            failures = max(failures, int((of_version["end"].to_numpy() == kind).sum()))
            more, hours = _out_of_the_rings(case, of_version, kind)
            failures, run, starts = failures + more, run + hours, starts + more
        counts[each] = (failures, run, starts)
    new, old = counts[blamed], counts[base]
    placed = rows["created_at"].to_numpy()[mine & (version == blamed)]
    placed_at = int(placed[placed != NEVER].min()) if np.any(placed != NEVER) else NEVER
    onset = _onset_of(case, group, failing == blamed)
    never_ran = bool((case.failures["run"].to_numpy()[group.rows][failing == blamed] < 0).all())
    if never_ran:  # then the wait before a failure is that of a start, and no time of running well
        created = rows["created_at"].to_numpy()[alloc[group.rows][failing == blamed]]
        onset = int(created[created != NEVER].min()) if np.any(created != NEVER) else onset
    healthy = rows["deployment_healthy"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    failed_allocs = np.unique(alloc[group.rows][failing == blamed])
    later = mine & (version > blamed)
    later[np.unique(alloc[group.rows])] = False
    later_well = bool(np.any(later & rows["client_status"].eq("running").to_numpy(dtype=bool)))
    return VersionTest(
        blamed, base, _compare(new, old), new[0], old[0], new[1] / 3600e9, old[1] / 3600e9, new[2], old[2],
        placed_at, max(onset - placed_at, 0) if placed_at != NEVER and onset != NEVER else 0,
        0 if never_ran else _ran_well(case, group, failing == blamed),
        len(failed_allocs), int(healthy[failed_allocs].sum()), later_well,
    )  # fmt: skip


def _out_of_the_rings(case: Case, attempts: pd.DataFrame, kind: int) -> tuple[int, float]:
    """Return the failures that only the counter knows, and how long the tasks ran meanwhile and before."""
    failed = attempts[attempts["end"].to_numpy() == kind]
    owners = np.unique(failed["owner"])
    owners = owners[case.lost_restarts[owners] > 0]
    if not len(owners):
        return 0, 0.0
    runs = failed["run"].clip(lower=0).groupby(failed["owner"].to_numpy()).median()
    lost = case.lost_restarts[owners]
    alloc = case.evidence.tasks["alloc"].to_numpy()[owners]
    rows = case.evidence.allocations
    created = rows["created_at"].to_numpy()[alloc]
    # only of what became healthy it is sure that it ran before its failures began
    healthy = rows["deployment_healthy"].iloc[alloc].astype("boolean").fillna(False).to_numpy(dtype=bool)
    known = (created != NEVER) & (case.onset[owners] != NEVER) & healthy
    well = np.where(known, np.maximum(case.onset[owners] - np.where(known, created, 0), 0), 0)
    return int(lost.sum()), float((runs.reindex(owners).to_numpy() * lost).sum() + well.sum())


def _onset_of(case: Case, group: Group, chosen: Array) -> int:
    owners = case.failures["owner"].to_numpy()[group.rows][chosen]
    times = case.failures["at"].to_numpy()[group.rows][chosen]
    onsets = case.onset[owners[owners >= 0]]
    both = np.concatenate([onsets[onsets != NEVER], times[times != NEVER]])
    return int(both.min()) if len(both) else NEVER


def _ran_well(case: Case, group: Group, chosen: Array) -> int:
    """Return the median time that instances ran before they began to fail."""
    owners = np.unique(case.failures["owner"].to_numpy()[group.rows][chosen])
    owners = owners[owners >= 0]
    if not len(owners):
        return 0
    alloc = case.evidence.tasks["alloc"].to_numpy()[owners]
    created = case.evidence.allocations["created_at"].to_numpy()[alloc]
    known = (created != NEVER) & (case.onset[owners] != NEVER)
    if not known.any():
        return 0
    # only the first allocation of each instance: its replacements begin after the trouble did
    order = np.argsort(created[known], kind="stable")
    lanes = case.instances.lane[alloc[known]][order]
    first = ~pd.Series(lanes).duplicated().to_numpy()
    waits = (case.onset[owners][known] - created[known])[order][first]
    return int(max(np.median(waits), 0))


def _compare(new: tuple[int, float, int], old: tuple[int, float, int]) -> float:
    """Return the probability of so many failures with the new version if both fail alike.

    By time that tasks ran if both have run; by starts tried if one never ran.
    """
    if new[1] > 0 and old[1] > 0:
        return float(distributions.binom_sf(new[0] - 1, new[0] + old[0], new[1] / (new[1] + old[1])))
    if not new[2] or not old[2]:
        return 1.0
    failed = min(new[0], new[2]) + min(old[0], old[2])
    return distributions.hypergeom_sf(min(new[0], new[2]) - 1, new[2] + old[2], failed, new[2])
