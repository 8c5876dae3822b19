"""The rules of a terminal, without I/O: output for its views, input from them, and their messages."""

from __future__ import annotations

import re
from dataclasses import dataclass

WINDOW = 4 << 20
"""Bytes that may be sent to a view before it has acknowledged what it has drawn.

A view draws ten times a second and then acknowledges: what may be on its way bounds the speed.
"""

BACKLOG = 1 << 20
"""Bytes that may wait to be sent before the command has to wait; fewer than the transcript keeps."""

MAX_MESSAGE = 128 << 10
REPLAY_SIZE = 256 << 10
"""Bytes of earlier output that a new view gets."""

TRANSCRIPT_SIZE = 4 << 20
"""Bytes that are kept for the transcript."""

VIEW_TIMEOUT = 5.0
"""Seconds after which a view that acknowledges nothing is taken to be gone."""

MAX_VIEWS = 16
MAX_HELD = 64
"""Pieces of input that may wait for an earlier one."""

HOLD_TIMEOUT = 1.0
"""Seconds that they may wait."""

_MODE = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])")
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"  # escape sequences
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # other control characters
)


@dataclass
class _View:
    acknowledged: int
    last_seen: float


@dataclass(frozen=True)
class Replay:
    """What a new view draws first: the active terminal modes, and the last output."""

    data: bytes
    end: int


class Output:
    """The output of a session, numbered by byte: bounded, and sent only as fast as the views draw it."""

    def __init__(self) -> None:
        self.total: int = 0
        self.sent: int = 0
        self._buffer = bytearray()
        self._modes: dict[bytes, bytes] = {}
        self._tail = b""
        self._views: dict[str, _View] = {}

    @property
    def unsent(self) -> int:
        return self.total - self.sent

    @property
    def full_screen(self) -> bool:
        """Whether a program uses the alternate screen, as editors do."""
        return any(self._modes.get(mode) == b"h" for mode in (b"47", b"1047", b"1049"))

    def add(self, data: bytes) -> None:
        """Add output of the command."""
        self._buffer += data
        self.total += len(data)
        if len(self._buffer) > 2 * TRANSCRIPT_SIZE:  # cut only now and then: cutting copies all that stays
            del self._buffer[:-TRANSCRIPT_SIZE]
            self._skip(self.total - TRANSCRIPT_SIZE)
        recent = self._tail + data  # an escape sequence may be split between two pieces
        for match in _MODE.finditer(recent):
            for mode in match[1].split(b";"):
                self._modes[mode] = match[2]
        self._tail = recent[-48:]
        if not self._views:
            self.sent = self.total

    def _skip(self, offset: int) -> None:
        """Skip dropped output. Views notice the gap and ask for a replay."""
        if offset > self.sent:
            self.sent = offset
            for view in self._views.values():
                view.acknowledged = offset

    def take(self, now: float) -> tuple[int, bytes] | None:
        """Return offset and bytes of the next message, or None if nothing can be sent now."""
        self._drop_silent_views(now)
        if not self._views:
            self.sent = self.total
        slowest = min((view.acknowledged for view in self._views.values()), default=self.sent)
        size = min(self.unsent, MAX_MESSAGE, WINDOW - (self.sent - slowest))
        if size <= 0:
            return None
        offset = self.sent
        self.sent += size
        return offset, self._between(offset, self.sent)

    def attach(self, view: str, now: float) -> Replay | None:
        """Add a view, or reset it. Return what it draws first, or None if there are too many views."""
        if view not in self._views and len(self._views) >= MAX_VIEWS:
            return None
        start = max(self.sent - REPLAY_SIZE, 0)
        modes = b"".join(b"\x1b[?%s%s" % mode for mode in self._modes.items()) if start else b""
        self._views[view] = _View(self.sent, now)
        return Replay(modes + self._between(start, self.sent), self.sent)

    def acknowledge(self, name: str, offset: int, now: float) -> bool:
        """Record how far a view has drawn. Return False if it is unknown and must attach again."""
        view = self._views.get(name)
        if view is None:
            return False
        # A page may claim anything: an offset beyond what was sent must not widen its window.
        view.acknowledged = max(view.acknowledged, min(offset, self.sent))
        view.last_seen = now
        return True

    def detach(self, view: str) -> None:
        self._views.pop(view, None)

    def transcript(self) -> str:
        """Return the output as plain text, and how many bytes of its beginning were dropped."""
        recent = bytes(self._buffer[-TRANSCRIPT_SIZE:])
        text = _ESCAPES.sub("", recent.decode("utf-8", "replace").replace("\r\n", "\n"))
        dropped = self.total - len(recent)
        return f"[{dropped:,} earlier bytes were dropped]\n{text}" if dropped else text

    def _between(self, start: int, end: int) -> bytes:
        first = self.total - len(self._buffer)
        return bytes(memoryview(self._buffer)[max(start - first, 0) : end - first])

    def _drop_silent_views(self, now: float) -> None:
        """Drop views that have stopped drawing, so that they do not hold up the others."""
        for name, view in list(self._views.items()):
            if self.sent - view.acknowledged >= WINDOW and now - view.last_seen > VIEW_TIMEOUT:
                del self._views[name]


class InputOrder:
    """Puts input back into the order in which a view sent it.

    A kernel receives messages on two threads, where they can overtake each other.
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._held: dict[str, dict[int, bytes]] = {}
        self._held_since: dict[str, float] = {}

    def add(self, view: str, number: int, data: bytes, now: float) -> bytes:
        """Add a piece of input. Return what can be sent now: nothing while an earlier piece is missing."""
        if view not in self._next and len(self._next) >= MAX_VIEWS:
            self._forget(next(iter(self._next)))
        expected, held = self._next.setdefault(view, 0), self._held.setdefault(view, {})
        if number < expected:
            return b""
        held[number] = data
        held_since = self._held_since.setdefault(view, now)
        if number > expected and (len(held) > MAX_HELD or now - held_since > HOLD_TIMEOUT):
            expected = min(held)  # the missing piece will no longer come
        ready = []
        while expected in held:
            ready.append(held.pop(expected))
            expected += 1
        self._next[view] = expected
        if ready:
            self._held_since.pop(view)
        return b"".join(ready)

    def _forget(self, view: str) -> None:
        for by_view in (self._next, self._held, self._held_since):
            by_view.pop(view, None)


@dataclass(frozen=True)
class Message:
    """A valid message of a view."""

    kind: str
    view: str = ""
    rows: int = 0
    cols: int = 0
    offset: int = 0
    number: int = 0


_FIELDS = {
    "attach": ("view", "rows", "cols"),
    "resize": ("view", "rows", "cols"),
    "ack": ("view", "offset"),
    "detach": ("view",),
    "input": ("view", "number"),
    "ping": ("number",),
    "reconnect": (),
    "close": (),
}
_LIMITS = {"rows": (1, 1000), "cols": (1, 1000), "offset": (0, 2**53), "number": (0, 2**53)}


def parse_message(content: object) -> Message | None:
    """Return a view's message, or None if it is not valid: whatever comes from a page may be forged."""
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(kind, str) or kind not in _FIELDS:
        return None
    values: dict[str, object] = {}
    for name in _FIELDS[kind]:
        value = content.get(name)
        if name == "view":
            if not isinstance(value, str) or not 0 < len(value) <= 64:
                return None
        else:
            low, high = _LIMITS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                return None
        values[name] = value
    return Message(kind, **values)  # type: ignore[arg-type]
