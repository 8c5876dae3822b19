"""Survival by group, from the tables: how long runs last, restarts by age, and how allocations end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from ..tables.run_ids import RUN_SUFFIX
from . import vocabulary
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import (
    Source,
    are_among,
    collect,
    from_us,
    groups,
    has_table,
    hours,
    labels,
    look_up,
    names,
    pandas_table,
)
from .estimators import cumulative_incidence_rows, kaplan_meier, mean_cumulative_of_rows
from .explain import explain_stops
from .runs import build_runs
from .vocabulary import FINISHED_STATUSES

_US_PER_HOUR = 3_600_000_000


@per_cluster
def survival(source: Source, by: str | Iterable[str] = "job_version") -> pd.DataFrame:
    """Estimate how long runs last before they fail, by group.

    The event is a failure. Runs that have not ended, or were stopped, restarted on request or lost with their
    node, are censored.

    Two biases are corrected:

    - A truncated event history (Nomad keeps the last ten events of a task) holds a task's last runs. The open
      one among them is longer than others because it was met by chance. Only its runs with both ends count.
    - Servers remove allocations some time after they end, and keep those that run. In groups that have lost
      allocations, runs count from the *horizon* on, the oldest end that is still known (delayed entry).

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str or list of str
        Columns of `runs`.

    Returns
    -------
    pandas.DataFrame
        For each group the rows of `kaplan_meier`: the columns of `by`, time (hours), at_risk, events,
        censored, survival, lower, upper (95 %), runs, left_out (runs whose start is lost, open in a truncated
        event history, or ended before the horizon), and horizon_at (missing if nothing is hidden).
        `plots.survival` draws it. Runs of one task that resemble each other more than those of others make
        the interval too narrow.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> curves = af.stats.survival(snap, by="job_id")
    >>> bool(curves["survival"].between(0, 1).all())
    True
    """
    keys, task_runs = names(by), build_runs(source)
    horizon = pd.Series(pd.NaT, index=task_runs.index, dtype="datetime64[ns, UTC]")
    if has_table(source, "allocations"):
        by_id = horizons(source)
        horizon = look_up(task_runs["alloc_id"], by_id)
    whole = ~task_runs["left_truncated"].astype(bool)
    whole &= ~(task_runs["cut"].astype(bool) & task_runs["right_censored"].astype(bool))
    whole &= horizon.isna() | (task_runs["ended_at"] > horizon)
    duration = hours(task_runs["duration"])
    entry = hours(_not_negative(horizon - task_runs["started_at"])).fillna(0.0)
    # a failed run that nobody could have met has no length to enter at
    table = task_runs.assign(hours=duration, entry=np.minimum(entry, duration), whole=whole, horizon=horizon)
    curves = []
    for group, part in groups(table, keys):
        of_group = part[part["whole"]]
        curve = kaplan_meier(of_group["hours"], of_group["failure"], entry=of_group["entry"])
        curves.append(
            curve.assign(
                **labels(keys, group),
                runs=len(of_group),
                left_out=len(part) - len(of_group),
                horizon_at=part["horizon"].max(),
            )
        )
    return _join_curves(
        curves,
        keys,
        [
            "time", "at_risk", "events", "censored", "survival", "lower", "upper", "runs", "left_out",
            "horizon_at",
        ],
    )  # fmt: skip


_KEPT = pd.Timedelta("1h")
"""How long servers keep ended allocations at least, by default (`eval_gc_threshold`)."""


def horizons(source: Source) -> pd.Series[Any]:
    """Return from when on the ends of each allocation's group are known, by its ID; missing if always.

    A group has lost allocations if one of them names a predecessor that is gone, if it is of a batch job, or
    if some of its allocations have ended. Its horizon is the oldest end that is still known, or an hour
    before the observation, whichever is earlier.
    """
    columns = (
        "alloc_id", "namespace", "job_id", "task_group", "job_type", "client_status", "desired_status",
        "previous_alloc_id", "modified_at", "created_at",
    )  # fmt: skip
    allocations = pandas_table(source, "allocations", *columns).drop_duplicates("alloc_id")
    observed = from_us(derive(source).observed_us)
    ids = allocations["alloc_id"].astype("str")
    previous = allocations["previous_alloc_id"].astype("str")
    broken = previous.notna() & ~are_among(previous, ids)
    # failed allocations that wait for their reschedule are kept, however old they are
    ended = allocations["client_status"].isin(FINISHED_STATUSES)
    job = allocations["job_id"].astype("str").str.replace(RUN_SUFFIX, "", regex=True)
    group = [allocations["namespace"].astype("str"), job, allocations["task_group"].astype("str")]
    hides = broken | ended | allocations["job_type"].isin(["batch", "sysbatch"])
    hidden = hides.groupby(group, dropna=False).transform("any")
    oldest = allocations["modified_at"].where(ended).groupby(group, dropna=False).transform("min")
    horizon = oldest.fillna(observed - _KEPT)
    horizon = horizon.mask(horizon > observed - _KEPT, observed - _KEPT)
    # what was created after the horizon is known from its beginning, and needs none
    by_id: pd.Series[Any] = horizon.where(hidden).set_axis(ids.to_numpy()).astype("datetime64[ns, UTC]")
    return by_id


def _not_negative(durations: pd.Series[Any]) -> pd.Series[Any]:
    zero = pd.Timedelta(0)
    return durations.mask(durations < zero, zero)


@per_cluster
def cumulative_restarts(source: Source, by: str | Iterable[str] = "job_version") -> pd.DataFrame:
    """Estimate the mean number of restarts that a task has had by each age, by group.

    Tasks with a truncated ring enter at the oldest end that is left (late entry), so that restarts which the
    ring has lost do not count as none.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    by : str or list of str
        namespace, job_id, job_version, task_group, task, node_name, and other columns of tasks.

    Returns
    -------
    pandas.DataFrame
        For each group the rows of `mean_cumulative`: the columns of `by`, time (hours since the allocation
        was created), at_risk, events, mean, lower, upper (95 %), and tasks. `plots.cumulative_restarts` draws
        it.

    Raises
    ------
    TypeError
        `source` lacks one of the tables.

    Examples
    --------
    >>> curves = af.stats.cumulative_restarts(snap, by="job_id")
    >>> bool((curves["mean"] >= 0).all())
    True
    """
    keys, derived = names(by), derive(source)
    tasks = collect(derived.tasks)
    seen = tasks["first_seen_us"].astype("float64")
    origin = tasks["created_at_us"].astype("float64").fillna(seen) if "created_at_us" in tasks else seen
    row_of_task = pd.Series(np.arange(len(tasks)), index=pd.MultiIndex.from_frame(_task_keys(tasks)))
    last_end = build_runs(source).groupby(["alloc_id", "task"], observed=True)["ended_at"].max()
    end_rows = row_of_task.reindex(_keyed(last_end.index)).to_numpy()
    until = np.full(len(tasks), np.nan)
    known = ~np.isnan(end_rows)
    until[end_rows[known].astype("int64")] = last_end.astype("int64").to_numpy()[known] / 1000
    events = derived.events.filter(nw.col("type") == vocabulary.RESTART)
    restarts = derived.name_tasks(events, "alloc_id", "task")
    restarting = collect(restarts.select("alloc_id", "task", "time_us"))
    row = row_of_task.reindex(pd.MultiIndex.from_frame(_task_keys(restarting))).to_numpy(dtype="int64")
    origin_us = origin.to_numpy()
    # clocks of nodes and servers differ: nothing happens before its allocation was created
    age = np.maximum(restarting["time_us"].to_numpy(dtype="float64") - origin_us[row], 0) / _US_PER_HOUR
    begins = np.maximum(tasks["known_from_us"].astype("float64").to_numpy() - origin_us, 0) / _US_PER_HOUR
    begins, ends = np.nan_to_num(begins), np.maximum(until - origin_us, 0) / _US_PER_HOUR
    watched = ~np.isnan(ends)
    number = np.full(len(tasks), -1)
    curves = []
    for group, part in groups(tasks[watched], keys):
        rows = part.index.to_numpy()
        number[rows] = np.arange(len(rows))
        in_group = number[row] >= 0
        curve = mean_cumulative_of_rows(number[row][in_group], age[in_group], begins[rows], ends[rows])
        number[rows] = -1
        curves.append(curve.assign(**labels(keys, group), tasks=len(part)))
    return _join_curves(curves, keys, ["time", "at_risk", "events", "mean", "lower", "upper", "tasks"])


def _task_keys(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["alloc_id", "task"]].astype("str")


def _keyed(index: Any) -> Any:
    return pd.MultiIndex.from_frame(_task_keys(index.to_frame(index=False)))


@per_cluster
def end_causes(source: Source, by: str | Iterable[str] = "job_type") -> pd.DataFrame:
    """Estimate the share of allocations that has ended in each way by each age. The ways compete.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    by : str or list of str
        Columns of `allocations`.

    Returns
    -------
    pandas.DataFrame
        One row for each group, time and kind of end: the columns of `by`, time (hours since creation),
        at_risk, kind ("failed", "completed", "lost", or the reason of the stop, see `explain_stops`) and
        share (Aalen and Johansen's estimate, 0 to 1), lower and upper (95 %), and horizon_at. Servers remove
        ended allocations: where some are gone, allocations count from the horizon on (delayed entry, as in
        `survival`).

    Raises
    ------
    TypeError
        `source` holds no `allocations`.

    Examples
    --------
    >>> set(af.stats.end_causes(snap)["kind"]) >= {"failed", "lost"}
    True
    """
    keys = names(by)
    allocations = explain_stops(source)
    status = allocations["client_status"].astype("str")
    kind = status.map({"failed": "failed", "lost": "lost", "complete": "completed"}).astype("str")
    kind = kind.mask((status == "complete") & allocations["stop_reason"].notna(), allocations["stop_reason"])
    observed = from_us(derive(source).observed_us)
    until = allocations["modified_at"].where(kind.notna(), observed)
    horizon = look_up(allocations["alloc_id"], horizons(source))
    age = hours(until - allocations["created_at"]).clip(lower=0)
    entry = hours(_not_negative(horizon - allocations["created_at"])).fillna(0.0)
    table = allocations[keys].assign(kind=kind, age=age, entry=entry, horizon_at=horizon)
    table = table[age.notna() & (horizon.isna() | (until > horizon))]
    curves = []
    for group, part in groups(table, keys):
        entry_ages = np.minimum(part["entry"].to_numpy(dtype=float), part["age"].to_numpy(dtype=float))
        long = cumulative_incidence_rows(part["age"].to_numpy(dtype=float), part["kind"], entry_ages)
        curves.append(long.assign(**labels(keys, group), horizon_at=part["horizon_at"].max()))
    columns = ["time", "at_risk", "kind", "share", "lower", "upper", "horizon_at"]
    return _join_curves(curves, keys, columns)


def _join_curves(curves: list[pd.DataFrame], keys: list[str], columns: list[str]) -> pd.DataFrame:
    if not curves:
        return pd.DataFrame(columns=[*keys, *columns])
    return pd.concat(curves, ignore_index=True)[[*keys, *columns]]
