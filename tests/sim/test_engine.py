"""The simulated cluster follows Nomad's rules, and its stories match their truth."""

from __future__ import annotations

from collections import Counter

import pytest

from allocframe.sim.scenarios import STORIES, run_story

NOW = 1_795_500_000_000_000_000


@pytest.mark.parametrize("story", list(STORIES))
@pytest.mark.parametrize("seed", range(5))
def test_a_story_hits_the_tasks_that_its_truth_lists(story: str, seed: int) -> None:
    engine, truth = run_story(story, allocations=120, seed=seed, now_ns=NOW)
    allocs = engine.state.allocs
    assert (story == "calm") == (not truth.causes)
    for cause in truth.causes:
        assert cause.tasks, cause
        for identity, task in cause.tasks & {(a.id, t) for a in allocs.values() for t in a.tasks}:
            alloc = allocs[identity]
            kinds = {kind for kind, _, _ in alloc.tasks[task].events}
            if cause.job_id:
                assert alloc.job.id == cause.job_id
            if cause.kind == "node_loss":
                assert (alloc.node.id, alloc.client_status) == (cause.node_id, "lost")
                assert alloc.job.kind == "system" or alloc.next in allocs
            elif cause.kind == "restart_storm":
                assert "Restart Signaled" in kinds
            elif cause.kind == "lemon_node":
                assert alloc.node.id == cause.node_id
            else:
                assert alloc.job.version == cause.job_version or cause.kind == "artifact_outage"
                assert kinds & {"Restarting", "Not Restarting", "Sibling Task Failed"}


def test_a_calm_cluster_has_stray_crashes_and_no_failed_allocation() -> None:
    engine, _ = run_story("calm", allocations=300, seed=3, now_ns=NOW)
    assert {alloc.client_status for alloc in engine.state.allocs.values()} <= {
        "running",
        "complete",
        "pending",
    }
    crashed = [a for a in engine.state.allocs.values() if any(state.restarts for state in a.tasks.values())]
    assert 1 <= len(crashed) <= 300 // 50 + 1


def test_out_of_memory_kills_say_so() -> None:
    engine, truth = run_story("oom", allocations=100, seed=1, now_ns=NOW)
    ends = [
        details
        for identity, task in truth.causes[0].tasks
        for kind, _, details in engine.state.allocs[identity].tasks[task].events
        if kind == "Terminated" and details and details["exit_code"] == "137"
    ]
    assert ends
    assert all(details["oom_killed"] == "true" and details["signal"] == "9" for details in ends)


def test_the_ring_keeps_ten_events_and_restarts_count_on() -> None:
    engine, truth = run_story("oom", allocations=100, seed=1, now_ns=NOW)
    states = [(a.id, name, state) for a in engine.state.allocs.values() for name, state in a.tasks.items()]
    assert max(len(state.events) for _, _, state in states) == 10
    dropped = [state for _, _, state in states if state.emitted > 10]
    assert dropped
    assert all(state.events[0][0] != "Received" for state in dropped)
    assert all(truth.emitted[identity, name] == state.emitted for identity, name, state in states)


def test_reschedules_are_linked_and_at_most_six_are_remembered() -> None:
    engine, _ = run_story("crash_loop", allocations=60, seed=2, now_ns=NOW)
    allocs = engine.state.allocs
    chained = [alloc for alloc in allocs.values() if alloc.tracker]
    assert chained
    for alloc in chained:
        assert len(alloc.tracker) <= 6
        before = allocs.get(alloc.previous)
        assert before is None or (before.next, before.name) == (alloc.id, alloc.name)
        assert alloc.tracker[-1][1] == alloc.previous


def test_a_failed_deployment_stops_rolling() -> None:
    engine, truth = run_story("bad_deploy", allocations=100, seed=4, now_ns=NOW)
    job = truth.causes[0].job_id
    assert {d.status for d in engine.state.deployments.values() if d.job_id == job and d.job_version} == {
        "failed"
    }
    versions = Counter(a.job.version for a in engine.live() if a.job.id == job)
    assert versions[0] > versions[1] > 0


def test_a_drain_moves_the_allocations_of_a_node() -> None:
    engine, _ = run_story("calm", allocations=100, seed=4, now_ns=NOW)
    node = engine.live()[0].node
    moved = engine.drain(node)
    engine.advance(60)
    assert moved
    for alloc in moved:
        assert (alloc.desired_description, alloc.migrate) == ("alloc is being migrated", True)
        replacement = engine.state.allocs[alloc.next]
        assert replacement.node is not node
        assert engine.state.evals[replacement.eval_id].triggered_by == "node-drain"


def test_finished_allocations_are_removed_after_an_hour() -> None:
    engine, _ = run_story("crash_loop", allocations=60, seed=2, now_ns=NOW)
    finished = [
        a.id
        for a in engine.state.allocs.values()
        if a.desired_status == "stop" and a.client_status == "failed"
    ]
    engine.advance(2 * 3600)
    assert finished
    assert not set(finished) & set(engine.state.allocs)


def test_the_same_seed_and_time_give_the_same_cluster() -> None:
    def rendered(seed: int) -> list[object]:
        engine, _ = run_story("mixed", allocations=80, seed=seed, now_ns=NOW)
        return [alloc.stub("2.0.5") for alloc in engine.state.allocs.values()]

    assert rendered(6) == rendered(6) != rendered(7)


@pytest.mark.parametrize("size", [10, 50, 2000])
def test_a_cluster_is_about_as_large_as_asked(size: int) -> None:
    engine, _ = run_story("calm", allocations=size, seed=1, now_ns=NOW)
    assert abs(len(engine.state.allocs) - size) <= size * 0.1


@pytest.mark.parametrize(
    "wrong", [{"name": "nonsense"}, {"name": "calm", "allocations": 9}, {"name": "calm", "version": "9"}]
)
def test_wrong_parameters_of_a_story_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"(story|allocations|version) must be .*, got"):
        run_story(**wrong)  # type: ignore[arg-type]
