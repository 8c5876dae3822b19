"""Runs of tasks: how long they lasted and how they ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .._utils.memory import MANY_ROWS, release_memory
from ..snapshot.snapshot import Snapshot
from ..tables.run_ids import RUN_SUFFIX
from ._derived import PART_ROWS, Derived, derive, share
from ._per_cluster import per_cluster
from ._source import (
    Source,
    collect,
    column_names,
    has_table,
    look_up,
    pandas_table,
    rank_texts,
    take_rows,
    times_from_us,
)
from .replacements import SLOT_COLUMNS, slots
from .vocabulary import CAUSES, LOST

_COLUMNS = [
    "namespace", "job_id", "job_version", "task_group", "slot", "task", "alloc_id", "node_name", "attempt",
    "started_at", "ended_at", "duration", "end", "failure", "left_truncated", "right_censored", "skewed",
    "cut", "counted_from",
]  # fmt: skip


@per_cluster
def runs(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the runs of every task, from `Started` to the end, as far as the ring and the present show them.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        With `allocations` and `task_states` the slots and states of tasks are known, too.
    observed_at : time, optional
        End of observation, default: when the tables were fetched, or the latest time in them.

    Returns
    -------
    pandas.DataFrame
        One row for each run, by slot and time.

        slot : str
            Namespace and name of the allocation (``job.group[0]``), which its replacements share; its ID if
            the name is not known.
        attempt : int
            Number of the attempt (see `explain_events`).
        started_at, ended_at : datetime64[ns, UTC]
            Start and end by the node's clock.
        duration : timedelta64[ns]
            Never negative; `skewed` marks runs that end before they start because the node's clock was set
            back.
        end : str
            Cause of the end (see `explain_events`), "lost" with its node, "running", or "unknown".
        failure : bool
            The run failed by itself or by its health check.
        left_truncated : bool
            The start is gone from the ring: the run was longer than `duration`.
        right_censored : bool
            No end was seen.
        cut : bool
            The ring of its task has lost events. Then only some of the task's runs are left, and the time
            that they cover depends on how often it fails.
        counted_from : datetime64[ns, UTC]
            From when on this run counts as exposure: its start, or in a truncated event history the oldest
            end that is left. Rates count events from then on, and are right although events are lost.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> runs = af.stats.runs(snap)
    >>> bool((runs["duration"] >= "0s").all())
    True
    """
    rows = build_runs(source, observed_at)
    texts = ["slot", "end", *(["alloc_id"] if isinstance(source, Snapshot) else [])]
    return rows.astype(dict.fromkeys(texts, "str"))


def build_runs(source: Source, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the rows of `runs`, slots and ends as categories. They are shared: nobody may change them.

    Those of a million allocations take 200 MB, and are made anew for each statistic.
    """
    derived = derive(source, observed_at)
    if "runs" in derived.__dict__:
        return derived.runs
    found: pd.DataFrame = share((id(derived), "runs"), lambda: _name_runs(source, derived))
    if len(found) > PART_ROWS:
        release_memory()
    if len(found) <= MANY_ROWS:
        derived.runs = found
    return found


def _name_runs(source: Source, derived: Derived) -> pd.DataFrame:
    have = column_names(derived.tasks)
    rows = collect(derived.name_tasks(derived.spans, *(name for name in _COLUMNS if name in have)))
    rows["end"] = _name_ends(rows)
    rows["failure"] = rows["failed"].astype(bool)
    rows["started_at"], rows["ended_at"] = times_from_us(rows["start_us"]), times_from_us(rows["end_us"])
    rows["duration"] = rows["ended_at"] - rows["started_at"]
    known_from = rows["known_from_us"].astype("float64").to_numpy()
    # an incomplete ring counts from its oldest end: a run that ends there is counted and has no exposure
    rows["counted_from"] = times_from_us(
        pd.Series(np.fmax(rows["start_us"].to_numpy(dtype="float64"), known_from), index=rows.index)
    )
    rows["cut"] = ~np.isnan(known_from)
    rows["slot"] = categorise_slots(source, rows)
    columns = [name for name in _COLUMNS if name in rows.columns]
    # by the ranks of the different texts: sorting all of them takes ten times as long
    slot, task = rows["slot"].cat.codes.to_numpy(), rank_texts(rows["task"])
    order = np.lexsort((rows["start_us"].to_numpy(dtype="int64"), task, slot))
    return take_rows(rows, order, columns)


def _name_ends(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return how each run ended, as a category."""
    names = [*CAUSES, LOST, "running"]
    lost = rows["lost"].to_numpy(dtype=bool)
    unended = rows["right_censored"].to_numpy(dtype=bool) & ~lost
    running = (
        unended & ~rows["state"].isin(["dead", "pending"]).to_numpy() & rows["_last"].to_numpy(dtype=bool)
    )
    code = rows["cause_code"].to_numpy(dtype="float64", na_value=names.index("unknown")).astype("int8")
    code[lost], code[running] = names.index(LOST), names.index("running")
    ends = pd.Categorical.from_codes(code, categories=pd.Index(names, dtype="str"))
    return pd.Series(ends.reorder_categories(sorted(names)), index=rows.index)


def slot_by_allocation(runs: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of each allocation that ran, by its ID."""
    allocations = runs.drop_duplicates("alloc_id")
    return allocations["slot"].set_axis(pd.Index(allocations["alloc_id"].astype("str")))


def find_slots(source: Source, rows: pd.DataFrame, *, fold_runs: bool = False) -> pd.Series[Any]:
    """Return the slot of the allocation of each row; its ID if the name is not known.

    With `fold_runs`, the runs of a periodic or parameterized job are one slot: ``namespace/parent``.
    """
    return categorise_slots(source, rows, fold_runs=fold_runs).astype("str")


def categorise_slots(source: Source, rows: pd.DataFrame, *, fold_runs: bool = False) -> pd.Series[Any]:
    """Return what `find_slots` does as sorted categories: four bytes for each row instead of forty."""
    derived = derive(source)
    if not has_table(source, "allocations"):
        return _as_category(rows["alloc_id"].astype("str"))
    if "slot_by_id" not in derived.__dict__:
        allocations = pandas_table(source, "allocations", *SLOT_COLUMNS)
        slot = slots(allocations)
        ids = pd.Index(allocations["alloc_id"].astype("str"))
        child = allocations["job_id"].astype("str")
        parent = child.str.replace(RUN_SUFFIX, "", regex=True)
        is_run = (child != parent).to_numpy(dtype=bool)
        namespace = allocations["namespace"][is_run].astype("str").fillna("")
        folded = (namespace + "/" + parent[is_run]).set_axis(ids[is_run])
        del allocations, child, parent
        slot = slot.set_axis(ids)
        if (all_ids := derived.all_ids) is not None:  # by which rows find theirs without a search
            slot = look_up(pd.Series(all_ids), slot).set_axis(all_ids)
        derived.slot_by_id = (slot, folded)
    slot, folded = derived.slot_by_id
    found = look_up(rows["alloc_id"], slot)
    if fold_runs and len(folded):
        found = look_up(rows["alloc_id"], folded).astype("str").fillna(found.astype("str"))
    # the rule: every allocation has a name
    if found.hasnans:
        found = found.astype("str").fillna(rows["alloc_id"].astype("str"))
    return _as_category(found)


def _as_category(texts: pd.Series[Any]) -> pd.Series[Any]:
    return texts if isinstance(texts.dtype, pd.CategoricalDtype) else texts.astype("category")
