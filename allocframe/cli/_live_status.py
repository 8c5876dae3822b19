"""What a recorder shows while it runs: a status line for each cluster, and messages. And its signals."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._utils.interrupts import set_from_signal
from .._utils.text import visible

_WIDTH = 160


class LiveStatus:
    """Messages and status lines on stderr.

    On a terminal, the status lines are updated in place, below the messages. Elsewhere they are printed once
    a minute.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status_lines = 0

    def printer(self, cluster: str) -> Callable[[str], None]:
        """Return a function that prints a message of one cluster."""
        return lambda text: self.print(f"{cluster}: {text}")

    def print(self, text: str) -> None:
        """Print a message with the time."""
        with self._lock:
            now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            print(f"{self._clear()}{now} {visible(text)}", file=sys.stderr, flush=True)

    def update(self, lines: list[str]) -> None:
        """Replace the status lines."""
        with self._lock:
            text = "\n".join(line[:_WIDTH] for line in lines)
            print(f"{self._clear()}{text}", end="", file=sys.stderr, flush=True)
            self._status_lines = len(lines)

    def _clear(self) -> str:
        """Return the escape sequence that removes the status lines from a terminal."""
        lines, self._status_lines = self._status_lines, 0
        if not sys.stderr.isatty():
            return ""
        return "\r" + (f"\x1b[{lines - 1}A" if lines > 1 else "") + "\x1b[J"


@contextlib.contextmanager
def stop_on_signal(recorders: Mapping[str, Any], status: LiveStatus) -> Iterator[threading.Event]:
    """Yield an event that SIGTERM or SIGINT sets, and show the recorders' status meanwhile.

    A second signal ends the program at once.
    """
    stop = threading.Event()

    def handle(number: int, frame: object) -> None:
        # The second signal: the user does not want to wait for a clean end.
        if stop.is_set():
            raise KeyboardInterrupt
        set_from_signal(stop)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    thread = threading.Thread(
        target=_show_status, args=(recorders, status, stop), name="allocframe-status", daemon=True
    )
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    for line in _status_lines(recorders, "stopped"):
        status.print(line)


def _show_status(recorders: Mapping[str, Any], status: LiveStatus, stop: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    while not stop.wait(1.0 if terminal else 60.0):
        if terminal:
            status.update(_status_lines(recorders))
            continue
        for line in _status_lines(recorders):
            status.print(line)


def _status_lines(recorders: Mapping[str, Any], ended: str = "") -> list[str]:
    """Return a line for each recorder, with the name of its cluster if it has one."""
    return [
        (f"{name}: " if name else "")
        + (f"{ended}: " if ended not in ("", recorder.status) else "")
        + _status_line(recorder)
        for name, recorder in recorders.items()
    ]


def _status_line(recorder: Any) -> str:
    counts, watch = recorder.counts, recorder.watch
    last_seen = f"{recorder.last:%H:%M:%S} UTC" if recorder.last is not None else "never"
    parts = [
        recorder.status,
        f"last seen {last_seen}",
        f"{counts.changes:,} changes and {counts.events:,} events in {counts.commits:,} commits",
        f"{counts.gaps:,} gaps",
    ]
    if watch is not None:
        parts.insert(1, watch.mode)
    if recorder.last_error:
        parts.append(visible(recorder.last_error))
    return ", ".join(parts)
