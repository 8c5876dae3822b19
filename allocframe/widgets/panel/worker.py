"""A thread for slow work, so that the kernel stays free."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable

TICK_INTERVAL = 0.5
"""Seconds between two ticks."""


class Worker:
    """Runs jobs in order, and `tick` at intervals. `tick` returns whether it waits for something.

    Each runs in the context of the latest callback. Without that context, the front end would hold back what
    the thread sends until the running cell has ended.
    """

    def __init__(self, tick: Callable[[], bool], on_error: Callable[[Exception], None]) -> None:
        self._tick = tick
        self._on_error = on_error
        self._jobs: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._busy = self._waiting = self._closed = False
        self._context = contextvars.copy_context()
        self._thread = threading.Thread(target=self._run, name="allocframe-panel", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Run `job` after the jobs before it."""
        with self._changed:
            self._context = contextvars.copy_context()
            self._jobs.append(job)
            self._changed.notify_all()

    def wait(self, timeout: float) -> bool:
        """Return whether all work was done within `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._idle, timeout)

    def _idle(self) -> bool:
        return self._closed or not (self._jobs or self._busy or self._waiting)

    def close(self) -> None:
        """End the thread. Waiting jobs are dropped; a running one gets a second to finish."""
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify_all()
        # A job may close the panel, and a thread cannot join itself.
        if threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def _run(self) -> None:
        last = 0.0
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if not self._jobs and not self._closed:
                    self._changed.wait(max(last + TICK_INTERVAL - time.monotonic(), 0.0))
                if self._closed:
                    return
                job = self._jobs.popleft() if self._jobs else None
                self._busy, context = job is not None, self._context
            try:
                if job is not None:
                    context.run(job)
                if job is not None or time.monotonic() >= last + TICK_INTERVAL:
                    last = time.monotonic()
                    self._waiting = context.run(self._tick)
            except Exception as error:  # noqa: BLE001 - the thread must survive, and report it
                context.run(self._on_error, error)
