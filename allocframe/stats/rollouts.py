"""Rollouts: whether a new version of a job fails more than the previous one."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, has_table, hours, look_up, pandas_table
from .runs import build_runs, find_slots

_JOB = ["namespace", "job_id"]
_VERSION = [*_JOB, "job_version"]
_MEASURES = ["placed_at", "tasks", "failed_tasks", "failures", "exposure_hours"]
_AGGREGATES = {name: "min" if name == "placed_at" else "sum" for name in _MEASURES}


@per_cluster
def rollouts(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Compare the failure rate of each version of a job with that of the previous version.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        With `allocations`, canaries are separate and the time when each version was first placed is known.
    observed_at : time, optional
        End of observation, default: when the tables were fetched, or the latest time in them.

    Returns
    -------
    pandas.DataFrame
        One row for each job version that has an earlier one in the tables, and one more for its canaries, the
        worst first.

        namespace, job_id, job_version, base_version, canary
            The version, and the previous one.
        placed_at : datetime64[ns, UTC]
            First allocation (or first event) of the version.
        tasks, failed_tasks, failures, exposure_hours
            A task counts once for each instance (slot), however often it was rescheduled; failed starts are
            failures. Failures and exposure are those that are known: of a truncated event history, from its
            oldest end on.
        base_tasks, base_failed_tasks, base_failures, base_exposure_hours
            The same for the previous version.
        ratio, lower, upper : float
            Failure rate of the version over that of the previous one, with the exact conditional 95 %
            interval. Missing if neither failed or one did not run; infinite if only the new one failed.
        share, share_lower, base_share, base_share_upper : float
            Share of instances that failed, with bounds of Wilson's 95 % interval. Unlike the rate, one
            looping task does not inflate it; but an old version had more time to fail than a new one. Where
            neither version ran, only the shares tell.
        cause : str
            The most frequent cause of the version's failures.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Notes
    -----
    A deployment restarts tasks by itself; only failures count here. `lemon_nodes` helps to tell whether the
    node or the version is to blame.

    Examples
    --------
    >>> worst = af.stats.rollouts(snap).iloc[0]
    >>> bool(worst["failed_tasks"] > worst["base_failed_tasks"])
    True
    """
    versions = _measure_versions(source, observed_at)
    canaries, others = versions[versions["canary"]], versions[~versions["canary"]]
    # the previous version is compared with all of its tasks: its canaries became ordinary ones
    whole = versions.drop(columns="canary").groupby(_VERSION, as_index=False, dropna=False).agg(_AGGREGATES)
    order = whole.sort_values(_VERSION).reset_index(drop=True)
    base = (
        order.groupby(_JOB, sort=False, dropna=False)[["job_version", *_MEASURES]]
        .shift(1)
        .add_prefix("base_")
        .rename(columns={"base_job_version": "base_version"})
    )
    bases = pd.concat([order[_VERSION], base], axis=1).dropna(subset=["base_version"])
    split = pd.concat([others, canaries]) if len(canaries) else others
    table = split.merge(bases.drop(columns="base_placed_at"), on=_VERSION, how="inner")
    return _compare(table.merge(_main_causes(source, observed_at), on=_VERSION, how="left"))


def _main_causes(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return the most frequent cause of the failures of each version."""
    derived = derive(source, observed_at)
    # of tasks, not of events, whose jobs are runs of their parents
    named = derived.tasks.select(*derived.task_columns, *_VERSION)
    failures = derived.events.filter(nw.col("failure")).select(*derived.task_columns, "cause")
    failures = failures.join(named, on=derived.task_columns, how="left")
    counts = failures.group_by(*_VERSION, "cause").agg(nw.len().alias("n"))
    rows = collect(counts).sort_values(["n", "cause"], ascending=[False, True]).drop_duplicates(_VERSION)
    return rows.assign(**{name: rows[name].astype("str") for name in (*_JOB, "cause")}).drop(columns="n")


def _measure_versions(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return failures and exposure of each version, canaries apart."""
    derived = derive(source, observed_at)
    known = derived.tasks.select(*derived.task_columns, "known_from_us")
    failures = (
        derived.events.select(*derived.task_columns, "time_us", "failure")
        .join(known, on=derived.task_columns, how="left")
        .with_columns(
            _failed=nw.when(
                nw.col("known_from_us").is_null() | (nw.col("time_us") >= nw.col("known_from_us"))
            )
            .then(nw.col("failure").cast(nw.Int64))
            .otherwise(nw.lit(0))
        )
        .group_by(*derived.task_columns)
        .agg(nw.col("_failed").sum().alias("failures"), nw.col("time_us").min().alias("seen_us"))
    )
    tasks = collect(
        derived.tasks.join(failures, on=derived.task_columns, how="left").select(
            "alloc_id", "task", *_VERSION, "failures", "seen_us"
        )
    )
    for name in ("alloc_id", "task", *_JOB):
        tasks[name] = tasks[name].astype("str")
    tasks = tasks.merge(_exposure_hours(source, observed_at), on=["alloc_id", "task"], how="left")
    # an instance counts once in each version, by its first allocation, and failed if any of them did
    tasks["instance"] = find_slots(source, tasks) + "/" + tasks["task"]
    keys = [*_VERSION, "instance"]
    is_first = ~tasks.duplicated(keys)
    ever = (tasks["failures"] > 0).groupby([tasks[name] for name in keys], dropna=False).transform("any")
    tasks["failed_tasks"], tasks["tasks"] = (ever & is_first).astype("int64"), is_first.astype("int64")
    tasks["placed_at"] = pd.to_datetime(tasks["seen_us"].astype("Int64"), unit="us", utc=True)
    tasks["canary"] = False
    if has_table(source, "allocations"):
        allocations = pandas_table(source, "allocations", "alloc_id", "canary", "created_at").drop_duplicates(
            "alloc_id"
        )
        by_id = allocations.set_index(allocations["alloc_id"].astype("str"))
        tasks["canary"] = look_up(tasks["alloc_id"], by_id["canary"]).fillna(value=False).astype(bool)
        tasks["placed_at"] = look_up(tasks["alloc_id"], by_id["created_at"])
    versioned = tasks.dropna(subset=["job_version"])
    return versioned.groupby([*_VERSION, "canary"], as_index=False, dropna=False).agg(_AGGREGATES)


def _exposure_hours(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return the hours that each task of an allocation ran."""
    runs = build_runs(source, observed_at)
    # of truncated event histories, what is counted with their events
    counted = runs["ended_at"] - runs["counted_from"]
    counted = counted.mask(counted < pd.Timedelta(0), pd.Timedelta(0))
    durations = counted.groupby([runs["alloc_id"], runs["task"]], observed=True)
    exposure = hours(durations.sum()).rename("exposure_hours").reset_index()
    return exposure.astype({"alloc_id": "str", "task": "str"})


def _compare(table: pd.DataFrame) -> pd.DataFrame:
    """Add the ratio of rates and the shares of failed tasks, and sort the worst version first."""
    ratio, lower, upper = _confidence.rate_ratio(
        table["failures"], table["exposure_hours"], table["base_failures"], table["base_exposure_hours"]
    )
    share, share_lower, _ = _confidence.wilson(table["failed_tasks"], table["tasks"])
    base_share, _, base_upper = _confidence.wilson(table["base_failed_tasks"], table["base_tasks"])
    values: dict[str, Any] = {
        "ratio": ratio, "lower": lower, "upper": upper, "share": share, "share_lower": share_lower,
        "base_share": base_share, "base_share_upper": base_upper,
    }  # fmt: skip
    for name, numbers in values.items():
        table[name] = pd.array(np.asarray(numbers, dtype=float), dtype="Float64")
    columns = [
        *_VERSION,
        "base_version",
        "canary",
        *_MEASURES,
        *(f"base_{name}" for name in _MEASURES[1:]),
        *values,
        "cause",
    ]
    # the gap between the intervals, not between the shares: 1 of 1 task says less than 40 of 50
    gap = table["share_lower"].fillna(0) - table["base_share_upper"].fillna(0)
    return (
        table.assign(_gap=gap)
        .sort_values("_gap", ascending=False, kind="stable")[columns]
        .reset_index(drop=True)
    )
