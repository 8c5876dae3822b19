"""A terminal's rules without I/O: what its views have been sent, what they may be sent next, and what is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

WINDOW = 1 << 20
"""Bytes that may be on their way to a view before it has said what it has drawn."""

MESSAGE = 128 << 10
REPLAY = 256 << 10
"""Bytes that a view which appears is given of what was written before."""

KEPT = 4 << 20
"""Bytes that are kept for the transcript."""

SILENT = 5.0
"""Seconds after which a view that says nothing of what it was sent is taken for gone."""

MAX_VIEWS = 16
MAX_HELD = 64
"""Pieces of input that wait for one before them."""

LATE = 1.0
"""Seconds for which they do."""

_MODE = re.compile(rb"\x1b\[\?([0-9;]{1,40})([hl])")
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


@dataclass
class _View:
    acknowledged: int
    heard: float


@dataclass(frozen=True)
class Replay:
    """What a view that appears is given: the modes that are on, and the last output."""

    data: bytes
    end: int


class Output:
    """What a session has written, numbered by byte: kept up to a bound, and given out as fast as the views take it."""

    def __init__(self) -> None:
        self.total = 0
        self.sent = 0
        self._kept = bytearray()
        self._modes: dict[bytes, bytes] = {}
        self._tail = b""
        self._views: dict[str, _View] = {}

    @property
    def unsent(self) -> int:
        return self.total - self.sent

    @property
    def full_screen(self) -> bool:
        """Whether a program draws on the other screen, as editors do."""
        return any(self._modes.get(mode) == b"h" for mode in (b"47", b"1047", b"1049"))

    def add(self, data: bytes) -> None:
        self._kept += data
        self.total += len(data)
        if len(self._kept) > 2 * KEPT:
            del self._kept[:-KEPT]
            self._skip(self.total - KEPT)
        recent = self._tail + data
        for found in _MODE.finditer(recent):
            for number in found[1].split(b";"):
                self._modes[number] = found[2]
        self._tail = recent[-48:]
        if not self._views:
            self.sent = self.total

    def _skip(self, offset: int) -> None:
        """Give up what is no longer kept; views see the gap, and begin again."""
        if offset > self.sent:
            self.sent = offset
            for view in self._views.values():
                view.acknowledged = offset

    def take(self, now: float) -> tuple[int, bytes] | None:
        """Return the next piece of output and its offset; None where there is none, or the views must catch up first."""
        self._forget_silent(now)
        if not self._views:
            self.sent = self.total
        slowest = min((view.acknowledged for view in self._views.values()), default=self.sent)
        size = min(self.unsent, MESSAGE, WINDOW - (self.sent - slowest))
        if size <= 0:
            return None
        offset = self.sent
        self.sent += size
        return offset, self._between(offset, self.sent)

    def attached(self, view: str, now: float) -> Replay | None:
        """Take in a view that appears; return what it is to draw first, or None where there are too many."""
        if view not in self._views and len(self._views) >= MAX_VIEWS:
            return None
        start = max(self.sent - REPLAY, 0)
        modes = b"".join(b"\x1b[?%s%s" % mode for mode in self._modes.items()) if start else b""
        self._views[view] = _View(self.sent, now)
        return Replay(modes + self._between(start, self.sent), self.sent)

    def acknowledged(self, view: str, offset: int, now: float) -> bool:
        """Take in how far a view has drawn; False where it is none of ours and must begin again."""
        mine = self._views.get(view)
        if mine is None:
            return False
        mine.acknowledged = max(mine.acknowledged, min(offset, self.sent))
        mine.heard = now
        return True

    def detached(self, view: str) -> None:
        self._views.pop(view, None)

    def transcript(self) -> str:
        """Return what was written as plain text, and say how much of its beginning is no longer kept."""
        kept = bytes(self._kept[-KEPT:])
        text = _ESCAPES.sub("", kept.decode("utf-8", "replace").replace("\r\n", "\n"))
        lost = self.total - len(kept)
        return f"[{lost:,} earlier bytes are not kept]\n{text}" if lost else text

    def _between(self, start: int, end: int) -> bytes:
        first = self.total - len(self._kept)
        return bytes(memoryview(self._kept)[max(start - first, 0) : end - first])

    def _forget_silent(self, now: float) -> None:
        for name, view in list(self._views.items()):
            if self.sent - view.acknowledged >= WINDOW and now - view.heard > SILENT:
                del self._views[name]


class Typed:
    """Puts input back into the order in which a view sent it: a kernel hears messages on two threads, where they overtake each other."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._held: dict[str, dict[int, bytes]] = {}
        self._since: dict[str, float] = {}

    def arrived(self, view: str, number: int, data: bytes, now: float) -> bytes:
        """Take in a view's piece of input; return what may go on now, which is nothing while one before it is missing."""
        if view not in self._next and len(self._next) >= MAX_VIEWS:
            self._forget(next(iter(self._next)))
        wanted, held = self._next.setdefault(view, 0), self._held.setdefault(view, {})
        if number < wanted:
            return b""
        held[number] = data
        since = self._since.setdefault(view, now)
        if number > wanted and (len(held) > MAX_HELD or now - since > LATE):
            wanted = min(held)
        ready = []
        while wanted in held:
            ready.append(held.pop(wanted))
            wanted += 1
        self._next[view] = wanted
        if ready:
            self._since.pop(view)
        return b"".join(ready)

    def _forget(self, view: str) -> None:
        for known in (self._next, self._held, self._since):
            known.pop(view, None)


@dataclass(frozen=True)
class Message:
    """What a view says, checked."""

    kind: str
    view: str = ""
    rows: int = 0
    cols: int = 0
    offset: int = 0
    number: int = 0


_NEEDS = {
    "attach": ("view", "rows", "cols"),
    "resize": ("view", "rows", "cols"),
    "ack": ("view", "offset"),
    "detach": ("view",),
    "input": ("view", "number"),
    "reconnect": (),
    "close": (),
}
_LIMITS = {"rows": (1, 1000), "cols": (1, 1000), "offset": (0, 2**53), "number": (0, 2**53)}


def checked(content: object) -> Message | None:
    """Return a view's message, or None where it is none: everything that comes from a page may be forged."""
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(kind, str) or kind not in _NEEDS:
        return None
    values: dict[str, object] = {}
    for name in _NEEDS[kind]:
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
