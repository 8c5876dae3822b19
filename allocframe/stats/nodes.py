"""Nodes: what a lost one took with it, and which ones fail more than their jobs explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, look_up, names, pandas_table, us
from .replacements import replacements
from .vocabulary import LOST_STATUSES, NODE_BOUND_JOB_TYPES

_LOST_COLUMNS = ("alloc_id", "client_status", "job_id", "job_type", "node_id", "node_name", "modified_at")

_LEMON_P, _LEMON_FAILED_TASKS, _LEMON_RATIO = 0.01, 3, 2
"""A lemon has a corrected p below the first, at least as many failed tasks, and a ratio above the last."""


@per_cluster
def blast_radius(source: Source) -> pd.DataFrame:
    """Return what was lost with each node that went down or out of reach.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the tables `allocations` and `task_states`.

    Returns
    -------
    pandas.DataFrame
        One row for each node with lost or unknown allocations, the one with most first: node_id, node_name,
        at (first loss, by the servers' clock), lost (allocations), jobs, job_ids, replaced, unplaced (not
        replaced, though the job is not bound to that node), median_to_start and p90_to_start
        (timedelta64[ns]; from the loss to the start of the replacement's last task).

    Raises
    ------
    TypeError
        `source` lacks one of the tables.

    Examples
    --------
    >>> lost = snap.allocations["client_status"] == "lost"
    >>> bool(af.stats.blast_radius(snap)["lost"].sum() == lost.sum())
    True
    """
    allocations = pandas_table(source, "allocations", *_LOST_COLUMNS)
    is_lost = allocations["client_status"].isin(LOST_STATUSES)
    lost = allocations[is_lost].assign(replaced_by=replacements(source)[is_lost])
    states = pandas_table(source, "task_states", "alloc_id", "started_at")
    started = states.groupby("alloc_id", observed=True)["started_at"].max()
    started.index = started.index.astype("str")
    node_bound = lost["job_type"].isin(NODE_BOUND_JOB_TYPES)
    lost["unplaced"] = lost["replaced_by"].isna() & ~node_bound
    wait = look_up(lost["replaced_by"], started) - lost["modified_at"]
    # servers and nodes have clocks of their own: a replacement cannot have started before the loss
    lost["wait"] = wait.mask(wait < pd.Timedelta(0), pd.Timedelta(0))
    radius = lost.groupby(["node_id", "node_name"], observed=True, dropna=False).agg(
        at=("modified_at", "min"), lost=("alloc_id", "size"), jobs=("job_id", "nunique"),
        job_ids=("job_id", lambda ids: sorted(set(ids.dropna().astype(str)))),
        replaced=("replaced_by", "count"), unplaced=("unplaced", "sum"),
        median_to_start=("wait", "median"), p90_to_start=("wait", lambda wait: wait.quantile(0.9)),
    )  # fmt: skip
    return radius.sort_values("lost", ascending=False, kind="stable").reset_index()


@per_cluster
def lemon_nodes(source: Source, *, by: str | Iterable[str] = ("namespace", "job_id", "task")) -> pd.DataFrame:
    """Compare the failures on each node with those that its mix of jobs makes likely.

    Raw counts only find the largest node, so they are standardised (indirectly): every task has the failure
    risk of its stratum over the whole cluster, and a node's expectation is the sum over its tasks. Tasks of
    allocations that failed at least once are counted, so that one looping task makes no lemon.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str or list of str
        Columns that make up a stratum.

    Returns
    -------
    pandas.DataFrame
        One row for each node, the most suspicious first: node_name, tasks, observed and expected (failed
        tasks), ratio (observed over expected; missing if nothing was expected), lower, upper (exact 95 %), p
        (one-sided), lemon (p below 0.01 after correction for the number of nodes, at least 3 observed, and
        ratio above 2). `plots.funnel` draws it.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    References
    ----------
    Breslow and Day, Statistical Methods in Cancer Research II, 1987, 2.3; Spiegelhalter, Statistics in
    Medicine 24, 2005, for the funnel plot.

    Examples
    --------
    >>> nodes = af.stats.lemon_nodes(snap)
    >>> bool(abs(nodes["observed"].sum() - nodes["expected"].sum()) < 1e-6)
    True
    """
    derived = derive(source)
    strata = names(by)
    failed = (
        derived.events.with_columns(_failed=nw.col("failure").cast(nw.Int64))
        .group_by(*derived.task_columns)
        .agg(nw.col("_failed").max().alias("failed"))
    )
    tasks = collect(
        derived.tasks.join(failed, on=derived.task_columns, how="left").select("node_name", *strata, "failed")
    )
    tasks["failed"] = tasks["failed"].fillna(0).astype("int64")
    for name in ("node_name", *strata):
        tasks[name] = tasks[name].astype("str")
    tasks["risk"] = tasks.groupby(strata, dropna=False)["failed"].transform("mean")
    nodes = (
        tasks.groupby("node_name")
        .agg(tasks=("failed", "size"), observed=("failed", "sum"), expected=("risk", "sum"))
        .reset_index()
    )
    ratio, lower, upper = _confidence.poisson(nodes["observed"], nodes["expected"])
    p = np.array(
        [
            _confidence.poisson_tail(observed, expected)
            for observed, expected in zip(nodes["observed"], nodes["expected"], strict=True)
        ]
    )
    # Bonferroni: with many nodes some are unlucky by chance
    improbable = p * max(len(nodes), 1) < _LEMON_P
    lemon = improbable & (nodes["observed"] >= _LEMON_FAILED_TASKS) & (np.nan_to_num(ratio) > _LEMON_RATIO)
    for name, values in {"ratio": ratio, "lower": lower, "upper": upper}.items():
        nodes[name] = pd.array(values, dtype="Float64")
    return (
        nodes.assign(p=p, lemon=lemon).sort_values(["p", "node_name"], kind="stable").reset_index(drop=True)
    )


def failure_ranking(
    source: Source, by: str = "job_id", *, since: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Rank jobs or nodes by their failures, with the share that the first ones make up.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str
        A column of the events, such as ``"job_id"`` or ``"node_name"``.
    since : time, optional
        Count failures from then on; without an offset it is UTC.

    Returns
    -------
    pandas.DataFrame
        One row for each value, the one with most failures first: the column `by`, failures, share,
        cumulative_share (0 to 1). `plots.pareto` draws it. For several clusters also `cluster`; the shares
        are then of the failures of all of them.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> float(af.stats.failure_ranking(snap)["cumulative_share"].iloc[-1])
    1.0
    """
    ranking = _count_failures(source, by, since).sort_values(
        "failures", ascending=False, kind="stable", ignore_index=True
    )
    total: Any = max(int(ranking["failures"].sum()), 1)
    return ranking.assign(
        share=ranking["failures"] / total, cumulative_share=ranking["failures"].cumsum() / total
    )


@per_cluster
def _count_failures(
    source: Source, by: str | Iterable[str], since: pd.Timestamp | str | None
) -> pd.DataFrame:
    """Count failures by columns; without any, all together."""
    counted = nw.col("failure") if since is None else nw.col("failure") & (nw.col("time_us") >= us(since))
    derived = derive(source)
    named = derived.tasks.select(*dict.fromkeys([*derived.task_columns, *names(by)]))
    rows = collect(
        derived.events.filter(counted)
        .select(*derived.task_columns)
        .join(named, on=derived.task_columns, how="left")
    )
    keys = rows[names(by)].astype("str").assign(_all=1)
    counts = keys.groupby([*names(by), "_all"], sort=False).size()
    return counts.reset_index(name="failures").drop(columns="_all")
