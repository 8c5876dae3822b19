"""Nomad's rules for watching, without I/O: lines of the event stream, what to keep of them, and the blocking index."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from ..tables import wire_schema as _wire

STREAM = "/v1/event/stream"
HEARTBEAT = 30.0
"""Seconds between the empty lines that servers send while nothing happens."""

QUIET = 2.5 * HEARTBEAT
"""Seconds without a line after which a stream counts as broken."""

LONGEST_LINE = 128 << 20
"""Bytes of one line; a plan of thousands of allocations is one line."""

MOST_PASSED = 1000
"""Events of one allocation that may pass between two changes; what is beyond is asked for anew."""

_HEAVY = ("Job", "Metrics", "AllocatedResources")
_KEPT = [name for name in _wire.ALLOCATION.fields if name not in _HEAVY]
_JOB = ("JobType", "JobVersion")


class NotAnEvent(ValueError):
    """A line of an event stream that is none."""


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


@dataclass
class BlockingIndex:
    """What to ask next in a series of blocking queries, by their published rules."""

    wait: float
    index: int = 0
    resets: int = 0
    polls: int = 0

    def params(self, rng: random.Random, longest: float | None = None) -> dict[str, str]:
        """Return the parameters of the next query; none of them blocks where there is no index to wait past."""
        if not self.index:
            return {}
        wait = min(self.wait, longest if longest is not None else self.wait)
        return {"index": str(self.index), "wait": f"{round(wait * rng.uniform(0.8, 1.0) * 1000)}ms"}

    def received(self, index: int | None) -> bool:
        """Take in the index of an answer; tell whether there may be something new."""
        if not index:
            self.index = 0
            self.polls += 1
            return True
        moved = index != self.index
        if index < self.index:
            self.resets += 1
            self.index = 0
        else:
            self.index = index
        return moved


def read_timeout(wait: float) -> float:
    """Return the seconds to wait for the answer to a blocking query: servers add up to a sixteenth."""
    return wait * 17 / 16 + 10.0


@dataclass
class Pace:
    """Keeps requests apart, however fast their answers come."""

    pause: float
    _last: float = float("-inf")

    def left(self, now: float) -> float:
        """Return the seconds to wait before the next request."""
        return max(0.0, self._last + self.pause - now)

    def sent(self, now: float) -> None:
        self._last = now
