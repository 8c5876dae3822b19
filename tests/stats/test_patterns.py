"""Crash loops, storms, nodes, rollouts and placement: each by tables made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatten
import pandas as pd
import pytest
from tables import alloc, at, ended, event, gave_up, restarting, snapshot, started

import allocframe as af
from allocframe import stats
from allocframe.stats.restart_storms import _count_distinct
from allocframe.tables import evaluations_frame

DELAYED = "Exceeded allowed attempts, applying a delay"


def looping(
    *ends: float, lasting: float = 2, reason: str = "Restart within policy", alive: bool = True
) -> list[dict[str, Any]]:
    """Return the events of a task that crashes at each of `ends`."""
    events = [event("Received", 0)]
    for end in ends:
        events += [started(end - lasting), ended(end), restarting(end, reason)]
    return events + ([started(ends[-1] + 15)] if alive else [])


def test_three_crashes_in_ten_minutes_are_a_loop_and_two_are_not(tmp_path: Path) -> None:
    loops = stats.crash_loops(snapshot(tmp_path, alloc("a", *looping(100, 200, 300))), observed_at=at(330))
    assert loops[["crashes", "kind", "resolved", "cause"]].values.tolist() == [[3, "fast", False, "failure"]]
    assert loops["exit_code"].tolist() == [1]
    assert stats.crash_loops(snapshot(tmp_path, alloc("a", *looping(100, 200)))).empty
    assert stats.crash_loops(snapshot(tmp_path, alloc("a", *looping(100, 800, 1500)))).empty


def test_the_thresholds_of_a_loop_can_be_set(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, alloc("a", *looping(100, 800, 1500)))
    assert len(stats.crash_loops(snap, window="30min")) == 1
    assert len(stats.crash_loops(snap, min_restarts=2, window="15min")) == 1


def test_a_loop_is_slow_by_long_runs_and_delayed_by_its_policy(tmp_path: Path) -> None:
    slow = stats.crash_loops(snapshot(tmp_path, alloc("a", *looping(100, 200, 300, lasting=60))))
    assert slow["kind"].tolist() == ["slow"]
    assert slow["run_cv"].tolist() == [0.0]
    delayed = stats.crash_loops(snapshot(tmp_path, alloc("a", *looping(100, 200, 300, reason=DELAYED))))
    assert delayed["kind"].tolist() == ["delayed"]


def test_a_loop_is_resolved_once_a_run_outlasts_the_pauses_between_crashes(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, alloc("a", *looping(100, 200, 300)))
    assert not stats.crash_loops(snap, observed_at=at(500))["resolved"].item()
    assert stats.crash_loops(snap, observed_at=at(900))["resolved"].item()


def test_allocations_of_one_slot_that_give_up_in_turn_are_one_loop(tmp_path: Path) -> None:
    def failed(identity: str, begin: float, **more: Any) -> dict[str, Any]:
        events = [event("Received", begin), started(begin), ended(begin + 900), gave_up(begin + 900)]
        return alloc(
            identity, *events, state="dead", ClientStatus="failed", CreateTime=at(begin).value, **more
        )

    loops = stats.crash_loops(snapshot(tmp_path, failed("a", 0), failed("b", 1000, PreviousAllocation="a")))
    assert loops[["crashes", "exhaustions", "slot"]].values.tolist() == [[2, 2, "default/web.app[0]"]]


def test_restarts_on_request_make_no_loop(tmp_path: Path) -> None:
    events = [event("Received", 0)]
    for n in range(3):
        events += [
            started(n * 60),
            event("Restart Signaled", n * 60 + 30, restart_reason="User requested restart"),
        ]
        events += [ended(n * 60 + 31, 143), restarting(n * 60 + 31, "")]
    assert stats.crash_loops(snapshot(tmp_path, alloc("a", *events[:10]))).empty


def test_restarts_that_the_ring_lost_are_told(tmp_path: Path) -> None:
    row = alloc("a", *looping(100, 200, 300)[1:], restarts=30)
    assert stats.crash_loops(snapshot(tmp_path, row))["restarts_lost"].tolist() == [27]


def crashed(number: int, second: float, **more: Any) -> dict[str, Any]:
    events = [event("Received", 0), started(0), ended(second), restarting(second), started(second + 15)]
    return alloc(f"a{number}", *events, **{"Name": f"web.app[{number}]", **more})


def test_many_tasks_at_once_are_a_storm_and_one_looping_task_is_not(tmp_path: Path) -> None:
    far = [crashed(n, 5000 * n, JobID=f"job-{n}") for n in range(1, 5)]
    storm = [crashed(n, 40_000 + n, NodeName="node-9", JobID=f"job-{n % 3}") for n in range(10, 20)]
    table = stats.restart_storms(snapshot(tmp_path, *far, *storm), observed_at=at(90_000))
    assert table[["slots", "node_name", "node_name_share"]].values.tolist() == [[10, "node-9", 1.0]]
    assert (table["began_at"].item(), table["ended_at"].item()) == (at(40_010), at(40_019))
    assert table["job_id_share"].item() == 0.4
    loop = alloc("z", *looping(*range(100, 103)))
    assert stats.restart_storms(snapshot(tmp_path, loop), min_slots=2).empty


def test_windows_count_different_slots() -> None:
    import numpy as np

    assert _count_distinct(np.array([0, 0, 1, 2, 1]), np.array([3, 4, 5, 5, 5])).tolist() == [2, 3, 2, 2, 1]


def test_failures_close_to_others_on_their_node_are_told_from_lonely_ones(tmp_path: Path) -> None:
    rows = [crashed(n, 1000 + n, NodeName="bad") for n in range(3)] + [
        crashed(n, 2000 * n, NodeName="good") for n in range(3, 6)
    ]
    table = stats.failure_clustering(snapshot(tmp_path, *rows)).set_index("node_name")
    assert table.loc["bad", "share"] == 1.0
    assert table.loc["good", "share"] == 0.0
    assert table.loc["bad", "ratio"] > 10


def fleet(bad: int) -> list[dict[str, Any]]:
    """Return ten nodes with twelve tasks of one job each; `bad` crash on the first, one on each other."""
    rows = []
    for node in range(10):
        for number in range(12):
            crashes = bad if node == 0 else 1
            name, slot = f"node-{node}", f"web.app[{node * 12 + number}]"
            identity = f"{node}-{number}"
            if number < crashes:
                rows.append(crashed(0, 100.0 + number, NodeName=name, Name=slot, ID=identity))
            else:
                rows.append(alloc(identity, event("Received", 0), started(0), NodeName=name, Name=slot))
    return rows


def test_a_node_that_fails_more_than_its_jobs_explain_is_a_lemon(tmp_path: Path) -> None:
    table = stats.lemon_nodes(snapshot(tmp_path, *fleet(bad=12)))
    assert table.loc[table["lemon"], "node_name"].tolist() == ["node-0"]
    row = table.iloc[0]
    assert (row["observed"], row["tasks"]) == (12, 12)
    # the node itself is left out: one of twelve failed on each other node
    assert row["expected"] == pytest.approx(9 / 108 * 12, rel=0.05)
    assert not stats.lemon_nodes(snapshot(tmp_path, *fleet(bad=2)))["lemon"].any()


def test_a_node_that_only_hosts_a_bad_job_is_no_lemon(tmp_path: Path) -> None:
    rows = [
        crashed(n, 50.0 + n, NodeName=f"node-{n % 2}", JobID="broken", Name=f"broken.app[{n}]")
        for n in range(12)
    ]
    rows += [
        alloc(f"b{n}", event("Received", 0), started(0), NodeName=f"node-{n % 8}", Name=f"web.app[{n}]")
        for n in range(40)
    ]
    assert not stats.lemon_nodes(snapshot(tmp_path, *rows))["lemon"].any()


def test_what_a_node_took_with_it_and_how_soon_it_was_back(tmp_path: Path) -> None:
    gone = {
        "ClientStatus": "lost",
        "DesiredStatus": "stop",
        "ModifyTime": at(100).value,
        "NodeName": "dead",
        "NodeID": "d",
    }
    back = alloc("c", event("Received", 105), started(110), CreateTime=at(105).value, PreviousAllocation="a")
    back["TaskStates"]["server"]["StartedAt"] = at(110).isoformat().replace("+00:00", "Z")
    snap = snapshot(
        tmp_path, alloc("a", started(0), **gone), alloc("b", started(0), JobID="api", **gone), back
    )
    row = stats.blast_radius(snap).iloc[0]
    assert (row["node_name"], row["lost"], row["jobs"], row["job_ids"]) == ("dead", 2, 2, ["api", "web"])
    assert (row["replaced"], row["unplaced"], row["median_to_start"]) == (1, 1, pd.Timedelta("10s"))


def test_a_version_is_held_against_the_one_before_and_canaries_apart(tmp_path: Path) -> None:
    old = [
        alloc(f"o{n}", event("Received", 0), started(0), JobVersion=3, Name=f"web.app[{n}]")
        for n in range(10)
    ]
    new = [crashed(n, 3000.0, JobVersion=4) for n in range(6)]
    canary = {"Healthy": False, "Canary": True}
    rows = [*old, *new, crashed(7, 2000.0, JobVersion=4, DeploymentStatus=canary)]
    table = stats.rollouts(snapshot(tmp_path, *rows), observed_at=at(4000))
    assert table["canary"].tolist() == [False, True]
    row = table.iloc[0]
    assert (row["job_version"], row["base_version"], row["failed_tasks"], row["tasks"]) == (4, 3, 6, 6)
    assert (row["base_failed_tasks"], row["base_tasks"], row["cause"]) == (0, 10, "failure")
    assert row["ratio"] == float("inf")
    assert row["lower"] > 1
    assert row["share_lower"] > row["base_share_upper"]


def test_a_rollout_of_a_parameterized_job_names_the_main_cause_of_its_runs(tmp_path: Path) -> None:
    fine, failing = (started(0), ended(60, 0)), (started(100), ended(160, 3), gave_up(160))
    rows = [
        alloc(
            f"{version}{number}", *events, JobID=f"etl/dispatch-{number}-0000000{version}",
            JobVersion=version, JobType="batch", state="dead",
        )
        for version, events in enumerate([fine, failing])
        for number in range(3)
    ]  # fmt: skip
    table = stats.rollouts(snapshot(tmp_path, *rows), observed_at=at(4000))
    assert table[["job_id", "job_version", "cause"]].to_numpy().tolist() == [["etl", 1, "failure"]]


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_recorded_evaluations_say_what_could_not_be_placed_and_why(version: str) -> None:
    raw = flatten.recorded_rows(version, "evaluations")
    table = stats.placement_failures(evaluations_frame(raw))
    assert len(table) == sum(len(row.get("FailedTGAllocs") or {}) for row in raw)
    assert set(table["task_group"]) == {"toolarge"}
    assert set(table["exhausted"]) == {"cpu: 1"}
    row = table[table["triggered_by"] == "job-register"].iloc[0]
    assert (row["queued"], row["nodes_evaluated"], row["nodes_exhausted"]) == (1, 1, 1)


DESCRIPTIONS = {
    "alloc not needed due to job update": "not needed any more",
    "alloc is being migrated": "migrated",
    "alloc is being updated due to job update": "job update",
    "alloc is lost since its node is down": "node down",
    "alloc was rescheduled because it failed": "rescheduled after failure",
    "a new reason": "unknown",
    "": "no reason given",
}


@pytest.mark.parametrize(("description", "reason"), list(DESCRIPTIONS.items()))
def test_the_schedulers_words_say_why_an_allocation_was_stopped(
    tmp_path: Path, description: str, reason: str
) -> None:
    snap = snapshot(tmp_path, alloc("a", DesiredStatus="stop", DesiredDescription=description), alloc("b"))
    table = stats.explain_stops(snap).set_index("alloc_id")["stop_reason"]
    assert table["a"] == reason
    assert pd.isna(table["b"])


@pytest.mark.parametrize(
    ("trigger", "reason"),
    [("node-drain", "node drained"), ("alloc-stop", "stopped by operator"), ("unheard-of", "migrated")],
)
def test_the_evaluation_of_the_replacement_tells_a_drain_from_a_stop(
    tmp_path: Path, trigger: str, reason: str
) -> None:
    old = alloc(
        "a",
        DesiredStatus="stop",
        DesiredDescription="alloc is being migrated",
        ClientStatus="complete",
        EvalID="e0",
    )
    new = alloc("b", CreateTime=at(9).value, EvalID="e1")
    evaluations = evaluations_frame(
        [{"ID": "e1", "TriggeredBy": trigger}, {"ID": "e0", "TriggeredBy": "job-register"}]
    )
    table = stats.explain_stops(snapshot(tmp_path, old, new), evaluations).set_index("alloc_id")[
        "stop_reason"
    ]
    assert table["a"] == reason


def test_a_drain_of_the_simulated_cluster_is_told_as_one() -> None:
    with (
        af.sim.Cluster("calm", allocations=80, seed=2) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        engine = cluster.engine
        node = next(a.node for a in engine.live() if a.job.kind == "service" and a.client_status == "running")
        moved = {a.id for a in engine.drain(node)}
        table = stats.explain_stops(client.snapshot(namespace="*"), client.evaluations(namespace="*"))
    assert moved
    assert set(table.set_index("alloc_id").loc[sorted(moved), "stop_reason"]) == {"node drained"}


def test_a_loop_of_health_checks_is_seen_by_the_counter(tmp_path: Path) -> None:
    cycle = []
    for n in range(2):
        cycle += [
            started(n * 120), event("Alloc Unhealthy", n * 120 + 50),
            event("Restart Signaled", n * 120 + 60, restart_reason='healthcheck: check "up" unhealthy'),
            ended(n * 120 + 61, 143), restarting(n * 120 + 61),
        ]  # fmt: skip
    row = alloc("a", *cycle, restarts=21, state="running")
    loops = stats.crash_loops(snapshot(tmp_path, row), observed_at=at(260))
    assert loops[["cause", "state", "crashes", "restarts_lost"]].values.tolist() == [
        ["health check", "ongoing", 2, 19]
    ]
    assert loops["began_before"].item()


def test_a_loop_has_the_state_of_its_work_not_only_its_last_run(tmp_path: Path) -> None:
    events = looping(100, 200, 300, alive=False)

    def state(**fields: Any) -> str:
        snap = snapshot(tmp_path, alloc("a", *events, **fields))
        return str(stats.crash_loops(snap, observed_at=at(330))["state"].item())

    assert state(state="pending") == "ongoing"
    assert state(state="dead", ClientStatus="failed") == "gave up"
    assert state(state="dead", ClientStatus="complete", DesiredStatus="stop") == "stopped"


def test_the_crashes_of_an_old_version_are_not_those_of_the_new_one(tmp_path: Path) -> None:
    old = alloc("a", *looping(100, 200, 300, alive=False), JobVersion=0, state="dead", DesiredStatus="stop")
    new = alloc("b", event("Received", 400), started(401), JobVersion=1, CreateTime=at(400).value)
    loops = stats.crash_loops(snapshot(tmp_path, old, new), observed_at=at(9000))
    assert loops[["job_version", "state", "crashes"]].values.tolist() == [[0, "stopped", 3]]


def test_a_loop_begins_after_the_last_long_calm(tmp_path: Path) -> None:
    events = [*looping(100, 200, alive=False), *looping(90_000, 90_100, 90_200)[1:]]
    loops = stats.crash_loops(snapshot(tmp_path, alloc("a", *events)), observed_at=at(90_300))
    assert (loops["first_at"].item(), loops["crashes"].item()) == (at(90_000), 3)
