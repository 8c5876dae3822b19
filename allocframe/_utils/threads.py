"""Threads, waiting for them and ending what they wait for, and documentation that two clients share."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import current_token

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def start_thread(function: Callable[[], R]) -> Future[R]:
    """Run a function in a daemon thread of its own, which does not keep the interpreter from exiting."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised by whoever reads the result
            future.set_exception(error)

    threading.Thread(target=run, name="allocframe-thread", daemon=True).start()
    return future


async def wait_for(future: Future[R]) -> R:
    """Return the result of a thread. Cancelling the wait leaves the thread and its result alone."""
    await wait_until_done(future)
    return future.result()


async def wait_until_done(future: Future[Any]) -> None:
    """Wait for a thread to end, however it ends. Cancelling the wait leaves the thread alone."""
    finished = anyio.Event()
    loop: Any = current_token().native_token
    # asyncio and trio each have one function that may be called from another thread, by different names.
    call_soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon

    def wake(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is waiting
            call_soon(finished.set)

    future.add_done_callback(wake)
    await finished.wait()


_ABORT_INTERVAL = 0.1


@contextlib.contextmanager
def aborted_by(stop: threading.Event, abort: Callable[[], None]) -> Iterator[None]:
    """Call `abort` from another thread once `stop` is set: what the block waits for may take minutes.

    It is called again and again until the block ends, because the block may begin to wait for something else.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_ABORT_INTERVAL):
            if stop.is_set():
                abort()

    thread = threading.Thread(target=watch, name="allocframe-abort", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def documented_as(method: Callable[..., Any]) -> Callable[[F], F]:
    """Give a function the documentation of `method`; its own docstring is only the example."""

    def decorate(function: F) -> F:
        text, _, _ = inspect.cleandoc(method.__doc__ or "").partition("\n\nExamples\n")
        function.__doc__ = f"{text}\n\nExamples\n--------\n{inspect.cleandoc(function.__doc__ or '')}\n"
        return function

    return decorate
