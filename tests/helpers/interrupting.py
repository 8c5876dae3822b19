"""Ctrl-C at a chosen instant of the main thread, without a clock."""

from __future__ import annotations

import _thread
import contextlib
import operator
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any


@contextlib.contextmanager
def ctrl_c_at(moment: int, where: str = "") -> Iterator[Callable[[], int]]:
    """Press Ctrl-C at the nth event of a trace in the block, of files whose path holds `where`.

    Python then raises KeyboardInterrupt where it would raise it for a real one. Yields a function that
    returns how many events there were.
    """
    seen = 0
    # The flag is set without a call of Python's, after which Python would look at it.
    press: dict[int, None] = defaultdict(_thread.interrupt_main)  # type: ignore[arg-type]

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal seen
        if where not in frame.f_code.co_filename:
            return trace
        frame.f_trace_opcodes = True
        seen += 1
        if seen != moment:
            return trace
        sys.settrace(None)
        return press[seen]

    before, handler = sys.gettrace(), signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.settrace(trace)
    try:
        yield lambda: seen
    finally:
        sys.settrace(before)
        signal.signal(signal.SIGINT, handler)


def after_ctrl_c(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that presses Ctrl-C and calls `function`, before Python looks for signals again."""
    pressed = []

    def call(*arguments: Any, **more: Any) -> Any:
        if pressed:
            return function(*arguments, **more)
        pressed.append(True)
        both = _thread.interrupt_main, partial(function, *arguments, **more)
        return list(map(operator.call, both))[1]

    return call


@contextlib.contextmanager
def hung_after(seconds: float) -> Iterator[list[str]]:
    """Press Ctrl-C again after `seconds`, and add to the list that this was necessary."""
    hung: list[str] = []

    def again() -> None:
        hung.append("Ctrl-C was lost")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    timer = threading.Timer(seconds, again)
    timer.start()
    try:
        yield hung
    finally:
        timer.cancel()
