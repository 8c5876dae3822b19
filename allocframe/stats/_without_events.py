"""Allocations that failed before any event of a task: no rate can count them; they are reported apart."""

from __future__ import annotations

import narwhals as nw
import pandas as pd

from ..tables.run_ids import RUN_SUFFIX
from ._derived import derive
from ._source import Source, are_among, collect, has_table, pandas_table

_COLUMNS = (
    "alloc_id", "namespace", "job_id", "parent_job_id", "job_version", "task_group", "node_name", "node_id",
    "job_type", "name",
)  # fmt: skip


def count_without_events(source: Source, by: list[str]) -> pd.DataFrame | None:
    """Return for each group how many failed allocations show no failure among their events.

    None if `source` has no allocations, or if allocations do not have the columns of `by`.
    """
    if not has_table(source, "allocations") or not set(by) <= set(_COLUMNS):
        return None
    needed = dict.fromkeys([*by, "alloc_id", "client_status", "parent_job_id"])
    table = pandas_table(source, "allocations", *needed)
    if not {*by, "alloc_id", "client_status"} <= set(table.columns):
        return None
    table = table[table["client_status"].eq("failed").to_numpy(dtype=bool, na_value=False)]
    derived = derive(source)
    of_failures = derived.events.select(*derived.task_columns, "failure").filter(nw.col("failure")).unique()
    told = collect(derived.name_tasks(of_failures, "alloc_id").select("alloc_id"))
    table = table[~are_among(table["alloc_id"], told["alloc_id"].astype("str"))]
    keys = table[by].astype("str")
    if "job_id" in by:
        parent = keys["job_id"].str.replace(RUN_SUFFIX, "", regex=True)
        named = table["parent_job_id"].astype("str") if "parent_job_id" in table.columns else None
        keys["job_id"] = parent if named is None else named.fillna(parent)
    if not by:
        return pd.DataFrame({"without_events": [len(table)]})
    counts = keys.groupby(by, dropna=False).size().rename("without_events")
    return counts.reset_index()
