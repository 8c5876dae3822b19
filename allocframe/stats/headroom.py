"""What tasks use of the CPU and memory that they reserve: percentiles, and what is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ._per_cluster import per_cluster
from ._source import group_rows, names

_UNITS = {"cpu": "mhz", "memory": "mib"}
_QUANTILES = {"p50": 0.5, "p95": 0.95, "max": 1.0}
_LIMITING = {"cpu": "p95", "memory": "max"}
"""The quantile that headroom starts from: a burst of CPU slows a task, one moment beyond memory kills it."""


@per_cluster
def headroom(
    samples: pd.DataFrame, by: str | Iterable[str] = ("namespace", "job_id", "task_group", "task")
) -> pd.DataFrame:
    """Return what tasks use of what they reserve, and what is left of it.

    Samples that a node took long before the others (`stale`), and those without a time, do not count; a
    sample that was read twice counts once.

    Parameters
    ----------
    samples : pandas.DataFrame
        What `Client.usage` returned as ``samples``.
    by : str or list of str
        Columns of it.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one with least memory headroom first: tasks, samples, first_at, last_at;
        cpu_requested_mhz (the largest request); cpu_p50_mhz, cpu_p95_mhz, cpu_max_mhz; cpu_p50_share,
        cpu_p95_share, cpu_max_share (used over requested); cpu_headroom (1 less cpu_p95_share); and the same
        for memory in MiB, where memory_headroom is 1 less memory_max_share. Negative headroom: more is used
        than requested. Missing: the driver does not measure it.

    Raises
    ------
    KeyError
        `samples` lacks a column, or one of `by`.

    Examples
    --------
    >>> table = af.stats.headroom(client.usage(snap).samples, by="job_id")
    >>> bool((table["memory_headroom"] == 1 - table["memory_max_share"]).all())
    True
    """
    keys = names(by)
    valid = samples[samples["at"].notna() & ~samples["stale"].fillna(False)]
    valid = valid.drop_duplicates(["alloc_id", "task", "at"])
    columns: dict[str, Any] = {"task_key": valid["alloc_id"] + "/" + valid["task"]}
    for resource, unit in _UNITS.items():
        columns[f"{resource}_share"] = valid[f"{resource}_{unit}"] / valid[f"{resource}_requested_{unit}"]
    grouped = group_rows(valid.assign(**columns), keys)
    table: pd.DataFrame = grouped.agg(
        tasks=("task_key", "nunique"),
        samples=("task_key", "size"),
        first_at=("at", "min"),
        last_at=("at", "max"),
    )
    for resource, unit in _UNITS.items():
        table[f"{resource}_requested_{unit}"] = grouped[f"{resource}_requested_{unit}"].max()
        for measure in (unit, "share"):
            for label, quantile in _QUANTILES.items():
                table[f"{resource}_{label}_{measure}"] = grouped[f"{resource}_{measure}"].quantile(quantile)
        table[f"{resource}_headroom"] = 1 - table[f"{resource}_{_LIMITING[resource]}_share"]
    return table.sort_values("memory_headroom", kind="stable").reset_index(drop=not keys)
