"""Nodes: what a lost one took with it, and which ones fail more than their jobs explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import facts
from ._per_cluster import apart
from ._source import Source, collected, looked_up, names, pandas_table, us
from .replacements import replacements

_OF_LOST = ("alloc_id", "client_status", "job_id", "job_type", "node_id", "node_name", "modified_at")


@apart
def blast_radius(source: Source) -> pd.DataFrame:
    """Say what was lost with each node that went down or out of reach.

    Parameters
    ----------
    source : Snapshot or mapping
        With the tables `allocations` and `task_states`.

    Returns
    -------
    pandas.DataFrame
        One row for each node with lost or unknown allocations: node_id, node_name, at (first loss, by the server's clock),
        lost (allocations), jobs, job_ids, replaced, unplaced (lost and not replaced, though not bound to that node),
        median_to_start and p90_to_start (from the loss to the start of the replacement's last task).

    Examples
    --------
    >>> lost = snap.allocations["client_status"] == "lost"
    >>> bool(af.stats.blast_radius(snap)["lost"].sum() == lost.sum())
    True
    """
    allocations = pandas_table(source, "allocations", *_OF_LOST)
    gone = allocations["client_status"].isin(["lost", "unknown"])
    lost = allocations[gone].assign(replaced_by=replacements(source)[gone])
    states = pandas_table(source, "task_states", "alloc_id", "started_at")
    started = states.groupby("alloc_id", observed=True)["started_at"].max()
    started.index = started.index.astype("str")
    lost["back_at"] = looked_up(lost["replaced_by"], started)
    everywhere = lost["job_type"].isin(["system", "sysbatch"])
    lost["unplaced"] = lost["replaced_by"].isna() & ~everywhere
    wait = lost["back_at"] - lost["modified_at"]
    lost["wait"] = wait.mask(wait < pd.Timedelta(0), pd.Timedelta(0))
    found = lost.groupby(["node_id", "node_name"], observed=True, dropna=False).agg(
        at=("modified_at", "min"), lost=("alloc_id", "size"), jobs=("job_id", "nunique"),
        job_ids=("job_id", lambda ids: sorted(set(ids.dropna().astype(str)))), replaced=("replaced_by", "count"),
        unplaced=("unplaced", "sum"), median_to_start=("wait", "median"), p90_to_start=("wait", lambda wait: wait.quantile(0.9)),
    )  # fmt: skip
    return found.sort_values("lost", ascending=False, kind="stable").reset_index()


@apart
def lemon_nodes(source: Source, *, by: str | Iterable[str] = ("namespace", "job_id", "task")) -> pd.DataFrame:
    """Compare the failures on each node with those that its mix of jobs makes likely.

    Indirect standardisation: each task has the failure risk of its stratum over the whole cluster, other nodes and this
    one. What is counted are tasks (of allocations) that failed at least once, so that one looping task makes no lemon.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str or list of str
        What makes up a stratum.

    Returns
    -------
    pandas.DataFrame
        One row for each node, the most suspicious first: node_name, tasks, observed, expected, ratio (standardised), lower,
        upper (exact 95 %), p (one-sided), lemon (p below 0.01 after correction for the number of nodes, at least 3 observed
        and ratio above 2). The ratio is missing where nothing was expected. `plots.funnel` draws it.

    References
    ----------
    Breslow and Day, Statistical Methods in Cancer Research II, 1987, 2.3; Spiegelhalter (2005) for the funnel.

    Examples
    --------
    >>> nodes = af.stats.lemon_nodes(snap)
    >>> bool(abs(nodes["observed"].sum() - nodes["expected"].sum()) < 1e-6)
    True
    """
    known = facts(source)
    strata = [by] if isinstance(by, str) else list(by)
    hit = (
        known.events.with_columns(_hit=nw.col("failure").cast(nw.Int64))
        .group_by(*known.given.task)
        .agg(nw.col("_hit").max().alias("hit"))
    )
    rows = collected(
        known.tasks.join(hit, on=known.given.task, how="left").select("node_name", *strata, "hit")
    )
    rows["hit"] = rows["hit"].fillna(0).astype("int64")
    for name in ("node_name", *strata):
        rows[name] = rows[name].astype("str")
    rows["risk"] = rows.groupby(strata, dropna=False)["hit"].transform("mean")
    found = (
        rows.groupby("node_name")
        .agg(tasks=("hit", "size"), observed=("hit", "sum"), expected=("risk", "sum"))
        .reset_index()
    )
    ratio, lower, upper = _confidence.poisson(found["observed"], found["expected"])
    p = np.array(
        [_confidence.at_least(o, e) for o, e in zip(found["observed"], found["expected"], strict=True)]
    )
    lemon = (p * max(len(found), 1) < 0.01) & (found["observed"] >= 3) & (np.nan_to_num(ratio) > 2)
    for name, values in {"ratio": ratio, "lower": lower, "upper": upper}.items():
        found[name] = pd.array(values, dtype="Float64")
    return (
        found.assign(p=p, lemon=lemon).sort_values(["p", "node_name"], kind="stable").reset_index(drop=True)
    )


def failure_ranking(
    source: Source, by: str = "job_id", *, since: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Rank jobs or nodes by their failures, from `since` on, with the share that the first ones make up together.

    Returns
    -------
    pandas.DataFrame
        The column `by`, failures, share, cumulative_share; the largest first. `plots.pareto` draws it. Of several clusters also
        `cluster`, and the shares are of the failures of all of them.

    Examples
    --------
    >>> float(af.stats.failure_ranking(snap)["cumulative_share"].iloc[-1])
    1.0
    """
    found = _failed(source, by, since).sort_values(
        "failures", ascending=False, kind="stable", ignore_index=True
    )
    total: Any = max(int(found["failures"].sum()), 1)
    return found.assign(share=found["failures"] / total, cumulative_share=found["failures"].cumsum() / total)


@apart
def _failed(source: Source, by: str | Iterable[str], since: pd.Timestamp | str | None) -> pd.DataFrame:
    """Count failures by a column, or all of them by none."""
    counted = nw.col("failure") if since is None else nw.col("failure") & (nw.col("time_us") >= us(since))
    rows = collected(facts(source).events.filter(counted).select("task", *names(by)))
    keys = rows[names(by)].astype("str").assign(_all=1)
    counts = keys.groupby([*names(by), "_all"], sort=False).size()
    return counts.reset_index(name="failures").drop(columns="_all")
