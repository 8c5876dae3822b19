"""Waiting in the main thread loses no Ctrl-C, wherever it comes."""

from __future__ import annotations

import queue
import signal
import threading
import time
from typing import Any

import pytest
from interrupting import after_ctrl_c, hung_after

from allocframe._utils import interrupts


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

    monkeypatch.setattr(interrupts.queue, "SimpleQueue", Items)
    ended = threading.Event()
    with hung_after(20) as hung, pytest.raises(KeyboardInterrupt):
        interrupts.away_from_signals(lambda: ended.wait(60), ended.set)
    assert not hung
    assert ended.is_set()


def test_what_runs_away_from_signals_returns_and_raises_as_if_called() -> None:
    where = []
    assert (
        interrupts.away_from_signals(lambda: where.append(threading.current_thread()) or 7, lambda: None) == 7
    )
    assert where != [threading.main_thread()]
    with pytest.raises(ZeroDivisionError):
        interrupts.away_from_signals(lambda: 1 // 0, lambda: None)


def test_ctrl_c_in_a_finalizer_is_raised_after_it_and_what_it_does_is_done() -> None:
    class Owner:
        pass

    done = []

    def remove() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.02)
        done.append(True)

    owners = [Owner()]
    interrupts.finalize(owners[0], remove)
    with hung_after(20) as hung:
        owners.clear()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(60)
    assert not hung
    assert done == [True]


def test_a_signal_that_comes_within_an_event_sets_it() -> None:
    event = threading.Event()
    with event._cond:  # where a signal may interrupt the thread that waits
        interrupts.set_from_signal(event)
    assert event.wait(60)
