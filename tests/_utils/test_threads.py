"""Waiting in the main thread loses no Ctrl-C, wherever it comes."""

from __future__ import annotations

import queue
import signal
import threading
import time
from concurrent import futures
from typing import Any

import pytest
from interrupting import after_ctrl_c, hung_after

from allocframe._utils import threads


@pytest.fixture(autouse=True)
def _ctrl_c_interrupts() -> Any:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_between_the_last_look_for_signals_and_the_wait_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Items(queue.SimpleQueue):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.get = after_ctrl_c(super().get)

    monkeypatch.setattr(threads.queue, "SimpleQueue", Items)
    ended = threading.Event()
    with hung_after(5) as hung, pytest.raises(KeyboardInterrupt):
        threads.away_from_signals(lambda: ended.wait(20), ended.set)
    assert not hung
    assert ended.is_set()


def test_ctrl_c_between_the_last_look_for_signals_and_the_wait_for_a_pool_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    waiter = threading.Lock().acquire  # what Python's own waits come down to
    monkeypatch.setattr(threads, "wait", lambda some, seconds: after_ctrl_c(waiter)(True, seconds))
    waiter()
    with threads.ThreadPool(1) as pool:
        with hung_after(5) as hung, pytest.raises(KeyboardInterrupt):
            list(pool.map(release.wait, [20]))
        release.set()
    assert not hung


def test_a_pool_returns_results_in_order_and_raises_the_error_of_the_first_that_failed() -> None:
    with threads.ThreadPool(2) as pool:
        assert list(pool.map(lambda a, b: a - b, [5, 7], [1, 2])) == [4, 5]
        with pytest.raises(futures.TimeoutError, match="its own"):
            list(pool.map(_fail, ["its own"]))


def _fail(text: str) -> None:
    raise futures.TimeoutError(text)


def test_what_runs_away_from_signals_returns_and_raises_as_if_called() -> None:
    where = []
    assert threads.away_from_signals(lambda: where.append(threading.current_thread()) or 7, lambda: None) == 7
    assert where != [threading.main_thread()]
    with pytest.raises(ZeroDivisionError):
        threads.away_from_signals(lambda: 1 // 0, lambda: None)


def test_ctrl_c_in_a_finalizer_is_raised_after_it_and_what_it_does_is_done() -> None:
    class Owner:
        pass

    done = []

    def remove() -> None:
        done.append(True)
        if len(done) == 1:
            signal.raise_signal(signal.SIGINT)

    owners = [Owner()]
    threads.finalize(owners[0], remove)
    with hung_after(5) as hung:
        owners.clear()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(20)
    assert not hung
    assert done == [True, True]


def test_a_signal_that_comes_within_an_event_sets_it() -> None:
    event = threading.Event()
    with event._cond:  # where a signal may interrupt the thread that waits
        threads.set_from_signal(event)
    assert event.wait(5)
