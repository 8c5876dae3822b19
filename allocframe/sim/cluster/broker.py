"""The event buffer of the simulated servers, which event streams read."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .alloc import Alloc
from .model import JSON

BUFFER = 100
"""Batches that servers keep (``event_buffer_size``)."""


@dataclass(slots=True)
class Event:
    """One change of an allocation, with the allocation as it was after the change."""

    kind: str
    alloc: Alloc
    text: str = ""

    def rendered(self, version: str) -> str:
        """Return the event as it is sent: the allocation without its job."""
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
    """The events of one Raft index."""

    number: int
    index: int
    events: list[Event] = field(default_factory=list)

    def line(self, version: str, namespaces: Iterable[str], keys: set[str]) -> str:
        """Return the line for a subscriber, or an empty string if no event is for it."""
        allowed = set(namespaces)
        texts = [
            event.rendered(version)
            for event in self.events
            if event.alloc.namespace in allowed
            and ("*" in keys or keys & {event.alloc.id, event.alloc.job.id})
        ]
        return f'{{"Events":[{",".join(texts)}],"Index":{self.index}}}' if texts else ""


class Broker:
    """Keeps the newest batches once it is enabled.

    Like a real server's buffer, it loses everything when the server restarts. There is no event for a
    removed allocation.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.generation: int = 0
        self.batches: deque[Batch] = deque(maxlen=BUFFER)
        self.published: int = 0
        self.readers: dict[object, int] = {}
        """The number of the next batch of each subscription."""

    def behind(self) -> int:
        """Return how many batches the slowest reader is behind."""
        return max((self.published - number for number in list(self.readers.values())), default=0)

    def publish(self, kind: str, alloc: Alloc) -> None:
        """Add an event for an allocation, at its ModifyIndex."""
        if not self.enabled:
            return
        if not self.batches or self.batches[-1].index != alloc.modify_index:
            # All changes of one Raft index go into one line of the stream.
            self.batches.append(Batch(self.published, alloc.modify_index))
            self.published += 1
        # Copy what changes later: the event must show the allocation as it is now.
        tasks = {name: replace(state, events=list(state.events)) for name, state in alloc.tasks.items()}
        self.batches[-1].events.append(Event(kind, replace(alloc, tasks=tasks, tracker=list(alloc.tracker))))

    def start(self, index: int) -> int:
        """Return the number of the first batch for a subscription from `index`.

        Like Nomad, it silently starts at the closest batch if the buffer does not have that index.
        """
        if not self.batches:
            return self.published
        # Index 0 means everything that the buffer still has.
        if index == 0:
            return self.batches[0].number
        following = (batch.number for batch in self.batches if batch.index >= index)
        return next(following, self.batches[-1].number)

    def after(self, number: int) -> list[Batch] | None:
        """Return the batches from `number` on, or None if the buffer has dropped some of them."""
        if self.batches and number < self.batches[0].number:
            return None
        return [batch for batch in self.batches if batch.number >= number]

    def cut(self, *, forget: bool = False) -> None:
        """End every subscription. With `forget`, empty the buffer too, as a restart does."""
        self.generation += 1
        if forget:
            self.batches.clear()
