"""The event buffer of the simulated servers: what happened last, for streams to read from."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .alloc import Alloc
from .model import JSON

BUFFER = 100
"""Batches that servers keep: ``event_buffer_size``."""


@dataclass(slots=True)
class Event:
    """One change of an allocation, and the allocation as it was then."""

    kind: str
    alloc: Alloc
    text: str = ""

    def rendered(self, version: str) -> str:
        """Return the event as it is sent: the whole allocation without its job."""
        if not self.text:
            payload = self.alloc.full(version)
            del payload["Job"]
            event: JSON = {
                "FilterKeys": [self.alloc.job.id, self.alloc.deployment_id],
                "Index": self.alloc.modify_index,
                "Key": self.alloc.id,
                "Namespace": self.alloc.namespace,
                "Payload": {"Allocation": payload},
                "Topic": "Allocation",
                "Type": self.kind,
            }
            self.text = json.dumps(event, separators=(",", ":"))
        return self.text


@dataclass(slots=True)
class Batch:
    """What one Raft index changed."""

    number: int
    index: int
    events: list[Event] = field(default_factory=list)

    def line(self, version: str, namespaces: Iterable[str], keys: set[str]) -> str:
        """Return the line that a subscriber gets, empty where nothing is for them."""
        allowed = set(namespaces)
        texts = [
            event.rendered(version)
            for event in self.events
            if event.alloc.namespace in allowed
            and ("*" in keys or keys & {event.alloc.id, event.alloc.job.id})
        ]
        return f'{{"Events":[{",".join(texts)}],"Index":{self.index}}}' if texts else ""


class Broker:
    """Keeps the newest batches; nothing is kept until somebody can read it.

    Like a server's, it forgets everything when the server restarts, and tells nobody of removed allocations.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.generation = 0
        self.batches: deque[Batch] = deque(maxlen=BUFFER)
        self.taken = 0
        self.readers: dict[object, int] = {}
        """The next batch of each subscription."""

    def behind(self) -> int:
        """Return how many batches the slowest reader has still to get."""
        return max((self.taken - number for number in list(self.readers.values())), default=0)

    def publish(self, kind: str, alloc: Alloc) -> None:
        """Note that an allocation has changed, at its ModifyIndex."""
        if not self.enabled:
            return
        if not self.batches or self.batches[-1].index != alloc.modify_index:
            self.batches.append(Batch(self.taken, alloc.modify_index))
            self.taken += 1
        tasks = {name: replace(state, events=list(state.events)) for name, state in alloc.tasks.items()}
        self.batches[-1].events.append(Event(kind, replace(alloc, tasks=tasks, tracker=list(alloc.tracker))))

    def start(self, index: int) -> int:
        """Return the number of the batch that a subscription from `index` begins with: silently the closest one."""
        if not self.batches:
            return self.taken
        if index == 0:
            return self.batches[0].number
        following = (batch.number for batch in self.batches if batch.index >= index)
        return next(following, self.batches[-1].number)

    def after(self, number: int) -> list[Batch] | None:
        """Return the batches from `number` on, or None where the buffer has dropped it: the reader was too slow."""
        if self.batches and number < self.batches[0].number:
            return None
        return [batch for batch in self.batches if batch.number >= number]

    def cut(self, *, forget: bool = False) -> None:
        """End every subscription; forget what was kept, as a server does that restarts."""
        self.generation += 1
        if forget:
            self.batches.clear()
