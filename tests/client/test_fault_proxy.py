"""The client behind a bad line returns what it returns on a good one, or raises within the deadline."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from crashing import crash, keys
from faultproxy import CLEAN, Fault, through, waited

import allocframe as af
from allocframe.archive.recorder import Recorder
from allocframe.nomad import transport
from allocframe.watch import reflector

BOUND = 20.0
"""Seconds that a busy machine may take beyond a deadline."""

SLOW = {
    "latency": Fault(latency=0.02),
    "bandwidth": Fault(rate=400_000, piece=8192),
    "small pieces": Fault(piece=173),
}
ENDS = ("reset", "cut", "silent")
PLACES = (0, 90, 2000)
"""Before the first byte, in the headers, in the body."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport.retry, "backoff", lambda attempt: 0.0)
    monkeypatch.setattr(reflector, "FLOOR", 0.05)


@pytest.fixture(scope="module")
def still() -> Iterator[af.sim.Cluster]:
    """A cluster in which nothing happens. What delta-rs keeps open is opened before sockets are counted."""
    assert len(af.Archive(Path(__file__).parents[1] / "data" / "archive-1").events()) > 0
    with af.sim.Cluster("crash_loop", allocations=60, seed=4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def chosen(still: af.sim.Cluster) -> tuple[str, str]:
    """A running allocation and its task."""
    alloc = next(
        a for a in still.state.allocs.values() if a.client_status == "running" and a.job.kind == "service"
    )
    return alloc.id, next(iter(alloc.tasks))


def sockets() -> int:
    count = 0
    for opened in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(opened.readlink()).startswith("socket:")
    return count


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("allocframe")]


@pytest.fixture(autouse=True)
def _nothing_leaks(still: af.sim.Cluster) -> Iterator[None]:
    """The cluster lets go of its ends of broken connections in its own time."""
    before = sockets()
    yield
    for _ in waited():
        if not threads() and sockets() <= before:
            return
    raise AssertionError(f"left behind: {threads()}, {sockets() - before} sockets")


Call = Callable[[af.Client, str, str], Any]


def tables(snap: af.Snapshot) -> list[pd.DataFrame]:
    with snap:
        return [snap.allocations, snap.task_states, snap.events, snap.reschedules]


def first(client: af.Client, *, stream: bool) -> list[pd.DataFrame]:
    with client.watch(namespace="*", stream=stream) as watch:
        next(watch)
        return tables(watch.snapshot)


READS: dict[str, Call] = {
    "snapshot": lambda client, alloc, task: tables(client.snapshot(namespace="*", progress=False)),
    "snapshot by prefix": lambda client, alloc, task: tables(
        client.snapshot(namespace="*", per_page=30, progress=False, task_states=False)
    ),
    "allocation": lambda client, alloc, task: [client.allocation(alloc).events],
    "evaluations": lambda client, alloc, task: [client.evaluations(namespace="*")],
    "logs": lambda client, alloc, task: [client.logs(alloc, task).frame],
    "watch": lambda client, alloc, task: first(client, stream=True),
    "blocking watch": lambda client, alloc, task: first(client, stream=False),
    "exec": lambda client, alloc, task: client.exec(alloc, ["echo", "hello"], task=task, timeout=5).stdout,
}


def same(result: Any, expected: Any) -> bool:
    if isinstance(expected, bytes):
        return bool(result == expected)
    for left, right in zip(result, expected, strict=True):
        pd.testing.assert_frame_equal(left, right)
    return True


@pytest.fixture(scope="module")
def expected(still: af.sim.Cluster, chosen: tuple[str, str]) -> dict[str, Any]:
    with af.Client(still.address, token=still.token) as client:
        return {name: call(client, *chosen) for name, call in READS.items()}


def outcome(
    call: Call, chosen: tuple[str, str], cluster: af.sim.Cluster, timeout: float, *faults: Fault
) -> Any:
    """Return what a call gives behind a proxy: its result, or its typed error, in time."""
    with (
        through(cluster.address, *faults) as proxy,
        af.Client(proxy.address, token=cluster.token, timeout=timeout, retries=3) as client,
    ):
        started = time.monotonic()
        try:
            return call(client, *chosen)
        except af.AllocframeError as error:
            return error
        finally:
            assert time.monotonic() - started < 3 * timeout + 10 + BOUND


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("name", READS)
def test_a_slow_line_changes_nothing_but_the_time(
    name: str, fault: Fault, still: af.sim.Cluster, chosen: tuple[str, str], expected: dict[str, Any]
) -> None:
    result = outcome(READS[name], chosen, still, 60.0, fault)
    assert not isinstance(result, Exception), result
    assert same(result, expected[name])


@pytest.mark.parametrize("after", PLACES)
@pytest.mark.parametrize("end", ["reset", "cut"])
@pytest.mark.parametrize("name", READS)
def test_a_connection_that_breaks_once_costs_a_repeat_or_an_error_and_never_a_row(
    name: str, end: Any, after: int, still: af.sim.Cluster, chosen: tuple[str, str], expected: dict[str, Any]
) -> None:
    result = outcome(READS[name], chosen, still, 60.0, Fault(end=end, after=after), CLEAN)
    if isinstance(result, Exception):
        assert name == "exec", f"a read is asked again: {result}"
        assert isinstance(result, af.ExecError | af.ConnectionFailed)
    else:
        assert same(result, expected[name])


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", READS)
def test_a_line_that_always_breaks_ends_in_an_error_within_the_deadline(
    name: str, end: Any, still: af.sim.Cluster, chosen: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocframe.watch.update_queue.ESTABLISH_TIMEOUT", 1.0)

    def exec_briefly(client: af.Client, alloc: str, task: str) -> Any:
        return client.exec(alloc, ["echo", "x"], task=task, timeout=1)

    result = outcome(
        exec_briefly if name == "exec" else READS[name], chosen, still, 1.0, Fault(end=end, after=60)
    )
    assert isinstance(result, af.ConnectionFailed | af.RequestTimeout | af.ExecError), result


@pytest.mark.parametrize("seed", range(5))
def test_on_a_bad_line_a_call_returns_the_right_result_or_an_error(
    seed: int, still: af.sim.Cluster, chosen: tuple[str, str], expected: dict[str, Any]
) -> None:
    rng = random.Random(seed)

    def any_fault() -> Fault:
        end = rng.choice([None, None, "reset", "cut", "silent"])
        return Fault(
            rng.choice([0.0, 0.01]),
            rng.choice([50, 1000, 65536]),
            0.0,
            end,
            rng.choice([0, 100, 3000, 100_000]),
        )

    for name in rng.sample(sorted(READS), 3):
        result = outcome(READS[name], chosen, still, 1.5, *(any_fault() for _ in range(5)), CLEAN)
        if isinstance(result, Exception):
            assert isinstance(result, af.ConnectionFailed | af.RequestTimeout | af.ExecError), result
        else:
            assert same(result, expected[name])


@pytest.mark.parametrize(
    "faults", [[Fault(end=end, after=after), CLEAN] for end in ("reset", "cut") for after in PLACES]
)
def test_usage_behind_a_line_that_breaks_once_is_that_of_every_task(
    faults: list[Fault], still: af.sim.Cluster, chosen: tuple[str, str]
) -> None:
    tasks = sorted(still.state.allocs[chosen[0]].tasks)
    usage = outcome(lambda client, alloc, task: client.usage([alloc]), chosen, still, 60.0, *faults)
    assert usage.errors.empty, usage.errors
    assert sorted(usage.samples["task"]) == tasks


@pytest.mark.parametrize("end", ENDS)
def test_usage_behind_a_line_that_always_breaks_is_an_error_of_each_allocation(
    end: Any, still: af.sim.Cluster, chosen: tuple[str, str]
) -> None:
    usage = outcome(
        lambda client, alloc, task: client.usage([alloc]), chosen, still, 1.0, Fault(end=end, after=60)
    )
    assert usage.errors["alloc_id"].tolist() == [chosen[0]]
    assert usage.samples.empty


# What changes something


@pytest.fixture
def live() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("calm", allocations=30, seed=3) as cluster:
        yield cluster


ACTIONS: dict[str, Call] = {
    "stop": lambda client, alloc, task: client.stop(alloc),
    "signal": lambda client, alloc, task: client.signal(alloc, "SIGHUP", task=task),
    "restart": lambda client, alloc, task: client.restart(alloc, task=task),
}


@pytest.mark.parametrize("after", [0, 60, 100_000])
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ACTIONS)
def test_a_change_behind_a_bad_line_is_made_once_or_not_at_all_and_the_result_says_which(
    name: str, end: Any, after: int, live: af.sim.Cluster
) -> None:
    alloc = next(
        a for a in live.state.allocs.values() if a.client_status == "running" and a.job.kind == "service"
    )
    before = [CLEAN] if name == "stop" else []  # a stop reads first, over another connection
    with (
        through(live.address, *before, Fault(end=end, after=after)) as proxy,
        af.Client(proxy.address, token=live.token, timeout=0.7, retries=2) as client,
    ):
        try:
            ACTIONS[name](client, alloc.id, next(iter(alloc.tasks)))
            result = "done"
        except af.ResultUnknown:
            result = "unknown"
        except af.ConnectionFailed:
            result = "not sent"
        posts = [line for line in proxy.asked if line.startswith(b"POST")]
    assert len(posts) in {"not sent": (0,), "unknown": (0, 1), "done": (1,)}[result], (
        "it is never asked for twice"
    )
    assert result == "done" if after == 100_000 else result != "done"
    assert af.read_audit()["result"].tolist() == [
        {"done": "done", "unknown": "unknown", "not sent": "failed"}[result]
    ]


# A watch, and a recorder


BREAKING = {
    "cut": [Fault(end="cut", after=12_000)],
    "reset": [Fault(end="reset", after=12_000)],
    "small pieces": [Fault(piece=61)],
    "breaks": [CLEAN],
}


@pytest.mark.parametrize("line", BREAKING)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "blocking"])
def test_a_watch_behind_a_bad_line_tells_each_event_once_and_ends_up_right(
    line: str, stream: bool, live: af.sim.Cluster
) -> None:
    with (
        through(live.address, *BREAKING[line]) as proxy,
        af.Client(proxy.address, token=live.token, timeout=10) as client,
        client.watch(namespace="*", stream=stream, wait=0.5) as watch,
    ):
        next(watch)
        journal, reported = live.engine.keep_journal(), []
        for which in range(6):
            crash(live, 1, which)
            if line == "breaks":
                proxy.break_all()
            for _ in waited():
                change = watch.poll(0.2)
                reported += keys(change.new_events) if change is not None else []
                if len(reported) >= len(journal):
                    break
        with watch.snapshot as mine, af.Client(live.address, token=live.token) as direct:
            assert same(tables(mine)[1:], tables(direct.snapshot(namespace="*", progress=False))[1:])
        assert line == "small pieces" or proxy.connections > 2, "it did break"
    assert sorted(reported) == sorted(journal)


def test_a_stream_that_goes_silent_half_open_is_left_for_another(
    live: af.sim.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocframe.watch.update_queue.QUIET", 0.5)
    monkeypatch.setattr("allocframe.watch.update_queue.ESTABLISH_TIMEOUT", 2.0)
    with (
        through(live.address, Fault(end="silent", after=400), CLEAN) as proxy,
        af.Client(proxy.address, token=live.token, timeout=10) as client,
        client.watch(namespace="*") as watch,
    ):
        first = watch.poll(30)
        assert first is not None
        crash(live)
        for _ in waited():
            change = watch.poll(0.2)
            if change is not None and len(change.new_events):
                break
        assert change is not None
        assert len(change.new_events) > 0
        assert watch.stats["reconnects"] >= 1


def test_a_recorder_behind_a_bad_line_archives_each_event_once(live: af.sim.Cluster, tmp_path: Path) -> None:
    archive, stop = af.Archive(tmp_path / "archive"), threading.Event()
    faults = [
        CLEAN,
        CLEAN,
        Fault(end="cut", after=40_000),
        Fault(piece=997),
        Fault(end="reset", after=9000),
        CLEAN,
    ]
    with (
        through(live.address, *faults) as proxy,
        af.Client(proxy.address, token=live.token, timeout=10) as client,
    ):
        recorder = Recorder(client, archive, interval=0.1, on_message=lambda text: None)
        thread = threading.Thread(target=recorder.run, args=(stop,))
        thread.start()
        try:
            assert any(recorder.counts.commits for _ in waited(60))
            journal = live.engine.keep_journal()
            for which in range(5):
                crash(live, 1, which)
                proxy.break_all()
            index = live.state.table_index("allocs")
            assert any(archive.state().index == index for _ in waited(60))
        finally:
            stop.set()
            thread.join(60)
    recorded = [key for key in keys(archive.events()) if key in set(journal)]
    assert sorted(recorded) == sorted(journal)
