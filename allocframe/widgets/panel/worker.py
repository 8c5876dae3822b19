"""A thread for slow work, so that the kernel stays free. Waiting for a server that hangs can be given up."""

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
    the thread sends until the running cell has ended. Python cannot interrupt a thread that waits for a
    server, so `give_up` leaves it alone and continues with another.
    """

    def __init__(
        self,
        tick: Callable[[], bool],
        on_error: Callable[[Exception], None],
        on_busy: Callable[[], None] = lambda: None,
    ) -> None:
        self._tick = tick
        self._on_error = on_error
        self._on_busy = on_busy
        self._jobs: deque[tuple[Callable[[], object], str]] = deque()
        self._changed = threading.Condition()
        self._busy = self._waiting = self._closed = False
        self._doing: tuple[str, float] | None = None
        self._context = contextvars.copy_context()
        self._thread = self._start()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="allocframe-panel", daemon=True)
        self._thread = thread  # before it runs: it asks whether it is the one
        thread.start()
        return thread

    def submit(self, job: Callable[[], object], what: str = "") -> None:
        """Run `job` after the jobs before it. `what` says what it waits for, for people."""
        with self._changed:
            self._context = contextvars.copy_context()
            self._jobs.append((job, what))
            self._changed.notify_all()

    @property
    def doing(self) -> tuple[str, float] | None:
        """What the running job waits for and for how many seconds, None if there is none."""
        doing = self._doing
        return (doing[0], time.monotonic() - doing[1]) if doing else None

    def give_up(self) -> bool:
        """Wait no longer for the running job. Return whether there was one."""
        with self._changed:
            if not self._busy or self._closed:
                return False
            self._busy, self._doing = False, None
            self._thread = self._start()
            self._changed.notify_all()
            return True

    def is_given_up(self) -> bool:
        """Return, to a job, whether nobody waits for it any longer."""
        return self._closed or threading.current_thread() is not self._thread

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
                if self.is_given_up():
                    return
                self._busy, self._doing = False, None
                self._changed.notify_all()
                if not self._jobs:
                    self._changed.wait(max(last + TICK_INTERVAL - time.monotonic(), 0.0))
                if self.is_given_up():
                    return
                job, what = self._jobs.popleft() if self._jobs else (None, "")
                is_due = job is not None or time.monotonic() >= last + TICK_INTERVAL
                # A copy, because a thread that was given up may still be in the same one.
                context = self._context.copy()
                if is_due:
                    self._busy, self._doing = True, (what or "what came of the actions", time.monotonic())
            try:
                if job is not None:
                    context.run(self._on_busy)
                    context.run(job)
                if is_due and not self.is_given_up():
                    last = time.monotonic()
                    self._waiting = context.run(self._tick)
                if job is not None and not self.is_given_up():
                    self._doing = None
                    context.run(self._on_busy)
            except Exception as error:  # noqa: BLE001 - the thread must survive, and report it
                context.run(self._on_error, error)
