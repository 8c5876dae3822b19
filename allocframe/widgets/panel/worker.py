"""A thread for what may take long, so that the kernel stays free."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable

EVERY = 0.5
"""Seconds between two looks at what is due."""


class Worker:
    """Does jobs in the order given, and `tick` in between, which says whether something is still waited for.

    Each runs in the context of the latest callback: what a thread sends without one waits in the front end for the running cell.
    """

    def __init__(self, tick: Callable[[], bool], broke: Callable[[Exception], None]) -> None:
        self._tick = tick
        self._broke = broke
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._busy = self._waits = self._closed = False
        self._context = contextvars.copy_context()
        self._thread = threading.Thread(target=self._run, name="allocframe-panel", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Do `job` when those before it are done."""
        with self._changed:
            self._context = contextvars.copy_context()
            self._jobs.append(job)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Return whether nothing is left to do, and nothing waited for, within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def _idle(self) -> bool:
        return self._closed or not (self._jobs or self._busy or self._waits)

    def close(self) -> None:
        """End the thread; jobs that have not begun are not done, and one that waits for the cluster is not waited for."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def _run(self) -> None:
        last = 0.0
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if not self._jobs and not self._closed:
                    self._changed.wait(max(last + EVERY - time.monotonic(), 0.0))
                if self._closed:
                    return
                job = self._jobs.popleft() if self._jobs else None
                self._busy, context = job is not None, self._context
            try:
                if job is not None:
                    context.run(job)
                if job is not None or time.monotonic() >= last + EVERY:
                    last = time.monotonic()
                    self._waits = context.run(self._tick)
            except Exception as error:  # noqa: BLE001 - the thread must live on, and say it
                context.run(self._broke, error)
