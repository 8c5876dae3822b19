"""The state of the cluster at any time, against watching it and against the tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import alloc, event, snapshot, started

import allocframe as af
from allocframe.widgets.time_machine.moments import STATES

DATA = Path(__file__).parents[2] / "data"
CAPTURES = ["nomad-1.3.1-two", "nomad-1.3.1-nodeloss", "nomad-1.3.1-crashdef", "lab/nomad-2.0.5-rollback"]


@pytest.fixture(params=CAPTURES, scope="module")
def snap(request: pytest.FixtureRequest) -> af.Snapshot:
    return af.load(DATA / "incidents" / f"{request.param}.allocframe")


def running_by_events(snap: af.Snapshot, at: pd.Timestamp) -> set[str]:
    """Work out which allocations run at a time by their events alone, one after the other."""
    running: set[tuple[str, str]] = set()
    events = snap.events[snap.events["time"] <= at].sort_values(["time", "seq"])
    for alloc_id, task, kind in events[["alloc_id", "task", "type"]].itertuples(index=False):
        if kind == "Started":
            running.add((alloc_id, task))
        elif kind == "Terminated":
            running.discard((alloc_id, task))
    return {alloc_id for alloc_id, _ in running}


def test_an_allocation_runs_when_its_events_say_so(snap: af.Snapshot) -> None:
    machine = af.TimeMachine(snap)
    truncated = set(snap.task_states.loc[snap.task_states["events_truncated"], "alloc_id"])
    allocs = snap.allocations
    lost = set(allocs.loc[allocs["client_status"].isin(["lost", "unknown"]), "alloc_id"])
    for part in np.linspace(0.02, 0.98, 7):
        at = machine.begin + (machine.end - machine.begin) * part
        states = machine.at(at).set_index("alloc_id")["state"]
        assert set(states.index) == set(allocs.loc[allocs["created_at"] <= at, "alloc_id"])
        told = set(states.index[states == "running"])
        assert told - truncated - lost == running_by_events(snap, at) - truncated - lost


def test_the_last_moment_is_what_the_servers_say_now(snap: af.Snapshot) -> None:
    machine = af.TimeMachine(snap)
    states = machine.at(machine.end).set_index("alloc_id")["state"]
    status = snap.allocations.set_index("alloc_id")["client_status"].astype("str")
    assert set(states.index) == set(status.index)
    for alloc_id, state in states.items():
        if state in ("failed", "complete"):
            assert status[alloc_id] == state
        elif state == "replaced":
            assert status[alloc_id] in ("failed", "lost", "unknown")
        elif state == "lost":
            assert status[alloc_id] in ("lost", "unknown")
        else:
            assert status[alloc_id] in ("running", "pending")


def test_it_agrees_with_snapshots_that_were_taken_at_the_time() -> None:
    with af.sim.Cluster("calm", allocations=60, seed=3) as cluster:
        client = af.Client(cluster.address, token=cluster.token)
        before = client.snapshot(namespace="*")
        running = before.allocations.loc[before.allocations["client_status"] == "running", "alloc_id"]
        client.stop(running.iloc[0])
        time.sleep(0.05)
        after = client.snapshot(namespace="*")
    machine = af.TimeMachine(after)
    moment = pd.Timestamp(before.info["finished_at"])
    was = machine.at(moment).set_index("alloc_id")["state"]
    tasks = before.task_states[before.task_states["state"] == "running"]
    known = set(tasks["alloc_id"]) & set(running[1:])  # clocks differ: not the one that is stopped
    assert known <= set(was.index[was == "running"])
    now = machine.at(machine.end).set_index("alloc_id")["state"]
    assert now[running.iloc[0]] == "complete"


def test_tables_add_up_and_have_those_in_trouble_first(snap: af.Snapshot) -> None:
    machine = af.TimeMachine(snap)
    at = machine.begin + (machine.end - machine.begin) * 0.7
    jobs, nodes, allocs = machine.jobs(at), machine.nodes(at), machine.at(at)
    assert jobs[list(STATES)].to_numpy().sum() == len(allocs) == nodes[list(STATES)].to_numpy().sum()
    for state in STATES:
        assert jobs[state].sum() == (allocs["state"] == state).sum()
    trouble = jobs[["between runs", "pending", "failed", "lost"]].sum(axis=1).tolist()
    assert trouble == sorted(trouble, reverse=True)
    shown = machine.step(at)
    assert shown["totals"] == {state: int(jobs[state].sum()) for state in STATES}
    assert shown["jobs_total"] == len(jobs)


def test_a_failed_allocation_is_in_trouble_until_another_takes_its_place() -> None:
    snap = af.load(DATA / "incidents" / "nomad-1.3.1-two.allocframe")
    allocs = snap.allocations.set_index("alloc_id")
    replacements = allocs.dropna(subset=["previous_alloc_id"]).tail(12)
    assert len(replacements) == 12
    machine = af.TimeMachine(snap)
    for alloc_id, begin in replacements[["previous_alloc_id", "created_at"]].itertuples(index=False):
        assert allocs.at[alloc_id, "client_status"] == "failed"
        before = machine.at(begin - pd.Timedelta("1ms")).set_index("alloc_id")["state"][alloc_id]
        after = machine.at(begin + pd.Timedelta("1ms")).set_index("alloc_id")["state"][alloc_id]
        assert (before, after) == ("failed", "replaced")


def test_events_that_a_ring_has_lost_are_not_known() -> None:
    snap = af.load(DATA / "incidents" / "nomad-1.3.1-crash1.allocframe")
    if not snap.task_states["events_truncated"].any():
        pytest.skip("no event history is truncated")
    machine = af.TimeMachine(snap)
    cut = snap.task_states.loc[snap.task_states["events_truncated"], "alloc_id"].iloc[0]
    created = snap.allocations.set_index("alloc_id").at[cut, "created_at"]
    state = machine.at(created + pd.Timedelta("1s")).set_index("alloc_id")["state"]
    assert state[cut] == "not known"


def test_jobs_without_a_namespace_are_counted(tmp_path: Path) -> None:
    rows = [alloc(job, event("Received", 0), started(1), JobID=job, Namespace=None) for job in ("api", "web")]
    machine = af.TimeMachine(snapshot(tmp_path, *rows))
    jobs = machine.jobs(machine.end).set_index("job")["running"]
    assert jobs.to_dict() == {"unknown/api": 1, "unknown/web": 1}


def test_an_archive_can_be_opened_and_other_things_cannot() -> None:
    archive = af.Archive(str(DATA / "archive-1"))
    machine = af.TimeMachine(archive)
    assert machine.begin < machine.end
    assert len(machine.at(machine.end)) > 0
    with pytest.raises(TypeError, match="source must be an Archive or a Snapshot, got DataFrame"):
        af.TimeMachine(machine.at(machine.end))  # type: ignore[arg-type]


def test_a_page_gets_the_moment_that_it_asks_for_and_forged_messages_nothing(snap: af.Snapshot) -> None:
    machine = af.TimeMachine(snap)
    sent: list[Any] = []
    machine.send = lambda content, buffers=None: sent.append(content)
    middle = (machine.begin + (machine.end - machine.begin) / 2).value // 1_000_000
    machine._handle_custom_msg({"type": "at", "at": middle}, [])
    machine._handle_custom_msg({"type": "at", "at": 1e18}, [])
    for forged in (
        None, {"type": "at"}, {"type": "at", "at": "now"}, {"type": "at", "at": True},
        {"type": "ping"}, {"type": "ping", "number": "3"}, {"number": 3},
    ):  # fmt: skip
        machine._handle_custom_msg(forged, [])
    machine._handle_custom_msg({"type": "ping", "number": 3}, [])
    assert [message["at"] for message in sent[:2]] == [middle, machine.end.value // 1_000_000]
    assert sent[2:] == [{"type": "pong", "number": 3}]
    bundle = machine._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "<table" in data["text/html"]


def test_a_step_of_100_000_allocations_takes_less_than_200_ms() -> None:
    from allocframe.widgets.time_machine.moments import Moments

    rng = np.random.default_rng(1)
    count = 100_000
    moments = Moments.__new__(Moments)
    moments.allocs = pd.DataFrame({"alloc_id": np.arange(count).astype("str")})
    moments.jobs, moments.job_names = (
        rng.integers(0, 2000, count),
        pd.Index([f"job-{n}" for n in range(2000)]),
    )
    moments.nodes, moments.node_names = (
        rng.integers(0, 500, count),
        pd.Index([f"node-{n}" for n in range(500)]),
    )
    begin = np.sort(rng.integers(0, 10**15, (count, 6)), axis=1)
    moments._position = np.repeat(np.arange(count), 5)
    moments._begin, moments._until = begin[:, :-1].ravel(), begin[:, 1:].ravel()
    moments._state = rng.integers(0, len(STATES), count * 5).astype(np.int8)
    at = pd.Timestamp(5 * 10**14, tz="UTC")
    started = time.thread_time()  # whatever else runs here
    states = moments.states(at)
    moments.table(at, states), moments.by_node(at, states)
    assert time.thread_time() - started < 0.2
