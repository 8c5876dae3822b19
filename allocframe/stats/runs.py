"""Runs of tasks: how long they lasted, how they ended, the downtime between them, and how soon they recovered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _attempts, _confidence
from ._classify import OWN_FAULT
from ._derived import facts
from ._per_cluster import apart
from ._source import (
    Source,
    collected,
    grouped,
    groups,
    hours,
    looked_up,
    moment,
    moments,
    names,
    pandas_table,
)
from .estimators import laplace
from .replacements import OF_SLOT, slots
from .vocabulary import CAUSES

_COLUMNS = [
    "namespace", "job_id", "job_version", "task_group", "slot", "task", "alloc_id", "node_name", "attempt", "started_at",
    "ended_at", "duration", "end", "failure", "left_truncated", "right_censored", "skewed",
]  # fmt: skip


@apart
def runs(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the runs of every task: from `Started` to its end, or to where the ring or the present cuts it.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        With `allocations` and `task_states` the slot and the state of tasks are known too.
    observed_at : time, optional
        Up to when the tables tell; else when they were fetched, or the last time in them.

    Returns
    -------
    pandas.DataFrame
        One row for each run, in the order of slots and times.

        slot : str
            Namespace and name of the allocation (``job.group[0]``), which replacements share; its ID where unknown.
        end : str
            The cause of the end (see `explain_events`), "lost" with its node, "running", or "unknown".
        duration : timedelta64[ns]
            Never below zero; `skewed` where the clock went backwards.
        left_truncated : bool
            The start is gone from the ring: the run is longer than it looks.
        right_censored : bool
            No end was seen.

    Examples
    --------
    >>> runs = af.stats.runs(snap)
    >>> bool((runs["duration"] >= "0s").all())
    True
    """
    spans = facts(source, observed_at).spans
    found = collected(spans.with_columns(end=_attempts.labelled(nw.col("cause_code"))))
    found["end"] = found["end"].astype("str")
    found["end"] = found["end"].mask(found["lost"].astype(bool), "lost")
    unended = found["right_censored"].astype(bool) & ~found["lost"].astype(bool)
    running = unended & ~found["state"].isin(["dead", "pending"]) & found["_last"].astype(bool)
    found["end"] = found["end"].mask(running, "running").fillna("unknown")
    found["failure"] = found["cause_code"].isin([CAUSES.index(cause) for cause in OWN_FAULT]) & _ended_badly(
        found
    )
    found["started_at"], found["ended_at"] = moments(found["start_us"]), moments(found["end_us"])
    found["duration"] = found["ended_at"] - found["started_at"]
    found["slot"] = _slot(source, found)
    kept = [name for name in _COLUMNS if name in found.columns]
    return found[kept].sort_values(["slot", "task", "started_at"], kind="stable").reset_index(drop=True)


def slot_of(ran: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of each allocation that ran, by its ID."""
    once = ran.drop_duplicates("alloc_id")
    return once["slot"].set_axis(once["alloc_id"].astype("str").to_numpy())


def slots_of(rows: pd.DataFrame, ran: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of the allocation of each row; its ID where it never ran."""
    return looked_up(rows["alloc_id"], slot_of(ran)).astype("str").fillna(rows["alloc_id"].astype("str"))


def _ended_badly(found: pd.DataFrame) -> pd.Series[Any]:
    code = pd.to_numeric(found["exit_code"], errors="coerce").fillna(0)
    signal = pd.to_numeric(found["signal"], errors="coerce").fillna(0)
    return (code != 0) | (signal != 0) | (found["_oom"] == 1)


def _slot(source: Source, found: pd.DataFrame) -> pd.Series[Any]:
    if "name" not in found.columns or found["name"].isna().all():
        return found["alloc_id"].astype("str")
    allocations = pandas_table(source, "allocations", "alloc_id", *OF_SLOT)
    by_id = slots(allocations).set_axis(allocations["alloc_id"].astype("str").to_numpy())
    return looked_up(found["alloc_id"], by_id)


@apart
def outages(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the times between runs in which a task that should run did not.

    An outage begins where a run ended, other than by completing for good, and ends with the next start in the same
    slot, in place or in a replacement. Runs that overlap, as in rolling updates, leave no outage.

    Returns
    -------
    pandas.DataFrame
        namespace, job_id, task_group, slot, task, began_at, ended_at, duration, cause (the end of the run before), and `open`:
        no later start was seen, and the outage lasts at least so long.

    Examples
    --------
    >>> bool((af.stats.outages(snap)["duration"] > "0s").all())
    True
    """
    ran = runs(source, observed_at=observed_at)
    observed = moment(facts(source, observed_at).given.observed_us)
    keys = ["slot", "task"]
    until = ran.groupby(keys, sort=False)["ended_at"].cummax()
    following = ran.groupby(keys, sort=False)["started_at"].shift(-1)
    same = ran.groupby(keys, sort=False)["alloc_id"].shift(-1) == ran["alloc_id"]
    final = following.isna()
    wanted = ~ran["end"].isin(["running"]) & ~(ran["end"].isin(["completed"]) & ~same)
    bad = ran["failure"] | ran["end"].isin(["lost"])
    wanted &= ~final | bad
    ended = following.where(~final, observed)
    gap = ended - until
    told = ran[["namespace", "job_id", "task_group", "slot", "task"]].assign(
        began_at=until, ended_at=ended, duration=gap, cause=ran["end"], open=final
    )
    return told[wanted & (gap > pd.Timedelta(0))].reset_index(drop=True)


@apart
def availability(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return the share of time that tasks were up, of the time that they should have been.

    Parameters
    ----------
    by : str or list of str
        Columns of `runs`, such as ``"job_id"``, ``["job_id", "task"]`` or ``"slot"``.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, up_hours, down_hours, availability (missing where neither is known), outages,
        longest_outage, slots, truncated_share.

    Examples
    --------
    >>> table = af.stats.availability(snap, by="job_id")
    >>> bool(table["availability"].dropna().between(0, 1).all())
    True
    """
    keys = names(by)
    ran, down = runs(source, observed_at=observed_at), outages(source, observed_at=observed_at)
    up = grouped(ran, keys).agg(
        up_hours=("duration", "sum"), slots=("slot", "nunique"), truncated_share=("left_truncated", "mean")
    )
    lost = grouped(down, keys).agg(
        down_hours=("duration", "sum"), outages=("duration", "size"), longest_outage=("duration", "max")
    )
    found: pd.DataFrame = up.join(lost, how="left").reset_index(drop=not keys)
    found["up_hours"] = hours(found["up_hours"])
    found["down_hours"] = hours(found["down_hours"]).fillna(0.0)
    found["outages"] = found["outages"].fillna(0).astype("int64")
    total = found["up_hours"] + found["down_hours"]
    found["availability"] = (found["up_hours"] / total.where(total > 0)).astype("Float64")
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
    return found[order].sort_values("availability", kind="stable").reset_index(drop=True)


@apart
def mtbf(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return the mean time between failures, with its exact interval and a test of trend.

    Without failures the mean is missing, and `lower` is the one-sided 95 % bound, about a third of the exposure. A mean says
    little where `trend_p` is small: the failures come ever faster (`trend` above 0) or settle (below).

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, failures, exposure_hours, mtbf_hours, lower, upper, trend (Laplace's statistic), trend_p, slots,
        truncated_share. Source: NIST/SEMATECH e-Handbook, 8.1.7 and 8.2.3.4.

    Examples
    --------
    >>> table = af.stats.mtbf(snap, by="job_id")
    >>> bool((table["lower"] <= table["mtbf_hours"]).dropna().all())
    True
    """
    keys = names(by)
    ran = runs(source, observed_at=observed_at)
    rows = []
    for group, part in groups(ran, keys):
        failed = part.loc[part["failure"], "ended_at"]
        trend, p = laplace(failed, part["started_at"].min(), part["ended_at"].max())
        rows.append(
            [
                *group,
                len(failed),
                hours(part["duration"]).sum(),
                trend,
                p,
                part["slot"].nunique(),
                part["left_truncated"].mean(),
            ]
        )
    found = pd.DataFrame(
        rows, columns=[*keys, "failures", "exposure_hours", "trend", "trend_p", "slots", "truncated_share"]
    )
    _, low, high = _confidence.poisson(found["failures"], found["exposure_hours"])
    none = found["failures"].eq(0).to_numpy()
    with np.errstate(divide="ignore"):
        found["mtbf_hours"] = np.where(
            none, np.nan, found["exposure_hours"] / found["failures"].where(~none, 1)
        )
        found["lower"] = np.where(none, found["exposure_hours"] / _confidence.NONE_SEEN, 1 / high)
        found["upper"] = np.where(none, np.nan, 1 / np.where(low > 0, low, np.nan))
    for name in ("mtbf_hours", "lower", "upper", "trend", "trend_p"):
        found[name] = found[name].astype("Float64").mask(found[name].isna() | found["exposure_hours"].le(0))
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
    return found[order].sort_values("failures", ascending=False, kind="stable").reset_index(drop=True)


@apart
def time_to_recover(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return how long failed tasks took to start again: median, 90th percentile and longest, never the mean alone.

    What has not recovered yet counts as longer than everything that has; a quantile that falls there is missing.
    `outages` holds the whole distribution.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, recoveries, unrecovered, median, p90, longest (of those that recovered).

    Examples
    --------
    >>> table = af.stats.time_to_recover(snap, by="job_id")
    >>> bool((table["longest"].dropna() > "0s").all())
    True
    """
    keys = names(by)
    down = outages(source, observed_at=observed_at)
    rows = []
    for group, part in groups(down, keys):
        seconds = part["duration"].dt.total_seconds().where(~part["open"], np.inf)
        middle, late = (np.quantile(seconds, share, method="higher") for share in (0.5, 0.9))
        rows.append(
            [
                *group,
                int((~part["open"]).sum()),
                int(part["open"].sum()),
                middle,
                late,
                seconds[~part["open"]].max(),
            ]
        )
    found = pd.DataFrame(rows, columns=[*keys, "recoveries", "unrecovered", "median", "p90", "longest"])
    for name in ("median", "p90", "longest"):
        finite = found[name].astype("float64").replace(np.inf, np.nan)
        found[name] = pd.to_timedelta(finite, unit="s").astype("timedelta64[ns]")
    return found.sort_values("unrecovered", ascending=False, kind="stable").reset_index(drop=True)
