"""One event stream: a thread that reads its lines into an inbox, so that a slow consumer never holds it up."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from .._utils.text import visible
from ..errors import AllocframeError, ConnectionFailed, NotNomad
from ..nomad import protocol as _protocol
from ..nomad.config import Config
from ..nomad.connection import connected, not_nomad, was_reset
from . import updates as _events
from .updates import Line, NotAnEvent, Update

MOST_UPDATES = 20_000
MOST_BYTES = 128 << 20
"""What may wait for a slow consumer, before it is dropped and everything is listed again."""


ESTABLISH = 20.0
"""Seconds that a subscription may take until its first line."""

LATEST = 15.0
"""Seconds that a stream may lag behind a list."""

LULL = 1.0
"""Seconds without a line after which what a server replays at the start is over."""

_COUNTED = ("events", "coalesced", "duplicates", "replayed", "skipped", "overflows")


@dataclass
class Inbox:
    """What streams have told and nobody has taken yet: one entry for each allocation, so that it cannot grow for ever."""

    prefix: str = ""
    floor: int = 0
    """What is not newer was told before the subscription: servers begin with what they have kept."""

    index: int = 0
    heard_at: float = 0.0
    overflowed: bool = False
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    changed: threading.Condition = field(default_factory=threading.Condition)
    _waiting: dict[str, Update] = field(default_factory=dict)
    _bytes: int = 0

    def put(self, line: Line) -> None:
        """Take in a line; called by the thread of a stream."""
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
            return
        older = self._waiting.get(update.alloc_id)
        if older is not None:
            if update.index <= older.index:
                self.counts["duplicates"] += 1
                return
            self.counts["coalesced"] += 1
            self._bytes -= older.size
            update.after(older)
        self._waiting[update.alloc_id] = update
        self._bytes += update.size
        if len(self._waiting) > MOST_UPDATES or self._bytes > MOST_BYTES or update.too_many:
            self.counts["overflows"] += 1
            self.overflowed = True
            self._waiting.clear()
            self._bytes = 0

    def take(self, most: int) -> tuple[list[Update], int, float]:
        """Return the updates that have waited longest, and the index and the time up to which nothing is left behind.

        The time is 0, which is long ago, where that cannot be told.
        """
        with self.changed:
            if self.overflowed:
                return [], 0, 0.0
            taken = [self._waiting.pop(identity) for identity in list(self._waiting)[:most]]
            self._bytes -= sum(update.size for update in taken)
            left = min((update.first_index - 1 for update in self._waiting.values()), default=self.index)
            return taken, min(left, self.index), 0.0 if self._waiting else self.heard_at

    def restart(self, floor: int) -> None:
        """Make ready for a new subscription after all of the old one was taken or lost."""
        with self.changed:
            self._waiting.clear()
            self._bytes, self.overflowed, self.index, self.floor = 0, False, floor, floor

    def reach(self, index: int, ended: Callable[[], bool]) -> bool:
        """Wait until streams have told what happened up to an index; return whether they have.

        It waits no longer than something comes at all: a server that has restarted tells nothing of before.
        """
        end = time.monotonic() + LATEST
        with self.changed:
            while self.index < index and not ended() and time.monotonic() < end and self.changed.wait(LULL):
                pass
            return self.index >= index and not self.overflowed

    def __len__(self) -> int:
        return len(self._waiting)


class EventStream:
    """A subscription to the allocations of a cluster, read by a thread of its own until it breaks or is closed.

    Attributes
    ----------
    established : bool
        The server has sent a whole line: only that says that it lets this token subscribe.
    first_index : int or None
        Index of the first batch that came.
    ended : str or None
        Why there will be no more.
    error : AllocframeError or None
        The error that this amounts to, where the server said one.
    """

    def __init__(self, config: Config, params: Mapping[str, str], inbox: Inbox, *, quiet: float) -> None:
        self.established = False
        self.first_index: int | None = None
        self.ended: str | None = None
        self.error: AllocframeError | None = None
        self._config = config
        self._params = dict(params)
        self._inbox = inbox
        self._quiet = quiet
        self._socket: socket.socket | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="allocframe-stream", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        reason = "its reader failed"
        try:
            self._read()
            reason = "the server ended it"
        except NotAnEvent as error:
            reason = f"a line that is no event came: {visible(error)}"
        except AllocframeError as error:
            self.error, reason = error, str(error)
        except httpx.TimeoutException:
            reason = f"nothing came for {self._quiet:g} s"
        except (httpx.HTTPError, zlib.error, OSError) as error:
            reason = f"the connection broke: {visible(error) or type(error).__name__}"
            if isinstance(error, httpx.ConnectError) and not was_reset(error):
                self.error = ConnectionFailed(f"{self._config.address}: {reason}")
        finally:
            with self._inbox.changed:
                self.ended = "it was closed" if self._closing else reason
                self._inbox.changed.notify_all()

    def _read(self) -> None:
        name = self._config.tls_server_name
        extensions: dict[str, Any] = {"trace": self._remember, **({"sni_hostname": name} if name else {})}
        timeout = httpx.Timeout(self._quiet, connect=10.0)
        with (
            connected(self._config) as client,
            client.stream(
                "GET", _events.STREAM, params=self._params, timeout=timeout, extensions=extensions
            ) as answer,
        ):
            self._judge(answer)
            for text in self._lines(answer):
                line = _events.parse(text)
                if self.first_index is None and line.index is not None:
                    self.first_index = line.index
                self.established = True
                self._inbox.put(line)

    def _judge(self, answer: httpx.Response) -> None:
        status, where = answer.status_code, f"GET {self._config.address}{_events.STREAM}"
        if status == 200:
            return
        body = answer.read()[:4096]
        if 300 <= status < 400 or answer.headers.get("content-type", "").startswith("text/html"):
            raise NotNomad(not_nomad(where, status, body))
        raise _protocol.error_for(
            "GET", _events.STREAM, status, visible(body.decode("utf-8", "replace").strip())
        )

    def _lines(self, answer: httpx.Response) -> Iterator[bytes]:
        """Yield whole lines; the end of the body says nothing, so half a line is a break."""
        inflate = zlib.decompressobj(31) if answer.headers.get("content-encoding") == "gzip" else None
        rest = bytearray()
        for raw in answer.iter_raw():
            data = raw if inflate is None else inflate.decompress(raw, _events.LONGEST_LINE)
            start = len(rest)
            rest += data
            while (end := rest.find(b"\n", start)) >= 0:
                text = bytes(rest[:end])
                del rest[: end + 1]
                start = 0
                if text.strip():
                    yield text
            if len(rest) >= _events.LONGEST_LINE:
                raise NotAnEvent(f"more than {_events.LONGEST_LINE:,} bytes in one line")
        if rest:
            raise NotAnEvent("it was cut in the middle of a line")

    def _remember(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._closing:
                self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, and wait for its thread."""
        self._closing = True
        self._shut()
        if self._thread is not threading.current_thread():
            self._thread.join()


class Feed:
    """The subscription of a watch: the newest one, and how many there were."""

    def __init__(self) -> None:
        self.stream: EventStream | None = None
        self.opened = 0
        self.closed = threading.Event()

    def open(self, config: Config, params: Mapping[str, str], inbox: Inbox) -> EventStream:
        """Return a new subscription once its first line has come, or it has ended without one."""
        stream = EventStream(config, params, inbox, quiet=_events.QUIET)
        self.opened += 1
        try:
            with inbox.changed:
                inbox.changed.wait_for(
                    lambda: stream.established or stream.ended or self.closed.is_set(), ESTABLISH
                )
        except BaseException:
            stream.close()
            raise
        if not stream.established and not stream.ended:
            late = f"{config.address}: no line of the event stream came within {ESTABLISH:g} s"
            stream.error = stream.error or ConnectionFailed(late)
        return stream

    def replace(self, stream: EventStream | None) -> None:
        """Put a new subscription in place of the old one, which is closed."""
        old, self.stream = self.stream, stream
        if old is not None:
            old.close()
        if self.closed.is_set() and stream is not None:
            stream.close()

    def close(self) -> None:
        self.closed.set()
        self.replace(None)
