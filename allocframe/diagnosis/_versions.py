"""The exact test of a version of a job against the previous one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..stats import _distributions as distributions
from ._attempts import ENDS, FAILURES
from ._failures import Case
from ._groups import Group
from ._tables import NEVER, Array


@dataclass(frozen=True)
class Cliff:
    """Runs that failed at one age, and runs that got past it.

    Attributes
    ----------
    age : int
        The age of the oldest run that failed.
    failed, past, base_failed, base_past : int
        Runs on record of the version that fails, and of what ran before it (or again after it).
    base_versions : tuple of int
        The versions of those runs.
    whole : bool
        All runs of the version that fails are on record.
    p, p_of_all : float
        Probability of at least `failed` if both get past the age alike; and that of the least of all tests.
    """

    age: int
    failed: int
    past: int
    base_failed: int
    base_past: int
    base_versions: tuple[int, ...]
    whole: bool
    p: float
    p_of_all: float


@dataclass(frozen=True)
class VersionTest:
    """How often a version fails, compared with the previous one.

    Attributes
    ----------
    version, base : int
        The version that fails, and the previous one in the evidence.
    p : float
        Probability of at least `failures` failures with the new version if both fail alike.
    failures, base_failures : int
        Failures by this mechanism.
    hours, base_hours : float
        Time that their tasks ran.
    starts, base_starts : int
        Starts tried.
    placed_at : int
        When the version was first placed.
    delay, least_delay, most_delay : int
        From then to its first failure; at the least and at the most, if event histories are truncated.
    ran_well, least_ran_well : int
        How long its instances ran before they began to fail, and at the least.
    failed : int
        Its instances that failed.
    healthy : int
        Those of them whose first allocation to fail had been called healthy by the deployment.
    fell_within : int
        The time in which all its instances began to fail, at the most; -1 if that is not on record.
    later_well : bool
        A later version runs without this failure.
    node : int or None
        The one node that all failures are on, if the previous version ran there, too. Then only runs there
        are compared, for elsewhere both may run well.
    changed_groups : tuple of str
        The task groups that alone are compared: the version changed no others, and they failed first.
    since_onset : bool
        Only what the previous version ran from its first failure on is compared: it failed alike.
    rendered_at : int
        When a template of the previous version was last rendered again, if only what it ran since then is
        compared; else `NEVER`.
    ran_since : int
        If that tells nothing, for no run of it was as long as one that fails: the longest; else -1.
    cliff : Cliff or None
        How many runs got past the age at which those of this version fail, if that is one age.
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
    least_delay: int
    most_delay: int
    ran_well: int
    least_ran_well: int
    failed: int
    healthy: int
    fell_within: int
    later_well: bool
    node: int | None = None
    since_onset: bool = False
    changed_groups: tuple[str, ...] = ()
    rendered_at: int = NEVER
    ran_since: int = -1
    cliff: Cliff | None = None

    def is_worse(self, level: float) -> bool:
        """Return whether the version fails more: not by chance, and at least twice as often."""
        if self.p >= level:
            return False
        times_run = self.hours > 0 and self.base_hours > 0
        return not times_run or self.failures * self.base_hours >= 2 * self.base_failures * self.hours


@dataclass(frozen=True)
class Known:
    """What the tests of versions ask of other evidence.

    Attributes
    ----------
    made_by : numpy.ndarray
        The version that made each allocation.
    changed : callable
        Which task groups of a job a version changed, if it did no more.
    rendered : callable
        When a template of the allocations of a version was last rendered again, before another version.
    same : callable
        Which versions of a job are the same as one, but for counts: that one, and those that brought it back.
    """

    made_by: Array
    changed: Callable[[int, int], set[str]]
    rendered: Callable[[Group, int, int], int]
    same: Callable[[int, int], set[int]]


def compare_versions(case: Case, groups: list[Group], known: Known) -> dict[int, VersionTest]:
    """Test, for each group whose job has several versions, each failing one against the previous one.

    Of several that fail, the one with the clearest difference counts: a second
    bad version is not worse than the first, and a stray crash after a rollback says nothing.
    """
    family = case.instances.family
    pairs = pd.DataFrame({"family": family, "version": known.made_by})
    several = pairs[pairs["version"] >= 0].groupby("family")["version"].nunique()
    tested = [
        index
        for index, group in enumerate(groups)
        if several.get(group.family, 0) > 1 and not case.instances.has_runs[group.family]
    ]
    if not tested:
        return {}
    attempts = _attempts_of(case, {groups[index].family for index in tested})
    results = {index: _compare_each(case, groups[index], known, attempts) for index in tested}
    tests = max(sum(len(each) for each in results.values()), 1)
    return {
        index: replace(best, p=min(1.0, best.p * tests), cliff=_corrected(best.cliff, tests))
        for index, each in results.items()
        if each
        for best in [min(each, key=lambda test: (test.p, test.placed_at))]
    }


def _corrected(cliff: Cliff | None, tests: int) -> Cliff | None:
    # besides the test of rates, each may have been the one
    return replace(cliff, p_of_all=min(1.0, 2 * cliff.p * tests)) if cliff else None


def _compare_each(
    case: Case, group: Group, known: Known, attempts: dict[int, pd.DataFrame]
) -> list[VersionTest]:
    """Return the test of each failing version against the one that was placed before it."""
    version = known.made_by
    mine = (case.instances.family == group.family) & (version >= 0)
    created = case.evidence.allocations["created_at"].to_numpy()
    table = pd.DataFrame({"version": version[mine], "at": created[mine]})
    # in order of placement: a job that was purged and registered anew counts from 0 again
    order = table.sort_values(["at", "version"], kind="stable")["version"].drop_duplicates().tolist()
    before = dict(zip(order[1:], order, strict=False))
    failing = version[case.failures["alloc"].to_numpy()[group.rows]]
    # an older version beside a newer one that fails as well is what the newer one replaces
    older = {each for each in order[1:] if each < before[each] and np.any(failing == before[each])}
    blamed = [each for each in order[1:] if np.any(failing == each) and each not in older]
    tests = []
    for each in blamed:
        names = known.changed(group.family, each)
        part = _changed_part(case, group, names) if names else None
        test = _compare_version(case, part or group, known, attempts, each, before[each])
        tests.append(replace(test, changed_groups=tuple(sorted(names))) if part else test)
    return tests


def _changed_part(case: Case, group: Group, names: set[str]) -> Group | None:
    """Return the failures in the task groups that a version changed, if the others failed no earlier.

    What a version has not touched may fail because the rest of its job does.
    """
    alloc, owner = (case.failures[name].to_numpy()[group.rows] for name in ("alloc", "owner"))
    mine = case.evidence.allocations["task_group"].iloc[alloc].isin(names).to_numpy(dtype=bool)
    if not mine.any() or mine.all():
        return None
    onset = np.append(case.onset, NEVER)[owner]
    known = onset != NEVER
    if not (mine & known).any() or not (~mine & known).any():
        return None
    first = onset[mine & known].min() <= onset[~mine & known].min() + _CLIENTS_REPORT
    return replace(group, rows=group.rows[mine]) if first else None


_CLIENTS_REPORT = 10**9
"""Clients of two nodes may tell of the same second in another order."""


def _attempts_of(case: Case, families: set[int]) -> dict[int, pd.DataFrame]:
    family = case.instances.family[case.attempts["alloc"].to_numpy()]
    part = case.attempts[np.isin(family, sorted(families))]
    names, _ = pd.factorize(case.evidence.tasks["task"])
    part = part.assign(family=family[np.isin(family, sorted(families))], name=names[part["owner"].to_numpy()])
    return {int(rows["family"].iloc[0]): rows for _, rows in part.groupby("family")}


_Counts = tuple[int, float, int]
"""Failures, nanoseconds of running, and starts tried."""


def _compare_version(
    case: Case, group: Group, known_of: Known, attempts: dict[int, pd.DataFrame], blamed: int, base: int
) -> VersionTest:
    rows, version = case.evidence.allocations, known_of.made_by
    alloc, owner = case.failures["alloc"].to_numpy(), case.failures["owner"].to_numpy()
    failing = version[alloc[group.rows]]
    mine = case.instances.family == group.family
    node = _only_node(case, group, version, base)
    part = attempts.get(group.family)
    counts: dict[int, _Counts] = {}
    if part is not None:
        names, _ = pd.factorize(case.evidence.tasks["task"])
        owners = owner[group.rows]
        chosen = part["name"].isin(set(names[owners[owners >= 0]].tolist())).to_numpy(dtype=bool)
        if node is not None:
            chosen = chosen & (case.nodes[part["alloc"].to_numpy()] == node)
        part = part[chosen]
    for each in (blamed, base):
        counts[each] = _count(case, group, part, version, each, since=NEVER)
    if part is not None and _ends_by_itself(part[version[part["alloc"].to_numpy()] == base]):
        # a step before the start succeeds or fails once for each start, however long it takes
        counts = {each: (failed, 0.0, starts) for each, (failed, _, starts) in counts.items()}
    new, old = counts[blamed], counts[base]
    p, since_onset = _compare(new, old), False
    if old[0] >= _A_LOOP and part is not None:
        # a version that failed in a loop already: how long it had run well before says nothing of the new one
        began = _onset_of(case, group, failing == base)
        failed_alike = _count(case, group, part, version, base, since=began)
        p_since = _compare(new, failed_alike)
        if p_since > p:
            p, old, since_onset = p_since, failed_alike, True
    rendered, ran_since = known_of.rendered(group, base, blamed), -1
    if rendered != NEVER and part is not None and not old[0]:
        # what it ran with what the template said before says nothing of what fails now
        _, run = _ran(case, part[version[part["alloc"].to_numpy()] == base], rendered)
        longest, failing_run = int(run.max()) if len(run) else 0, _typical(case, group, failing == blamed)
        anew = _count(case, group, part, version, base, since=rendered)
        p_anew = _compare(new, anew)
        if longest < failing_run:
            p, ran_since = 1.0, longest
        elif p_anew > p:
            p, old = p_anew, anew
        else:
            rendered = NEVER
    else:
        rendered = NEVER
    placed = rows["created_at"].to_numpy()[mine & (version == blamed)]
    placed_at = int(placed[placed != NEVER].min()) if np.any(placed != NEVER) else NEVER
    onset, earliest, latest = (
        _onset_of(case, group, failing == blamed, times) for times in (case.onset, case.earliest, None)
    )
    never_ran = bool((case.failures["run"].to_numpy()[group.rows][failing == blamed] < 0).all())
    if never_ran and part is not None:  # what failed to start after it had run well is another matter
        of_failed = part["alloc"].isin(alloc[group.rows][failing == blamed].tolist())
        never_ran = not bool((part["run"][of_failed] > 0).any())
    if never_ran:  # then the wait before a failure is that of a start, and no time of running well
        created = rows["created_at"].to_numpy()[alloc[group.rows][failing == blamed]]
        onset = int(created[created != NEVER].min()) if np.any(created != NEVER) else onset
        earliest = latest = onset
    healthy = rows["deployment_healthy"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    failed_allocs = case.instances.first_of_lanes(alloc[group.rows][failing == blamed])
    later = mine & (version > blamed)
    later[np.unique(alloc[group.rows])] = False
    later_well = bool(np.any(later & rows["client_status"].eq("running").to_numpy(dtype=bool)))
    known = placed_at != NEVER and onset != NEVER
    delay, least, most = (max(time - placed_at, 0) if known else 0 for time in (onset, earliest, latest))
    ran, least_ran = (0, 0) if never_ran else _ran_well(case, group, failing == blamed)
    return VersionTest(
        blamed, base, p, new[0], old[0], new[1] / 3600e9, old[1] / 3600e9, new[2], old[2],
        placed_at, delay, least, most, ran, least_ran,
        len(failed_allocs), int(healthy[failed_allocs].sum()), _fell_within(case, group, failing == blamed),
        later_well, node, since_onset, rendered_at=rendered, ran_since=ran_since,
        cliff=_cliff(case, group, part, known_of, (blamed, base), rendered),
    )  # fmt: skip


def _ends_by_itself(attempts: pd.DataFrame) -> bool:
    """Return whether all runs are over and ended as they should."""
    return len(attempts) > 0 and bool((attempts["end"] == ENDS.index("completed")).all())


_A_LOOP = 3
"""From this many failures on, the previous version fails as well: they are not stray ones."""


_ONE_AGE = 0.1
"""Runs whose lengths differ by a smaller part end at one age."""


def _cliff(
    case: Case, group: Group, part: pd.DataFrame | None, known: Known, pair: tuple[int, int], since: int
) -> Cliff | None:
    """Return how many runs of two versions got past the age at which one fails; None if it is not one age.

    A run that was stopped before that age says nothing. With `since`, only what ran from then on counts.
    """
    if part is None:
        return None
    blamed, base = pair
    kind, version = FAILURES.index(group.kind), known.made_by[part["alloc"].to_numpy()]
    new, old = part[version == blamed], part[np.isin(version, list(known.same(group.family, base)))]
    failed = new["run"][(new["end"].to_numpy() == kind) & (new["started"].to_numpy() != NEVER)]
    if not len(failed) or failed.min() <= 0 or np.ptp(failed) > _ONE_AGE * failed.median():
        return None
    age = int(failed.max())
    old, run = _ran(case, old, since)
    past, base_past = int((new["run"] > age).sum()), int((run > age).sum())
    base_failed = int(((old["end"].to_numpy() == kind) & (run <= age)).sum())
    whole = not case.lost_restarts[np.unique(new["owner"])].any()
    bad, mine = len(failed) + base_failed, len(failed) + past
    p = distributions.hypergeom_sf(len(failed) - 1, mine + base_failed + base_past, bad, mine)
    of = tuple(sorted(set(known.made_by[old["alloc"].to_numpy()[(run > age).to_numpy()]].tolist())))
    return Cliff(age, len(failed), past, base_failed, base_past, of, whole, float(p), float(p))


def _only_node(case: Case, group: Group, version: Array, base: int) -> int | None:
    """Return the node that all failures are on, if the job runs elsewhere, and the base version ran there."""
    on = np.unique(case.nodes[case.failures["alloc"].to_numpy()[group.rows]])
    mine = case.instances.family == group.family
    elsewhere = np.any(mine & (case.nodes != on[0]))
    there = np.any(mine & (case.nodes == on[0]) & (version == base))
    return int(on[0]) if len(on) == 1 and elsewhere and there else None


def _count(
    case: Case, group: Group, attempts: pd.DataFrame | None, version: Array, each: int, since: int
) -> _Counts:
    """Return what one version of a job did, by its attempts and the counters; with `since`, from then on."""
    failing = version[case.failures["alloc"].to_numpy()[group.rows]]
    failures = int((failing == each).sum())
    if attempts is None:
        return failures, 0.0, failures
    kind = FAILURES.index(group.kind)
    mine, run = _ran(case, attempts[version[attempts["alloc"].to_numpy()] == each], since)
    # what is still on its way to its start has neither failed nor run
    waits = (mine["end"].to_numpy() == ENDS.index("running")) & (mine["started"].to_numpy() == NEVER)
    starts = max(failures, len(mine) - int(waits.sum()))
    failures = max(failures, int((mine["end"].to_numpy() == kind).sum()))
    more, hours = _out_of_the_rings(case, mine, kind, ran_before=since == NEVER)
    return failures + more, float(run.sum()) + hours, starts + more


def _ran(case: Case, attempts: pd.DataFrame, since: int) -> tuple[pd.DataFrame, pd.Series[int]]:
    """Return the attempts that were not over at a time, if one is given, and how long each ran since."""
    run = attempts["run"].clip(lower=0)
    if since == NEVER:
        return attempts, run
    over = attempts["at"].where(attempts["end"] != ENDS.index("running"), case.now)
    run = run.clip(upper=(over - since).clip(lower=0))
    return attempts[over >= since], run[over >= since]


def _typical(case: Case, group: Group, chosen: Array) -> int:
    """Return the median length of the chosen runs of a group, all of which failed; 0 if none ran."""
    run = case.failures["run"].to_numpy()[group.rows][chosen]
    return int(np.median(run[run >= 0])) if np.any(run >= 0) else 0


def _out_of_the_rings(
    case: Case, attempts: pd.DataFrame, kind: int, *, ran_before: bool
) -> tuple[int, float]:
    """Return the failures that only the counter knows, and how long the tasks ran meanwhile, and before."""
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
    earliest = case.earliest[owners]
    known = (created != NEVER) & (earliest != NEVER) & healthy & ran_before
    well = np.where(known, np.maximum(earliest - np.where(known, created, 0), 0), 0)
    return int(lost.sum()), float((runs.reindex(owners).to_numpy() * lost).sum() + well.sum())


def _onset_of(case: Case, group: Group, chosen: Array, times: Array | None = None) -> int:
    """Return when the chosen failures of a group began; without `times` of tasks, the first one on record."""
    owners = case.failures["owner"].to_numpy()[group.rows][chosen]
    seen = case.failures["at"].to_numpy()[group.rows][chosen]
    onsets = np.zeros(0, dtype=np.int64) if times is None else times[owners[owners >= 0]]
    both = np.concatenate([onsets[onsets != NEVER], seen[seen != NEVER]])
    return int(both.min()) if len(both) else NEVER


def _fell_within(case: Case, group: Group, chosen: Array) -> int:
    """Return the time between the first failures of instances whose rings show them; -1 if too few do."""
    rows = group.rows[chosen]
    alloc, owner, at = (case.failures[name].to_numpy()[rows] for name in ("alloc", "owner", "at"))
    whole = (
        (owner >= 0) & (case.lost_restarts[np.maximum(owner, 0)] == 0)
        if len(case.lost_restarts)
        else owner < 0
    )
    known = whole & (at != NEVER)
    table = pd.DataFrame({"lane": case.instances.lane[alloc[known]], "at": at[known]})
    first = table.groupby("lane")["at"].min()
    return int(first.max() - first.min()) if len(first) > 1 else -1


def _ran_well(case: Case, group: Group, chosen: Array) -> tuple[int, int]:
    """Return the median time that instances ran before they began to fail, and at the least.

    It counts from their first start: to download an image may take minutes. If that start is not on record,
    it counts from their placement.
    """
    owners = np.unique(case.failures["owner"].to_numpy()[group.rows][chosen])
    owners = owners[owners >= 0]
    alloc = case.evidence.tasks["alloc"].to_numpy()[owners]
    created = case.evidence.allocations["created_at"].to_numpy()[alloc]
    began = np.where(case.first_started[owners] != NEVER, case.first_started[owners], created)
    known = (created != NEVER) & (case.earliest[owners] != NEVER)
    if not known.any():
        return 0, 0
    owners, created, began = owners[known], created[known], began[known]
    # only the first allocation of each instance: its replacements begin after the trouble did
    order = np.argsort(created, kind="stable")
    first = ~pd.Series(case.instances.lane[alloc[known]][order]).duplicated().to_numpy()
    least = (case.earliest[owners] - began)[order][first]
    # what may have failed from its start on did not run well, whatever the pace of its failures says
    likely = np.where(least > 0, (case.onset[owners] - began)[order][first], 0)
    return int(max(np.median(likely), 0)), int(max(np.median(least), 0))


def _compare(new: tuple[int, float, int], old: tuple[int, float, int]) -> float:
    """Return the probability of at least as many failures with the new version if both fail alike.

    By time that tasks ran if both have run; by starts tried if one never ran.
    """
    if new[1] > 0 and old[1] > 0:
        return float(distributions.binom_sf(new[0] - 1, new[0] + old[0], new[1] / (new[1] + old[1])))
    if not new[2] or not old[2]:
        return 1.0
    failed = min(new[0], new[2]) + min(old[0], old[2])
    return distributions.hypergeom_sf(min(new[0], new[2]) - 1, new[2] + old[2], failed, new[2])
