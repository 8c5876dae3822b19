"""Runs of periodic and parameterized jobs, and the run time that failed batch work has wasted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ..tables.run_ids import RUN_SUFFIX
from . import _confidence
from . import _distributions as distributions
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, from_us, group_rows, look_up, names, pandas_table, us
from .replacements import slots
from .runs import build_runs
from .vocabulary import FINISHED_STATUSES

_ALLOCATIONS = (
    "alloc_id", "namespace", "name", "job_id", "task_group", "job_type", "node_id", "client_status",
    "desired_status", "created_at", "modified_at", "previous_alloc_id",
)  # fmt: skip


@per_cluster
def job_runs(source: Source) -> pd.DataFrame:
    """Count the runs of each periodic or parameterized job: how many failed, and how the last ones went.

    A run is a child job (``backup/periodic-...``). It succeeded if the last allocation of each of its
    instances completed, even after retries, and failed if one of them failed or was lost and nothing replaced
    it. Servers remove ended runs after some hours: the share is of those that are left.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.

    Returns
    -------
    pandas.DataFrame
        One row for each parent, the one with most failed runs first: namespace, job_id, runs, succeeded,
        failed, going_on, failed_share (of those that ended), lower, upper (Wilson's 95 %), streak (of the
        last ended runs: 3 for three successes in a row, -2 for two failures), last_result ("succeeded" or
        "failed"), last_at (creation of the last run that ended), retries (allocations beyond one for each
        instance), median_duration (timedelta64[ns], of those that ended), window_start, window_end.

    Raises
    ------
    TypeError
        `source` holds no `allocations`.

    Examples
    --------
    >>> runs = af.stats.job_runs(snap)
    >>> bool((runs["runs"] == runs["succeeded"] + runs["failed"] + runs["going_on"]).all())
    True
    """
    allocations = pandas_table(source, "allocations", *_ALLOCATIONS)
    child = allocations["job_id"].astype("str")
    parent = child.str.replace(RUN_SUFFIX, "", regex=True)
    table = allocations.assign(child=child, parent=parent, slot=slots(allocations))[
        (child != parent).to_numpy()
    ]
    columns = [
        "namespace", "job_id", "runs", "succeeded", "failed", "going_on", "failed_share", "lower", "upper",
        "streak", "last_result", "last_at", "retries", "median_duration", "window_start", "window_end",
    ]  # fmt: skip
    if table.empty:
        return pd.DataFrame({name: pd.Series(dtype="object") for name in columns})
    rows = []
    by_job = _child_runs(table).groupby(["namespace", "parent"], observed=True, dropna=False)
    for (namespace, job), part in by_job:
        ended = part[part["result"] != "going on"].sort_values("created_at", kind="stable")
        failed = int((ended["result"] == "failed").sum())
        share, lower, upper = (float(value) for value in _confidence.wilson(failed, len(ended)))
        last = ended.iloc[-1] if len(ended) else None
        rows.append(
            [
                namespace if isinstance(namespace, str) else None, str(job),
                len(part), len(ended) - failed, failed, len(part) - len(ended),
                share, lower, upper, _streak(ended["result"]),
                None if last is None else last["result"], pd.NaT if last is None else last["created_at"],
                int(part["retries"].sum()), ended["duration"].median(), part["created_at"].min(),
                from_us(derive_observed(source, allocations)),
            ]
        )  # fmt: skip
    result = pd.DataFrame(rows, columns=columns)
    return result.sort_values("failed", ascending=False, kind="stable", ignore_index=True)


def derive_observed(source: Source, allocations: pd.DataFrame) -> int:
    """Return the end of observation; of allocations alone, their last change."""
    try:
        return derive(source).observed_us
    except TypeError:
        return us(allocations["modified_at"].max())


def _child_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each run: how it ended, when it was created, and how long it took."""
    order = table.sort_values("created_at", kind="stable")
    keys = ["namespace", "parent", "child"]
    last = order.drop_duplicates([*keys, "slot"], keep="last")
    status = last["client_status"].astype("str")
    failed, going = status.isin(["failed", "lost"]), ~status.isin(FINISHED_STATUSES)
    results = last.assign(failed=failed, going=going).groupby(keys, observed=True, dropna=False)
    runs = results.agg(failed=("failed", "any"), going=("going", "any"), slots=("slot", "size"))
    whole = order.groupby(keys, observed=True, dropna=False)
    runs = runs.join(
        whole.agg(created_at=("created_at", "min"), ended_at=("modified_at", "max"), n=("slot", "size"))
    )
    runs["result"] = np.where(runs["going"], "going on", np.where(runs["failed"], "failed", "succeeded"))
    runs["retries"] = runs["n"] - runs["slots"]
    runs["duration"] = runs["ended_at"] - runs["created_at"]
    return runs.reset_index()


def _streak(results: pd.Series[Any]) -> int:
    """Return how many of the last results are equal; negative for failures."""
    if results.empty:
        return 0
    different = np.flatnonzero((results != results.iloc[-1]).to_numpy())
    length = len(results) - (int(different[-1]) + 1 if len(different) else 0)
    return length if results.iloc[-1] == "succeeded" else -length


@per_cluster
def wasted_time(source: Source, by: str | Iterable[str] = "job_id") -> pd.DataFrame:
    """Return the run time of batch tasks that came to nothing, because the run failed or was lost.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the tables `events` and `allocations`.
    by : str or list of str
        Columns of `runs`.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one that wasted most first: the columns of `by`, runs, failed_runs,
        total_hours, wasted_hours, share (0 to 1), lower, upper (95 %, of a ratio of sums, by its linearised
        variance; missing with fewer than two runs), and truncated_share (of runs in truncated event
        histories, which have lost some). Work that a task had saved before it failed counts as wasted, too.

    References
    ----------
    Cochran, Sampling Techniques, 1977, 6.3 (ratio estimate).

    Examples
    --------
    >>> wasted = af.stats.wasted_time(snap)
    >>> bool(wasted["share"].dropna().between(0, 1).all())
    True
    """
    keys = names(by)
    allocations = pandas_table(source, "allocations", "alloc_id", "job_type").drop_duplicates("alloc_id")
    kinds = allocations["job_type"].astype("str").set_axis(allocations["alloc_id"].astype("str").to_numpy())
    runs = build_runs(source)
    batch = runs[look_up(runs["alloc_id"], kinds).isin(["batch", "sysbatch"]).to_numpy(dtype=bool)]
    hours = batch["duration"].dt.total_seconds() / 3600
    wasted = batch["failure"] | (batch["end"] == "lost")
    table = batch.assign(total_hours=hours, wasted_hours=hours.where(wasted, 0.0), wasted=wasted)
    grouped = group_rows(table, keys)
    result: pd.DataFrame = grouped.agg(
        runs=("total_hours", "size"), failed_runs=("wasted", "sum"), total_hours=("total_hours", "sum"),
        wasted_hours=("wasted_hours", "sum"), truncated_share=("cut", "mean"),
    )  # fmt: skip
    share = result["wasted_hours"] / result["total_hours"].where(result["total_hours"] > 0)
    # the variance of a ratio of sums is that of the residuals of its numerator
    own_share = grouped["wasted_hours"].transform("sum") / grouped["total_hours"].transform("sum")
    residual = (table["wasted_hours"] - own_share * table["total_hours"]) ** 2
    squares = group_rows(table.assign(residual=residual), keys)["residual"].sum()
    n = result["runs"]
    deviation = np.sqrt(squares * n / (n - 1).where(n > 1)) / result["total_hours"].where(
        result["total_hours"] > 0
    )
    width = float(distributions.norm_ppf(0.975)) * deviation
    bounds = {"share": share, "lower": (share - width).clip(lower=0), "upper": (share + width).clip(upper=1)}
    for name, values in bounds.items():
        result[name] = values.astype("Float64")
    order = [
        "runs",
        "failed_runs",
        "total_hours",
        "wasted_hours",
        "share",
        "lower",
        "upper",
        "truncated_share",
    ]
    return (
        result[order].sort_values("wasted_hours", ascending=False, kind="stable").reset_index(drop=not keys)
    )
