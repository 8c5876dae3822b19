"""Nomad's rules for watching, without I/O: lines of the event stream, what to keep of them, and the blocking index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..nomad.event_stream import NotAnEvent
from ..tables import wire_schema

MOST_PASSED = 1000
"""Events of one allocation that may pass between two changes; what is beyond is asked for anew."""

_HEAVY = ("Job", "Metrics", "AllocatedResources")
_KEPT = [name for name in wire_schema.ALLOCATION.fields if name not in _HEAVY]
_JOB = ("JobType", "JobVersion")


@dataclass
class Update:
    """The newest form of an allocation that was told of, and the events that left its rings meanwhile."""

    alloc_id: str
    index: int
    create_index: int
    row: bytes
    first_index: int
    job_known: bool = False
    passed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    older: Update | None = None

    def after(self, older: Update) -> None:
        """Stand for an older form too: take over the events that have left the rings since.

        Where a ring has nothing in common with the older one, events between them are lost, and both forms are told.
        """
        self.first_index = older.first_index
        states = _states(json.loads(self.row))
        passed = {}
        for task, events in older.rings().items():
            present = {_key(event) for event in _events(states.get(task))}
            left = [event for event in events if _key(event) not in present]
            if present and len(left) == len(events) > 0:
                self.older = older
                return
            if left:
                passed[task] = left
        self.passed, self.older = passed, older.older

    def forms(self) -> list[Update]:
        """Return it with the older forms that it cannot stand for, oldest first."""
        return [*(self.older.forms() if self.older else []), self]

    def rings(self) -> dict[str, list[dict[str, Any]]]:
        """Return the events of each task, with those that have left the ring before it."""
        states = _states(json.loads(self.row))
        tasks = {*states, *self.passed}
        return {task: [*self.passed.get(task, []), *_events(states.get(task))] for task in tasks}

    def extended(self) -> bytes:
        """Return the row with the events that have left its rings."""
        if not self.passed:
            return self.row
        row = json.loads(self.row)
        states = _states(row)
        for task, events in self.rings().items():
            if isinstance(states.get(task), dict):
                states[task]["Events"] = events
        return _text(row)

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return sum(len(form.row) for form in self.forms())

    @property
    def too_many(self) -> bool:
        return sum(len(events) for form in self.forms() for events in form.passed.values()) > MOST_PASSED


def update(alloc: Mapping[str, Any]) -> Update | None:
    """Return what is kept of an allocation as streams and full reads send it; None where it is none.

    The job, which may hold secrets, is let go; its type and version are kept.
    """
    identity, index, created = (alloc.get(name) for name in ("ID", "ModifyIndex", "CreateIndex"))
    if not isinstance(identity, str) or not _is_index(index):
        return None
    row = {name: alloc[name] for name in _KEPT if name in alloc}
    if isinstance(alloc.get("Job"), dict):
        row["JobType"], row["JobVersion"] = job_of(alloc)
    known = row.get("JobVersion") is not None
    created = created if _is_index(created) else 0
    return Update(identity, index, created, _text(row), index, known)


def job_of(alloc: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """Return the type and version of the job in a full read, each None where it is not there."""
    job = alloc.get("Job")
    kind, version = (job.get("Type"), job.get("Version")) if isinstance(job, dict) else (None, None)
    return kind if isinstance(kind, str) else None, version if isinstance(version, int) else None


def with_job(row: bytes, job_type: str | None, job_version: int | None) -> bytes:
    """Return a row with what its payload lacks: the type and version of its job."""
    head = json.dumps({"JobType": job_type, "JobVersion": job_version}, separators=(",", ":")).encode()
    return head[:-1] + b"," + row[1:] if len(row) > 2 else head


@dataclass(frozen=True)
class Line:
    """One line of a stream: a heartbeat where `index` is None."""

    index: int | None
    updates: list[Update]
    skipped: int = 0


def parse(text: bytes) -> Line:
    """Read one whole line.

    Raises
    ------
    NotAnEvent
        It is no JSON object, or has no index.
    """
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAnEvent(str(error)) from None
    if said == {}:
        return Line(None, [])
    index = said.get("Index") if isinstance(said, dict) else None
    if not _is_index(index):
        raise NotAnEvent("a line without an index")
    found = [update(alloc) for alloc in _allocations(said.get("Events"))]
    kept = [one for one in found if one is not None]
    return Line(index, kept, len(found) - len(kept))


def _allocations(events: Any) -> Iterator[Mapping[str, Any]]:
    for event in events if isinstance(events, list) else []:
        payload = event.get("Payload") if isinstance(event, dict) else None
        alloc = payload.get("Allocation") if isinstance(payload, dict) else None
        if isinstance(alloc, dict):
            yield alloc


def _is_index(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64


def _states(row: Mapping[str, Any]) -> dict[str, Any]:
    states = row.get("TaskStates")
    return states if isinstance(states, dict) else {}


def _events(state: Any) -> list[dict[str, Any]]:
    events = state.get("Events") if isinstance(state, dict) else None
    return [event for event in events if isinstance(event, dict)] if isinstance(events, list) else []


def _key(event: Mapping[str, Any]) -> tuple[str, str]:
    return repr(event.get("Time")), repr(event.get("Type"))


def _text(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode("utf-8", "surrogatepass")
