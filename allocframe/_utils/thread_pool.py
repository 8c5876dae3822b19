"""A pool of threads that Ctrl-C cannot break.

That of `concurrent.futures` is not made for it: interrupted between two steps, it leaves a lock locked that
its threads wait for, and the end of the pool then waits for them.
"""

from __future__ import annotations

import _thread
import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Generic, Self, TypeVar

from .interrupts import LONGEST_WAIT

R = TypeVar("R")


class Task(Generic[R]):
    """A call in a pool, with a result as soon as it `is_done`."""

    def __init__(self, function: Callable[[], R]) -> None:
        self.is_done: bool = False
        self._function: Callable[[], R] | None = function
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call the function and keep what it returns or raises."""
        try:
            if self._function is not None:
                self._value = self._function()
        except BaseException as error:  # noqa: BLE001 - raised by whoever asks for the result
            self._error = error
        self._function = None
        self.is_done = True

    def result(self) -> R:
        """Return what the function returned, or raise what it raised."""
        try:
            if self._error is not None:
                raise self._error
            return self._value  # type: ignore[no-any-return]
        finally:
            del self  # the traceback holds this frame: a cycle would keep all its frames alive


class _Crew:
    """What the threads of a pool share with it. They do not hold the pool: it ends them when it is gone."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.tasks: queue.SimpleQueue[Task[Any] | None] = queue.SimpleQueue()
        self.finished: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.running: set[Task[Any]] = set()
        self.is_closed = False

    def add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="allocframe-pool", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no more threads
            self._work()
        else:
            self.threads.append(thread)

    def _work(self) -> None:
        for task in iter(self.tasks.get, None):
            # First this, then the look whether the pool is closed: `close` does it the other way round.
            self.running.add(task)
            if not self.is_closed:
                task.run()
            self.running.discard(task)
            self.finished.put(None)
        self.tasks.put(None)  # for the next thread

    def end(self) -> None:
        self.is_closed = True
        self.tasks.put(None)


class ThreadPool:
    """Some threads, which one thread gives tasks. At the end of the block, those that have begun have ended.

    The thread that waits looks for signals again and again, and everything that it shares with the others is
    changed in one step.

    Parameters
    ----------
    workers : int
        Maximum number of threads.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._started = 0
        self._crew = _Crew()
        self._end = weakref.finalize(self, self._crew.end)  # where Ctrl-C comes before or in `close`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, function: Callable[..., R], *arguments: Any) -> Task[R]:
        """Let a thread call a function."""
        if self._started < self._workers:
            # Not here: starting a `Thread` takes many steps.
            _thread.start_new_thread(self._crew.add_thread, ())
            self._started += 1
        task = Task(partial(function, *arguments))
        self._crew.tasks.put(task)
        return task

    def map(self, function: Callable[..., R], *items: Iterable[Any]) -> Iterator[R]:
        """Let the threads call a function for all items, and yield the results in their order."""
        tasks = [self.submit(function, *each) for each in zip(*items, strict=False)]
        return map(self._result, tasks)

    def wait(self) -> None:
        """Wait until a task is done, or for a moment: look which ones are, and call this again."""
        with contextlib.suppress(queue.Empty):
            self._crew.finished.get(timeout=LONGEST_WAIT)

    def close(self) -> None:
        """Drop the tasks that have not begun, and wait for the others. Can be called twice."""
        self._crew.end()
        while self._crew.running:
            self.wait()
        for thread in self._crew.threads:
            thread.join(LONGEST_WAIT)
        self._end.detach()

    def _result(self, task: Task[R]) -> R:
        while not task.is_done:
            self.wait()
        return task.result()
