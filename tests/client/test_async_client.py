"""The client for asyncio: the methods of `Client`, a free event loop, and what cancelling a call does."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from faultserver import ROW, Counted, FaultServer, any_json, good, http, serving
from services import services

import allocframe as af
from allocframe.client.async_client import MAX_CALLS
from allocframe.watch.async_watch import AsyncWatch

ID = ROW["ID"]


@pytest.fixture
def live() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("calm", allocations=60, seed=4) as cluster:
        yield cluster


@pytest.fixture
def threads() -> Iterator[None]:
    """No thread of ours is left behind."""
    yield
    end = time.monotonic() + 60
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("allocframe")]:
        assert time.monotonic() < end, left
        time.sleep(0.02)


def until(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


async def soon(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not reached():
            await asyncio.sleep(0.01)


class Gate:
    """An answer that comes when it is let through, and knows whether the other side hung up before."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = good() if answer is None else answer
        self.open, self.asked, self.hung_up = (threading.Event() for _ in range(3))

    def __call__(self, connection: socket.socket) -> None:
        self.asked.set()
        connection.settimeout(0.02)
        while not self.open.is_set() and not self.hung_up.is_set():
            with contextlib.suppress(TimeoutError):
                if connection.recv(65536) == b"":
                    self.hung_up.set()
        connection.sendall(self.answer)


# The same methods


def public(kind: type) -> dict[str, Any]:
    return {name: inspect.getattr_static(kind, name) for name in dir(kind) if not name.startswith("_")}


def test_it_has_the_methods_of_the_client_and_no_others() -> None:
    assert set(public(af.AsyncClient)) == set(public(af.Client)) - {"read_only"} | {"read_only"}
    assert set(public(AsyncWatch)) == set(public(af.Watch))


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        pytest.param(getattr(own, name), body, id=f"{own.__name__}.{name}")
        for own, other in ((af.AsyncClient, af.Client), (AsyncWatch, af.Watch))
        for name, body in {**public(other), "__init__": other.__init__}.items()
        if inspect.isfunction(body) and (own, name) != (AsyncWatch, "__init__")
    ],
)
def test_a_method_takes_what_that_of_the_client_takes_and_says_the_same(mine: Any, theirs: Any) -> None:
    ours, others = (inspect.signature(method) for method in (mine, theirs))
    assert dict(ours.parameters) == dict(others.parameters)
    assert inspect.iscoroutinefunction(mine) == (theirs.__name__ not in ("watch", "__init__"))
    if theirs.__name__ not in ("watch", "close"):
        assert ours.return_annotation == others.return_annotation
    if theirs.__name__ not in ("close", "__init__"):
        text = inspect.cleandoc(theirs.__doc__).partition("\n\nExamples\n")[0]
        assert inspect.getdoc(mine).startswith(text)
        assert mine.__doc__.count("Examples\n--------\n") == 1


def test_it_answers_as_the_client_does(live: af.sim.Cluster, threads: None) -> None:
    chosen = services(live)[0]

    async def all_of_it() -> tuple[Any, ...]:
        async with af.AsyncClient(live.address, token=live.token) as client:
            assert repr(client) == f"AsyncClient({live.address!r})"
            snap = await client.snapshot(namespace="*")
            alloc = await client.allocation(chosen.id)
            await client.restart(chosen.id)
            return snap, alloc, client.counters

    snap, alloc, counters = asyncio.run(all_of_it())
    with af.Client(live.address, token=live.token) as client, client.snapshot(namespace="*") as expected:
        assert len(snap) == len(expected)
    assert alloc.raw["ID"] == chosen.id
    assert counters["requests"] >= 3
    assert "Restart Signaled" in [kind for task in chosen.tasks.values() for kind, _, _ in task.events]


def test_an_error_is_that_of_the_client(live: af.sim.Cluster) -> None:
    async def denied() -> None:
        async with af.AsyncClient(live.address, token="wrong", read_only=True) as client:
            assert client.read_only
            with pytest.raises(af.AllocframeError, match="read-only"):
                await client.stop(ID)
            await client.snapshot()

    with pytest.raises(af.PermissionDenied):
        asyncio.run(denied())


def test_one_client_serves_one_event_loop_after_the_other(live: af.sim.Cluster, threads: None) -> None:
    client = af.AsyncClient(live.address, token=live.token)
    sizes = {len(asyncio.run(client.snapshot(namespace="*"))) for _ in range(3)}
    assert len(sizes) == 1
    asyncio.run(client.close())
    asyncio.run(client.close())
    with pytest.raises(af.AllocframeError, match="closed"):
        asyncio.run(client.snapshot())


# The event loop keeps running


async def ticks_while(work: Awaitable[Any], gate: Gate) -> tuple[int, Any]:
    """Return how often the event loop came round while a call waited for its answer, and what it returned."""
    task = asyncio.ensure_future(work)
    await soon(gate.asked.is_set)
    ticks = 0
    for _ in range(50):
        await asyncio.sleep(0.001)
        ticks += not task.done()
    gate.open.set()
    return ticks, await task


READS: list[tuple[str, bytes, Callable[[af.AsyncClient], Awaitable[Any]]]] = [
    ("snapshot", good(), lambda client: client.snapshot()),
    ("allocation", any_json(ROW), lambda client: client.allocation(ID)),
    ("usage", any_json(ROW), lambda client: client.usage([ID])),
    ("logs", any_json(ROW), lambda client: client.logs(ID, "web")),
    ("restart", any_json({"Index": 0}), lambda client: client.restart(ID)),
    ("watch", good(X_Nomad_Index="5"), lambda client: anext(client.watch(stream=False))),
]


@pytest.mark.parametrize(("answer", "call"), [row[1:] for row in READS], ids=[row[0] for row in READS])
def test_the_event_loop_goes_on_while_a_server_thinks(
    answer: bytes, call: Callable[[af.AsyncClient], Awaitable[Any]], threads: None
) -> None:
    async def ticked(server: FaultServer) -> int:
        async with af.AsyncClient(server.address, retries=0) as client:
            with contextlib.suppress(af.AllocframeError):
                return (await ticks_while(call(client), gate))[0]
            return 50

    gate = Gate(answer)
    with serving(gate) as server:
        assert asyncio.run(ticked(server)) == 50


def test_many_calls_at_once_are_all_answered_a_few_at_a_time(threads: None) -> None:
    counted = Counted(any_json(ROW), seconds=0.005)

    async def all_of_them(server: FaultServer) -> list[af.Allocation]:
        async with af.AsyncClient(server.address) as client:
            return await asyncio.gather(*(client.allocation(ID) for _ in range(60)))

    with serving(counted, keep_alive=True) as server:
        assert len(asyncio.run(all_of_them(server))) == 60
        assert len(server.requests) == 60
    assert 1 < counted.most <= MAX_CALLS


# Giving up


def test_a_call_that_is_given_up_hangs_up_at_once_and_the_client_stays_usable(threads: None) -> None:
    gate = Gate()

    async def given_up(server: FaultServer) -> float:
        async with af.AsyncClient(server.address, timeout=120) as client:
            task = asyncio.ensure_future(client.snapshot())
            await soon(gate.asked.is_set)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await task
            took = time.monotonic() - began
            await soon(gate.hung_up.is_set)
            assert len(await client.snapshot()) == 1
            return took

    with serving(gate, good()) as server:
        assert asyncio.run(given_up(server)) < 30


def test_a_call_that_is_given_up_leaves_the_others_alone(threads: None) -> None:
    first, second = Gate(), Gate()

    async def two(server: FaultServer) -> int:
        async with af.AsyncClient(server.address) as client:
            cancelled = asyncio.ensure_future(client.snapshot())
            await soon(first.asked.is_set)
            other = asyncio.ensure_future(client.snapshot())
            await soon(second.asked.is_set)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            await soon(first.hung_up.is_set)
            second.open.set()
            return len(await other)

    with serving(first, second) as server:
        assert asyncio.run(two(server)) == 1
    assert not second.hung_up.is_set()


def test_a_call_that_is_given_up_before_its_turn_asks_nothing(threads: None) -> None:
    gate = Gate(any_json(ROW))

    async def queued(server: FaultServer) -> None:
        async with af.AsyncClient(server.address) as client:
            busy = [asyncio.ensure_future(client.allocation(ID)) for _ in range(MAX_CALLS)]
            await soon(lambda: len(server.requests) == MAX_CALLS)
            waiting = asyncio.ensure_future(client.allocation(ID))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.open.set()
            await asyncio.gather(*busy)

    with serving(gate) as server:
        asyncio.run(queued(server))
        assert len(server.requests) == MAX_CALLS


def test_a_pause_that_a_server_asked_for_ends_with_the_call(threads: None) -> None:
    busy = http(b"wait", "503 Service Unavailable", length=4, Retry_After="25")

    async def paused(server: FaultServer) -> None:
        async with af.AsyncClient(server.address) as client:
            task = asyncio.ensure_future(client.snapshot())
            await soon(lambda: server.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    began = time.monotonic()
    with serving(busy) as server:
        asyncio.run(paused(server))
    assert time.monotonic() - began < 15, "close waited for the pause"


def test_the_pause_between_two_samples_ends_with_the_call(live: af.sim.Cluster, threads: None) -> None:
    chosen = services(live)[0].id

    async def sampled() -> None:
        async with af.AsyncClient(live.address, token=live.token) as client:
            task = asyncio.ensure_future(client.usage([chosen], samples=3, interval=60))
            await soon(lambda: client.counters["requests"] >= 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    began = time.monotonic()
    asyncio.run(sampled())
    assert time.monotonic() - began < 20


def test_closing_gives_up_what_is_read(threads: None) -> None:
    gate = Gate()

    async def closed(server: FaultServer) -> None:
        client = af.AsyncClient(server.address)
        task = asyncio.ensure_future(client.snapshot())
        await soon(gate.asked.is_set)
        await client.close()
        with pytest.raises(af.AllocframeError):
            await task

    with serving(gate) as server:
        asyncio.run(closed(server))


def test_closing_refuses_calls_that_wait_for_their_turn(threads: None) -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    async def closed(server: FaultServer) -> None:
        client = af.AsyncClient(server.address)
        tasks = [asyncio.ensure_future(client.allocation(ID)) for _ in range(MAX_CALLS + 1)]
        await soon(lambda: len(server.requests) == MAX_CALLS)
        await client.close()
        with pytest.raises(af.AllocframeError, match="closed before the call had its turn"):
            await tasks[-1]
        assert all(
            isinstance(result, af.AllocframeError)
            for result in await asyncio.gather(*tasks, return_exceptions=True)
        )

    with serving(hang) as server:
        asyncio.run(closed(server))


# Giving up a change


def changes(server: FaultServer) -> list[str]:
    return [raw.split()[1].decode() for raw in server.raw if raw.startswith(b"POST")]


STANDING = any_json({"ID": ID, "ClientStatus": "running", "ModifyIndex": 7})
"""The allocation, which a stop reads before it is sent."""


def test_a_change_that_was_sent_comes_to_its_end_in_the_audit_log(threads: None) -> None:
    gate = Gate(any_json({"EvalID": "e" * 36, "Index": 7}))

    async def stopped(server: FaultServer) -> None:
        async with af.AsyncClient(server.address) as client:
            task = asyncio.ensure_future(client.stop(ID))
            await soon(gate.asked.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert af.read_audit()["result"].tolist() == ["unknown"]
            gate.open.set()

    with serving(STANDING, gate) as server:
        asyncio.run(stopped(server))
        assert len(changes(server)) == 1
    assert not gate.hung_up.is_set()
    log = af.read_audit()
    assert log[["action", "alloc_id", "result"]].to_numpy().tolist() == [["stop", ID, "done"]]
    assert "evaluation eeee" in log["message"][0]


def test_a_change_that_was_sent_and_refused_is_told_as_refused(threads: None) -> None:
    gate = Gate(http(b"Permission denied", "403 Forbidden", length=17))

    async def stopped(server: FaultServer) -> None:
        async with af.AsyncClient(server.address) as client:
            task = asyncio.ensure_future(client.stop(ID))
            await soon(gate.asked.is_set)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await task
            gate.open.set()

    with serving(STANDING, gate) as server:
        asyncio.run(stopped(server))
    assert af.read_audit()["result"].tolist() == ["refused"]


def test_a_change_that_was_given_up_before_it_was_sent_is_never_sent(threads: None) -> None:
    gate = Gate()  # the list that finds the whole ID

    async def stopped(server: FaultServer) -> None:
        async with af.AsyncClient(server.address) as client:
            task = asyncio.ensure_future(client.stop(ID[:8]))
            await soon(gate.asked.is_set)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with serving(gate) as server:
        asyncio.run(stopped(server))
        assert changes(server) == []
    assert "done" not in af.read_audit()["result"].tolist()


def test_a_command_that_is_given_up_ends_its_session_and_says_so(live: af.sim.Cluster, threads: None) -> None:
    chosen = services(live)[0]
    task_name = next(iter(chosen.tasks))

    async def left() -> None:
        async with af.AsyncClient(live.address, token=live.token) as client:
            task = asyncio.ensure_future(client.exec(chosen.id, ["sleep", "60"], task=task_name))
            await soon(lambda: len(af.read_audit()))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await soon(lambda: len(af.read_audit()) and af.read_audit()["message"].notna().all())
            done = await client.exec(chosen.id, ["echo", "hello"], task=task_name)
            assert done.text == "hello\n"

    began = time.monotonic()
    asyncio.run(left())
    assert time.monotonic() - began < 30
    assert af.read_audit()["result"].tolist()[-1] == "done"


def test_no_command_is_started_after_many_were_given_up(live: af.sim.Cluster, threads: None) -> None:
    chosen = [alloc.id for alloc in services(live)]
    task_name = next(iter(services(live)[0].tasks))

    async def left() -> None:
        async with af.AsyncClient(live.address, token=live.token) as client:
            many = client.exec_many(chosen * 5, ["sleep", "60"], task=task_name, workers=1)
            task = asyncio.ensure_future(many)
            await soon(lambda: len(af.read_audit()))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(left())
    assert len(af.read_audit()) == 1


# The watch


def test_a_watch_yields_changes_as_they_come_and_ends_when_it_is_closed(
    live: af.sim.Cluster, threads: None
) -> None:
    chosen = services(live)[0]

    async def watched() -> list[Any]:
        changes_seen = []
        async with af.AsyncClient(live.address, token=live.token) as client:
            watch = client.watch(namespace="*")
            async for change in watch:
                changes_seen.append(change)
                if len(changes_seen) == 1:
                    await client.restart(chosen.id)
                elif chosen.id in set(change.changed["alloc_id"]):
                    assert len(await watch.snapshot()) == len(live.state.allocs)
                    assert "AsyncWatch" in repr(watch)
                    await watch.close()
            assert watch.closed
        return changes_seen

    changes_seen = asyncio.run(asyncio.wait_for(watched(), 60))
    assert changes_seen[0].full
    assert len(changes_seen) >= 2


def test_a_wait_that_is_given_up_loses_no_change(live: af.sim.Cluster, threads: None) -> None:
    chosen = services(live)[0]

    async def watched() -> bool:
        async with (
            af.AsyncClient(live.address, token=live.token) as client,
            client.watch(namespace="*") as watch,
        ):
            await anext(watch)
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.05)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await client.restart(chosen.id)
            seen: set[str] = set()
            async with asyncio.timeout(60):
                while chosen.id not in seen:
                    seen |= set((await anext(watch)).changed["alloc_id"])
            return True

    assert asyncio.run(watched())


def test_a_watch_by_blocking_queries_asks_no_more_often_than_the_client_does(threads: None) -> None:
    async def watched(server: FaultServer) -> int:
        async with af.AsyncClient(server.address) as client, client.watch(stream=False) as watch:
            await anext(watch)
            before = len(server.requests)
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await anext(watch)
            return len(server.requests) - before

    with serving(good(X_Nomad_Index="5"), Gate()) as server:
        assert asyncio.run(watched(server)) <= 1


def test_closing_a_watch_from_another_task_ends_the_iteration(live: af.sim.Cluster, threads: None) -> None:
    async def watched() -> int:
        async with af.AsyncClient(live.address, token=live.token) as client:
            watch = client.watch(namespace="*")
            await anext(watch)

            async def rest() -> int:
                return len([change async for change in watch])

            waiting = asyncio.ensure_future(rest())
            await asyncio.sleep(0.05)
            await watch.close()
            return await asyncio.wait_for(waiting, 30)

    assert asyncio.run(watched()) == 0


def test_it_is_awaited_at_the_top_of_a_notebook(live: af.sim.Cluster) -> None:
    import nbformat
    from nbclient import NotebookClient

    code = (
        f"import allocframe as af\nclient = af.AsyncClient({live.address!r}, token={live.token!r})\n"
        "snap = await client.snapshot(namespace='*')\nawait client.close()\nlen(snap)"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert notebook.cells[0].outputs[-1]["data"]["text/plain"] == str(len(live.state.allocs))
