"""Encode changes as rows to store, and link each event to the one before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..watch.change import Change, HistoryChange
from .schema import OBSERVATIONS, START, STORED, VERSION

_TASK = ["alloc_id", "task"]


def encode_changes(
    changes: Sequence[Change],
    batch: str,
    recorder: str,
    index_before: int | None,
    first_position: int = 0,
    history: HistoryChange | None = None,
) -> dict[str, pa.Table]:
    """Return the rows of changes, by table.

    `first_position` is the position of the first change in its batch. The first one also tells up to when
    the history in the batch is known.
    """
    parts: dict[str, list[pa.Table]] = {name: [] for name in STORED}
    for position, change in enumerate(changes, first_position):
        seen = {"seen_at": change.at, "batch": batch, "day": change.at.date()}
        for frame, gone in ((change.added, False), (change.changed, False), (change.removed, True)):
            if len(frame):
                rows = _without_attrs(frame)
                parts["allocations"].append(STORED["allocations"].encode(rows, gone=gone, **seen))
        versions = _versions(change)
        for name, frame in (
            ("task_states", _without_attrs(change.task_states)),
            ("events", _linked_new_events(change)),
            ("reschedules", _without_attrs(change.reschedules)),
        ):
            if len(frame):
                frame["modify_index"] = _version_column(frame, versions)
                parts[name].append(STORED[name].encode(frame, **seen))
        observation = _observation(change, position, recorder, index_before, None if position else history)
        parts["snapshots"].append(STORED["snapshots"].encode(observation, **seen))
        index_before = change.index
    return {name: pa.concat_tables(tables) for name, tables in parts.items() if tables}


def encode_history(history: HistoryChange, batch: str) -> dict[str, pa.Table]:
    """Return the rows of a history, by table."""
    seen = {"seen_at": history.at, "batch": batch, "day": history.at.date()}
    rows = {}
    for name, frame in history.frames.items():
        if len(frame):
            constant = {"gone": False} if name == "nodes" and "gone" not in frame else {}
            rows[name] = STORED[name].encode(_without_attrs(frame), **constant, **seen)
    return rows


def _observation(
    change: Change, position: int, recorder: str, index_before: int | None, history: HistoryChange | None
) -> pd.DataFrame:
    row = {
        "position": position, "recorder": recorder, "source": change.source, "whole": change.full,
        "index_from": index_before, "index_to": change.index,
        "new": len(change.added), "changed": len(change.changed), "gone": len(change.removed),
        "events": len(change.new_events),
        "gap_since": change.gap.since if change.gap else None,
        "gap_until": change.gap.until if change.gap else None,
        "gap_reason": change.gap.reason if change.gap else None,
        "schema_version": VERSION,
        "history_at": history.at if history is not None else None,
        "history_gap_since": history.gap_since if history is not None else None,
        "history_notes": json.dumps(list(history.notes)) if history is not None and history.notes else None,
    }  # fmt: skip
    frame = pd.DataFrame([row]).astype({"index_from": "Int64", "index_to": "Int64"})
    times = [column.name for column in OBSERVATIONS.columns if column.kind == "time"]
    return frame.astype(dict.fromkeys(times, "datetime64[ns, UTC]"))


def _without_attrs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the same columns without attrs, which pandas would copy with every column."""
    copy = frame.copy(deep=False)
    copy.attrs = {}
    return copy


def _versions(change: Change) -> dict[str, Any]:
    """Return the ModifyIndex of each added or changed allocation."""
    versions: dict[str, Any] = {}
    for frame in (change.added, change.changed):
        versions.update(zip(frame["alloc_id"].tolist(), frame["modify_index"].tolist(), strict=True))
    return versions


def _version_column(frame: pd.DataFrame, versions: dict[str, Any]) -> Any:
    return pd.array(
        [versions.get(alloc_id, pd.NA) for alloc_id in frame["alloc_id"].tolist()], dtype="UInt64"
    )


def _linked_new_events(change: Change) -> pd.DataFrame:
    """Return the new events, each linked to the one before it in its ring."""
    events = _without_attrs(change.events)
    # Links need the complete rings: the event before a new one is usually an old one.
    links = _link_events(events, change.task_states)
    events["event_key"], events["prev_key"] = links.keys, links.previous
    if len(change.new_events) == len(events):
        return events
    new = set(_event_ids(change.new_events))
    is_new = np.fromiter((event in new for event in _event_ids(events)), dtype=bool, count=len(events))
    return events[is_new].copy()


def _event_ids(events: pd.DataFrame) -> Any:
    return zip(*(events[name].tolist() for name in (*_TASK, "seq")), strict=True)


@dataclass(frozen=True)
class _Links:
    """For each event its key, and the key of the event before it in its ring."""

    keys: Any
    previous: Any


def _link_events(events: pd.DataFrame, task_states: pd.DataFrame) -> _Links:
    """Return the links between the events of complete rings.

    If a ring has dropped no events, its first event follows `START`. Otherwise its predecessor is unknown
    (NA).
    """
    task_of_row = events.groupby(_TASK, sort=False, observed=True, dropna=False).ngroup().to_numpy()
    order = np.lexsort((events["seq"].to_numpy(), task_of_row))
    sorted_tasks, original = task_of_row[order], np.argsort(order)
    is_first = np.append(True, sorted_tasks[1:] != sorted_tasks[:-1])[: len(order)]
    keys = _event_keys(events.iloc[order], sorted_tasks)
    previous = np.append(0, keys[:-1])[: len(keys)]
    is_untruncated = task_states["events_truncated"].eq(False).fillna(False).to_numpy(dtype=bool)
    untruncated = task_states[is_untruncated]
    complete_tasks = set(zip(*(untruncated[name].tolist() for name in _TASK), strict=True))
    heads = events.iloc[order[is_first]]
    head_tasks = zip(*(heads[name].tolist() for name in _TASK), strict=True)
    is_unknown = np.zeros(len(order), dtype=bool)
    is_unknown[is_first] = [task not in complete_tasks for task in head_tasks]
    previous[is_first] = START
    return _Links(
        pd.array(keys[original], dtype="Int64"),
        pd.arrays.IntegerArray(previous[original], is_unknown[original]),
    )


def _event_keys(ring: pd.DataFrame, tasks: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a hash of each event's time, type, details and occurrence among equal events."""
    times = ring["time"].astype("int64").tolist()
    types, details = (
        ring[name].astype("object").where(ring[name].notna(), "").tolist() for name in ("type", "details")
    )
    contents = list(zip(times, types, details, strict=True))
    keys = np.array([_hash_event(*content, 0) for content in contents], dtype=np.int64)
    occurrence = (
        pd.DataFrame({"task": tasks, "key": keys}).groupby(["task", "key"], sort=False).cumcount().to_numpy()
    )
    # Equal events are rare, so only they are hashed a second time.
    for row in np.flatnonzero(occurrence):
        keys[row] = _hash_event(*contents[row], int(occurrence[row]))
    return keys


def _hash_event(time: int, event_type: str, details: str, occurrence: int) -> int:
    """Return a positive 63-bit number. It is never 0, which is `START`."""
    text = f"{time}\x1f{event_type}\x1f{details}\x1f{occurrence}"
    # blake2b, not hash(): archives of all machines and versions must have the same keys.
    number = int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1
    return number or 1
