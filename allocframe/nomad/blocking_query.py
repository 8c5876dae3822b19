"""Nomad's rules for blocking queries, without I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass
class BlockingIndex:
    """The index to wait past in a series of blocking queries, by Nomad's published rules."""

    wait: float
    index: int = 0
    resets: int = 0
    polls: int = 0

    def params(self, rng: random.Random, longest: float | None = None) -> dict[str, str]:
        """Return the parameters of the next query.

        Without an index to wait past, the query does not block.
        """
        if not self.index:
            return {}
        wait = min(self.wait, longest if longest is not None else self.wait)
        return {"index": str(self.index), "wait": f"{round(wait * rng.uniform(0.8, 1.0) * 1000)}ms"}

    def received(self, index: int | None) -> bool:
        """Record the index of a response; return whether something may have changed."""
        if not index:
            self.index = 0
            self.polls += 1
            return True
        moved = index != self.index
        if index < self.index:  # the server was restored: its index counts from somewhere else now
            self.resets += 1
            self.index = 0
        else:
            self.index = index
        return moved


def read_timeout(wait: float) -> float:
    """Return the read timeout of a blocking query, in seconds."""
    return wait * 17 / 16 + 10.0  # servers add up to a sixteenth as jitter


@dataclass
class Pace:
    """A minimum interval between requests, however fast responses come."""

    pause: float
    _last: float = float("-inf")

    def left(self, now: float) -> float:
        """Return the seconds to wait before the next request."""
        return max(0.0, self._last + self.pause - now)

    def sent(self, now: float) -> None:
        self._last = now
