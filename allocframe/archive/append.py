"""Append changes to an archive, in parts. No part counts before all are written."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd
import pyarrow as pa

from .._utils.memory import release_memory
from ..snapshot.snapshot import Snapshot
from ..watch.change import Change, Gap, HistoryChange
from .checkpoint import changes_since
from .delta import DeltaTables
from .encode import encode_changes, encode_history
from .schema import STORED

_LIMIT_S = 1800
"""An append that takes longer is given up, because maintenance may remove its rows as abandoned."""

_MAX_BUFFERED_ROWS = 250_000
"""Rows that are collected for one commit: with fewer, files get small; with more, they need memory."""

PART = 10_000
"""Allocations of a snapshot in one change."""


def append(
    tables: DeltaTables,
    parts: Iterable[Sequence[Change]],
    recorder: str,
    indexes: dict[str, int | None],
    history: HistoryChange | None = None,
) -> None:
    """Write the parts of one batch. The observations come last, because their rows make the batch count.

    The history that came with the changes is part of the batch.

    Raises
    ------
    OSError
        The batch could not be written.
    """
    # The time comes first, so that batches sort by age and maintenance can see which are abandoned.
    batch, started = f"{time.time_ns():016x}{secrets.token_hex(4)}", time.monotonic()
    index = indexes.get(recorder)
    buffered: dict[str, list[pa.Table]] = {}
    observations: list[pa.Table] = []
    for part in parts:
        encoded = encode_changes(part, batch, recorder, index, sum(map(len, observations)), history)
        index = part[-1].index
        observations.append(encoded.pop("snapshots"))
        for name, rows in encoded.items():
            buffered.setdefault(name, []).append(rows)
        tables.make()
        if sum(len(rows) for pieces in buffered.values() for rows in pieces) >= _MAX_BUFFERED_ROWS:
            _write(tables, buffered)
            release_memory()
    _write(tables, buffered)
    if time.monotonic() - started > _LIMIT_S:
        raise TimeoutError(f"an append to {tables.location} took over {_LIMIT_S} s. Append it again")
    if observations:
        if history is not None:
            _write_history(tables, history, batch)
        tables.append("snapshots", pa.concat_tables(observations))
        indexes[recorder] = index


def _write(tables: DeltaTables, buffered: dict[str, list[pa.Table]]) -> None:
    """Write the buffered rows, one commit per table: few large files are read faster than many small ones."""
    for name, pieces in buffered.items():
        tables.append(name, pa.concat_tables(pieces))
    buffered.clear()


def _write_history(tables: DeltaTables, history: HistoryChange, batch: str) -> None:
    rows = encode_history(history, batch)
    tables.make(rows)
    for name in STORED:  # in this order, which a repair after a power loss relies on
        if name in rows:
            tables.append(name, rows[name])


def observed_at(snapshot: Snapshot) -> pd.Timestamp:
    """Return the time of which a snapshot shows its cluster.

    Raises
    ------
    ValueError
        An archive cannot store the snapshot: it has no time, no events, or several clusters.
    """
    if snapshot.clusters:
        raise ValueError("an archive holds one cluster. Append one of this snapshot's .clusters")
    info = snapshot.info
    if not info.get("started_at"):
        raise ValueError("an archive needs the time of a snapshot, and this one does not have it")
    if info.get("query", {}).get("task_states") == "false":
        raise ValueError("an archive needs task events. Fetch the snapshot with task_states=True")
    return pd.Timestamp(info["started_at"]).as_unit("ns")


def complete_namespace(snapshot: Snapshot) -> str | None:
    """Return the namespace of which a snapshot holds every allocation; None if it holds only some of them.

    Allocations of that namespace that the snapshot lacks no longer exist.
    """
    info = snapshot.info
    is_partial = info["filtered"] or {"prefix", "filter", "reverse"} & set(info.get("query", {}))
    namespace: str | None = info.get("namespace")
    return namespace if info.get("complete") is True and not is_partial else None


def snapshot_changes(
    snapshot: Snapshot, known: pd.DataFrame | None, known_at: pd.Timestamp | None
) -> Iterator[Change]:
    """Yield what a snapshot changes against the rows in the archive.

    The last change has the removed allocations. A list of all namespaces leaves out, without a word, those
    that the token may not read. So allocations of a namespace of which the snapshot has none stay.
    """
    at, is_full, ids = observed_at(snapshot), complete_namespace(snapshot) is not None, set[str]()
    namespaces, reason = set[str](), "no recorder ran"
    change: Change | None = None
    for frames in snapshot._iter_parts(("allocations", "task_states", "events", "reschedules"), PART):
        if change is not None:
            yield change
        change = _all_added(frames, at, snapshot.info.get("index_first"))
        ids.update(change.added["alloc_id"])
        namespaces.update(change.added["namespace"])
        if known is not None and known_at is not None:
            change = replace(changes_since(change, known, known_at), removed=change.removed, gap=None)
    if change is None:
        return
    if is_full and known is not None and known_at is not None:
        missing = known[~known["alloc_id"].isin(ids)]
        unseen = missing["namespace"].notna() & ~missing["namespace"].isin(namespaces)
        if snapshot.info["namespace"] == "*" and unseen.any():
            names = ", ".join(sorted(missing["namespace"][unseen].unique()))
            missing, is_full, reason = missing[~unseen], False, f"nothing of {names} could be read"
        removed = missing.reset_index(drop=True)
        change = replace(change, removed=removed, gap=Gap(known_at, at, reason))
    yield replace(change, full=is_full)


def _all_added(frames: dict[str, pd.DataFrame], at: pd.Timestamp, index: int | None) -> Change:
    """Return a change in which every allocation is new."""
    rows = frames["allocations"]
    none = rows.iloc[:0]
    return Change(
        at=at, index=index, source="list", full=False, added=rows, changed=none, removed=none,
        task_states=frames["task_states"], events=frames["events"], reschedules=frames["reschedules"],
        new_events=frames["events"],
    )  # fmt: skip
