"""Lines of the event stream as updates of allocations, and how updates are merged. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..nomad.event_stream import NotAnEvent
from ..tables import wire_schema

MAX_PASSED_EVENTS = 1000
"""Events of one allocation that may pass through its rings between two changes.

If more do, it is listed again.
"""

_EVENT_BYTES = 1500
"""About what an event takes as Python objects."""

_HEAVY = ("Job", "Metrics", "AllocatedResources")
_STORED_FIELDS = [name for name in wire_schema.ALLOCATION.fields if name not in _HEAVY]

JobInfo = tuple[str | None, int | None]
"""The type and the version of an allocation's job."""

Events = list[dict[str, Any]]


@dataclass
class Update:
    """The newest version of an allocation in the stream, merged with the versions that nobody has taken yet.

    Attributes
    ----------
    index, first_index : int
        ModifyIndex of the newest version, and of the oldest one merged into it.
    row : bytes
        The allocation as JSON, without its job.
    passed : dict
        Events that have left the ring of a task, by task.
    older : Update or None
        An older version that could not be merged, because events between the two are lost.
    """

    alloc_id: str
    index: int
    create_index: int
    row: bytes
    first_index: int
    has_job: bool = False
    passed: dict[str, Events] = field(default_factory=dict)
    older: Update | None = None

    def merge(self, older: Update) -> None:
        """Replace an older version: take over the events that have left its rings.

        If the two rings of a task share no event, events between them are lost. Then both versions are kept,
        so that the gap stays visible.
        """
        self.first_index = older.first_index
        states = _task_states(json.loads(self.row))
        passed = {}
        for task, events in older.rings().items():
            ring = {_event_key(event) for event in _events(states.get(task))}
            left = [event for event in events if _event_key(event) not in ring]
            if ring and len(left) == len(events) > 0:
                self.older = older
                return
            if left:
                passed[task] = left
        self.passed, self.older = passed, older.older

    def versions(self) -> list[Update]:
        """Return this update and the older ones that could not be merged, oldest first."""
        return [*(self.older.versions() if self.older else []), self]

    def rings(self) -> dict[str, Events]:
        """Return the events of each task, beginning with those that have left its ring."""
        states = _task_states(json.loads(self.row))
        tasks = {*states, *self.passed}
        return {task: [*self.passed.get(task, []), *_events(states.get(task))] for task in tasks}

    def row_with_passed(self) -> bytes:
        """Return the row, its rings extended by the events that have left them."""
        if not self.passed:
            return self.row
        row = json.loads(self.row)
        states = _task_states(row)
        for task, events in self.rings().items():
            if isinstance(states.get(task), dict):
                states[task]["Events"] = events
        return _to_json(row)

    @property
    def size(self) -> int:
        """The approximate size in bytes."""
        return sum(len(version.row) + _EVENT_BYTES * version._passed() for version in self.versions())

    def _passed(self) -> int:
        return sum(map(len, self.passed.values()))

    @property
    def is_too_long(self) -> bool:
        """Whether more events have passed than may be kept."""
        return sum(version._passed() for version in self.versions()) > MAX_PASSED_EVENTS


def parse_allocation(alloc: Mapping[str, Any]) -> Update | None:
    """Return an allocation from a stream or a full read as an update; None if it is not an allocation.

    Only the type and version of the job are kept, because the rest may hold secrets.
    """
    alloc_id, index, created = (alloc.get(name) for name in ("ID", "ModifyIndex", "CreateIndex"))
    if not isinstance(alloc_id, str) or not is_index(index):
        return None
    row = {name: alloc[name] for name in _STORED_FIELDS if name in alloc}
    if isinstance(alloc.get("Job"), dict):
        row["JobType"], row["JobVersion"] = job_info(alloc)
    has_job = row.get("JobVersion") is not None
    created = created if is_index(created) else 0
    return Update(alloc_id, index, created, _to_json(row), index, has_job)


def job_info(alloc: Mapping[str, Any]) -> JobInfo:
    """Return the type and version of the job in a full read. Missing ones are None."""
    job = alloc.get("Job")
    job_type, version = (job.get("Type"), job.get("Version")) if isinstance(job, dict) else (None, None)
    return job_type if isinstance(job_type, str) else None, version if isinstance(version, int) else None


def with_job(row: bytes, job_type: str | None, job_version: int | None) -> bytes:
    """Return a row with the type and version of its job, which payloads of the stream lack."""
    # Spliced into the text: parsing and writing the whole row costs far more.
    head = json.dumps({"JobType": job_type, "JobVersion": job_version}, separators=(",", ":")).encode()
    return head[:-1] + b"," + row[1:] if len(row) > 2 else head


@dataclass(frozen=True)
class Line:
    """One line of a stream. A heartbeat has no `index`."""

    index: int | None
    updates: list[Update]
    skipped: int = 0


def read_line(text: bytes) -> tuple[int | None, Any]:
    """Return the index and the events, of whatever shape, of one complete line; None of a heartbeat.

    Raises
    ------
    NotAnEvent
        The line is not a JSON object, or has no index.
    """
    try:
        batch = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAnEvent(str(error)) from None
    if batch == {}:
        return None, None
    index = batch.get("Index") if isinstance(batch, dict) else None
    if not is_index(index):
        raise NotAnEvent("a line without an index")
    return index, batch.get("Events")


def parse(text: bytes) -> Line:
    """Parse one complete line.

    Raises
    ------
    NotAnEvent
        The line is not a JSON object, or has no index.
    """
    index, events = read_line(text)
    if index is None:
        return Line(None, [])
    parsed = [parse_allocation(alloc) for alloc in _allocations(events)]
    updates = [update for update in parsed if update is not None]
    return Line(index, updates, len(parsed) - len(updates))


def _allocations(events: Any) -> Iterator[Mapping[str, Any]]:
    for event in events if isinstance(events, list) else []:
        payload = event.get("Payload") if isinstance(event, dict) else None
        alloc = payload.get("Allocation") if isinstance(payload, dict) else None
        if isinstance(alloc, dict):
            yield alloc


def is_index(value: Any) -> TypeGuard[int]:
    """Return whether a value is a Raft index. JSON's true would pass as an int."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _task_states(row: Mapping[str, Any]) -> dict[str, Any]:
    states = row.get("TaskStates")
    return states if isinstance(states, dict) else {}


def _events(state: Any) -> list[dict[str, Any]]:
    events = state.get("Events") if isinstance(state, dict) else None
    return [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []


def _event_key(event: Mapping[str, Any]) -> tuple[str, str]:
    return repr(event.get("Time")), repr(event.get("Type"))


def _to_json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("utf-8", "surrogatepass")
