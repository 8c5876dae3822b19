"""How long tasks take to start, by phase, and how far the clocks of nodes are off."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _distributions as distributions
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, column_names, names

_TOTAL = "received to started"
_PLACED = "placed to received"


@per_cluster
def start_latency(source: Source, by: str | Iterable[str] = "job_id") -> pd.DataFrame:
    """Return how long tasks took to start the first time, by phase: median and 95th percentile.

    A phase lasts from one event to the next: "Downloading Artifacts" until the download ends, "Driver" while
    an image is pulled. "received to started" is the whole on the node; "placed to received" is measured by
    two clocks (see `clock_offset`). Tasks with a truncated event history have lost their start and are left
    out.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str or list of str
        Columns of the events, such as ``"job_id"`` or ``["job_id", "node_name"]``.

    Returns
    -------
    pandas.DataFrame
        One row for each group and phase, in order of the phases' medians: the columns of `by`, phase, n
        (tasks), p50, p50_lower, p50_upper, p95, p95_lower, p95_upper (timedelta64[ns]; 95 % intervals by
        order statistics, missing on a side that too few tasks reach), not_started (tasks that wait now), and
        left_out (tasks with a truncated event history).

    References
    ----------
    David and Nagaraja, Order Statistics, 2003, 7.1 (intervals of quantiles).

    Examples
    --------
    >>> phases = af.stats.start_latency(snap, by=[])
    >>> "received to started" in set(phases["phase"])
    True
    """
    keys, derived = names(by), derive(source)
    have = column_names(derived.tasks)
    created = [name for name in ("created_at_us",) if name in have]
    tasks = collect(
        derived.tasks.select(
            *dict.fromkeys([*derived.task_columns, *keys, "truncated", "first_seen_us", *created])
        )
    )
    tasks["row"] = np.arange(len(tasks))
    first = derived.events.filter(nw.col("attempt") == 0).select(
        *derived.task_columns, "seq", "type", "time_us"
    )
    events = collect(first).merge(tasks[[*derived.task_columns, "row", "truncated"]], on=derived.task_columns)
    events = events[~events["truncated"].astype(bool)].sort_values(["row", "seq"], kind="stable")
    is_start = events["type"] == "Started"
    before_start = is_start.groupby(events["row"]).cumsum() - is_start.astype("int64") == 0
    events = events[before_start]
    started_rows = events.loc[events["type"] == "Started", "row"]
    until = events.groupby("row")["time_us"].shift(-1)
    events["us"] = (until - events["time_us"]).clip(lower=0)
    did = events[events["row"].isin(started_rows) & events["us"].notna()]
    phases = (
        did.groupby(["row", did["type"].astype("str")])["us"]
        .sum()
        .rename_axis(["row", "phase"])
        .reset_index()
    )
    totals = phases.groupby("row", as_index=False)["us"].sum().assign(phase=_TOTAL)
    parts = [phases, totals]
    if created:
        received = tasks.set_index("row").loc[started_rows]
        gap = (
            received["first_seen_us"].astype("float64") - received["created_at_us"].astype("float64")
        ).dropna()
        parts.append(pd.DataFrame({"row": gap.index, "us": gap.to_numpy(), "phase": _PLACED}))
    table = pd.concat(parts, ignore_index=True).merge(tasks[["row", *dict.fromkeys(keys)]], on="row")
    rows = [
        [*group[: len(keys)], group[-1], len(part), *_quantiles(part["us"].to_numpy(dtype="float64"))]
        for group, part in table.groupby([*keys, "phase"], observed=True, dropna=False, sort=False)
    ]
    times = [f"p{share}{bound}" for share in (50, 95) for bound in ("", "_lower", "_upper")]
    result = pd.DataFrame(rows, columns=[*keys, "phase", "n", *times])
    for name in times:
        result[name] = pd.to_timedelta(result[name].astype("float64"), unit="us").astype("timedelta64[ns]")
    waiting = tasks[~tasks["truncated"].astype(bool) & ~tasks["row"].isin(started_rows)]
    for name, part in (("not_started", waiting), ("left_out", tasks[tasks["truncated"].astype(bool)])):
        result[name] = _count(part, result, keys)
    return result.sort_values([*keys, "p50"], kind="stable", ignore_index=True)


def _count(tasks: pd.DataFrame, result: pd.DataFrame, keys: list[str]) -> Any:
    """Return how many of `tasks` each group of the result has."""
    if not keys:
        return len(tasks)
    counts = tasks.groupby(keys, observed=True, dropna=False).size().rename("n").reset_index()
    joined = result[keys].astype("str").merge(counts.astype(dict.fromkeys(keys, "str")), on=keys, how="left")
    return joined["n"].fillna(0).astype("int64").to_numpy()


def _quantiles(values: Any) -> list[float]:
    """Return median and 95th percentile with intervals by order statistics."""
    ordered, n = np.sort(values), len(values)
    result: list[float] = []
    for share in (0.5, 0.95):
        low, high = (int(distributions.binom_ppf(tail, n, share)) for tail in (0.025, 0.975))
        result += [
            float(np.quantile(ordered, share, method="higher")),
            float(ordered[low - 1]) if low >= 1 else float("nan"),
            float(ordered[high]) if high < n else float("nan"),
        ]
    return result


@per_cluster
def clock_offset(source: Source, *, limit: str = "2s") -> pd.DataFrame:
    """Return how far the clock of each node is off from that of the servers.

    A node receives an allocation after the servers created it. Where `Received` comes before, the node's
    clock is behind by at least that much; where even the quickest took longer than on most nodes, it is
    probably ahead.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the tables `events` and `allocations`.
    limit : str
        The offset from which on a node is marked.

    Returns
    -------
    pandas.DataFrame
        One row for each node, the one that is off most first: node_name, allocations (whose `Received` is
        left), offset (timedelta64[ns]: the smallest time from creation to `Received`; negative: the clock is
        behind), median, and off (bool: behind by more than `limit`, or ahead of the median node by more than
        that, by three allocations or more).

    Raises
    ------
    TypeError
        `source` holds no `allocations`.

    Examples
    --------
    >>> bool(af.stats.clock_offset(snap)["off"].any())
    False
    """
    derived = derive(source)
    columns = ["offset", "median"]
    if "created_at_us" not in column_names(derived.tasks):
        raise TypeError("source must hold the table 'allocations' with the column created_at")
    received = derived.events.filter(nw.col("type") == "Received").select(*derived.task_columns, "time_us")
    named = derived.tasks.select(
        *dict.fromkeys([*derived.task_columns, "alloc_id", "node_name", "created_at_us"])
    )
    rows = collect(received.join(named, on=derived.task_columns, how="left"))
    gap = rows["time_us"].astype("float64") - rows["created_at_us"].astype("float64")
    rows = rows.assign(gap=gap).dropna(subset=["gap"])
    nodes = rows.groupby("node_name", observed=True).agg(
        allocations=("alloc_id", "nunique"), offset=("gap", "min"), median=("gap", "median")
    )
    limit_us = pd.Timedelta(limit) / pd.Timedelta(microseconds=1)
    # to receive an allocation takes time, more in a busy cluster: only beyond that of most nodes it is ahead
    ahead = (nodes["offset"] - max(float(nodes["offset"].median()), 0.0) > limit_us) & (len(nodes) >= 3)
    nodes["off"] = ((nodes["offset"] < -limit_us) | ahead) & (nodes["allocations"] >= 3)
    nodes = nodes.sort_values("offset", key=np.abs, ascending=False, kind="stable").reset_index()
    for name in columns:
        nodes[name] = pd.to_timedelta(nodes[name], unit="us").astype("timedelta64[ns]")
    return nodes
