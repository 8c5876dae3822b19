"""What the diagnosis reads of a snapshot: three narrow tables whose rows know each other by number.

A large cluster has ten million events. So the rows are numbers and categories, and everything that is made of
them works on whole columns. The events are read in parts, so that what Nomad tells of them is never in memory
as a whole.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from .._utils.memory import give_back
from ..snapshot.history import History
from ..snapshot.snapshot import Snapshot
from ..stats import vocabulary
from ..stats._derived import PART_ROWS, pop_columns
from ..stats._source import find_texts
from ..tables import TABLES
from ..tables.table import Column

Array = np.ndarray[Any, Any]

Job = tuple[str, str]
"""Namespace and job_id."""

NEVER = np.iinfo(np.int64).min
"""A missing time."""


def select_columns(table: str, *names: str, **kinds: str) -> tuple[Column, ...]:
    """Return columns of a table by their names; a category is smaller than a text."""
    columns = [column for column in TABLES[table].columns if column.name in names]
    return tuple(
        replace(column, source=column.name, kind=kinds.get(column.name, column.kind))  # type: ignore[arg-type]
        for column in columns
    )


_ALLOCATIONS = select_columns(
    "allocations",
    "alloc_id", "namespace", "name", "job_id", "parent_job_id", "job_type", "job_version", "task_group",
    "node_id", "node_name", "followup_eval_id", "client_status", "client_description", "desired_status",
    "desired_description", "deployment_healthy", "deployment_health_at", "canary",
    "previous_alloc_id", "next_alloc_id", "reschedule_count", "preempted_by", "created_at", "modified_at",
    client_description="category", desired_description="category",
)  # fmt: skip
_TASK_STATES = select_columns(
    "task_states",
    "task", "state", "failed", "restarts", "last_restart_at", "started_at", "finished_at",
    "events_truncated",
)  # fmt: skip
_SILENT = (
    "Received", "Task Setup", "Started", "Terminated", "Restarting", "Downloading Artifacts",
    "Building Task Directory",
)  # fmt: skip
"""Event types whose text says nothing beyond their other columns, but for a long delay of a restart."""

_MOST_TEXT = 400
"""Characters kept of a message: enough for an error's cause, and not a program's whole output."""

_TEXT = f"""CASE WHEN type = 'Restarting' AND restart_reason LIKE 'Exceeded allowed attempts, applying%'
  THEN message WHEN type NOT IN ({", ".join(f"'{name}'" for name in _SILENT)}) THEN
  left(coalesce(download_error, driver_error, setup_error, validation_error, vault_error,
                kill_reason, restart_reason, message), {_MOST_TEXT}) END"""
_OOM = f"""CASE WHEN type = 'Terminated'
  THEN coalesce(oom_killed, false) OR coalesce(details LIKE '%{vocabulary.OOM_DETAIL}%', false) END"""
_TOLD = "CASE WHEN type = 'Terminated' THEN oom_killed IS NOT NULL END"
_EVENTS = (
    *select_columns(
        "events", "task", "seq", "time", "type", "exit_code", "signal", "restart_reason", "fails_task",
        "task_signal",
    ),
    Column("text", _TEXT, "category", "Nomad's words, for events that have some"),
    Column("oom", _OOM, "bool", "whether the driver reports that memory ran out"),
    Column("told", _TOLD, "bool", "whether the driver says anything about memory"),
)  # fmt: skip


EVENTS_AT_ONCE = 1_000_000
"""Events that are computed on together: what is made of ten million would take gigabytes."""


@dataclass(frozen=True)
class Rows:
    """The rows of one cluster, numbered.

    Attributes
    ----------
    allocations : pandas.DataFrame
        One row for each allocation, in order of creation. Times are whole nanoseconds since 1970.
    tasks : pandas.DataFrame
        One row for each task of an allocation; `alloc` is the row of its allocation.
    events : pandas.DataFrame
        One row for each event; `owner` is the row of its task. Sorted by task and position. Numbers that
        are missing are -1.
    now : int
        When the snapshot was taken, or the last time in it.
    unreadable : int
        Allocations without an ID, of which nothing can be said.
    partial : bool
        Whether allocations were left out: one that is not here may still run.
    """

    allocations: pd.DataFrame
    tasks: pd.DataFrame
    events: pd.DataFrame
    now: int
    unreadable: int
    partial: bool


def read_allocations(snapshot: Snapshot) -> pd.DataFrame:
    """Read the allocations of a snapshot of one cluster, as `Rows` has them."""
    if is_recorded(snapshot):  # events tell which tasks they had
        return read_rows(snapshot).allocations
    return _stop_purged(_read_allocations(snapshot)[0], snapshot.history)


def _read_allocations(snapshot: Snapshot) -> tuple[pd.DataFrame, pd.Series[str]]:
    """Return the allocations that have an ID, once each, and the IDs in the table."""
    allocations = snapshot._select("allocations", _ALLOCATIONS)
    ids = allocations["alloc_id"]
    if ids.hasnans or not ids.is_unique:
        allocations = allocations[ids.notna()].drop_duplicates("alloc_id", ignore_index=True)
    for name in ("created_at", "modified_at", "deployment_health_at"):
        allocations[name] = nanoseconds(allocations[name])
    return allocations, ids


def read_rows(snapshot: Snapshot) -> Rows:
    """Read the tables of a snapshot of one cluster."""
    allocations, ids = _read_allocations(snapshot)
    unreadable = int(ids.isna().sum())
    row_at = _rows_by_place(snapshot, find_texts(ids, allocations["alloc_id"])[:-1])
    del ids
    tasks, places = next(snapshot._select_parts("task_states", _TASK_STATES, sys.maxsize))
    tasks = tasks.assign(alloc=row_at[places])
    tasks = tasks[(tasks["alloc"] >= 0) & tasks["task"].notna()]
    parts = []
    for part, places in snapshot._select_parts("events", _EVENTS, PART_ROWS):
        parts.append(_narrow(part, row_at[places]))
        del part
        give_back(PART_ROWS * len(parts))
    tasks, events = _number_tasks(tasks, parts)
    if is_recorded(snapshot):
        allocations = _end_removed(allocations, tasks)
    allocations = _stop_purged(allocations, snapshot.history)
    now = _now(snapshot, allocations, events)
    return Rows(allocations, tasks, events, now, unreadable, _is_partial(snapshot.info))


def _is_partial(info: dict[str, Any]) -> bool:
    """Return whether somebody asked for some allocations only, or some could not be read."""
    asked = info.get("filtered") or {"prefix", "filter", "reverse"} & set(info.get("query", {}))
    return bool(asked or info.get("source") == "reads" or info.get("complete") is False)


def is_recorded(snapshot: Snapshot) -> bool:
    """Return whether a snapshot comes from an archive."""
    return "recorded_since" in snapshot.info


def _end_removed(allocations: pd.DataFrame, tasks: pd.DataFrame) -> pd.DataFrame:
    """Return allocations of an archive in which those are over whose end nobody saw.

    Nomad had removed them when they were looked for again. They still read "running", as they were last seen;
    their tasks have an end, and no state.
    """
    ended = (tasks["state"].isna() & (tasks["finished"] != NEVER)).groupby(tasks["alloc"].to_numpy()).all()
    removed = np.zeros(len(allocations), dtype=bool)
    removed[ended.index[ended.to_numpy()]] = True
    removed &= ~allocations["client_status"].isin(vocabulary.FINISHED_STATUSES).to_numpy(dtype=bool)
    if not removed.any():
        return allocations
    over = {"client_status": "complete", "desired_status": "stop"}
    values = {name: allocations[name].astype(object).mask(removed, value) for name, value in over.items()}
    return allocations.assign(**{name: column.astype("category") for name, column in values.items()})


def _stop_purged(allocations: pd.DataFrame, history: History | None) -> pd.DataFrame:
    """Return allocations in which those of a job that was purged are no longer desired."""
    if history is None or (last := history.purged_at()).empty:
        return allocations
    jobs = pd.MultiIndex.from_frame(allocations[["namespace", "job_id"]].astype("str"))
    purged_at = nanoseconds(last.reindex(jobs))
    purged = (allocations["created_at"].to_numpy() < purged_at) & (purged_at != NEVER)
    desired = allocations["desired_status"].astype(object)
    stopped = desired.mask(purged & desired.eq("run"), "stop")
    return allocations.assign(desired_status=stopped.astype("category"))


def _rows_by_place(snapshot: Snapshot, rows: Array) -> Array:
    """Return the row of the allocation at each place by creation, -1 for none; `rows` are in that order."""
    _, places = next(snapshot._select_parts("allocations", _NO_TEXT, sys.maxsize))
    row_at = np.full(int(places.max(initial=-1)) + 1, -1, dtype=np.int32)
    row_at[np.sort(places)] = rows
    return row_at


_NO_TEXT = select_columns("allocations", "canary")
"""The smallest column: only the places of allocations are asked for."""


def _narrow(events: pd.DataFrame, alloc: Array) -> pd.DataFrame:
    """Return some of the events in as few bytes as they need, in order of their position in each task."""
    known = (alloc >= 0) & events["task"].notna().to_numpy()
    columns = {
        "seq": _small(numbers(events["seq"], 0)),  # the first one, see `_join_events`
        "alloc": alloc,
        "task": events["task"],
        "time": nanoseconds(events["time"]),
        **{name: events[name] for name in ("type", "text", "restart_reason", "task_signal")},
        **{name: _small(numbers(events[name], -1)) for name in ("exit_code", "signal")},
        **{name: _flags(events[name]) for name in ("fails_task", "oom", "told")},
    }
    rows = pd.DataFrame(columns, copy=False)
    return rows if known.all() else rows[known]


def _small(values: Array) -> Array:
    """Return whole numbers in four bytes each, if all of them fit."""
    limit = np.iinfo(np.int32)
    fits = values.min(initial=0) >= limit.min and values.max(initial=0) <= limit.max
    return values.astype(np.int32) if fits else values


def _number_tasks(tasks: pd.DataFrame, parts: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give each task a number, also those of which there are only events; join the events."""
    seen = {name for part in parts for name in part["task"].cat.categories}
    names = pd.Index(sorted({*tasks["task"].astype("str").unique(), *map(str, seen)}))

    def keys(table: pd.DataFrame) -> Array:
        task = table["task"].astype("category")
        codes = names.get_indexer(task.cat.categories.astype("str"))[task.cat.codes.to_numpy()]
        joined: Array = table["alloc"].to_numpy(dtype=np.int64) * max(len(names), 1) + codes
        return joined

    task_keys, event_keys = keys(tasks), [keys(part) for part in parts]
    # the events of a task stand together, so that its number need not be looked up for each of them
    begins = [np.append(True, each[1:] != each[:-1])[: len(each)] for each in event_keys]
    heads = [each[begin] for each, begin in zip(event_keys, begins, strict=True)]
    del event_keys
    known, places = np.unique(np.concatenate([task_keys, *heads]), return_inverse=True)
    at = np.full(len(known), -1, dtype=np.int64)
    at[places[: len(tasks)]] = np.arange(len(tasks))
    numbered = tasks.take(np.where(at >= 0, at, 0)) if len(tasks) else tasks.reindex(range(len(known)))
    numbered = numbered.reset_index(drop=True)
    unseen = at < 0
    result = pd.DataFrame(
        {
            "alloc": (known // max(len(names), 1)).astype(np.int32),
            "task": names.to_numpy(dtype=object)[known % max(len(names), 1)] if len(known) else [],
            "state": numbered["state"].astype(object).where(~unseen, None),
            "failed": _flags(numbered["failed"]) & ~unseen,
            "restarts": np.where(unseen, 0, numbers(numbered["restarts"], 0)),
            "truncated": _flags(numbered["events_truncated"]) & ~unseen,
            **{
                name: np.where(unseen, NEVER, nanoseconds(numbered[f"{name}_at"]))
                for name in ("last_restart", "started", "finished")
            },
        }
    )
    rank = np.cumsum(np.concatenate(begins)) - 1
    owner = places[len(tasks) :].astype(np.int32)[rank] if len(rank) else np.zeros(0, dtype=np.int32)
    for part in parts:
        del part["task"], part["alloc"]
    return result, _join_events(owner, parts)


def _join_events(owner: Array, parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Join parts of events, sorted by task and position; of their columns one at most is in memory twice."""
    columns = pop_columns(parts)
    _, seq = next(columns)
    step = np.diff(owner)
    order = None
    if bool(np.any(step < 0)) or bool(np.any((step == 0) & (np.diff(seq) < 0))):
        order = np.lexsort((seq, owner))
    del seq, step
    joined: dict[str, Any] = {"owner": owner if order is None else owner[order]}
    for name, column in columns:
        joined[name] = column.array if order is None else column.array.take(order)
        del column
        give_back(len(owner))
    return pd.DataFrame(joined, copy=False)


def _now(snapshot: Snapshot, allocations: pd.DataFrame, events: pd.DataFrame) -> int:
    if fetched := snapshot.info.get("finished_at"):
        return int(pd.Timestamp(fetched).as_unit("ns").value)
    times = [events["time"], allocations["modified_at"], allocations["created_at"]]
    return max((int(each.max()) for each in times if len(each)), default=NEVER)


def nanoseconds(times: pd.Series[Any]) -> Array:
    """Return times as nanoseconds since 1970; a missing one, or one before 1971, is `NEVER`."""
    if times.dtype == object or len(times) == 0:
        return np.full(len(times), NEVER, dtype=np.int64)
    values = times.astype("datetime64[ns, UTC]").astype("int64").to_numpy()
    # a time of zero is what Go writes for none
    known: Array = np.where(times.isna().to_numpy() | (values < 31_536_000_000_000_000), NEVER, values)
    return known


def numbers(values: pd.Series[Any], missing: int) -> Array:
    """Return whole numbers, with `missing` where there is none."""
    known = pd.to_numeric(values, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    # beyond 2**53 a float no longer holds every whole number, and no version or exit code is as large
    plain: Array = np.where(np.abs(known) < 2**53, known, missing).astype(np.int64)
    return plain


def _flags(values: pd.Series[Any]) -> Array:
    plain: Array = values.astype("boolean").fillna(False).to_numpy(dtype=bool)
    return plain


def categories(values: pd.Series[Any]) -> tuple[Array, list[str]]:
    """Return the number of each text, and the texts; the number of a missing text is that of "", the last."""
    known = values.astype("category")
    texts = [str(text) for text in known.cat.categories]
    codes = known.cat.codes.to_numpy().astype(np.int32)
    codes[codes < 0] = len(texts)
    return codes, [*texts, ""]


LOST_DESCRIPTIONS = tuple(
    text for text, meaning in vocabulary.STOP_REASONS.items() if meaning in ("node down", "node disconnected")
)
"""Why the servers replaced an allocation whose node was gone. It stays true after the node came back."""


def moment(time: int) -> pd.Timestamp | None:
    """Return nanoseconds as a time in UTC; None if missing."""
    return None if time == NEVER else pd.Timestamp(int(time), unit="ns", tz="UTC")
