"""Kinds of incident that no capture holds, made of edited recordings and of events as Nomad writes them.

Each is judged as the captures are: what to expect, what may be said, what is never to be blamed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diagnosis as benchmark
import pytest
from recorded import clock, edited, in_namespace, later, node, rows_of
from tables import START, alloc, ended, event, gave_up, restarting, snapshot, started

import allocframe as af

Row = dict[str, Any]
Scene = tuple[list[Row], dict[str, Any]]
SCENES: dict[str, Callable[[], Scene]] = {}


def scene(function: Callable[[], Scene]) -> Callable[[], Scene]:
    """Register a kind of incident under the name of its function."""
    SCENES[function.__name__] = function
    return function


def want(jobs: str, *causes: str, **more: Any) -> dict[str, Any]:
    return {"jobs": jobs.split(), "cause": list(causes), **more}


def place(name: str, n: int, *events: Row, begin: float = 0, on: str = "node-1", **fields: Any) -> Row:
    """Return an allocation of a job that its node received at `begin`."""
    return alloc(
        f"{name}-{n}-{begin:g}-{on}", event("Received", begin), *events, JobID=name, Name=f"{name}.app[{n}]",
        NodeName=on, NodeID=f"id-of-{on}",
        CreateTime=START + int(begin * 10**9), CreateIndex=int(begin) + 1, **fields,
    )  # fmt: skip


def well(name: str, count: int, begin: float = 0, on: str = "node-1", **fields: Any) -> list[Row]:
    """Return allocations that run."""
    return [place(name, n, started(begin + 1), begin=begin, on=on, **fields) for n in range(count)]


def clock_of_scene(until: float) -> Row:
    """Return a steady job whose last change says what time it is."""
    return place("steady", 0, started(1), ModifyTime=START + int(until * 10**9))


def loop(
    begin: float, times: int, run: float, *, pause: float = 1, code: int = 1, signal: int = 0
) -> list[Row]:
    """Return runs that end by themselves, one after the other."""
    rows = []
    for k in range(times):
        at = begin + k * (run + pause)
        rows += [started(at), ended(at + run, code, signal), restarting(at + run)]
    return rows


def replaced(name: str, n: int, end: float, *events: Row, **fields: Any) -> Row:
    """Return an allocation that a new version replaced."""
    return place(
        name, n, started(1), *events, event("Killing", end), ended(end + 1, 143, 15),
        event("Killed", end + 1),
        **{"state": "dead", "ClientStatus": "complete", "DesiredStatus": "stop",
           "DesiredDescription": "alloc is being updated due to job update",
           "ModifyTime": START + int((end + 1) * 10**9), **fields},
    )  # fmt: skip


ALONE = ["job version", "node", "common cause"]

# Clocks


@scene
def a_bad_version_on_a_node_whose_clock_is_behind() -> Scene:
    rows = edited(rows_of("lab/nomad-2.0.5-badversion"), clock(-400))
    return rows, {"expect": [want("shop", "job version", mechanism=["crash"])]}


@scene
def a_bad_version_on_a_node_whose_clock_is_ahead() -> Scene:
    rows = edited(rows_of("lab/nomad-2.0.5-badversion"), clock(400))
    return rows, {"expect": [want("shop", "job version", mechanism=["crash"])]}


@scene
def a_loop_that_recovered_on_a_node_whose_clock_is_ahead() -> Scene:
    rows = edited(rows_of("lab/nomad-1.3.1-recovers"), clock(900))
    return rows, {"expect": [want("svc", "crash", state=["recovered"], severity=["warning"])], "never": ALONE}


@scene
def a_common_outage_seen_by_nodes_whose_clocks_differ_by_minutes() -> Scene:
    rows = rows_of("nomad-1.3.1-dependency")
    nodes = sorted({row["NodeName"] for row in rows})
    for place, name in enumerate(nodes):
        mine = [row for row in rows if row["NodeName"] == name]
        skewed = edited(mine, clock(300 * place))
        rows = [row for row in rows if row["NodeName"] != name] + skewed
    jobs = "svc-0 svc-1 svc-2 svc-3 svc-4"
    return rows, {"expect": [want(jobs, "common cause")], "never": ["job version", "node"]}


# Versions


@scene
def a_fix_that_does_not_help_is_not_to_blame() -> Scene:
    """Version 1 brought the crash; version 2 was to fix it, and crashes as well."""
    rows = [replaced("web", n, 600) for n in range(3)]
    for n in range(3):
        rows.append(replaced("web", n, 900, begin=600, JobVersion=1))
        rows[-1]["TaskStates"]["server"]["Events"] = [
            event("Received", 600), *loop(601, 4, 2), event("Killing", 900), event("Killed", 900),
        ]  # fmt: skip
        rows[-1]["TaskStates"]["server"]["Restarts"] = 4
    rows += [place("web", n, *loop(901, 4, 2), begin=900, JobVersion=2, state="pending") for n in range(3)]
    never = ["node", "common cause"]
    return rows, {"expect": [want("web", "job version", mechanism=["crash"], version=1)], "never": never}


@scene
def a_version_of_a_job_that_was_purged_is_no_base() -> Scene:
    """Version 3 crashed until its job was purged; registered anew, version 0 runs."""
    rows = [
        place("web", n, *loop(1, 4, 2), event("Killing", 100), event("Killed", 100), JobVersion=3,
              state="dead", ClientStatus="complete", DesiredStatus="stop")
        for n in range(2)
    ]  # fmt: skip
    rows += well("web", 2, begin=200)
    rows.append(clock_of_scene(2000))
    return rows, {"expect": [want("web", "crash", state=["recovered", "stopped"])], "never": ALONE}


@scene
def a_stray_crash_after_a_rollback_does_not_hide_the_bad_version() -> Scene:
    rows = [replaced("web", n, 600) for n in range(3)]
    for n in range(3):
        bad = replaced("web", n, 700, begin=600, JobVersion=1)
        bad["TaskStates"]["server"]["Events"] = [
            event("Received", 600), *loop(601, 4, 2), event("Killing", 700), event("Killed", 700),
        ]  # fmt: skip
        rows.append(bad)
    rows += well("web", 3, begin=700, JobVersion=2)
    rows[-1]["TaskStates"]["server"]["Events"] += [ended(3000), restarting(3000), started(3001)]
    rows[-1]["TaskStates"]["server"]["Restarts"] = 1
    rows.append(clock_of_scene(8000))
    state = ["recovered", "stopped"]
    return rows, {"expect": [want("web", "job version", state=state)], "never": ["node", "common cause"]}


@scene
def one_of_two_groups_of_a_new_version_fails() -> Scene:
    rows = []
    for group in ("api", "worker"):
        for n in range(2):
            old = replaced("web", n, 600, TaskGroup=group)
            bad = group == "worker"
            events = loop(601, 5, 2) if bad else [started(601)]
            new = place("web", n, *events, begin=600, TaskGroup=group, JobVersion=1,
                        state="pending" if bad else "running")  # fmt: skip
            for row in (old, new):
                row["ID"], row["Name"] = f"{group}-{row['ID']}", f"web.{group}[{n}]"
            rows += [old, new]
    return rows, {
        "expect": [want("web", "job version", mechanism=["crash"])],
        "never": ["node", "common cause"],
    }


@scene
def three_jobs_that_each_get_a_bad_version_at_once() -> Scene:
    rows = []
    for name in ("a", "b", "c"):
        rows += [replaced(name, n, 600) for n in range(2)]
        rows += [place(name, n, *loop(601, 5, 2), begin=600, JobVersion=1, state="pending") for n in range(2)]
    jobs = [want(name, "job version") for name in "abc"]
    return rows, {"expect": jobs, "never": ["node"]}


# Nodes


@scene
def a_node_that_came_back_after_it_was_out_of_reach() -> Scene:
    """With max_client_disconnect: its allocation runs on, the replacement is stopped again."""
    kept = place("web", 0, started(1), event("Reconnected", 700),
                 ClientDescription="Tasks are running")  # fmt: skip
    spare = place("web", 0, started(401), event("Killing", 701), ended(702, 143, 15), event("Killed", 702),
                  begin=400, on="node-2", state="dead", ClientStatus="complete", DesiredStatus="stop",
                  DesiredDescription="alloc not needed due to disconnected client reconnect")  # fmt: skip
    others = [place("web", n, started(1), on="node-2") for n in (1, 2)]
    severities = ["info", "warning"]
    return [kept, spare, *others, clock_of_scene(2000)], {
        "expect": [want("web", "node", severity=severities, state=["recovered"], node="node-1")],
    }


@scene
def a_node_out_of_reach_whose_jobs_run_elsewhere() -> Scene:
    rows = [clock_of_scene(1000)]
    for name in ("a", "b", "c"):
        rows.append(
            place(name, 0, started(1), ClientStatus="unknown", on="node-9",
                  ClientDescription="alloc is unknown since its node is disconnected")
        )  # fmt: skip
        rows.append(place(name, 0, started(401), begin=400, on="node-2"))
        rows += [place(name, n, started(1), on="node-2") for n in (1, 2)]
    return rows, {"expect": [want("a b c", "node", node="node-9", severity=["warning"])]}


@scene
def a_lost_node_and_a_bad_version_of_another_job() -> Scene:
    bad = edited(rows_of("lab/nomad-2.0.5-badversion"), node("node-2"))
    begin = max(row["CreateTime"] for row in bad)
    lost = []
    for n in range(4):
        old = place("db", n, started(1), ClientStatus="lost", DesiredStatus="stop", on="node-9",
                    DesiredDescription="alloc is lost since its node is down")  # fmt: skip
        new = place("db", n, started(61), begin=60, on="node-2")
        lost += edited([old, new], later((begin - START) / 1e9 + 10))
    return [*bad, *lost], {
        "expect": [want("shop", "job version"), want("db", "node", node="node-9", severity=["warning"])]
    }


@scene
def jobs_of_one_node_die_at_once_and_run_well_elsewhere() -> Scene:
    rows = []
    for k in range(6):
        name = f"job-{k}"
        hit = [started(1), ended(1000 + k, 1), restarting(1000 + k), *loop(1002 + k, 3, 1)]
        rows.append(place(name, 0, *hit, on="node-3", state="pending"))
        rows += [place(name, n, started(1), on=f"node-{n}") for n in (1, 2)]
    return rows, {"expect": [want(" ".join(f"job-{k}" for k in range(6)), "node", node="node-3")]}


@scene
def a_node_without_room_on_its_disk() -> Scene:
    """Nomad's own words name the node's fault; the jobs run elsewhere."""
    words = "failed to create task directory: mkdir /var/nomad/alloc/x: no space left on device"
    rows = []
    for name in ("a", "b"):
        rows.append(
            place(name, 0, event("Setup Failure", 1, words, setup_error=words), gave_up(1), on="node-3",
                  state="dead", ClientStatus="failed", FollowupEvalID="e")
        )  # fmt: skip
        rows += [place(name, n, started(1), on=f"node-{n}") for n in (1, 2)]
    return rows, {"expect": [want("a b", "node", node="node-3", mechanism=["driver"])]}


@scene
def docker_is_down_on_one_node() -> Scene:
    words = (
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    )
    rows = []
    for name in ("a", "b", "c"):
        error = [event("Driver Failure", t, words, driver_error=words) for t in (601, 620)]
        rows.append(
            place(name, 0, error[0], restarting(601), error[1], gave_up(620), begin=600, on="node-3",
                  state="dead", ClientStatus="failed", FollowupEvalID="e")
        )  # fmt: skip
        rows += [place(name, n, started(1), on=f"node-{n}") for n in (1, 2)]
    return rows, {"expect": [want("a b c", "node", node="node-3", mechanism=["driver"])]}


@scene
def a_dependency_of_three_jobs_that_share_a_node_by_chance() -> Scene:
    rows = []
    for k in range(3):
        name = f"job-{k}"
        rows.append(
            place(name, 0, started(1), ended(5000 + k, 1), restarting(5000 + k), *loop(5002 + k, 3, 1),
                  on="node-3", state="pending")
        )  # fmt: skip
    rows += well("other", 3, on="node-1") + well("another", 3, on="node-2")
    return rows, {"expect": [want("job-0 job-1 job-2", "common cause")], "never": ["node"]}


@scene
def a_drain_beside_a_bad_version() -> Scene:
    bad = edited(rows_of("lab/nomad-2.0.5-badversion"), node("node-2"))
    begin = max(row["CreateTime"] for row in bad)
    moved = []
    for n in range(4):
        old = place("db", n, started(1), event("Killing", 50), ended(51, 143, 15), event("Killed", 51),
                    state="dead", ClientStatus="complete", DesiredStatus="stop", on="node-9",
                    DesiredDescription="alloc is being migrated")  # fmt: skip
        moved += edited(
            [old, place("db", n, started(53), begin=50, on="node-2")], later((begin - START) / 1e9)
        )
    return [*bad, *moved], {"expect": [want("shop", "job version")]}


@scene
def a_bad_node_beside_stray_crashes_of_its_jobs_elsewhere() -> Scene:
    rows = []
    for k in range(8):
        name = f"job-{k}"
        begin = 3000 + 700 * k
        hit = loop(begin, 3, 2, code=139, signal=11)
        rows.append(place(name, 0, started(1), ended(begin - 5, 139, 11), restarting(begin - 4), *hit,
                          on="node-3", state="pending"))  # fmt: skip
        stray = [
            ended(500 + k),
            restarting(501 + k),
            started(515 + k),
            ended(900),
            restarting(900),
            started(901),
        ]
        rows += [place(name, n, started(1), *(stray if k < 2 else []), on=f"node-{n}") for n in (1, 2)]
    return rows, {
        "expect": [want(" ".join(f"job-{k}" for k in range(8)), "node", node="node-3")],
        "never": ["common cause", "job version"],
    }


# Shared things


@scene
def five_jobs_that_begin_to_crash_within_a_minute_each_in_its_own_way() -> Scene:
    rows = []
    for k, (at, code) in enumerate([(5000, 1), (5014, 2), (5027, 1), (5041, 134), (5055, 7)]):
        hit = [started(1), ended(at, code), restarting(at), *loop(at + 2, 2, 1, code=code)]
        rows.append(place(f"job-{k}", 0, *hit, on=f"node-{k}", state="pending"))
    rows += well("other", 3)
    return rows, {
        "expect": [want(f"job-{k}", "crash") for k in range(5)],
        "never": ["common cause", "job version", "node"],
    }


@scene
def an_outage_half_a_minute_after_another_job_began_to_crash() -> Scene:
    rows = []
    for k, at in enumerate([5000, 5030, 5031, 5032]):
        hit = [started(1), ended(at), restarting(at), *loop(at + 2, 2, 1)]
        rows.append(place(f"job-{k}", 0, *hit, on=f"node-{k}", state="pending"))
    rows += well("other", 3)
    return rows, {
        "expect": [want("job-0", "crash"), want("job-1 job-2 job-3", "common cause")],
        "never": ["job version", "node"],
    }


@scene
def three_jobs_whose_artifacts_the_same_server_does_not_have() -> Scene:
    """The server answers: each job names a file that is not there."""
    rows = []
    for k, name in enumerate(("a", "b", "c")):
        url = f"http://files.example/{name}.tgz"
        words = f'failed to download artifact "{url}": GET error: bad response code: 404'
        begin = 4000 * k
        error = event("Failed Artifact Download", begin + 1, words, download_error=words)
        rows.append(
            place(name, 0, error, restarting(begin + 2),
                  event("Failed Artifact Download", 10000, words, download_error=words), restarting(10001),
                  begin=begin, state="pending", ClientStatus="pending")
        )  # fmt: skip
    return rows, {"expect": [want(name, "artifact") for name in "abc"], "never": ["common cause", "node"]}


# How tasks end


@scene
def a_service_that_ends_with_success_and_is_not_restarted() -> Scene:
    refused = event("Not Restarting", 60, restart_reason="Policy allows no restarts")
    row = place("web", 0, started(1), ended(60, 0), refused, state="dead", ClientStatus="complete")
    return [row, clock_of_scene(600)], {
        "expect": [want("web", "crash", state=["gave up"], severity=["critical"])],
        "never": ALONE,
    }


@scene
def a_task_that_crashes_every_twenty_days() -> Scene:
    day = 86400.0
    row = place("web", 0, *loop(1, 3, 20 * day), started(61 * day))
    return [row, clock_of_scene(65 * day)], {"quiet": True}


@scene
def a_leak_that_takes_six_hours() -> Scene:
    hour = 3600.0
    events = []
    for k in range(3):
        at = 6 * hour * k
        events += [
            started(at),
            ended(at + 6 * hour - 60, 137, 9, oom_killed=True),
            restarting(at + 6 * hour - 60),
        ]
    row = place("web", 0, *events, started(18 * hour), restarts=3)
    others = [clock_of_scene(20 * hour)]
    return [row, *others], {
        "expect": [want("web", "out of memory", state=["ongoing"], severity=["warning"])],
        "never": ALONE,
    }


@scene
def an_old_crash_of_a_version_long_replaced() -> Scene:
    """One crash of one instance, long ago."""
    rows = [replaced("web", n, 900) for n in range(2)]
    for row in rows[:1]:
        row["TaskStates"]["server"]["Events"] = [
            event("Received", 0), started(1), ended(50), restarting(50), started(51), event("Killing", 900),
            event("Killed", 900),
        ]  # fmt: skip
    return [*rows, *well("web", 2, begin=900, JobVersion=1), clock_of_scene(9000)], {"quiet": True}


@scene
def a_task_that_its_runtime_ends_with_143_when_stopped() -> Scene:
    rows = [replaced("web", n, 600) for n in range(3)]
    for row in rows:
        events = row["TaskStates"]["server"]["Events"]
        events[-2] = ended(601, 143, 0)
        events[-3:-1] = [events[-2], events[-3]]  # the exit is written before the order to stop
        events.sort(key=lambda each: each["Time"])
    return [*rows, *well("web", 3, begin=600, JobVersion=1), clock_of_scene(2000)], {"quiet": True}


@scene
def a_poststart_task_that_fails() -> Scene:
    row = place("web", 0, started(1), event("Sibling Task Failed", 22), event("Killing", 22),
                ended(23, 130, 2), event("Killed", 23), state="dead", ClientStatus="failed",
                FollowupEvalID="e")  # fmt: skip
    row["TaskStates"]["notify"] = {
        "State": "dead", "Failed": True, "Restarts": 2,
        "Events": [event("Received", 0), *loop(2, 2, 3, code=4), started(10), ended(13, 4), gave_up(13)],
    }  # fmt: skip
    return [row, clock_of_scene(40)], {"expect": [want("web", "crash", state=["ongoing"])], "never": ALONE}


@scene
def preempted_allocations_are_no_failures() -> Scene:
    rows = [
        place("batchy", n, started(1), event("Killing", 50), ended(51, 143, 15), event("Killed", 51),
              state="dead",
              ClientStatus="complete", DesiredStatus="evict", PreemptedByAllocation="big-0-40-node-1",
              DesiredDescription="Preempted by alloc ID big-0-40-node-1")
        for n in range(3)
    ]  # fmt: skip
    rows += well("big", 1, begin=40)
    rows += [place("batchy", n, started(61), begin=60, on="node-2") for n in range(3)]
    return rows, {"quiet": True}


# Runs


@scene
def dispatched_runs_that_an_operator_stopped() -> Scene:
    rows = []
    for n in range(12):
        name = f"render/dispatch-17956564{n:02}-{n:08x}"
        killed = n % 3 == 0
        end = [event("Killing", 5), ended(6, 137, 9), event("Killed", 6)] if killed else [ended(9, 0)]
        rows.append(
            alloc(f"a{n}", event("Received", 0), started(1), *end, state="dead", JobType="batch", JobID=name,
                  Name=f"{name}.app[0]", ClientStatus="complete", DesiredStatus="stop" if killed else "run")
        )  # fmt: skip
    return rows, {"quiet": True}


@scene
def a_periodic_job_whose_runs_run_out_of_memory() -> Scene:
    rows = []
    for n in range(6):
        name = f"nightly/periodic-179565640{n}"
        begin = 3600 * n
        rows.append(
            alloc(f"a{n}", event("Received", begin), started(begin + 1),
                  ended(begin + 90, 137, 9, oom_killed=True), gave_up(begin + 90), state="dead",
                  JobType="batch", JobID=name, Name=f"{name}.app[0]",
                  ClientStatus="failed")
        )  # fmt: skip
    return rows, {
        "expect": [want("nightly", "out of memory", state=["ongoing"], severity=["critical"])],
        "never": ALONE,
    }


@scene
def a_batch_job_that_failed_and_succeeded_when_it_was_run_again() -> Scene:
    first = place(
        "etl", 0, started(1), ended(9), gave_up(9), state="dead", ClientStatus="failed", JobType="batch"
    )
    again = place("etl", 0, started(601), ended(650, 0), begin=600, state="dead", ClientStatus="complete",
                  JobType="batch", JobVersion=1)  # fmt: skip
    return [first, again], {"expect": [want("etl", "crash", severity=["info", "warning"])], "never": ALONE}


# Deployments


@scene
def a_new_version_that_never_becomes_healthy_and_is_rolled_back() -> Scene:
    words = "Services not healthy by deadline"
    rows = [place("web", n, started(1), DeploymentStatus={"Healthy": True}) for n in (1, 2)]
    rows.append(replaced("web", 0, 600, DeploymentStatus={"Healthy": True}))
    bad = place("web", 0, started(602), event("Alloc Unhealthy", 900, words), event("Killing", 901),
                ended(902, 143, 15), event("Killed", 902), begin=600, JobVersion=1, state="dead",
                ClientStatus="complete", DesiredStatus="stop", DeploymentStatus={"Healthy": False},
                DesiredDescription="alloc not needed due to job update")  # fmt: skip
    rows += [bad, place("web", 0, started(905), begin=903, JobVersion=2, DeploymentStatus={"Healthy": True})]
    return [*rows, clock_of_scene(2000)], {
        "expect": [want("web", "health check", "job version", state=["recovered", "stopped"])],
        "never": ["node", "common cause"],
    }


# Healthy noise


@scene
def a_deploy_whose_old_tasks_are_killed_by_force() -> Scene:
    rows = [replaced("web", n, 600) for n in range(6)]
    for row in rows:
        row["TaskStates"]["server"]["Events"][-2] = ended(606, 137, 9)
    return [*rows, *well("web", 6, begin=600, JobVersion=1), clock_of_scene(2000)], {"quiet": True}


@scene
def a_busy_healthy_cluster() -> Scene:
    """Everything that real agents showed while nothing was wrong, at once and in namespaces of their own.

    Rolling deploys, a scaling, 2 of 40 dispatched runs that fail, batch work that succeeds after retries, a
    drain, operators who stop, restart and signal, kills by force, a crash that stays alone.
    """
    quiet = [
        "lab/nomad-2.0.5-gooddeploy", "lab/nomad-1.3.1-gooddeploy", "lab/nomad-2.0.5-scaling",
        "lab/nomad-2.0.5-dispatchfew", "lab/nomad-1.3.1-batchretries", "lab/nomad-2.0.5-opstop",
        "lab/nomad-1.3.1-oprestart", "lab/nomad-2.0.5-opsignal", "lab/nomad-2.0.5-killtimeout",
        "lab/nomad-1.3.1-singlecrash", "lab/nomad-2.0.5-stopped", "blind/nomad-2.0.5-healthy-noise",
        "blind/nomad-2.0.5-drain-deploy", "nomad-1.3.1-opstop",
    ]  # fmt: skip
    rows = []
    for number, name in enumerate(quiet):
        mine = rows_of(name)
        begin = min(row["CreateTime"] for row in mine)
        # as if all of it had happened within the same minutes
        move = later((START - begin) / 1e9)
        rows += edited(mine, move, in_namespace(f"team-{number}"), node(f"node-{number % 3}"))
    return rows, {"quiet": True}


@pytest.mark.parametrize("name", list(SCENES))
def test_an_unseen_kind_of_incident_is_named_right(name: str, tmp_path: Path) -> None:
    rows, truth = SCENES[name]()
    diagnosis = af.diagnose(snapshot(tmp_path, *rows))
    verdict = benchmark.judge(diagnosis, truth)
    assert verdict.right, f"{verdict}\n{diagnosis!r}"
    if truth.get("quiet"):
        assert diagnosis.all_clear, repr(diagnosis)
