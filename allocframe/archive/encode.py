"""A change of the cluster to the rows that keep it, and what ties the events of a task together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..watch.change import Change
from .schema import START, STORED, VERSION

_TASK = ["alloc_id", "task"]


def rows(
    changes: Sequence[Change], batch: str, recorder: str, index_before: int | None, position: int = 0
) -> dict[str, pa.Table]:
    """Return the rows of a batch of changes, by table; `position` is that of the first in its batch."""
    parts: dict[str, list[pa.Table]] = {name: [] for name in STORED}
    for place, change in enumerate(changes, position):
        seen = {"seen_at": change.at, "batch": batch, "day": change.at.date()}
        for frame, gone in ((change.added, False), (change.changed, False), (change.removed, True)):
            if len(frame):
                parts["allocations"].append(STORED["allocations"].encode(_bare(frame), gone=gone, **seen))
        versions = _versions(change)
        for name, frame in (
            ("task_states", _bare(change.task_states)),
            ("events", _new_events(change)),
            ("reschedules", _bare(change.reschedules)),
        ):
            if len(frame):
                frame["modify_index"] = _versions_of(frame, versions)
                parts[name].append(STORED[name].encode(frame, **seen))
        told = _observation(change, place, recorder, index_before)
        parts["snapshots"].append(STORED["snapshots"].encode(told, **seen))
        index_before = change.index
    return {name: pa.concat_tables(tables) for name, tables in parts.items() if tables}


def _observation(change: Change, position: int, recorder: str, index_before: int | None) -> pd.DataFrame:
    row = {
        "position": position, "recorder": recorder, "source": change.source, "whole": change.full,
        "index_from": index_before, "index_to": change.index,
        "new": len(change.added), "changed": len(change.changed), "gone": len(change.removed),
        "events": len(change.new_events),
        "gap_since": change.gap.since if change.gap else None,
        "gap_until": change.gap.until if change.gap else None,
        "gap_reason": change.gap.reason if change.gap else None,
        "schema_version": VERSION,
    }  # fmt: skip
    frame = pd.DataFrame([row]).astype({"index_from": "Int64", "index_to": "Int64"})
    return frame.astype({"gap_since": "datetime64[ns, UTC]", "gap_until": "datetime64[ns, UTC]"})


def _bare(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the same columns without attrs, which pandas would copy with every column."""
    bare = frame.copy(deep=False)
    bare.attrs = {}
    return bare


def _versions(change: Change) -> dict[str, Any]:
    """Return the ModifyIndex of each allocation of which the change tells."""
    found: dict[str, Any] = {}
    for frame in (change.added, change.changed):
        found.update(zip(frame["alloc_id"].tolist(), frame["modify_index"].tolist(), strict=True))
    return found


def _versions_of(frame: pd.DataFrame, versions: dict[str, Any]) -> Any:
    return pd.array(
        [versions.get(identity, pd.NA) for identity in frame["alloc_id"].tolist()], dtype="UInt64"
    )


def _new_events(change: Change) -> pd.DataFrame:
    """Return the events that were new, each tied to the one before it in its ring."""
    events = _bare(change.events)
    ties = _ties(events, change.task_states)
    events["event_key"], events["prev_key"] = ties.keys, ties.before
    if len(change.new_events) == len(events):
        return events
    new = set(_places(change.new_events))
    return events[
        np.fromiter((place in new for place in _places(events)), dtype=bool, count=len(events))
    ].copy()


def _places(events: pd.DataFrame) -> Any:
    return zip(*(events[name].tolist() for name in (*_TASK, "seq")), strict=True)


@dataclass(frozen=True)
class _Ties:
    """For each row of a table of whole rings its key, and that of the event before it in its ring."""

    keys: Any
    before: Any


def _ties(events: pd.DataFrame, task_states: pd.DataFrame) -> _Ties:
    """Return what ties events together.

    The first event of a ring that dropped none has `START` before it, the first of any other ring nothing known.
    """
    group = events.groupby(_TASK, sort=False, observed=True, dropna=False).ngroup().to_numpy()
    order = np.lexsort((events["seq"].to_numpy(), group))
    ordered, place = group[order], np.argsort(order)
    first = np.append(True, ordered[1:] != ordered[:-1])[: len(order)]
    keys = _keys(events.iloc[order], ordered)
    before = np.append(0, keys[:-1])[: len(keys)]
    whole = task_states[task_states["events_truncated"].eq(False).fillna(False).to_numpy(dtype=bool)]
    known = set(zip(*(whole[name].tolist() for name in _TASK), strict=True))
    heads = events.iloc[order[first]]
    begins = [task in known for task in zip(*(heads[name].tolist() for name in _TASK), strict=True)]
    unknown = np.zeros(len(order), dtype=bool)
    unknown[first] = ~np.array(begins, dtype=bool)
    before[first] = START
    return _Ties(pd.array(keys[place], dtype="Int64"), pd.arrays.IntegerArray(before[place], unknown[place]))


def _keys(ring: pd.DataFrame, group: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a number for each event, made of its time, type, details, and its place among those equal in all three."""
    times = ring["time"].astype("int64").tolist()
    kinds, details = (
        ring[name].astype("object").where(ring[name].notna(), "").tolist() for name in ("type", "details")
    )
    told = list(zip(times, kinds, details, strict=True))
    keys = np.array([_key(*one, 0) for one in told], dtype=np.int64)
    ordinal = (
        pd.DataFrame({"group": group, "key": keys})
        .groupby(["group", "key"], sort=False)
        .cumcount()
        .to_numpy()
    )
    for row in np.flatnonzero(ordinal):
        keys[row] = _key(*told[row], int(ordinal[row]))
    return keys


def _key(time: int, kind: str, details: str, ordinal: int) -> int:
    text = f"{time}\x1f{kind}\x1f{details}\x1f{ordinal}"
    number = int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1
    return number or 1
