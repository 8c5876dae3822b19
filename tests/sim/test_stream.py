"""The simulated event stream matches recorded ones: keys, types, order of lines and peculiarities."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import flatten
import httpx
import pytest

from allocframe import sim

TOPIC = {"topic": "Allocation", "namespace": "*"}


def recorded_lines(version: str) -> list[dict[str, Any]]:
    text = (flatten.DATA / f"nomad-{version}" / "event-stream.ndjson").read_text()
    return [json.loads(line) for line in text.splitlines()]


def recorded_events(version: str) -> list[dict[str, Any]]:
    events = [event for line in recorded_lines(version) for event in line.get("Events", [])]
    return [event for event in events if event["Topic"] == "Allocation"]


@pytest.fixture(params=flatten.VERSIONS)
def simulated(request: pytest.FixtureRequest) -> Iterator[sim.Cluster]:
    with sim.Cluster("crash_loop", allocations=30, seed=3, version=request.param) as cluster:
        yield cluster


@contextmanager
def stream(cluster: sim.Cluster, token: str | None = None, **params: Any) -> Iterator[httpx.Response]:
    headers = {"X-Nomad-Token": cluster.token if token is None else token}
    with (
        httpx.Client(base_url=cluster.address, headers=headers, timeout=10) as http,
        http.stream("GET", "/v1/event/stream", params={**TOPIC, **params}) as answer,
    ):
        yield answer


def crash(cluster: sim.Cluster, times: int = 1) -> None:
    """Crash an allocation several times. Each crash changes it more than once."""
    from allocframe.sim.cluster.jobs import Outcome

    for _ in range(times):
        engine = cluster.engine
        with engine.state.changed:
            running = [a for a in engine.live() if a.client_status == "running" and a.job.kind == "service"]
            engine.runner.crash(running[0], Outcome(exit_code=1))
        engine.advance(30)


def take(answer: httpx.Response, count: int) -> list[dict[str, Any]]:
    lines = answer.iter_lines()
    return [json.loads(next(lines)) for _ in range(count)]


def test_the_first_line_is_empty_and_indexes_only_go_up_as_recorded(simulated: sim.Cluster) -> None:
    with stream(simulated) as answer:
        lines = answer.iter_lines()
        assert json.loads(next(lines)) == {} == recorded_lines(simulated.version)[0]
        crash(simulated, 3)
        received = [json.loads(next(lines)) for _ in range(5)]
    for batches in (received, recorded_lines(simulated.version)[1:]):
        indexes = [line["Index"] for line in batches]
        assert indexes == sorted(indexes)
        assert all(event["Index"] == line["Index"] for line in batches for event in line["Events"])


def test_events_have_the_keys_and_types_of_recorded_ones_and_no_job(simulated: sim.Cluster) -> None:
    recorded = recorded_events(simulated.version)
    known = {key: value for event in recorded for key, value in event["Payload"]["Allocation"].items()}
    always = set.intersection(*(set(event["Payload"]["Allocation"]) for event in recorded))
    not_simulated = {"NetworkStatus", "SharedResources", "TaskResources", "SigningKeyID"}
    with stream(simulated) as answer:
        lines = answer.iter_lines()
        next(lines)
        crash(simulated)
        event = json.loads(next(lines))["Events"][0]
    assert event.keys() == recorded[0].keys()
    alloc = event["Payload"]["Allocation"]
    assert "Job" not in alloc
    assert "JobVersion" not in alloc
    assert alloc.keys() <= known.keys() | {"NextAllocation", "PreviousAllocation"}
    assert always - not_simulated <= alloc.keys() | {"ClientDescription"}
    for key, value in alloc.items():
        assert type(value) is type(known.get(key, value)), key
    state = next(iter(known["TaskStates"].values()))
    assert next(iter(alloc["TaskStates"].values())).keys() == state.keys()


def test_a_token_without_permission_gets_403_from_1_3_1_and_an_empty_200_from_2_0_5(
    simulated: sim.Cluster,
) -> None:
    with stream(simulated, token="00000000-0000-0000-0000-000000000000") as answer:
        body = answer.read()
    assert (answer.status_code, body) == (
        (403, b"Permission denied") if simulated.version == "1.3.1" else (200, b"")
    )


def test_a_stream_from_an_index_starts_silently_at_the_closest_one(simulated: sim.Cluster) -> None:
    crash(simulated, 3)
    first, *_, last = indexes = [batch.index for batch in simulated.engine.broker.batches]
    for index, expected in ((0, first), (1, first), (indexes[2], indexes[2]), (last + 999, last)):
        with stream(simulated, index=index) as answer:
            assert take(answer, 2)[1]["Index"] == expected


def test_a_hundred_batches_are_kept_and_a_slow_reader_is_cut_off(simulated: sim.Cluster) -> None:
    broker = simulated.engine.broker
    number = broker.start(0)
    crash(simulated, 60)
    assert len(broker.batches) == 100
    assert broker.after(number) is None
    assert broker.after(broker.start(0))[0] is broker.batches[0]


def test_heartbeats_come_while_nothing_happens(simulated: sim.Cluster) -> None:
    simulated.engine.heartbeat = 0.05
    with stream(simulated) as answer:
        assert take(answer, 4) == [{}] * 4


def test_a_removed_allocation_has_no_event(simulated: sim.Cluster) -> None:
    before = simulated.engine.removed
    with stream(simulated) as answer:
        lines = answer.iter_lines()
        next(lines)
        simulated.engine.advance(7200)
        crash(simulated)
        simulated.break_streams()
        received = [json.loads(line) for line in lines]
    assert simulated.engine.removed > before
    events = [event for line in received for event in line.get("Events", [])]
    assert {event["Type"] for event in events} <= {"AllocationUpdated", "PlanResult"}
    assert all("ClientStatus" in event["Payload"]["Allocation"] for event in events)


@pytest.mark.parametrize("end", ["break", "restart", "revoke"])
def test_a_stream_ends_with_its_connection_its_server_or_its_token(simulated: sim.Cluster, end: str) -> None:
    token = simulated.add_token(["default", "platform", "data"])
    ended = threading.Event()
    with stream(simulated, token=token) as answer:
        lines = answer.iter_lines()
        next(lines)
        {
            "break": simulated.break_streams,
            "restart": simulated.restart_servers,
            "revoke": lambda: simulated.revoke(token),
        }[end]()
        assert list(lines) == []
        ended.set()
    assert ended.is_set()


def test_a_namespace_sees_only_its_own_events(simulated: sim.Cluster) -> None:
    crash(simulated, 8)
    seen = {}
    for namespace in ("*", "platform"):
        with stream(simulated, namespace=namespace) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "{}"  # subscribed: only now can the stream be broken
            simulated.break_streams()
            seen[namespace] = [e for line in lines for e in json.loads(line).get("Events", [])]
    assert {event["Namespace"] for event in seen["platform"]} <= {"platform"}
    assert len(seen["platform"]) == sum(event["Namespace"] == "platform" for event in seen["*"])


def test_restored_servers_restart_from_low_indexes_and_keep_their_allocations(simulated: sim.Cluster) -> None:
    before, index = dict(simulated.state.allocs), simulated.state.index
    order = sorted(before, key=lambda identity: before[identity].modify_index)
    simulated.restart_servers(restored=True)
    assert simulated.state.index < index
    assert simulated.state.allocs.keys() == before.keys()
    assert sorted(before, key=lambda identity: before[identity].modify_index) == order


def test_a_topic_of_three_parts_is_refused(simulated: sim.Cluster) -> None:
    with stream(simulated, topic="a:b:c") as answer:
        assert (answer.status_code, b"Invalid key value pair" in answer.read()) == (400, True)


def test_the_topic_of_everything_needs_a_management_token(simulated: sim.Cluster) -> None:
    token = simulated.add_token(["default"])
    with stream(simulated, token=token, topic="*", namespace="default") as answer:
        body = answer.read()
        assert answer.status_code == 403 if simulated.version == "1.3.1" else body == b""


def test_time_runs_by_itself_when_asked_to(simulated: sim.Cluster) -> None:
    before = simulated.state.now_ns
    moved = threading.Event()
    simulated.engine.after(10**10, moved.set)
    simulated.run(speed=1000)
    assert moved.wait(20)
    assert simulated.state.now_ns > before


def test_the_journal_has_each_event_that_a_task_emits(simulated: sim.Cluster) -> None:
    journal = simulated.engine.keep_journal()
    before = sum(state.emitted for a in simulated.state.allocs.values() for state in a.tasks.values())
    allocations_before = set(simulated.state.allocs)
    crash(simulated, 5)
    after = sum(
        state.emitted
        for identity, alloc in simulated.state.allocs.items()
        for state in alloc.tasks.values()
        if identity in allocations_before or state.emitted
    )
    assert len(journal) == after - before > 0
    assert len(set(journal)) == len(journal)
