"""The events of one task, put together from the rings of ten that its node sent again and again."""

from __future__ import annotations

import json
from typing import Any

RING = 10
"""Events that a node keeps and sends for each task."""


class TaskHistory:
    """Every event of a task that some update had, once.

    Attributes
    ----------
    complete : bool
        Whether it begins with the task's first event and misses none since.
    gaps : int
        How often the ring moved on by more than its length between two updates.
    """

    __slots__ = ("_events", "_in_order", "_keys", "_newest", "gaps", "state")

    def __init__(self) -> None:
        self._events: list[tuple[int, str]] = []
        self._keys: set[tuple[int, str]] = set()
        self._newest = -1
        self._in_order = True
        self.gaps: int = 0
        self.state: dict[str, Any] = {}

    def add(self, state: dict[str, Any], index: int) -> None:
        """Add a task state, with its ring, as it was at a Raft index."""
        ring = [event for event in state.get("Events") or [] if _is_event(event)]
        if index >= self._newest:
            self._newest = index
            self.state = {name: value for name, value in state.items() if name != "Events"}
            # A full ring without a known event in it has lost some in between.
            if self._events and len(ring) >= RING and not any(_key(event) in self._keys for event in ring):
                self.gaps += 1
        elif any(_key(event) not in self._keys for event in ring):
            self._in_order = False
        for event in ring:
            key = _key(event)
            if key not in self._keys:
                self._keys.add(key)
                self._events.append((event["Time"], json.dumps(event, separators=(",", ":"))))

    @property
    def complete(self) -> bool:
        return not self.gaps and (not self._events or self._starts_at_the_beginning())

    def _starts_at_the_beginning(self) -> bool:
        return str(json.loads(self._ordered()[0][1])["Type"]) == "Received"

    def _ordered(self) -> list[tuple[int, str]]:
        """Return the events in the node's order; by their times if the updates came in another one."""
        return self._events if self._in_order else sorted(self._events, key=lambda event: event[0])

    def __len__(self) -> int:
        return len(self._events)

    def to_json(self) -> str:
        """Return the task state as Nomad writes it, with all events."""
        fields = json.dumps(self.state, separators=(",", ":"))
        events = ",".join(text for _, text in self._ordered())
        return f'{fields[:-1]}{"," if self.state else ""}"Events":[{events}]}}'


def _is_event(event: Any) -> bool:
    return (
        isinstance(event, dict)
        and isinstance(event.get("Type"), str)
        and isinstance(event.get("Time"), int)
        and not isinstance(event["Time"], bool)
    )


def _key(event: dict[str, Any]) -> tuple[int, str]:
    return event["Time"], event["Type"]
