"""Rollouts: whether a new version of a job fails more than the one before."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import facts
from ._per_cluster import apart
from ._source import Source, collected, has_table, hours, looked_up, pandas_table
from .runs import runs

_JOB = ["namespace", "job_id"]


@apart
def rollouts(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Compare the failure rate of each version of a job with that of the version before.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        With `allocations`, canaries are told apart, and when each version was first placed.

    Returns
    -------
    pandas.DataFrame
        One row for each job version that has an earlier one in the tables (and one more where it ran as canary), the worst first.

        namespace, job_id, job_version, base_version, canary
            Which version it is, and the one before.
        placed_at : time
            First allocation (or first run) of the version.
        tasks, failed_tasks, failures, exposure_hours, base_tasks, base_failed_tasks, base_failures, base_exposure_hours
            A task counts once for each allocation; failed starts are failures, too.
        ratio, lower, upper : float
            Failure rate of the version over that of the one before, with its exact conditional 95 % interval; missing where
            neither failed, or one did not run; infinite where only the new one failed.
        share, share_lower, base_share, base_share_upper : float
            Share of tasks that failed, with Wilson's bounds: unlike the rate not blown up by one looping task.
        cause : str
            The most frequent cause of the version's failures.

    Notes
    -----
    A deployment restarts tasks by itself; only failures count here. Whether node or version is to blame, `lemon_nodes` helps to tell.

    Examples
    --------
    >>> worst = af.stats.rollouts(snap).iloc[0]
    >>> bool(worst["failed_tasks"] > worst["base_failed_tasks"])
    True
    """
    table = _per_version(source, observed_at)
    canaries, others = table[table["canary"]], table[~table["canary"]]
    everyone = (
        table.drop(columns="canary")
        .groupby([*_JOB, "job_version"], as_index=False)
        .agg({name: "min" if name == "placed_at" else "sum" for name in _MEASURED})
    )
    order = everyone.sort_values([*_JOB, "job_version"]).reset_index(drop=True)
    base = (
        order.groupby(_JOB, sort=False)[["job_version", *_MEASURED]]
        .shift(1)
        .add_prefix("base_")
        .rename(columns={"base_job_version": "base_version"})
    )
    before = pd.concat([order[[*_JOB, "job_version"]], base], axis=1).dropna(subset=["base_version"])
    split = pd.concat([others, canaries]) if len(canaries) else others
    found = split.merge(before.drop(columns="base_placed_at"), on=[*_JOB, "job_version"], how="inner")
    return _compared(found.merge(_causes(source, observed_at), on=[*_JOB, "job_version"], how="left"))


def _causes(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return the most frequent cause of the failures of each version."""
    known = facts(source, observed_at)
    keys = [*_JOB, "job_version"]
    counted = known.events.filter(nw.col("failure")).group_by(*keys, "cause").agg(nw.len().alias("n"))
    rows = collected(counted).sort_values(["n", "cause"], ascending=[False, True]).drop_duplicates(keys)
    return rows.assign(**{name: rows[name].astype("str") for name in (*_JOB, "cause")}).drop(columns="n")


_MEASURED = ["placed_at", "tasks", "failed_tasks", "failures", "exposure_hours"]


def _per_version(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    known = facts(source, observed_at)
    task = known.given.task
    hits = (
        known.events.with_columns(_hit=nw.col("failure").cast(nw.Int64))
        .group_by(*task)
        .agg(nw.col("_hit").sum().alias("failures"), nw.col("time_us").min().alias("seen_us"))
    )
    rows = collected(
        known.tasks.join(hits, on=task, how="left").select(
            "alloc_id", "task", *_JOB, "job_version", "failures", "seen_us"
        )
    )
    for name in ("alloc_id", "task", *_JOB):
        rows[name] = rows[name].astype("str")
    ran = runs(source, observed_at=observed_at)
    ran_for = (
        hours(ran.groupby(["alloc_id", "task"], observed=True)["duration"].sum())
        .rename("exposure_hours")
        .reset_index()
    )
    ran_for["alloc_id"], ran_for["task"] = ran_for["alloc_id"].astype("str"), ran_for["task"].astype("str")
    rows = rows.merge(ran_for, on=["alloc_id", "task"], how="left")
    rows["failed_tasks"], rows["tasks"] = (rows["failures"] > 0).astype("int64"), 1
    rows["placed_at"] = pd.to_datetime(rows["seen_us"].astype("Int64"), unit="us", utc=True)
    rows["canary"] = False
    if has_table(source, "allocations"):
        allocations = pandas_table(source, "allocations", "alloc_id", "canary", "created_at").drop_duplicates(
            "alloc_id"
        )
        by_id = allocations.set_index(allocations["alloc_id"].astype("str"))
        rows["canary"] = looked_up(rows["alloc_id"], by_id["canary"]).fillna(value=False).astype(bool)
        rows["placed_at"] = looked_up(rows["alloc_id"], by_id["created_at"])
    grouped = rows.dropna(subset=["job_version"]).groupby([*_JOB, "job_version", "canary"], as_index=False)
    return grouped.agg({name: "min" if name == "placed_at" else "sum" for name in _MEASURED})


def _compared(found: pd.DataFrame) -> pd.DataFrame:
    ratio, lower, upper = _confidence.rate_ratio(
        found["failures"], found["exposure_hours"], found["base_failures"], found["base_exposure_hours"]
    )
    share, share_lower, _ = _confidence.wilson(found["failed_tasks"], found["tasks"])
    base_share, _, base_upper = _confidence.wilson(found["base_failed_tasks"], found["base_tasks"])
    values: dict[str, Any] = {
        "ratio": ratio, "lower": lower, "upper": upper, "share": share, "share_lower": share_lower, "base_share": base_share,
        "base_share_upper": base_upper,
    }  # fmt: skip
    for name, numbers in values.items():
        found[name] = pd.array(np.asarray(numbers, dtype=float), dtype="Float64")
    columns = [
        *_JOB,
        "job_version",
        "base_version",
        "canary",
        *_MEASURED,
        *(f"base_{name}" for name in _MEASURED[1:]),
        *values,
        "cause",
    ]
    worst = found["share_lower"].fillna(0) - found["base_share_upper"].fillna(0)
    return (
        found.assign(_worst=worst)
        .sort_values("_worst", ascending=False, kind="stable")[columns]
        .reset_index(drop=True)
    )
