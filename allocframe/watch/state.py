"""The current state of a watched cluster as typed rows, and what each list or update changes in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..store.capture import Capture
from ..store.page_store import PageStore
from ..tables import TABLES
from .change import Checkpoint
from .updates import JobInfo, Update, with_job

_CHANGED = ("allocations", "task_states", "events", "reschedules")
PART = 5_000
"""Allocations of a list that are made into tables at once. A recorder writes a part in about a second."""

_MAX_SELECTED = 2000
"""Up to this many allocations of a list are selected by a query of their own.

Beyond it, decoding all is faster.
"""

Frames = dict[str, pd.DataFrame]


@dataclass(slots=True)
class _Entry:
    """What is needed of one allocation to find out what the next list or update changes."""

    modify_index: int
    job_type: str | None = None
    job_version: int | None = None
    namespace: str | None = None
    ring: np.ndarray[Any, Any] | None = None
    """A number for each event in its rings; None if the rings are unknown."""


@dataclass(frozen=True)
class Difference:
    """How a list differs from the state."""

    changed: set[str]
    """New or changed allocations."""

    removed: list[str]
    newer: list[str]
    """Allocations whose state is newer than the list."""

    has_all_rings: bool
    """Whether the rings of all unchanged allocations are known."""


class WatchState:
    """The newest known version of every allocation."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.entries: dict[str, _Entry] = {
            alloc_id: _Entry(index, namespace=checkpoint.namespace.get(alloc_id))
            for alloc_id, index in checkpoint.modify_index.items()
        }
        self._store = PageStore(Capture.create())
        self._batch = PageStore(Capture.create(), threads=1)
        self._pending: dict[str, bytes] = {}

    def _entry(self, alloc_id: str) -> _Entry:
        return self.entries.get(alloc_id) or _UNKNOWN

    def without_job(self, updates: Iterable[Update]) -> list[str]:
        """Return IDs of allocations whose job type and version are unknown."""
        return [
            update.alloc_id
            for update in updates
            if not update.has_job and self._entry(update.alloc_id).job_version is None
        ]

    def newer(self, updates: Iterable[Update]) -> list[Update]:
        """Return the updates that are newer than the state, in order of creation of their allocations."""
        newer = (update for update in updates if update.index > self._entry(update.alloc_id).modify_index)
        return sorted(newer, key=lambda update: (update.create_index, update.alloc_id))

    def apply(self, updates: Sequence[Update], jobs: dict[str, JobInfo]) -> Frames:
        """Apply updates that are newer than the state; return what they change.

        `jobs` holds the type and version of the jobs of `without_job`, as far as they could be found.
        """
        for update in updates:
            if not update.has_job:
                entry = self._entry(update.alloc_id)
                job = jobs.get(update.alloc_id, (entry.job_type, entry.job_version))
                update.row, update.has_job = with_job(update.row, *job), True
        frames = self._decode([update.row for update in updates], _CHANGED)
        if any(update.passed for update in updates):
            # The stored rows keep Nomad's rings. Only this change also shows the events that have left them.
            frames |= self._decode([update.row_with_passed() for update in updates], ("events",))
        self._pending |= {update.alloc_id: update.row for update in updates}
        if len(self._pending) > _MAX_SELECTED:
            self._flush()
        return self._record(frames)

    def _flush(self) -> None:
        """Write pending rows to the store, where writing one costs nearly as much as writing a thousand."""
        if self._pending:
            self._decode(list(self._pending.values()), ())
            self._store.drop(self._pending)
            self._store.put(self._batch.rows())
            self._pending = {}

    def _decode(self, rows: list[bytes], names: Iterable[str]) -> Frames:
        """Decode rows in the batch store; return the named tables of them."""
        self._batch.clear()
        capture = self._batch.capture
        page = capture.add(b"[" + b",\n".join(rows) + b"]", path="", params={})
        try:
            self._batch.read(page)
        finally:
            capture.discard(page)
        return {name: self._batch.frame(name) for name in names}

    def vanished(self, store: PageStore) -> dict[str | None, list[str]]:
        """Return the allocations of each namespace of which a list has none, the last changed ones first."""
        listed = store.namespaces()
        vanished: dict[str | None, list[str]] = {}
        for alloc_id, entry in self.entries.items():
            if entry.namespace not in listed:
                vanished.setdefault(entry.namespace, []).append(alloc_id)
        if None in vanished:
            # A checkpoint without namespaces: what is listed is not missing.
            present = store.modify_indexes()
            vanished[None] = [alloc_id for alloc_id in vanished[None] if alloc_id not in present]
        for ids in vanished.values():
            ids.sort(key=lambda alloc_id: -self.entries[alloc_id].modify_index)
        return {namespace: ids for namespace, ids in vanished.items() if ids}

    def is_newer_than(self, listed: dict[str, int], index: int) -> bool:
        """Return whether the state has a change up to an index that a list of that index lacks."""
        return any(
            modified < entry.modify_index <= index
            for alloc_id, modified in listed.items()
            if (entry := self.entries.get(alloc_id)) is not None
        )

    def lacks_known(
        self, changes: Iterable[dict[str, int]], index: int, hidden: Container[str | None]
    ) -> bool:
        """Return whether the state lacks one of some changes, although it includes all up to an index.

        What it never had does not count, nor does a hidden namespace: the token's rights may have changed.
        """
        return any(
            entry.modify_index < modified <= index and entry.namespace not in hidden
            for part in changes
            for alloc_id, modified in part.items()
            if (entry := self.entries.get(alloc_id)) is not None
        )

    def compare(
        self,
        listed: dict[str, int],
        index: int | None,
        *,
        reset: bool = False,
        hidden: Container[str] = frozenset(),
    ) -> Difference:
        """Compare the state with a list.

        Parameters
        ----------
        listed : dict
            ModifyIndex of each listed allocation.
        index : int or None
            Index of the cluster when it sent the list.
        reset : bool
            The cluster counts its indexes anew, so any difference is a change.
        hidden : set of str
            Allocations that exist, although the list lacks them: they stay as they are.
        """
        changed: set[str] = set()
        removed: list[str] = []
        newer: list[str] = []
        has_all_rings = True
        for alloc_id, modified in listed.items():
            entry = self.entries.get(alloc_id)
            if entry is None or modified > entry.modify_index or (reset and modified != entry.modify_index):
                changed.add(alloc_id)
            elif modified < entry.modify_index:
                newer.append(alloc_id)
            elif entry.ring is None:
                has_all_rings = False
        for alloc_id, entry in self.entries.items():
            if alloc_id not in listed:
                # The stream may have added it after the list began. An entry without a ring never came from a
                # stream.
                is_newer = not reset and index is not None and entry.modify_index > index
                stays = alloc_id in hidden or (is_newer and entry.ring is not None)
                (newer if stays else removed).append(alloc_id)
        return Difference(changed, removed, newer, has_all_rings)

    def replace(
        self,
        store: PageStore,
        index: int | None,
        *,
        reset: bool = False,
        hidden: Container[str] = frozenset(),
    ) -> Iterator[tuple[Frames, bool]]:
        """Replace the state by a full list; yield what that changes, and whether it is the last part.

        A long list comes in parts, so that memory does not grow with it. The last one has what was removed.
        Allocations whose job was unknown count as changed.
        """
        listed = store.modify_indexes()
        difference = self.compare(listed, index, reset=reset, hidden=hidden)
        without_job = {
            alloc_id
            for alloc_id, entry in self.entries.items()
            if entry.ring is not None and entry.job_version is None
        }
        difference.changed.update(without_job.intersection(listed).difference(difference.newer))
        self._flush()
        if difference.newer:
            rows = self._store.rows(difference.newer)
            store.drop(difference.newer)
            store.put(rows)
        removed = self.remove(difference.removed)
        self._store.close()
        self._store.capture.close()
        self._store = store
        before: Frames | None = None
        for frames in self._changed_frames(store, difference):
            if before is not None:
                yield before, False
            before = self._record(frames)
        yield (before or self.no_change()) | {"removed": removed}, True

    def _changed_frames(self, store: PageStore, difference: Difference) -> Iterator[Frames]:
        """Yield the tables of the new and changed allocations of a list, in parts."""
        if difference.has_all_rings and len(difference.changed) <= _MAX_SELECTED:
            schema = store.narrow("main", [("alloc_id", difference.changed)])
            yield {name: store.frame(name, schema) for name in _CHANGED}
            return
        for schema in store.split("main", PART):
            frames = {name: store.frame(name, schema) for name in _CHANGED}
            ids = frames["allocations"]["alloc_id"]
            # Of this part alone: to look for each row among all of a long list would take most of the time.
            changed = difference.changed.intersection(ids)
            if not difference.has_all_rings:
                self._record_unchanged(frames, changed)
            if len(changed) == len(ids):
                yield frames
            elif changed:
                yield {name: _select(frame, changed) for name, frame in frames.items()}

    def _record_unchanged(self, frames: Frames, changed: set[str]) -> None:
        """Record the rings and jobs of allocations unchanged since the checkpoint, which lacks both."""
        ids = set(frames["allocations"]["alloc_id"]) - changed
        self._record_entries(_select(frames["allocations"], ids), self._rings(frames["events"])[0])

    def remove(self, ids: Sequence[str]) -> pd.DataFrame:
        """Remove allocations; return their last rows."""
        if not ids:
            return _NO_ALLOCATIONS.copy()
        self._flush()
        stored = self._store.modify_indexes()
        from_checkpoint = [alloc_id for alloc_id in ids if alloc_id not in stored]
        if from_checkpoint:
            rows = [
                json.dumps({"ID": alloc_id, "ModifyIndex": self.entries[alloc_id].modify_index}).encode()
                for alloc_id in from_checkpoint
            ]
            self._decode(rows, ())
            self._store.put(self._batch.rows())
        removed = self._store.frame("allocations", self._store.narrow("main", [("alloc_id", ids)]))
        for alloc_id in ids:
            del self.entries[alloc_id]
        self._store.drop(ids)
        return removed

    def _record(self, frames: Frames) -> Frames:
        """Record new and changed allocations; return the frames of a change."""
        allocations, events = frames.pop("allocations"), frames["events"]
        was_known = np.fromiter(
            (alloc_id in self.entries for alloc_id in allocations["alloc_id"]), bool, len(allocations)
        )
        rings, is_new = self._rings(events)
        self._record_entries(allocations, rings)
        return {
            "removed": _NO_ALLOCATIONS.copy(),
            **frames,
            "added": allocations[~was_known].reset_index(drop=True),
            "changed": allocations[was_known].reset_index(drop=True),
            "new_events": events[is_new].reset_index(drop=True),
        }

    def _rings(self, events: pd.DataFrame) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        """Return the event numbers of each allocation, and which events were not in its rings before."""
        ids, numbers, rings = events["alloc_id"].tolist(), _number_events(events), {}
        is_new = np.ones(len(ids), dtype=bool)
        for start, end in _runs(ids):
            ring = rings[ids[start]] = numbers[start:end].copy()
            before = self._entry(ids[start]).ring
            if before is not None:
                is_new[start:end] = ~np.isin(ring, before)
        return rings, is_new

    def _record_entries(self, allocations: pd.DataFrame, rings: dict[str, Any]) -> None:
        names = ("alloc_id", "modify_index", "job_type", "job_version", "namespace")
        columns = (
            [None if value is pd.NA or value != value else value for value in allocations[name].tolist()]
            for name in names
        )
        for alloc_id, index, job_type, version, namespace in zip(*columns, strict=True):
            ring = rings.get(alloc_id, _NO_EVENTS)
            self.entries[alloc_id] = _Entry(index or 0, job_type, version, namespace, ring)

    def copy(self) -> tuple[Capture, PageStore]:
        """Return the state as a store of its own, which later changes do not touch."""
        self._flush()
        capture = Capture.create()
        store = PageStore(capture)
        store.put(self._store.rows())
        return capture, store

    def no_change(self) -> Frames:
        """Return the frames of an empty change."""
        empty = {name: TABLES[name].empty() for name in _CHANGED[1:]}
        none = _NO_ALLOCATIONS
        return {**empty, "new_events": empty["events"], "added": none, "changed": none, "removed": none}


_NO_ALLOCATIONS = TABLES["allocations"].empty()
_NO_EVENTS = np.empty(0, dtype=np.int64)
_UNKNOWN = _Entry(-1)


def _select(frame: pd.DataFrame, ids: set[str]) -> pd.DataFrame:
    return frame[frame["alloc_id"].isin(ids)].reset_index(drop=True)


def _number_events(events: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Return a number for each event that identifies it within its allocation.

    It is a hash of task, type, time, and the occurrence among events that are equal in all three.
    """
    times = events["time"].astype("int64").tolist()
    numbers = np.empty(len(events), dtype=np.int64)
    current: str | None = None
    occurrences: dict[tuple[Any, ...], int] = {}
    columns = (events["alloc_id"].tolist(), events["task"].tolist(), events["type"].tolist(), times)
    for position, (alloc_id, *event) in enumerate(zip(*columns, strict=True)):
        if alloc_id != current:
            current, occurrences = alloc_id, {}
        key = tuple(event)
        occurrences[key] = occurrence = occurrences.get(key, 0) + 1
        numbers[position] = hash((*key, occurrence))
    return numbers


def _runs(ids: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of equal IDs."""
    start = 0
    for end in range(1, len(ids) + 1):
        if end == len(ids) or ids[end] != ids[start]:
            yield start, end
            start = end


FindJobs = Callable[[list[str]], dict[str, JobInfo]]
"""Finds the type and version of the jobs of allocations."""


def find_jobs_in(store: PageStore) -> FindJobs:
    """Return a function that finds jobs in a list."""

    def find_jobs(ids: list[str]) -> dict[str, JobInfo]:
        rows = store.rows(ids)["allocations"].select(["alloc_id", "job_type", "job_version"]).to_pylist()
        return {row["alloc_id"]: (row["job_type"], row["job_version"]) for row in rows}

    return find_jobs
