"""Show the progress of what takes longer than a moment, to people and programs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

Progress = bool | Callable[[int, int | None], None] | None
"""True shows a bar and False does not. None shows one after a second, on a terminal or in a notebook.
A function is called with the numbers."""

_DELAY = 1.0
"""Seconds. What takes less needs no bar."""


class Show(Protocol):
    """Show the progress: the number so far, an estimate of the total, and the unit."""

    def __call__(self, done: int, estimate: int | None, of: str = "allocations", /) -> None: ...


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[Show]:
    """Yield a function that shows the progress."""
    if callable(progress):
        yield lambda done, estimate, of="": progress(done, estimate)
        return
    # Off a terminal, in the log of a cron job, a bar is a page of half lines. A notebook draws its own.
    on_terminal = sys.stderr.isatty()
    # tqdm looks at this variable on terminals alone
    is_off = progress is False or bool(os.environ.get("TQDM_DISABLE"))
    if is_off or (progress is None and not on_terminal and not _in_notebook()):
        yield lambda done, estimate, of="": None
        return
    bar = _Bar(0 if progress else _DELAY)
    # On a terminal, a first step that takes long is shown, too. Notebooks draw in the thread of their cell.
    timer = threading.Timer(_DELAY, bar.draw) if on_terminal else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield bar.show
    finally:
        if timer is not None:
            timer.cancel()
        bar.close()


class _Bar:
    """A bar of tqdm, made when it is first drawn, `delay` seconds from now. Thread-safe."""

    def __init__(self, delay: float) -> None:
        self._from = time.monotonic() + delay
        self._lock = threading.Lock()
        self._bar: Any = None
        self._is_closed = False
        self._latest: tuple[int, int | None, str] | None = None

    def show(self, done: int, estimate: int | None, of: str = "allocations") -> None:
        self._latest = done, estimate, of
        if time.monotonic() >= self._from:
            self.draw()

    def draw(self) -> None:
        """Draw what was shown last."""
        with self._lock:
            if self._latest is None or self._is_closed:
                return
            done, estimate, of = self._latest
            total = max(estimate, done) if estimate is not None else None
            if self._bar is None:
                self._bar = _new_bar(of, done, total)
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            self._bar.set_description_str(of, refresh=of != self._bar.desc)

    def close(self) -> None:
        """Remove the bar. Nothing is drawn any more."""
        with self._lock:
            self._is_closed = True
            if self._bar is not None:
                self._bar.close()


def _new_bar(of: str, done: int, total: int | None) -> Any:
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of its own

    is_large = total is None or total >= 1000
    return Bar(desc=of, initial=done, total=total, unit="", unit_scale=is_large, leave=False)


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    import tqdm.auto  # noqa: F401 - without it, the next line warns
    from tqdm import autonotebook

    return autonotebook.tqdm.__module__ != "tqdm.std"
