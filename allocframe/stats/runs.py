"""Runs of tasks: how long they lasted, how they ended, the outages between them, and times to recover."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _attempts, _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import (
    Source,
    collect,
    from_us,
    group_rows,
    groups,
    hours,
    look_up,
    names,
    pandas_table,
    times_from_us,
)
from .estimators import laplace
from .replacements import SLOT_COLUMNS, slots
from .vocabulary import LOST

_COLUMNS = [
    "namespace", "job_id", "job_version", "task_group", "slot", "task", "alloc_id", "node_name", "attempt",
    "started_at", "ended_at", "duration", "end", "failure", "left_truncated", "right_censored", "skewed",
]  # fmt: skip


@per_cluster
def runs(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the runs of every task, from `Started` to the end, as far as the ring and the present show them.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        With `allocations` and `task_states` the slots and states of tasks are known, too.
    observed_at : time, optional
        End of observation, default: when the tables were fetched, or the latest time in them.

    Returns
    -------
    pandas.DataFrame
        One row for each run, by slot and time.

        slot : str
            Namespace and name of the allocation (``job.group[0]``), which its replacements share; its ID if
            the name is not known.
        attempt : int
            Number of the attempt (see `explain_events`).
        started_at, ended_at : datetime64[ns, UTC]
            Start and end by the node's clock.
        duration : timedelta64[ns]
            Never negative; `skewed` marks runs that end before they start because the node's clock was set
            back.
        end : str
            Cause of the end (see `explain_events`), "lost" with its node, "running", or "unknown".
        failure : bool
            The run failed by itself or by its health check.
        left_truncated : bool
            The start is gone from the ring: the run was longer than `duration`.
        right_censored : bool
            No end was seen.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> runs = af.stats.runs(snap)
    >>> bool((runs["duration"] >= "0s").all())
    True
    """
    spans = derive(source, observed_at).spans
    rows = collect(spans.with_columns(end=_attempts.cause_name(nw.col("cause_code"))))
    rows["end"] = rows["end"].astype("str")
    rows["end"] = rows["end"].mask(rows["lost"].astype(bool), LOST)
    unended = rows["right_censored"].astype(bool) & ~rows["lost"].astype(bool)
    running = unended & ~rows["state"].isin(["dead", "pending"]) & rows["_last"].astype(bool)
    rows["end"] = rows["end"].mask(running, "running").fillna("unknown")
    rows["failure"] = rows["failed"].astype(bool)
    rows["started_at"], rows["ended_at"] = times_from_us(rows["start_us"]), times_from_us(rows["end_us"])
    rows["duration"] = rows["ended_at"] - rows["started_at"]
    rows["slot"] = _slots(source, rows)
    columns = [name for name in _COLUMNS if name in rows.columns]
    return rows[columns].sort_values(["slot", "task", "started_at"], kind="stable").reset_index(drop=True)


def slot_by_allocation(runs: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of each allocation that ran, by its ID."""
    allocations = runs.drop_duplicates("alloc_id")
    return allocations["slot"].set_axis(allocations["alloc_id"].astype("str").to_numpy())


def slots_of(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of the allocation of each row; the ID of an allocation that never ran."""
    return (
        look_up(rows["alloc_id"], slot_by_allocation(runs))
        .astype("str")
        .fillna(rows["alloc_id"].astype("str"))
    )


def _slots(source: Source, rows: pd.DataFrame) -> pd.Series[Any]:
    if "name" not in rows.columns or rows["name"].isna().all():
        return rows["alloc_id"].astype("str")
    allocations = pandas_table(source, "allocations", *SLOT_COLUMNS)
    slot_by_id = slots(allocations).set_axis(allocations["alloc_id"].astype("str").to_numpy())
    return look_up(rows["alloc_id"], slot_by_id)


@per_cluster
def outages(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the times between runs in which a task that should have run did not.

    An outage begins when a run ends, unless the task completed for good, and lasts until the next start in
    the same slot, in place or in a replacement. Runs that overlap, as in rolling updates, leave no outage.

    Parameters
    ----------
    source, observed_at
        As in `runs`.

    Returns
    -------
    pandas.DataFrame
        One row for each outage: namespace, job_id, task_group, slot, task, began_at, ended_at (datetime64[ns,
        UTC]), duration (timedelta64[ns]), cause (the end of the run before it), and open (bool): no later
        start was seen, and the outage lasts at least this long.

    Examples
    --------
    >>> bool((af.stats.outages(snap)["duration"] > "0s").all())
    True
    """
    task_runs = runs(source, observed_at=observed_at)
    observed = from_us(derive(source, observed_at).observed_us)
    by_slot = task_runs.groupby(["slot", "task"], sort=False)
    # the latest end so far, not that of the run before: in a rolling update an older run may outlast a newer
    down_since = by_slot["ended_at"].cummax()
    next_start = by_slot["started_at"].shift(-1)
    next_in_place = by_slot["alloc_id"].shift(-1) == task_runs["alloc_id"]
    is_last = next_start.isna()
    # a completed task needs no successor, unless it was started again in the same allocation
    should_run = (task_runs["end"] != "running") & ~((task_runs["end"] == "completed") & ~next_in_place)
    # after a last run that was stopped or completed, nobody wants the task any more
    should_run &= ~is_last | task_runs["failure"] | (task_runs["end"] == LOST)
    up_again = next_start.where(~is_last, observed)
    duration = up_again - down_since
    gaps = task_runs[["namespace", "job_id", "task_group", "slot", "task"]].assign(
        began_at=down_since, ended_at=up_again, duration=duration, cause=task_runs["end"], open=is_last
    )
    return gaps[should_run & (duration > pd.Timedelta(0))].reset_index(drop=True)


@per_cluster
def availability(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return the share of time that tasks were up, of the time that they should have been.

    Parameters
    ----------
    source, observed_at
        As in `runs`.
    by : str or list of str
        Columns of `runs`, such as ``"job_id"``, ``["job_id", "task"]`` or ``"slot"``.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the least available first: the columns of `by`, availability (0 to 1; missing
        without any time), up_hours, down_hours, outages, longest_outage (timedelta64[ns]), slots, and
        truncated_share (of runs whose start is gone from the ring).

    References
    ----------
    Beyer et al., Site Reliability Engineering, 2016, chapter 3 (time-based availability).

    Examples
    --------
    >>> table = af.stats.availability(snap, by="job_id")
    >>> bool(table["availability"].dropna().between(0, 1).all())
    True
    """
    keys = names(by)
    up = group_rows(runs(source, observed_at=observed_at), keys).agg(
        up_hours=("duration", "sum"), slots=("slot", "nunique"), truncated_share=("left_truncated", "mean")
    )
    down = group_rows(outages(source, observed_at=observed_at), keys).agg(
        down_hours=("duration", "sum"), outages=("duration", "size"), longest_outage=("duration", "max")
    )
    table: pd.DataFrame = up.join(down, how="left").reset_index(drop=not keys)
    table["up_hours"] = hours(table["up_hours"])
    table["down_hours"] = hours(table["down_hours"]).fillna(0.0)
    table["outages"] = table["outages"].fillna(0).astype("int64")
    total = table["up_hours"] + table["down_hours"]
    table["availability"] = (table["up_hours"] / total.where(total > 0)).astype("Float64")
    order = [
        *keys,
        "availability",
        "up_hours",
        "down_hours",
        "outages",
        "longest_outage",
        "slots",
        "truncated_share",
    ]
    return table[order].sort_values("availability", kind="stable").reset_index(drop=True)


@per_cluster
def mtbf(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return the mean time between failures, with its exact interval and a test of trend.

    Without failures the mean is missing, and `lower` is the one-sided 95 % bound, about a third of the
    exposure. The mean says little if `trend_p` is small: failures then come ever faster (`trend` above 0) or
    settle (below 0).

    Parameters
    ----------
    source, observed_at
        As in `runs`.
    by : str or list of str
        Columns of `runs`.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one with most failures first: the columns of `by`, failures,
        exposure_hours, mtbf_hours, lower and upper (hours, 95 %), trend (Laplace's statistic), trend_p,
        slots, and truncated_share (of runs whose start is gone from the ring).

    References
    ----------
    NIST/SEMATECH e-Handbook of Statistical Methods, 8.1.7 and 8.2.3.4.

    Examples
    --------
    >>> table = af.stats.mtbf(snap, by="job_id")
    >>> bool((table["lower"] <= table["mtbf_hours"]).dropna().all())
    True
    """
    keys = names(by)
    rows = []
    for group, part in groups(runs(source, observed_at=observed_at), keys):
        failed_at = part.loc[part["failure"], "ended_at"]
        trend, p = laplace(failed_at, part["started_at"].min(), part["ended_at"].max())
        rows.append(
            [
                *group,
                len(failed_at),
                hours(part["duration"]).sum(),
                trend,
                p,
                part["slot"].nunique(),
                part["left_truncated"].mean(),
            ]
        )
    table = pd.DataFrame(
        rows, columns=[*keys, "failures", "exposure_hours", "trend", "trend_p", "slots", "truncated_share"]
    )
    _, rate_lower, rate_upper = _confidence.poisson(table["failures"], table["exposure_hours"])
    no_failure = table["failures"].eq(0).to_numpy()
    with np.errstate(divide="ignore"):
        table["mtbf_hours"] = np.where(
            no_failure, np.nan, table["exposure_hours"] / table["failures"].where(~no_failure, 1)
        )
        # a mean time is the inverse of a rate, so the bounds change places
        table["lower"] = np.where(
            no_failure, table["exposure_hours"] / _confidence.UPPER_BOUND_OF_ZERO, 1 / rate_upper
        )
        table["upper"] = np.where(no_failure, np.nan, 1 / np.where(rate_lower > 0, rate_lower, np.nan))
    for name in ("mtbf_hours", "lower", "upper", "trend", "trend_p"):
        table[name] = table[name].astype("Float64").mask(table[name].isna() | table["exposure_hours"].le(0))
    order = [
        *keys,
        "failures",
        "exposure_hours",
        "mtbf_hours",
        "lower",
        "upper",
        "trend",
        "trend_p",
        "slots",
        "truncated_share",
    ]
    return table[order].sort_values("failures", ascending=False, kind="stable").reset_index(drop=True)


@per_cluster
def time_to_recover(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return how long tasks took to start again: median, 90th percentile and longest.

    The mean is left out: times to recover are so skewed that it says little. A task that has not recovered
    counts as slower than every task that has; a quantile that falls there is missing. `outages` holds the
    whole distribution.

    Parameters
    ----------
    source, observed_at
        As in `runs`.
    by : str or list of str
        Columns of `outages`.

    Returns
    -------
    pandas.DataFrame
        One row for each group: the columns of `by`, recoveries, unrecovered, median, p90, and longest (of
        those that recovered); the last three are timedelta64[ns].

    References
    ----------
    Davidovič, Incident Metrics in SRE, 2021.

    Examples
    --------
    >>> table = af.stats.time_to_recover(snap, by="job_id")
    >>> bool((table["longest"].dropna() > "0s").all())
    True
    """
    keys = names(by)
    rows = []
    for group, part in groups(outages(source, observed_at=observed_at), keys):
        seconds = part["duration"].dt.total_seconds().where(~part["open"], np.inf)
        median, p90 = (np.quantile(seconds, share, method="higher") for share in (0.5, 0.9))
        rows.append(
            [
                *group,
                int((~part["open"]).sum()),
                int(part["open"].sum()),
                median,
                p90,
                seconds[~part["open"]].max(),
            ]
        )
    table = pd.DataFrame(rows, columns=[*keys, "recoveries", "unrecovered", "median", "p90", "longest"])
    for name in ("median", "p90", "longest"):
        finite = table[name].astype("float64").replace(np.inf, np.nan)
        table[name] = pd.to_timedelta(finite, unit="s").astype("timedelta64[ns]")
    return table.sort_values("unrecovered", ascending=False, kind="stable").reset_index(drop=True)
