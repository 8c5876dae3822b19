"""How an append is written: part by part, of which none counts before all are there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pandas as pd
import pyarrow as pa

from .._utils.memory import release_memory
from ..snapshot.snapshot import Snapshot
from ..watch.change import Change, Gap
from .checkpoint import caught_up
from .delta import DeltaTables
from .encode import rows

_LIMIT_S = 1800
"""An append that takes longer than this does not count; what it left may then be cleared away."""

_ROWS = 250_000
"""Rows that wait for a commit: fewer, and files are small; more, and they take memory."""


def append(
    tables: DeltaTables, parts: Iterable[Sequence[Change]], recorder: str, indexes: dict[str, int | None]
) -> None:
    """Write parts of one batch, and last the observations, whose rows make it count.

    Raises
    ------
    OSError
        It could not be written.
    """
    batch, started = f"{time.time_ns():016x}{secrets.token_hex(4)}", time.monotonic()
    index = indexes.get(recorder)
    waiting: dict[str, list[pa.Table]] = {}
    observed: list[pa.Table] = []
    for part in parts:
        told = rows(part, batch, recorder, index, sum(map(len, observed)))
        index = part[-1].index
        observed.append(told.pop("snapshots"))
        for name, found in told.items():
            waiting.setdefault(name, []).append(found)
        tables.make()
        if sum(len(one) for found in waiting.values() for one in found) >= _ROWS:
            _write(tables, waiting)
            release_memory()
    _write(tables, waiting)
    if time.monotonic() - started > _LIMIT_S:
        raise TimeoutError(f"an append to {tables.where} took over {_LIMIT_S} s; give it again")
    if observed:
        tables.append("snapshots", pa.concat_tables(observed))
        indexes[recorder] = index


def _write(tables: DeltaTables, waiting: dict[str, list[pa.Table]]) -> None:
    """Write what waits, a commit for each table: few large files are read faster than many small ones."""
    for name, found in waiting.items():
        tables.append(name, pa.concat_tables(found))
    waiting.clear()


PART = 10_000
"""Allocations in one change."""


def check(snapshot: Snapshot) -> pd.Timestamp:
    """Return up to when a snapshot tells of its cluster.

    Raises
    ------
    ValueError
        It does not say; or its events are not there; or it is of several clusters.
    """
    if snapshot.clusters:
        raise ValueError("this snapshot is of several clusters: an archive keeps one of .clusters")
    info = snapshot.info
    if not info.get("started_at"):
        raise ValueError("this snapshot does not say when it was taken: an archive keeps what was seen when")
    if info.get("query", {}).get("task_states") == "false":
        raise ValueError("this snapshot was fetched without task states: an archive keeps their events")
    return pd.Timestamp(info["started_at"]).as_unit("ns")


def covers(snapshot: Snapshot) -> str | None:
    """Return the namespace of which a snapshot holds every allocation, so that what it lacks is gone; None for a part of one."""
    info = snapshot.info
    chosen = info["filtered"] or {"prefix", "filter", "reverse"} & set(info.get("query", {}))
    namespace: str | None = info.get("namespace")
    return namespace if info.get("complete") is True and not chosen else None


def changes(
    snapshot: Snapshot, known: pd.DataFrame | None, known_at: pd.Timestamp | None
) -> Iterator[Change]:
    """Yield what a snapshot changes against the rows that were there before; the last change tells what is gone."""
    at, whole, seen = check(snapshot), covers(snapshot) is not None, set[str]()
    last: Change | None = None
    for frames in snapshot._iter_parts(("allocations", "task_states", "events", "reschedules"), PART):
        if last is not None:
            yield last
        last = _change(frames, at, snapshot.info.get("index_first"))
        seen.update(last.added["alloc_id"])
        if known is not None and known_at is not None:
            last = replace(caught_up(last, known, known_at), removed=last.removed, gap=None)
    if last is None:
        return
    if whole and known is not None and known_at is not None:
        gone = known[~known["alloc_id"].isin(seen)].reset_index(drop=True)
        last = replace(last, removed=gone, gap=Gap(known_at, at, "no recorder ran"))
    yield replace(last, full=whole)


def _change(frames: dict[str, pd.DataFrame], at: pd.Timestamp, index: int | None) -> Change:
    rows = frames["allocations"]
    none = rows.iloc[:0]
    return Change(
        at=at, index=index, source="list", full=False, added=rows, changed=none, removed=none,
        task_states=frames["task_states"], events=frames["events"], reschedules=frames["reschedules"],
        new_events=frames["events"],
    )  # fmt: skip
