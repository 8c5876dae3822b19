"""A queue of updates from the event stream, and the subscription that fills it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import AllocframeError, ConnectionFailed, NotNomad, PermissionDenied, Unsupported
from ..nomad.config import Config
from ..nomad.event_stream import QUIET, EventStream
from . import updates
from .updates import Line, Update

MAX_UPDATES = 20_000
MAX_BYTES = 128 << 20
"""What may wait for a slow consumer. If more arrives, the queue is dropped and everything is listed again."""

ESTABLISH_TIMEOUT = 20.0
"""Seconds to wait for the first line of a subscription."""

MAX_LAG = 15.0
"""Seconds that a stream may lag behind a list."""

REPLAY_PAUSE = 1.0
"""Seconds without a line after which a server's replay of old events is over."""

_COUNTED = ("events", "coalesced", "duplicates", "replayed", "skipped", "overflows")


@dataclass
class UpdateQueue:
    """The updates that nobody has taken yet.

    One entry per allocation, so that the queue cannot grow for ever.
    """

    prefix: str = ""
    floor: int = 0
    """Updates up to this index are known already: servers begin a stream by replaying old events."""

    index: int = 0
    heard_at: float = 0.0
    overflowed: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    changed: threading.Condition = field(default_factory=threading.Condition)
    passed_over: dict[str, int] = field(default_factory=dict)
    """The newest index of each allocation's updates that counted as known, since the last restart."""

    _waiting: dict[str, Update] = field(default_factory=dict)
    _bytes: int = 0

    def put(self, line: Line) -> None:
        """Add the updates of a line. Called by the stream's thread."""
        with self.changed:
            self.heard_at = time.time()
            self.index = max(self.index, line.index or 0)
            self.counts["skipped"] += line.skipped
            digits = self.prefix.replace("-", "")
            for update in line.updates:
                if update.alloc_id.replace("-", "").startswith(digits):
                    self._add(update)
            self.changed.notify_all()

    def _add(self, update: Update) -> None:
        self.counts["events"] += 1
        if self.overflowed:
            return
        if update.index <= self.floor:
            self.counts["replayed"] += 1
            self.passed_over[update.alloc_id] = max(update.index, self.passed_over.get(update.alloc_id, 0))
            return
        older = self._waiting.get(update.alloc_id)
        if older is not None:
            if update.index <= older.index:
                self.counts["duplicates"] += 1
                return
            self.counts["coalesced"] += 1
            self._bytes -= older.size
            update.merge(older)
        self._waiting[update.alloc_id] = update
        self._bytes += update.size
        if len(self._waiting) > MAX_UPDATES or self._bytes > MAX_BYTES or update.is_too_long:
            self.counts["overflows"] += 1
            self.overflowed = True
            self._waiting.clear()
            self._bytes = 0

    def take(self, limit: int) -> tuple[list[Update], int, float]:
        """Return the updates that have waited longest, and how far they reach.

        Returns
        -------
        updates : list of Update
            At most `limit`.
        index : int
            Every update up to this index has been taken.
        heard_at : float
            The time of the last line; 0 if updates are left, because then the time of the taken ones is
            unknown.
        """
        with self.changed:
            if self.overflowed:
                return [], 0, 0.0
            taken = [self._waiting.pop(alloc_id) for alloc_id in list(self._waiting)[:limit]]
            self._bytes -= sum(update.size for update in taken)
            left = min((update.first_index - 1 for update in self._waiting.values()), default=self.index)
            return taken, min(left, self.index), 0.0 if self._waiting else self.heard_at

    def pass_over(self, floor: int) -> None:
        """Take updates up to this index for known: a new subscription replays them."""
        with self.changed:
            self.floor = floor
            self.passed_over.clear()

    def passed(self) -> dict[str, int]:
        """Return a copy of `passed_over`, which the stream's thread changes."""
        with self.changed:
            return dict(self.passed_over)

    def restart(self, floor: int) -> None:
        """Empty the queue for a new subscription."""
        with self.changed:
            self._waiting.clear()
            self.passed_over.clear()
            self._bytes, self.overflowed, self.index, self.floor = 0, False, floor, floor

    def reach(self, index: int, ended: Callable[[], bool]) -> bool:
        """Wait until the stream has reached an index; return whether it has.

        Stop waiting when no more lines come: a server that has restarted replays nothing.
        """
        end = time.monotonic() + MAX_LAG
        with self.changed:
            while self.index < index and not ended() and time.monotonic() < end:
                if not self.changed.wait(REPLAY_PAUSE):
                    break
            return self.index >= index and not self.overflowed

    def __len__(self) -> int:
        return len(self._waiting)


class Subscription:
    """One event stream that fills an update queue.

    Attributes
    ----------
    first_index : int or None
        Index of the first batch.
    ended : str or None
        Why no more lines will come; None while the stream is open.
    """

    def __init__(self, config: Config, params: Mapping[str, str], queue: UpdateQueue) -> None:
        self.first_index: int | None = None
        self.ended: str | None = None
        self._queue = queue
        self._stream = EventStream(config, params, self._put, self._end, quiet=QUIET)
        self._stream.start()

    @property
    def established(self) -> bool:
        """Whether the server has sent a whole line."""
        return self._stream.established

    @property
    def error(self) -> AllocframeError | None:
        """The typed error, if the server refused or could not be reached."""
        return self._stream.error

    def _put(self, text: bytes) -> None:
        line = updates.parse(text)
        if self.first_index is None and line.index is not None:
            self.first_index = line.index
        self._stream.established = True  # before the queue wakes those who wait for it
        self._queue.put(line)

    def _end(self, reason: str) -> None:
        with self._queue.changed:
            self.ended = reason
            self._queue.changed.notify_all()

    def give_up(self, error: AllocframeError) -> None:
        """Record why this subscription is useless, unless the stream has its own error."""
        self._stream.error = self._stream.error or error

    def close(self) -> None:
        """Close the stream and wait for its thread."""
        self._stream.close()


class Subscriber:
    """Opens subscriptions and holds the current one."""

    def __init__(self) -> None:
        self.current: Subscription | None = None
        self.opened: int = 0
        self.closed: threading.Event = threading.Event()

    def open(self, config: Config, params: Mapping[str, str], queue: UpdateQueue) -> Subscription:
        """Open a subscription; return it after its first line, or when it has ended without one."""
        stream = Subscription(config, params, queue)
        self.opened += 1
        try:
            with queue.changed:
                queue.changed.wait_for(
                    lambda: stream.established or stream.ended or self.closed.is_set(), ESTABLISH_TIMEOUT
                )
        except BaseException:
            stream.close()
            raise
        if not stream.established and not stream.ended:
            stream.give_up(
                ConnectionFailed(
                    f"{config.address}: the event stream sent nothing within {ESTABLISH_TIMEOUT:g} s"
                )
            )
        return stream

    def replace(self, stream: Subscription | None) -> None:
        """Make a subscription the current one, and close the old one."""
        old, self.current = self.current, stream
        if old is not None:
            old.close()
        if self.closed.is_set() and stream is not None:
            stream.close()

    def close(self) -> None:
        """Close the current subscription and any that is opened later."""
        self.closed.set()
        self.replace(None)


def explain_refusal(stream: Subscription, *, is_silent: bool, probe: Callable[[], object]) -> str:
    """Return why there is no stream, although the cluster can be listed, which `probe` tries.

    Raises
    ------
    AllocframeError
        The cluster cannot be reached at all.
    """
    refused = isinstance(stream.error, PermissionDenied | Unsupported | NotNomad)
    if stream.error is not None and not refused and not is_silent:
        raise stream.error
    if is_silent:  # no probe: the whole list, which comes next, keeps to the client's own deadline
        return f"it sent nothing within {ESTABLISH_TIMEOUT:g} s; a proxy may hold it back"
    # Newer servers answer 200 and then end the stream. If listing works, the cluster is up and it was a
    # refusal.
    probe()
    if isinstance(stream.error, Unsupported):
        return "this server has none"
    if isinstance(stream.error, NotNomad):
        return "a proxy refuses it"
    return "the token may not subscribe"
