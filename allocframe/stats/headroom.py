"""What tasks use of what they were given: percentiles, and what is left."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from ._per_cluster import apart
from ._source import grouped, names

_RESOURCES = (("cpu", "mhz"), ("memory", "mib"))
_QUANTILES = (("p50", 0.5), ("p95", 0.95), ("max", 1.0))


@apart
def headroom(
    samples: pd.DataFrame, by: str | Iterable[str] = ("namespace", "job_id", "task_group", "task")
) -> pd.DataFrame:
    """Say what is used of what was given, and what is left of it.

    Samples that a node took long before the others (`stale`), or has none of, do not count; one that was read twice counts once.

    Parameters
    ----------
    samples : pandas.DataFrame
        What `Client.usage` returned as ``samples``.
    by : str or list of str
        Columns of it.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the least memory headroom first: tasks, samples, first_at, last_at; cpu_requested_mhz (the largest request),
        cpu_p50_mhz, cpu_p95_mhz, cpu_max_mhz, cpu_p50_share, cpu_p95_share, cpu_max_share (used over requested, 1.0 is all of it),
        cpu_headroom (1 less cpu_p95_share: a burst of CPU slows, no more); the same of memory in MiB, where memory_headroom is 1 less
        memory_max_share: one moment beyond it kills. Negative: more than requested. Missing: the driver does not measure it.

    Examples
    --------
    >>> table = af.stats.headroom(client.usage(snap).samples, by="job_id")
    >>> bool((table["memory_headroom"] == 1 - table["memory_max_share"]).all())
    True
    """
    keys = names(by)
    told = samples[samples["at"].notna() & ~samples["stale"].fillna(False)]
    told = told.drop_duplicates(["alloc_id", "task", "at"])
    columns: dict[str, Any] = {"task_key": told["alloc_id"] + "/" + told["task"]}
    for what, unit in _RESOURCES:
        columns[f"{what}_share"] = told[f"{what}_{unit}"] / told[f"{what}_requested_{unit}"]
    mine = grouped(told.assign(**columns), keys)
    found: pd.DataFrame = mine.agg(
        tasks=("task_key", "nunique"),
        samples=("task_key", "size"),
        first_at=("at", "min"),
        last_at=("at", "max"),
    )
    for what, unit in _RESOURCES:
        found[f"{what}_requested_{unit}"] = mine[f"{what}_requested_{unit}"].max()
        for column, ending in ((f"{what}_{unit}", unit), (f"{what}_share", "share")):
            for label, quantile in _QUANTILES:
                found[f"{what}_{label}_{ending}"] = mine[column].quantile(quantile)
        found[f"{what}_headroom"] = 1 - found[f"{what}_{'p95' if what == 'cpu' else 'max'}_share"]
    return found.sort_values("memory_headroom", kind="stable").reset_index(drop=not keys)
