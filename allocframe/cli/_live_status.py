"""What a recorder shows while it runs: a line of status for each cluster, and what it says; and how it is told to stop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._utils.text import visible

_WIDTH = 160


class Status:
    """Lines on stderr: on a terminal those of status are kept current below what is said, elsewhere they come once a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = 0

    def of(self, name: str) -> Callable[[str], None]:
        """Return what says something of one cluster."""
        return lambda text: self.say(f"{name}: {text}")

    def say(self, text: str) -> None:
        """Print one line with its time."""
        with self._lock:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
            print(f"{self._over()}{when} {visible(text)}", file=sys.stderr, flush=True)

    def show(self, lines: list[str]) -> None:
        """Put lines in the place of those that were shown last."""
        with self._lock:
            text = "\n".join(line[:_WIDTH] for line in lines)
            print(f"{self._over()}{text}", end="", file=sys.stderr, flush=True)
            self._shown = len(lines)

    def _over(self) -> str:
        """Return what takes the lines of status from a terminal."""
        shown, self._shown = self._shown, 0
        if not sys.stderr.isatty():
            return ""
        return "\r" + (f"\x1b[{shown - 1}A" if shown > 1 else "") + "\x1b[J"


@contextlib.contextmanager
def until_told_to_stop(recorders: Mapping[str, Any], shown: Status) -> Iterator[threading.Event]:
    """Yield what is set by SIGTERM or SIGINT; a second one ends the program at once. Meanwhile show how recorders do."""
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    thread = threading.Thread(
        target=_keep_showing, args=(recorders, shown, stop), name="allocframe-status", daemon=True
    )
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    for line in _lines(recorders, "stopped: "):
        shown.say(line)


def _keep_showing(recorders: Mapping[str, Any], shown: Status, stop: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    while not stop.wait(1.0 if terminal else 60.0):
        if terminal:
            shown.show(_lines(recorders))
            continue
        for line in _lines(recorders):
            shown.say(line)


def _lines(recorders: Mapping[str, Any], said: str = "") -> list[str]:
    """Return how each recorder does, after the name of its cluster where it has one."""
    return [(f"{name}: " if name else "") + said + _line(one) for name, one in recorders.items()]


def _line(recorder: Any) -> str:
    counts, watch = recorder.counts, recorder.watch
    seen = f"{recorder.last:%H:%M:%S} UTC" if recorder.last is not None else "never"
    parts = [
        recorder.status,
        f"last seen {seen}",
        f"{counts.changes:,} changes and {counts.events:,} events in {counts.commits:,} commits",
        f"{counts.gaps:,} gaps",
    ]
    if watch is not None:
        parts.insert(1, watch.mode)
    if recorder.last_error:
        parts.append(visible(recorder.last_error))
    return ", ".join(parts)
