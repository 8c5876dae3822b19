"""Ctrl-C and other signals, which interrupt the main thread between any two of its instructions."""

from __future__ import annotations

import _thread
import contextlib
import contextvars
import queue
import signal
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

R = TypeVar("R")


LONGEST_WAIT = 0.25
"""Seconds that the main thread waits at most before it looks for signals again.

Python looks for them between instructions. One that comes after the last look, and before the system call
that waits, is seen only when the wait is over.
"""


def away_from_signals(function: Callable[[], R], end: Callable[[], None]) -> R:
    """Return what `function` returns. Called in the main thread, run it in another one meanwhile.

    Ctrl-C raises KeyboardInterrupt between any two instructions of the main thread, and libraries are not
    made for that: httpcore may leave its lock locked, and then waits for it for ever. Here nothing but the
    wait is interrupted.

    Parameters
    ----------
    end : callable
        Called if the wait is interrupted, to end what `function` waits for. Its result is dropped.
    """
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.put((context.run(function), None))
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            results.put((None, error))

    try:
        try:
            # `threading` is not made for interrupts either: its locks are left locked, too. This is one step.
            _thread.start_new_thread(run, ())
        except RuntimeError:  # the interpreter exits, or the system has no more threads
            return function()
        result, error = _wait_for_item(results)
    except BaseException:
        end()
        # It ends at once, or else, where nothing answers, in a few seconds.
        with contextlib.suppress(queue.Empty):
            results.get(timeout=LONGEST_WAIT)
        raise
    if error is not None:
        try:
            raise error
        finally:
            del error  # the traceback holds this frame: a cycle would keep all its frames alive
    return result  # type: ignore[no-any-return]


def _wait_for_item(items: queue.SimpleQueue[Any]) -> Any:
    while True:
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=LONGEST_WAIT)


def set_from_signal(event: threading.Event) -> None:
    """Set an event from a signal handler.

    In another thread: a handler may interrupt its own thread within the event, which then holds the lock that
    setting it needs.
    """
    _thread.start_new_thread(event.set, ())


def finalize(owner: object, function: Callable[..., object], *arguments: object, **more: object) -> Any:
    """Call a function when `owner` is gone, as `weakref.finalize` does, and lose no Ctrl-C meanwhile.

    Python prints what is raised in a finalizer, and continues. Ctrl-C is raised again when that is over. What
    the function does is done to its end.
    """

    def call() -> None:
        try:
            away_from_signals(lambda: function(*arguments, **more), lambda: None)
        except KeyboardInterrupt:
            _thread.start_new_thread(_interrupt_later, ())

    return weakref.finalize(owner, call)


_AFTER_FINALIZER = 0.05


def _interrupt_later() -> None:
    """Press Ctrl-C when the main thread is out of its finalizer."""
    time.sleep(_AFTER_FINALIZER)
    if hasattr(signal, "pthread_kill"):  # ends a wait, too
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:  # Windows
        _thread.interrupt_main()
