"""Groups: the failures of one job by one mechanism that belong together, and how they stand now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..stats import _distributions as distributions
from ..stats._source import are_among
from ..tables.run_ids import split_run_id
from ._attempts import ENDS, FAILURES
from ._failures import Case
from ._replacements import awaits_replacement
from ._tables import NEVER, Array
from .finding import Thresholds

SECOND = 10**9

ONGOING, GAVE_UP, RECOVERED, STOPPED = "ongoing", "gave up", "recovered", "stopped"

FAILING, WAITING, ENDED, WELL, DONE, UNWANTED = range(6)
"""How an instance is now: failing, waiting for its replacement, given up, well, finished, not wanted."""


@dataclass
class Group:
    """The failures of one job by one mechanism, without a long calm between them.

    Attributes
    ----------
    family : int
        Number of the job.
    kind : str
        The mechanism, one of `FAILURES`.
    rows : numpy.ndarray
        Its failures, in order of time.
    lanes : numpy.ndarray
        The instances that failed.
    state, severity : str
        See `incidents.Incident`.
    onset, earliest, latest : int
        When it began, as far as the counters tell, and between which times it did: `latest` is on record.
    last_at : int
        Its last failure.
    began_before, older_gone : bool
        Older events are lost; allocations before the first one that failed are.
    bad_now : int
        Instances that do not run well now because of it.
    bad_ever : int
        Instances that did not run well at some time because of it.
    wanted : int
        Instances that the job wants now, or wanted last.
    runs, failed_runs : int
        Finished runs of a periodic or parameterized job, and how many of them failed so.
    total : int
        Failures, with those that only the counter knows.
    """

    family: int
    kind: str
    rows: Array
    lanes: Array
    state: str = RECOVERED
    severity: str = "info"
    onset: int = NEVER
    earliest: int = NEVER
    latest: int = NEVER
    last_at: int = NEVER
    began_before: bool = False
    older_gone: bool = False
    bad_now: int = 0
    bad_ever: int = 0
    wanted: int = 0
    runs: int = 0
    failed_runs: int = 0
    total: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Jobs:
    """What groups need to know about jobs.

    Attributes
    ----------
    wanted : numpy.ndarray
        Instances that each family wants now; for one that wants none, all it had.
    first_created : numpy.ndarray
        When the first allocation of each family was created.
    awaits_replacement : numpy.ndarray
        Whether each allocation is to be replaced.
    outcomes : dict
        For families with runs: the finished runs in order of creation, as (run, whether it failed).
    """

    wanted: Array
    first_created: Array
    awaits_replacement: Array
    outcomes: dict[int, list[tuple[int, bool]]]


def describe_jobs(case: Case) -> Jobs:
    """Return what groups need to know about jobs."""
    rows, instances = case.evidence.allocations, case.instances
    families = len(instances.families)
    final = instances.final
    now = np.bincount(instances.family[final & instances.wanted], minlength=families)
    ever = np.bincount(instances.family[final], minlength=families)
    first = np.full(families, np.iinfo(np.int64).max)
    created = rows["created_at"].to_numpy()
    known = created != NEVER
    np.minimum.at(first, instances.family[known], created[known])
    awaits = awaits_replacement(case)
    return Jobs(np.where(now > 0, now, ever), first, awaits, _run_outcomes(case, awaits))


def _run_outcomes(case: Case, awaits: Array) -> dict[int, list[tuple[int, bool]]]:
    instances, rows = case.instances, case.evidence.allocations
    places = np.flatnonzero(instances.final & instances.has_runs[instances.family])
    status = rows["client_status"].astype("str").to_numpy(dtype=object)[places]
    # what waits to be rescheduled has not ended
    waits = (awaits & instances.wanted)[places]
    created = rows["created_at"].to_numpy()
    first = np.full(int(instances.run.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, instances.run, np.where(created == NEVER, np.iinfo(np.int64).max, created))
    begun = first[instances.run]  # a run that is retried began with its first try
    hard = np.zeros(len(rows), dtype=bool)
    hard[case.failures["alloc"][case.failures["gave_up"].to_numpy(dtype=bool)]] = True
    duration = case.failures["kind"].eq(FAILURES.index("run duration")).to_numpy(dtype=bool)
    hard[case.failures["alloc"][duration]] = True
    table = pd.DataFrame(
        {
            "family": instances.family[places],
            "run": instances.run[places],
            "created": begun[places],
            "failed": np.isin(status, ("failed", "lost")) & ~waits | hard[places] & (status == "complete"),
            "over": np.isin(status, ("complete", "failed", "lost")) & ~waits,
        }
    )
    by_run = table.groupby(["family", "run"], sort=False).agg(
        created=("created", "min"), failed=("failed", "any"), over=("over", "all")
    )
    ended = by_run[by_run["over"] | by_run["failed"]].sort_values("created").reset_index()
    outcomes: dict[int, list[tuple[int, bool]]] = {}
    for family, run, failed in zip(ended["family"], ended["run"], ended["failed"], strict=True):
        outcomes.setdefault(int(family), []).append((int(run), bool(failed)))
    return outcomes


def group_failures(case: Case, jobs: Jobs, limits: Thresholds) -> list[Group]:
    """Return the groups of all failures, each with its state and severity."""
    failures = case.failures
    if failures.empty:
        return []
    family = case.instances.family[failures["alloc"].to_numpy()]
    kind, at = failures["kind"].to_numpy(), failures["at"].to_numpy()
    order = np.lexsort((at, kind, family))
    step = np.flatnonzero((np.diff(family[order]) != 0) | (np.diff(kind[order]) != 0)) + 1
    groups: list[Group] = []
    for rows in np.split(order, step):
        groups += [
            make_group(case, int(family[part[0]]), FAILURES[kind[part[0]]], part)
            for part in _split_at_calms(case, rows, limits)
        ]
    judge(case, jobs, groups, limits)
    return groups


def make_group(case: Case, family: int, kind: str, rows: Array) -> Group:
    """Return a group of failures, not judged yet."""
    return Group(family, kind, rows, np.unique(case.instances.lane[case.failures["alloc"].to_numpy()[rows]]))


def _split_at_calms(case: Case, rows: Array, limits: Thresholds) -> list[Array]:
    """Split failures where a long calm lies between two: they are two incidents.

    A loop is calm for as long as its instances run: a slow leak that takes hours is one incident.
    """
    if len(rows) < 2 or case.instances.has_runs[_family(case, rows[0])]:
        return [rows]
    at = case.failures["at"].to_numpy()[rows]
    gaps = np.diff(at)
    runs = case.failures["run"].to_numpy()[rows]
    runs = runs[runs >= 0]
    cycle = int(np.median(runs)) if len(runs) else 0
    calm = max(pd.Timedelta(limits.incident_gap).value, 10 * int(np.median(gaps)), 2 * cycle)
    return np.split(rows, np.flatnonzero(gaps > calm) + 1)


def _family(case: Case, row: int) -> int:
    return int(case.instances.family[case.failures["alloc"].to_numpy()[row]])


def judge(case: Case, jobs: Jobs, groups: list[Group], limits: Thresholds) -> None:
    """Fill in what each group means for its job now."""
    number = np.full(len(case.failures), -1, dtype=np.int64)
    for index, group in enumerate(groups):
        number[group.rows] = index
    lanes = _lanes_now(case, jobs, number, limits)
    older_gone = _without_predecessor(case)
    by_group = dict(iter(lanes.groupby("group")))
    at, owner = case.failures["at"].to_numpy(), case.failures["owner"].to_numpy()
    for index, group in enumerate(groups):
        mine = by_group[index]
        times, owners = at[group.rows], owner[group.rows]
        seen = np.unique(owners[owners >= 0])
        known = times[times != NEVER]
        silent = times[(owners < 0) & (times != NEVER)]
        for name, of_tasks in (("onset", case.onset[seen]), ("earliest", case.earliest[seen])):
            begins = np.concatenate([of_tasks[of_tasks != NEVER], silent])
            setattr(group, name, int(begins.min()) if len(begins) else NEVER)
        group.latest = int(known.min()) if len(known) else NEVER
        group.last_at = int(known.max()) if len(known) else NEVER
        group.older_gone = bool(older_gone[case.failures["alloc"].to_numpy()[group.rows[0]]])
        group.began_before = bool(np.any(case.lost_restarts[seen])) or group.older_gone
        group.total = len(group.rows) + int(case.lost_restarts[seen].sum())
        group.wanted = int(jobs.wanted[group.family])
        group.bad_now = int(mine["bad_now"].sum())
        group.bad_ever = int(mine["bad_ever"].sum())
        if case.instances.has_runs[group.family]:
            _judge_runs(case, jobs, group, mine, limits)
        else:
            _judge_instances(case, group, mine, times, limits)


def _without_predecessor(case: Case) -> Array:
    """Return which allocations replaced one that has been removed since."""
    rows = case.evidence.allocations
    replaced: Array = rows["previous_alloc_id"].notna().to_numpy(dtype=bool)
    return replaced & ~are_among(rows["previous_alloc_id"], rows["alloc_id"])


def _lanes_now(case: Case, jobs: Jobs, number: Array, limits: Thresholds) -> pd.DataFrame:
    """Return one row for each instance of each group: how often it failed, and how it is now."""
    failures, instances, rows = case.failures, case.instances, case.evidence.allocations
    alloc, owner = failures["alloc"].to_numpy(), failures["owner"].to_numpy()
    tasks = case.evidence.tasks
    names, _ = pd.factorize(tasks["task"])
    name = np.where(owner >= 0, names[np.maximum(owner, 0)] if len(names) else -1, -1)
    lost = np.where(owner >= 0, case.lost_restarts[np.maximum(owner, 0)] if len(names) else 0, 0)
    # the counter of a task counts once, however many of its failures are in the ring
    first_of_task = ~pd.Series(owner).duplicated().to_numpy() & (owner >= 0)
    table = pd.DataFrame(
        {
            "group": number,
            "lane": instances.lane[alloc],
            "name": name,
            "run": _cycles(failures, instances.lane[alloc], name, lost, number),
            "at": failures["at"].to_numpy(),
            "gave_up": failures["gave_up"].to_numpy(dtype=bool),
            "count": 1 + np.where(first_of_task, lost, 0),
            "overran": failures["kind"].to_numpy() == FAILURES.index("run duration"),
        }
    )
    by_task = (
        table.groupby(["group", "lane", "name"], sort=False)
        .agg(
            run=("run", "max"),
            count=("count", "sum"),
            last_at=("at", "max"),
            gave_up=("gave_up", "any"),
            overran=("overran", "any"),
        )
        .reset_index()
    )
    last = np.full(int(instances.lane.max()) + 1, -1, dtype=np.int64)
    places = np.flatnonzero(instances.final)
    last[instances.lane[places]] = places
    by_task["alloc"] = last[by_task["lane"].to_numpy()]
    now = pd.DataFrame(
        {
            "alloc": tasks["alloc"].to_numpy(),
            "name": names,
            "state": tasks["state"].to_numpy(),
            "started": tasks["started"].to_numpy(),
            "failed": tasks["failed"].to_numpy(),
            "after": _after_success(case),
        }
    )
    by_task = by_task.merge(now, on=["alloc", "name"], how="left")
    by_task["after"] = by_task["after"].astype("boolean").fillna(False).astype(bool)
    by_task["now"] = _task_states(case, jobs, rows, by_task)
    by_lane = (
        by_task.groupby(["group", "lane"], sort=False)
        .agg(
            now=("now", "min"),
            run=("run", "max"),
            after=("after", "all"),
            count=("count", "sum"),
            gave_up=("gave_up", "any"),
            alloc=("alloc", "first"),
            last_at=("last_at", "max"),
        )
        .reset_index()
    )
    state = by_lane["now"].to_numpy()
    often = by_lane["count"].to_numpy() >= limits.loop_restarts
    cycle = by_lane["run"].to_numpy()
    status = rows["client_status"].astype("str").to_numpy(dtype=object)[by_lane["alloc"]]
    # one failure is an incident only if the instance is down for it, or if it comes again and again
    replaced = by_lane["gave_up"].to_numpy(dtype=bool)
    ago = np.where(by_lane["last_at"] == NEVER, 0, case.now - by_lane["last_at"].to_numpy())
    never_ran = (cycle < 0) & (by_lane["count"].to_numpy() > 1)
    late = ago > pd.Timedelta(limits.onset_window).value
    absent = (status == "pending") & (replaced | never_ran | late)
    down = np.isin(state, (WAITING, ENDED)) | ((state == FAILING) & (often | absent))
    # between rare crashes an instance runs well; what fails once a day or less often is a single failure
    slow, rare = (
        cycle > pd.Timedelta(each).value for each in (limits.incident_gap, limits.single_failure_gap)
    )
    by_lane["bad_now"] = down & ~((state == FAILING) & slow & (status != "pending"))
    by_lane["goes_on"] = (state == FAILING) & often & slow & ~rare
    by_lane["bad_ever"] = by_lane["bad_now"] | (often & ~rare) | replaced
    return by_lane


def _after_success(case: Case) -> Array:
    """Return which tasks of batch work were tried once, after another task of it had ended well.

    It may be a poststop task: no table tells the lifecycle of a task.
    """
    tasks, attempts = case.evidence.tasks, case.attempts
    alloc = tasks["alloc"].to_numpy()
    done = attempts[attempts["end"] == ENDS.index("completed")]
    first_done = np.full(len(case.evidence.allocations), np.iinfo(np.int64).max)
    np.minimum.at(first_done, done["alloc"].to_numpy(), done["at"].to_numpy())
    started = np.full(len(tasks), NEVER, dtype=np.int64)
    np.maximum.at(started, attempts["owner"].to_numpy(), attempts["started"].to_numpy())
    batch = case.evidence.allocations["job_type"].isin(["batch", "sysbatch"]).to_numpy(dtype=bool)[alloc]
    once = tasks["restarts"].to_numpy() == 0
    result: Array = batch & once & (started >= first_done[alloc])
    return result


def _cycles(failures: pd.DataFrame, lane: Array, name: Array, lost: Array, number: Array) -> Array:
    """Return the run before each failure; -1 for that before the first one, however long it went well."""
    order = np.lexsort((failures["at"].to_numpy(), name, lane, number))
    keys = [each[order] for each in (number, lane, name)]
    same = np.logical_and.reduce([each[1:] == each[:-1] for each in keys])
    first = np.append(True, ~same)
    followed = np.append(same, False)
    run = failures["run"].to_numpy().copy()
    # alone, or with others before it that the ring has lost, it is all there is
    dropped = order[first & followed & (lost[order] == 0)]
    run[dropped] = -1
    return run


def _task_states(case: Case, jobs: Jobs, rows: pd.DataFrame, table: pd.DataFrame) -> Array:
    """Return how the failed task of each instance is now."""
    alloc = table["alloc"].to_numpy()
    status = rows["client_status"].astype("str").to_numpy(dtype=object)[alloc]
    forever = rows["job_type"].isin(["service", "system"]).to_numpy(dtype=bool)[alloc]
    overran = table["overran"].to_numpy(dtype=bool)
    followed = jobs.awaits_replacement[alloc]
    stops = ~rows["desired_status"].eq("run").to_numpy(dtype=bool)[alloc]
    wanted = case.instances.wanted[alloc]
    state = table["state"].astype(object).to_numpy()
    started = table["started"].fillna(NEVER).to_numpy(dtype=np.int64)
    failed = table["failed"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    ran = np.maximum(table["run"].to_numpy(), 0)
    # well again: it has run for longer than it did before each failure
    enough = np.where(ran > 0, np.maximum(2 * ran, 10 * SECOND), 0)
    running_for = np.where(started == NEVER, -1, case.now - started)
    after = started >= table["last_at"].to_numpy()
    well = (state == "running") & ((running_for > enough) & (after | (started == NEVER)))
    unnamed_well = (table["name"].to_numpy() < 0) & (status == "running")
    result: Array = np.select(
        [
            ~wanted,
            status == "failed",
            status == "lost",
            (status == "complete") & overran,
            # a service that has ended is down, even if it ended well
            (status == "complete") & forever & ~stops,
            status == "complete",
            status == "pending",
            unnamed_well,
            (state == "dead") & failed,
            state == "dead",
            well,
        ],
        [
            UNWANTED,
            np.where(followed | stops, WAITING, ENDED),
            WAITING,
            ENDED,
            ENDED,
            DONE,
            FAILING,
            WELL,
            ENDED,
            DONE,
            WELL,
        ],
        default=FAILING,
    )
    return result


_OVER = 3
"""A calm of more than this many mean gaps between failures is unlikely to be chance (p = 5 %)."""


def _goes_on(case: Case, group: Group, lanes: pd.DataFrame, times: Array, limits: Thresholds) -> bool:
    """Return whether most instances of a job fail, each now and then, and it is not over.

    None of them is in a loop; together they fail all the time.
    """
    known = np.sort(times[times != NEVER])
    live = np.isin(lanes["now"].to_numpy(), (WELL, FAILING)).all()
    most = len(lanes) > limits.critical_share * max(group.wanted, 1) and len(lanes) > 1
    if not live or not most or len(known) < 2 * limits.loop_restarts:
        return False
    gap = (int(known[-1]) - int(known[0])) / (len(known) - 1)
    often = gap * len(lanes) <= pd.Timedelta(limits.incident_gap).value
    # failures that all come at once are one, and it is over
    at_once = np.median(np.diff(known)) < gap / 10
    return bool(often and not at_once and case.now - int(known[-1]) <= _OVER * gap)


def _judge_instances(case: Case, group: Group, lanes: pd.DataFrame, times: Array, limits: Thresholds) -> None:
    now = lanes["now"].to_numpy()
    bad = now[lanes["bad_now"].to_numpy(dtype=bool)]
    if np.any(np.isin(bad, (FAILING, WAITING))) or lanes["goes_on"].any():
        group.state = ONGOING
    elif np.any(bad == ENDED):
        group.state = GAVE_UP
    elif np.any(np.isin(now, (WELL, DONE, FAILING))):
        group.state = RECOVERED
    else:
        group.state = STOPPED
    if group.state == RECOVERED and _goes_on(case, group, lanes, times, limits):
        group.state, group.severity = ONGOING, "warning"
        return
    half = limits.critical_share * max(group.wanted, len(lanes) if group.state == STOPPED else 1)
    if group.state in (ONGOING, GAVE_UP):
        # the work itself may be done, and only what cleans up after it has failed
        serious = group.bad_now - int((lanes["bad_now"] & lanes["after"]).sum()) >= half
        group.severity = "critical" if serious else "warning"
        return
    known = times[times != NEVER]
    close = len(known) > 1 and int(known.max() - known.min()) <= pd.Timedelta(limits.onset_window).value
    all_at_once = close and len(lanes) >= max(half, 2)
    group.severity = "warning" if group.bad_ever >= half or all_at_once else "info"
    if np.all(np.isin(now, (DONE,))):
        group.severity = "info"  # finished after retries


def _judge_runs(case: Case, jobs: Jobs, group: Group, lanes: pd.DataFrame, limits: Thresholds) -> None:
    """Judge a periodic or parameterized job: its rate is of runs, and its last run says how it stands."""
    outcomes = jobs.outcomes.get(group.family, [])
    alloc = case.failures["alloc"].to_numpy()[group.rows]
    mine = set(np.unique(case.instances.run[alloc]).tolist())
    failed = [run in mine and bad for run, bad in outcomes]
    group.runs, group.failed_runs = len(outcomes), sum(failed)
    if not group.failed_runs:
        going_on = bool(np.any(np.isin(lanes["now"], (FAILING, WAITING)) & lanes["bad_now"]))
        group.state, group.severity = (ONGOING, "warning") if going_on else (RECOVERED, "info")
        return
    last_failed = failed[-1]
    group.state = ONGOING if last_failed else RECOVERED
    share = group.failed_runs / group.runs
    if share >= limits.critical_share and last_failed:
        group.severity = "critical"
    elif (
        share >= limits.critical_share or lower_bound(group.failed_runs, group.runs) > limits.failed_run_share
    ):
        group.severity = "warning"
    else:
        group.severity = "info"
        if _is_dispatched(case, alloc):
            group.state = GAVE_UP  # another run has other data: that it ends well mends nothing


def _is_dispatched(case: Case, alloc: Array) -> bool:
    """Return whether allocations are of runs that somebody dispatched, each with data of its own."""
    run = split_run_id(str(case.evidence.allocations["job_id"].iloc[int(alloc[0])]))
    return run is not None and run[1].startswith("dispatch-")


def lower_bound(failed: int, total: int) -> float:
    """Return the lower end of the exact 95 % interval (Clopper and Pearson) of a share."""
    return float(distributions.beta_ppf(0.025, failed, total - failed + 1)) if failed else 0.0
