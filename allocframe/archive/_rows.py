"""A change of the cluster to the rows that keep it, and what ties the events of a task together."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .._change import Change
from ._schema import START, STORED, VERSION

_TASK = ["alloc_id", "task"]
_EVENT = [*_TASK, "seq"]


def rows(
    changes: Sequence[Change], batch: str, recorder: str, index_before: int | None
) -> dict[str, pa.Table]:
    """Return the rows of a batch of changes, by table."""
    parts: dict[str, list[pa.Table]] = {name: [] for name in STORED}
    for position, change in enumerate(changes):
        seen = {"seen_at": change.at, "batch": batch, "day": change.at.date()}
        for frame, gone in ((change.new, False), (change.changed, False), (change.gone, True)):
            parts["allocations"].append(STORED["allocations"].encode(frame, gone=gone, **seen))
        versions = _versions(change)
        for name in ("task_states", "reschedules"):
            frame = _versioned(getattr(change, name), versions)
            parts[name].append(STORED[name].encode(frame, **seen))
        parts["events"].append(STORED["events"].encode(_versioned(_new_events(change), versions), **seen))
        told = _observation(change, position, recorder, index_before)
        parts["snapshots"].append(STORED["snapshots"].encode(told, **seen))
        index_before = change.index
    return {name: pa.concat_tables(tables) for name, tables in parts.items() if sum(map(len, tables))}


def _observation(change: Change, position: int, recorder: str, index_before: int | None) -> pd.DataFrame:
    row = {
        "position": position, "recorder": recorder, "source": change.source, "whole": change.whole,
        "index_from": index_before, "index_to": change.index,
        "new": len(change.new), "changed": len(change.changed), "gone": len(change.gone),
        "events": len(change.new_events),
        "gap_since": change.gap.since if change.gap else None,
        "gap_until": change.gap.until if change.gap else None,
        "gap_reason": change.gap.reason if change.gap else None,
        "schema_version": VERSION,
    }  # fmt: skip
    frame = pd.DataFrame([row]).astype({"index_from": "Int64", "index_to": "Int64"})
    return frame.astype({"gap_since": "datetime64[ns, UTC]", "gap_until": "datetime64[ns, UTC]"})


def _versions(change: Change) -> pd.Series[Any]:
    """Return the ModifyIndex of each allocation of which the change tells."""
    both = [frame[["alloc_id", "modify_index"]] for frame in (change.new, change.changed)]
    table = pd.concat(both, ignore_index=True).drop_duplicates("alloc_id", keep="last")
    return table.set_index("alloc_id")["modify_index"]


def _versioned(frame: pd.DataFrame, versions: pd.Series[Any]) -> pd.DataFrame:
    found = versions.reindex(frame["alloc_id"].to_numpy())
    return frame.assign(modify_index=found.to_numpy(dtype=object)).astype({"modify_index": "UInt64"})


def _new_events(change: Change) -> pd.DataFrame:
    """Return the events that were new, each tied to the one before it in its ring."""
    tied = _tied(change.events, change.task_states)
    if len(change.new_events) == len(tied):
        return tied
    wanted = pd.MultiIndex.from_frame(change.new_events[_EVENT].astype({"task": "str"}))
    held = pd.MultiIndex.from_frame(tied[_EVENT].astype({"task": "str"}))
    return tied[held.isin(wanted)]


def _tied(events: pd.DataFrame, task_states: pd.DataFrame) -> pd.DataFrame:
    """Return whole rings with the key of each event and of the one before it.

    The first event of a ring that dropped none has `START` before it, the first of any other ring nothing known.
    """
    ring = events.astype({"task": "str"}).sort_values(_EVENT, kind="stable").reset_index(drop=True)
    same = pd.Series(_keys(ring, np.zeros(len(ring), dtype=np.int64)))
    group = ring.groupby(_TASK, sort=False)
    ordinal = ring.assign(same=same).groupby([*_TASK, "same"], sort=False).cumcount().to_numpy()
    keys = pd.Series(_keys(ring, ordinal) if ordinal.any() else same, dtype="Int64")
    before = keys.groupby(group.ngroup()).shift()
    whole = task_states.loc[task_states["events_truncated"].eq(False).fillna(False).to_numpy(), _TASK]
    of_whole = pd.MultiIndex.from_frame(ring[_TASK]).isin(
        pd.MultiIndex.from_frame(whole.astype({"task": "str"}))
    )
    first = (group.cumcount() == 0).to_numpy()
    return ring.assign(event_key=keys, prev_key=before.mask(first & of_whole, START))


def _keys(ring: pd.DataFrame, ordinal: np.ndarray[Any, Any]) -> list[int]:
    """Return a number for each event, made of its time, type, details, and its place among those equal in all three."""
    text = [
        ring[name].astype("object").where(ring[name].notna(), "").tolist() for name in ("type", "details")
    ]
    times = ring["time"].astype("int64").tolist()
    return [_key(*values) for values in zip(times, *text, ordinal.tolist(), strict=True)]


def _key(time: int, kind: str, details: str, ordinal: int) -> int:
    text = f"{time}\x1f{kind}\x1f{details}\x1f{ordinal}"
    number = int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1
    return number or 1
