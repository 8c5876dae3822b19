"""A pool of threads, and Ctrl-C at any instant of the thread that uses it."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from interrupting import ctrl_c_at, hung_after

from allocframe._utils.thread_pool import ThreadPool


def test_results_come_in_order_and_the_error_of_the_first_that_failed_is_raised() -> None:
    with ThreadPool(2) as pool:
        assert list(pool.map(lambda a, b: a - b, [5, 7, 9], [1, 2, 3])) == [4, 5, 6]
        with pytest.raises(ZeroDivisionError):
            list(pool.map(lambda a: 1 // a, [1, 0, 2]))


def test_no_more_threads_work_at_a_time_than_were_asked_for() -> None:
    now, most = set[int](), 0

    def work(number: int) -> None:
        nonlocal most
        now.add(number)
        most = max(most, len(now))
        time.sleep(0.01)
        now.discard(number)

    with ThreadPool(3) as pool:
        list(pool.map(work, range(12)))
    assert most == 3


def test_at_the_end_what_has_begun_has_ended_and_the_rest_never_begins() -> None:
    begun, release, done = threading.Event(), threading.Event(), []

    def work(number: int) -> None:
        begun.set()
        release.wait(60)
        done.append(number)

    with ThreadPool(1) as pool:
        for number in range(3):
            pool.submit(work, number)
        assert begun.wait(60)
        threading.Timer(0.05, release.set).start()
    assert done == [0]
    assert not [thread for thread in threading.enumerate() if thread.name == "allocframe-pool"]


@pytest.mark.timeout(150)
def test_ctrl_c_at_any_instant_ends_the_pool_and_its_threads() -> None:
    moment = 1
    while True:
        interrupted = contextlib.suppress(KeyboardInterrupt), ctrl_c_at(moment, "_utils/thread")
        with hung_after(20) as hung, interrupted[0], interrupted[1] as seen, ThreadPool(2) as pool:
            list(pool.map(str, range(3)))
        assert not hung
        if seen() < moment:
            break
        moment += 3
    assert moment > 30
    end = time.monotonic() + 60
    while [thread for thread in threading.enumerate() if thread.name == "allocframe-pool"]:
        assert time.monotonic() < end
        time.sleep(0.01)
