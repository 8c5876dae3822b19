"""Nodes: what a lost one took with it, and which ones fail more than their jobs explain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from . import _distributions as distributions
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, column_names, look_up, names, pandas_table, rank_texts, us
from .replacements import replacements
from .runs import categorise_slots
from .vocabulary import LOST_STATUSES, NODE_BOUND_JOB_TYPES

_LOST_COLUMNS = ("alloc_id", "client_status", "job_id", "job_type", "node_id", "node_name", "modified_at")

_LEMON_P, _LEMON_FAILED_TASKS, _LEMON_RATIO = 0.01, 3, 2
"""A lemon has a corrected p below the first, at least as many failed instances as the second, and a ratio
above the third."""


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
        replaced, though the job is not bound to that node), waiting (not started again yet, though the job is
        not bound to that node), median_to_start and p90_to_start (timedelta64[ns]; from the loss to the start
        of the replacement's last task, over all that must start again; missing if too many still wait).

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
    lost["wait"] = wait.mask(wait < pd.Timedelta(0), pd.Timedelta(0)).dt.total_seconds()
    lost["needed"] = ~node_bound
    lost["waiting"] = lost["wait"].isna() & ~node_bound
    keys = ["node_id", "node_name"]
    radius = lost.groupby(keys, observed=True, dropna=False).agg(
        at=("modified_at", "min"), lost=("alloc_id", "size"), jobs=("job_id", "nunique"),
        job_ids=("job_id", lambda ids: sorted(set(ids.dropna().astype(str)))),
        replaced=("replaced_by", "count"), unplaced=("unplaced", "sum"), waiting=("waiting", "sum"),
    )  # fmt: skip
    # what still waits takes longer than all that do not: a quantile that falls there is not reached yet
    waits = lost[lost["needed"]].assign(wait=lambda rows: rows["wait"].fillna(np.inf))
    by_node = waits.groupby(keys, observed=True, dropna=False)["wait"]
    for name, share in (("median_to_start", 0.5), ("p90_to_start", 0.9)):
        seconds = by_node.quantile(share, interpolation="lower").reindex(radius.index)
        radius[name] = pd.to_timedelta(seconds.replace(np.inf, np.nan), unit="s").astype("timedelta64[ns]")
    return radius.sort_values("lost", ascending=False, kind="stable").reset_index()


@per_cluster
def lemon_nodes(
    source: Source, *, by: str | Iterable[str] = ("namespace", "job_id", "job_version", "task")
) -> pd.DataFrame:
    """Compare the failures on each node with those of the same jobs on other nodes.

    Each instance of a task (a slot, however often it was rescheduled) counts on each node that it ran on:
    until its first failure there, or as long as it was there without one. At each first failure, every
    instance of the same stratum that was on its node for that long was equally likely to be the one, if the
    node does not matter. Nodes with young allocations, or many of them, are not suspicious for that.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str or list of str
        Columns that make up a stratum.

    Returns
    -------
    pandas.DataFrame
        One row for each node, the most suspicious first: node_name, tasks (instances), observed (instances
        that failed), expected (if the node were like the others of its strata: the node itself is left out;
        missing if its jobs ran nowhere else), ratio (of the hazard to that of the other nodes; infinite if
        nothing failed there), lower, upper (exact conditional 95 %), p (one-sided, an upper bound), p_holm (p
        corrected for the number of nodes by Holm's method), lemon (p_holm below 0.01, at least 3 observed,
        and ratio above 2). `plots.funnel` draws it.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Notes
    -----
    This is a log-rank test of each node against the others, stratified. Given who was at risk, the number of
    failures on a node is a sum of independent Bernoulli variables of known chances. Its upper tail is bounded
    by that of the binomial distribution with the mean chance (Hoeffding, Annals of Mathematical Statistics
    27, 1956), so that no test claims too much.

    Examples
    --------
    >>> nodes = af.stats.lemon_nodes(snap)
    >>> bool(nodes["p"].between(0, 1).all())
    True
    """
    strata = names(by)
    instances, node_names = _first_failures(source, strata)
    pairs = _expected_by_node(instances)
    nodes = instances.groupby("node", sort=True).agg(tasks=("failed", "size"), observed=("failed", "sum"))
    sums = pairs.groupby("node")[["mean", "chances", "own"]].sum().reindex(nodes.index).fillna(0.0)
    observed, mean, trials = sums["own"].to_numpy(), sums["mean"].to_numpy(), sums["chances"].to_numpy()
    others, other_mean = trials - observed, trials - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(other_mean > 0, others * mean / other_mean, np.nan)
        chance = np.where(trials > 0, mean / trials, 0.0)
        p = distributions.binom_sf(observed - 1, trials, chance)
    # the bound holds from one above the mean on; below it nothing is suspicious
    p = np.where(observed >= mean + 1, p, 1.0)
    ratio, lower, upper = _confidence.rate_ratio(observed, mean, others, other_mean)
    nodes["expected"] = pd.array(expected, dtype="Float64")
    for name, values in {"ratio": ratio, "lower": lower, "upper": upper}.items():
        nodes[name] = pd.array(values, dtype="Float64")
    nodes["p"], nodes["p_holm"] = p, _holm(p)
    high = np.nan_to_num(ratio, nan=0.0) > _LEMON_RATIO
    nodes["lemon"] = (nodes["p_holm"] < _LEMON_P) & (nodes["observed"] >= _LEMON_FAILED_TASKS) & high
    named = pd.Series([node_names[number] for number in nodes.index], dtype="str")
    nodes = nodes.reset_index(drop=True)
    nodes.insert(0, "node_name", named)
    return nodes.sort_values(["p", "node_name"], kind="stable").reset_index(drop=True)


def _first_failures(source: Source, strata: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Return each instance on each node: its stratum, the time to its first failure there, and whether.

    Also return the names of the nodes, which are numbered.
    """
    derived = derive(source)
    columns = list(dict.fromkeys([*derived.task_columns, "alloc_id", "node_name", *strata, "first_seen_us"]))
    have = column_names(derived.tasks)
    columns += [name for name in ("truncated", "created_at_us") if name in have]
    kept = list(dict.fromkeys(["alloc_id", "node_name", *strata]))
    parts = []
    for part in derived.split():
        failed = (
            part.events.filter(nw.col("failure"))
            .group_by(*derived.task_columns)
            .agg(nw.col("time_us").min().alias("failed_us"))
        )
        ended = part.spans.group_by(*derived.task_columns).agg(nw.col("end_us").max().alias("last_us"))
        named = part.tasks.select(*columns).join(failed, on=derived.task_columns, how="left")
        rows = collect(named.join(ended, on=derived.task_columns, how="left"))
        parts.append(rows[kept].assign(**_ages(rows, derived.observed_us)))
    tasks = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    del parts, rows
    stratum = tasks.groupby(strata, dropna=False, sort=False, observed=True).ngroup() if strata else 0
    # ranks of texts take a tenth of their memory and time
    table = pd.DataFrame(
        {
            "stratum": stratum,
            "node": rank_texts(tasks["node_name"]),
            "slot": categorise_slots(source, tasks).cat.codes.to_numpy(),
            **{name: tasks.pop(name).to_numpy() for name in ("_age", "_failed", "_begin")},
        }
    )
    table = table.rename(columns={"_age": "age", "_failed": "failed", "_begin": "begin"})
    node_names = sorted(tasks["node_name"].dropna().astype("str").unique())
    del tasks
    table = table[(table["node"] >= 0) & (table["slot"] >= 0)]
    # a slot that came to one node several times is one instance there: its ages follow each other
    keys_ = ["stratum", "node", "slot"]
    table = table.sort_values([*keys_, "begin"], kind="stable")
    before = table.groupby(keys_, sort=False)["failed"].cumsum() - table["failed"]
    instances = (
        table[before == 0]
        .groupby(keys_, sort=False, as_index=False)
        .agg(age=("age", "sum"), failed=("failed", "max"))
    )
    # a program that crashes at the same point each time does so a little later on a busy node: ages that are
    # within a quarter of each other are equal, and so are all below 20 s
    steps = np.log(np.maximum(instances["age"] / 20e6, 1.0)) / np.log(1.25)
    return instances.assign(age=np.ceil(steps)), node_names


def _ages(tasks: pd.DataFrame, observed_us: int) -> dict[str, Any]:
    """Return of each task when it began, the time to its first failure or its end, and whether it failed."""
    seen = tasks["first_seen_us"].astype("float64")
    # by the node's own clock if its first event is left: the servers' may be seconds off
    placed = tasks["created_at_us"].astype("float64").fillna(seen) if "created_at_us" in tasks else seen
    begin = seen.where(~tasks["truncated"].astype(bool), placed)
    last_us = tasks["last_us"].astype("float64")
    end = tasks["failed_us"].astype("float64").fillna(last_us).fillna(float(observed_us))
    failed = tasks["failed_us"].notna().astype("int64")
    return {"_age": np.maximum(end - begin, 1.0), "_failed": failed, "_begin": begin}


def _expected_by_node(instances: pd.DataFrame) -> pd.DataFrame:
    """Return of each stratum and node the failures expected if nodes do not matter, the trials and its own.

    Each first failure is a trial for the nodes that had an instance at risk then. The cumulated hazard of the
    stratum at the age of each instance is its part of the expectation, so no pair is looked at twice.
    """
    rows = instances.sort_values(["stratum", "age"], kind="stable", ignore_index=True)
    size = rows.groupby("stratum")["age"].transform("size")
    # ties: all that reach an age are at risk at it
    rank = rows.groupby("stratum")["age"].rank(method="min")
    at_risk = size - rank + 1
    rows["step"] = rows["failed"] / at_risk
    cumulated = rows.groupby("stratum")[["step", "failed"]].cumsum()
    keys = [rows["stratum"], rows["age"]]
    rows["hazard"] = cumulated["step"].groupby(keys).transform("max")
    rows["events"] = cumulated["failed"].groupby(keys).transform("max")
    pairs = rows.groupby(["stratum", "node"], sort=False, as_index=False).agg(
        mean=("hazard", "sum"), chances=("events", "max"), own=("failed", "sum"), instances=("age", "size")
    )
    # a job that runs on one node only tells nothing about the node
    total = pairs.groupby("stratum")["instances"].transform("sum")
    return pairs[pairs["instances"] < total]


def _holm(p: Any) -> Any:
    """Return p-values corrected by Holm's method: the family-wise error stays below the level."""
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(np.minimum(p[order] * (len(p) - np.arange(len(p))), 1.0))
    result = np.empty(len(p))
    result[order] = corrected
    return result


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
    counts = keys.groupby([*names(by), "_all"], sort=False, dropna=False).size()
    return counts.reset_index(name="failures").drop(columns="_all")
