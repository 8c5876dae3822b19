"""The present state of a watched cluster: typed rows kept current, and what each answer changed in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..store.capture import Capture, Page
from ..store.page_store import PageStore
from ..tables import TABLES
from . import updates as _events
from .change import Checkpoint
from .updates import Update

_CHANGED = ("allocations", "task_states", "events", "reschedules")
_FEW = 2000
"""Allocations that are worth a query of their own among all of a list."""

Frames = dict[str, pd.DataFrame]


@dataclass(slots=True)
class _Known:
    """What must be remembered of one allocation to tell what the next answer changes."""

    modify_index: int
    job_type: str | None = None
    job_version: int | None = None
    ring: np.ndarray[Any, Any] | None = None
    """A number for each event of its rings; None while they are not known."""


@dataclass(frozen=True)
class Difference:
    """What a list holds against what is known."""

    chosen: set[str]
    """New, or changed."""

    gone: list[str]
    kept: list[str]
    """What is newer than the list."""

    complete: bool
    """Whether the rings of all others are known."""


class Rows(Capture):
    """A capture that no answer was put into: its one page is written of its rows, once somebody asks for it."""

    store: PageStore

    @property
    def pages(self) -> list[Page]:
        if not self._pages:
            self.store.write_page()
        return super().pages


class WatchState:
    """Every allocation as it was last told of."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.known = {identity: _Known(index) for identity, index in checkpoint.modify_index.items()}
        self._store = PageStore(Capture.create())
        self._batch = PageStore(Capture.create(), threads=1)
        self._pending: dict[str, bytes] = {}

    def without_job(self, updates: Iterable[Update]) -> list[str]:
        """Return the allocations whose payload does not tell the type and version of their job, nor anything before."""
        return [
            one.alloc_id
            for one in updates
            if not one.job_known and (self.known.get(one.alloc_id) or _NOTHING).job_version is None
        ]

    def fresh(self, updates: Iterable[Update]) -> list[Update]:
        """Return the updates that are newer than what is known, in the order in which their allocations were made."""
        newer = (
            one for one in updates if one.index > (self.known.get(one.alloc_id) or _NOTHING).modify_index
        )
        return sorted(newer, key=lambda one: (one.create_index, one.alloc_id))

    def apply(self, updates: Sequence[Update], jobs: dict[str, tuple[str | None, int | None]]) -> Frames:
        """Take in fresh updates; `jobs` holds what `without_job` asked for."""
        for one in updates:
            if not one.job_known:
                known = self.known.get(one.alloc_id) or _NOTHING
                job = jobs.get(one.alloc_id, (known.job_type, known.job_version))
                one.row, one.job_known = _events.with_job(one.row, *job), True
        frames = self._typed([one.row for one in updates], _CHANGED)
        if any(one.passed for one in updates):
            frames |= self._typed([one.extended() for one in updates], ("events",))
        self._pending |= {one.alloc_id: one.row for one in updates}
        if len(self._pending) > _FEW:
            self._settle()
        return self._noted(frames)

    def _settle(self) -> None:
        """Put what has come since into the store of all, where one row costs nearly as much as a thousand."""
        if self._pending:
            self._typed(list(self._pending.values()), ())
            self._store.drop(self._pending)
            self._store.put(self._batch.rows())
            self._pending = {}

    def _typed(self, rows: list[bytes], names: Iterable[str]) -> Frames:
        self._batch.clear()
        capture = self._batch.capture
        page = capture.add(b"[" + b",\n".join(rows) + b"]", path="", params={})
        try:
            self._batch.read(page)
        finally:
            capture.discard(page)
        return {name: self._batch.quick_frame(name) for name in names}

    def difference(self, listed: dict[str, int], index: int | None, *, reset: bool = False) -> Difference:
        """Compare the ModifyIndex of each allocation of a list, which the cluster sent at `index`.

        After a `reset` the indexes are counted anew: what differs has changed.
        """
        chosen: set[str] = set()
        gone: list[str] = []
        kept: list[str] = []
        complete = True
        for identity, modified in listed.items():
            known = self.known.get(identity)
            if known is None or modified > known.modify_index or (reset and modified != known.modify_index):
                chosen.add(identity)
            elif modified < known.modify_index:
                kept.append(identity)
            elif known.ring is None:
                complete = False
        for identity, known in self.known.items():
            if identity not in listed:
                newer = not reset and index is not None and known.modify_index > index
                (kept if newer and known.ring is not None else gone).append(identity)
        return Difference(chosen, gone, kept, complete)

    def replace(self, store: PageStore, index: int | None, *, reset: bool = False) -> Frames:
        """Put a whole list in place of what is known; return what that changes, and what had lacked its job."""
        listed = store.modify_indexes()
        found = self.difference(listed, index, reset=reset)
        jobless = {
            i for i, known in self.known.items() if known.ring is not None and known.job_version is None
        }
        found.chosen.update(jobless.intersection(listed).difference(found.kept))
        self._settle()
        if found.kept:
            rows = self._store.rows(found.kept)
            store.drop(found.kept)
            store.put(rows)
        frames = self._chosen(store, found)
        frames["removed"] = self.forget(found.gone)
        self._store.close()
        self._store.capture.close()
        self._store = store
        return self._noted(frames)

    def _chosen(self, store: PageStore, found: Difference) -> Frames:
        """Return the tables of what a list holds that is new, or changed."""
        if found.complete and len(found.chosen) <= _FEW:
            schema = store.narrow("main", [("alloc_id", found.chosen)])
            return {name: store.frame(name, schema) for name in _CHANGED}
        frames = {name: store.frame(name) for name in _CHANGED}
        if not found.complete:
            self._learn(frames, found.chosen)
        return {name: _only(frame, found.chosen) for name, frame in frames.items()}

    def _learn(self, frames: Frames, but: set[str]) -> None:
        """Remember the rings and jobs of allocations that are as they were in the time before this watch."""
        unchanged = _only(frames["allocations"], set(frames["allocations"]["alloc_id"]) - but)
        self._remember(unchanged, self._rings(frames["events"])[0])

    def forget(self, gone: Sequence[str]) -> pd.DataFrame:
        """Let go of allocations; return their last rows."""
        if not gone:
            return _NONE.copy()
        self._settle()
        held = self._store.modify_indexes()
        bare = {identity: self.known[identity].modify_index for identity in gone if identity not in held}
        if bare:
            rows = [
                json.dumps({"ID": identity, "ModifyIndex": index}).encode()
                for identity, index in bare.items()
            ]
            self._typed(rows, ())
            self._store.put(self._batch.rows())
        last = self._store.frame("allocations", self._store.narrow("main", [("alloc_id", gone)]))
        for identity in gone:
            del self.known[identity]
        self._store.drop(gone)
        return last

    def _noted(self, frames: Frames) -> Frames:
        """Remember new and changed allocations; return their frames, split, with the events that were not there before."""
        allocations, events = frames.pop("allocations"), frames["events"]
        was = np.fromiter(
            (identity in self.known for identity in allocations["alloc_id"]), bool, len(allocations)
        )
        rings, unseen = self._rings(events)
        self._remember(allocations, rings)
        return {
            "removed": _NONE.copy(),
            **frames,
            "added": allocations[~was].reset_index(drop=True),
            "changed": allocations[was].reset_index(drop=True),
            "new_events": events[unseen].reset_index(drop=True),
        }

    def _rings(self, events: pd.DataFrame) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        """Return the numbers of each allocation's events, and which events were not in its rings before."""
        ids, numbers, rings = events["alloc_id"].tolist(), _numbers(events), {}
        unseen = np.ones(len(ids), dtype=bool)
        for start, end in _runs(ids):
            ring = rings[ids[start]] = numbers[start:end].copy()
            before = (self.known.get(ids[start]) or _NOTHING).ring
            if before is not None:
                unseen[start:end] = ~np.isin(ring, before)
        return rings, unseen

    def _remember(self, allocations: pd.DataFrame, rings: dict[str, Any]) -> None:
        names = ("alloc_id", "modify_index", "job_type", "job_version")
        columns = (
            [None if value is pd.NA or value != value else value for value in allocations[name].tolist()]
            for name in names
        )
        for identity, index, kind, version in zip(*columns, strict=True):
            self.known[identity] = _Known(index or 0, kind, version, rings.get(identity, _NO_EVENTS))

    def copy(self) -> tuple[Capture, PageStore]:
        """Return everything as a store of its own, which later changes leave alone."""
        self._settle()
        capture = Rows.create()
        store = capture.store = PageStore(capture)
        store.put(self._store.rows())
        return capture, store

    def nothing(self) -> Frames:
        """Return the frames of no change."""
        empty = {name: TABLES[name].empty() for name in _CHANGED[1:]}
        return {**empty, "new_events": empty["events"], "added": _NONE, "changed": _NONE, "removed": _NONE}


_NONE = TABLES["allocations"].empty()
_NO_EVENTS = np.empty(0, dtype=np.int64)
_NOTHING = _Known(-1)


def _only(frame: pd.DataFrame, ids: set[str]) -> pd.DataFrame:
    return frame[frame["alloc_id"].isin(ids)].reset_index(drop=True)


def _numbers(events: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return a number for each event: the same for the same task, type, time and place among equal ones."""
    times = events["time"].astype("int64").tolist()
    numbers = np.empty(len(events), dtype=np.int64)
    owner: str | None = None
    seen: dict[tuple[Any, ...], int] = {}
    columns = (events["alloc_id"].tolist(), events["task"].tolist(), events["type"].tolist(), times)
    for place, (alloc, *event) in enumerate(zip(*columns, strict=True)):
        if alloc != owner:
            owner, seen = alloc, {}
        key = tuple(event)
        seen[key] = nth = seen.get(key, 0) + 1
        numbers[place] = hash((*key, nth))
    return numbers


def _runs(ids: list[str]) -> Iterator[tuple[int, int]]:
    """Yield where the events of each allocation start and end."""
    start = 0
    for place in range(1, len(ids) + 1):
        if place == len(ids) or ids[place] != ids[start]:
            yield start, place
            start = place


Jobs = Callable[[list[str]], dict[str, tuple[str | None, int | None]]]
"""Finds the type and version of the jobs of allocations."""


def jobs_in(store: PageStore) -> Jobs:
    """Return how to find them in a list."""

    def found(ids: list[str]) -> dict[str, tuple[str | None, int | None]]:
        rows = store.rows(ids).select(["ID", "JobType", "JobVersion"]).to_pylist()
        return {row["ID"]: (row["JobType"], row["JobVersion"]) for row in rows}

    return found
