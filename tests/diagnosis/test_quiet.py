"""What is bad and makes no noise: nothing fails, and something is stuck. And what is only usual."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diagnosis as benchmark
import pytest
from tables import START, alloc, at, event, snapshot, started

import allocframe as af
from allocframe.reports.cluster_sections import cluster_document

SECOND = 10**9
BLIND = benchmark.REAL / "blind"


@cache
def diagnosis_of(name: str) -> af.Diagnosis:
    with af.load(BLIND / f"nomad-{name}.allocframe") as snap:
        return af.diagnose(snap)


# Captures of real agents

PAUSED = (
    "deployment-paused/menu version 1 is paused in its deployment. 1 of 4 instances is of version 1, and "
    "nothing has moved for 50.4 s; 3 of older versions are still running."
)
STUCK = (
    "docs version 1 does not start. 1 of 2 instances has waited for 75.1 s (Downloading Artifacts); "
    "2 earlier allocations "
)

SERVES = "1 other instance is running."


@pytest.mark.parametrize(
    ("name", "severity", "code", "told"),
    [
        ("2.0.5-artifact-hangs", "warning", "AF209", f"{STUCK}started within 0.2 s. {SERVES}"),
        ("1.3.1-artifact-hangs", "warning", "AF209", f"{STUCK}started within 0.3 s. {SERVES}"),
        (
            "2.0.5-nightly-hangs",
            "warning",
            "AF210",
            "nightly: 1 run does not end. Running for 78.3 s; the 2 runs that completed took 1.0 s at most "
            "(median 1.0 s). Since the last one began, 7 runs were due and not launched (before that, "
            "one every 10.0 s).",
        ),
        (
            "2.0.5-prestart-waits-for-ever",
            "critical",
            "AF209",
            "desk version 1 does not start. Task main has not started in 2 of 2 instances for 65.0 s: "
            "prestart task wait-db, which version 1 added, still runs. 2 earlier allocations started "
            "within 0.3 s. No other instance is running.",
        ),
        ("2.0.5-deployment-paused", "info", "AF402", PAUSED),
        ("1.3.1-deployment-paused", "info", "AF402", PAUSED),
        (
            "2.0.5-blue-green-waiting",
            "info",
            "AF402",
            "store version 1 waits for its promotion. 2 canaries are healthy, and nobody has promoted them "
            "for 62.9 s; 2 of older versions are still running.",
        ),
        (
            "1.3.1-canary-forgotten",
            "info",
            "AF402",
            "web version 1 waits for its promotion. 1 canary is healthy, and nobody has promoted it for "
            "39.4 s; 2 of older versions are still running.",
        ),
        (
            "2.0.5-group-at-zero",
            "info",
            "AF208",
            "site (group web) was set to 0. Group web from 3 to 0 at 16:38 UTC, by version 1.",
        ),
    ],
)
def test_what_makes_no_noise_is_told_with_its_numbers(name: str, severity: str, code: str, told: str) -> None:
    (incident,) = diagnosis_of(name).incidents
    assert told in incident.summary
    assert (incident.severity, [each.code for each in incident.findings]) == (severity, [code])


@pytest.mark.parametrize("name", ["deployment-paused", "blue-green-waiting", "group-at-zero"])
def test_what_is_open_is_no_plain_all_clear(name: str) -> None:
    diagnosis = diagnosis_of(f"2.0.5-{name}")
    (incident,) = diagnosis.incidents
    assert diagnosis.summary == f"No failure is left unexplained, but 1 thing is open: {incident.title}."
    with af.load(BLIND / f"nomad-2.0.5-{name}.allocframe") as snap:
        for report in (af.postmortem(snap).document, cluster_document(snap)):
            assert report.title == incident.title
            assert "Nothing stands out" not in " ".join(report.texts("glance"))


def test_a_prestart_task_that_takes_as_long_as_ever_is_quiet() -> None:
    assert diagnosis_of("2.0.5-slow-prestart-as-always").incidents == []


def test_a_start_that_hangs_titles_its_postmortem_and_names_the_version_that_asks_for_it() -> None:
    (incident,) = diagnosis_of("2.0.5-artifact-hangs").incidents
    version = next(each for each in incident.hypotheses if each.kind == "job version")
    assert (version.subject["job_version"], version.confidence) == (1, "possible")
    with af.load(BLIND / "nomad-2.0.5-artifact-hangs.allocframe") as snap:
        assert af.postmortem(snap).document.title == "artifact-hangs/docs did not start"


def test_a_canary_that_fails_waits_for_no_promotion() -> None:
    assert "AF402" not in {each.code for each in diagnosis_of("2.0.5-canary-aborts").findings}


# Small cases


def instance(name: str, begin: float, *events: Any, n: int = 0, **fields: Any) -> dict[str, Any]:
    return alloc(
        f"{name}-{n}-{begin:g}", event("Received", begin), *events, JobID=name, Name=f"{name}.app[{n}]",
        CreateTime=START + int(begin * SECOND), **fields,
    )  # fmt: skip


def pending(name: str, begin: float, kind: str, **fields: Any) -> dict[str, Any]:
    return instance(
        name,
        begin,
        event(kind, begin + 0.5),
        state="pending",
        ClientStatus="pending",
        JobVersion=1,
        n=9,
        **fields,
    )


def clock(until: float) -> dict[str, Any]:
    """Return a steady job whose last change says what time it is."""
    return instance("steady", 0, started(1), ModifyTime=START + int(until * SECOND))


def told(folder: Path, *rows: dict[str, Any], history: Any = None) -> list[tuple[str, str]]:
    found = af.diagnose(snapshot(folder, *rows), history=history).incidents
    return [(each.severity, each.findings[0].code) for each in found]


@pytest.mark.parametrize(
    ("took", "waits", "kind", "expected"),
    [
        (20, 55, "Downloading Artifacts", []),  # within three times the longest
        (20, 70, "Downloading Artifacts", [("info", "AF209")]),
        (20, 210, "Downloading Artifacts", [("warning", "AF209")]),
        (1, 29, "Downloading Artifacts", []),  # nothing is slow in half a minute
        (1, 70, "Downloading Artifacts", [("warning", "AF209")]),
        (1, 200, "Driver", [("info", "AF209")]),  # a pull of an image has no measure in a cached one
        (1, 310, "Driver", [("warning", "AF209")]),
        (None, 50, "Downloading Artifacts", []),
        (None, 75, "Downloading Artifacts", [("info", "AF209")]),  # the first start of all
        (None, 610, "Downloading Artifacts", [("critical", "AF209")]),
    ],
)
def test_a_start_is_held_against_those_before_it(
    tmp_path: Path, took: float | None, waits: float, kind: str, expected: list[tuple[str, str]]
) -> None:
    before = [] if took is None else [instance("web", 0, started(took), n=n) for n in range(2)]
    assert told(tmp_path, *before, pending("web", 1000, kind), clock(1000 + waits)) == expected


def deployment(status: str = "running", **fields: Any) -> dict[str, Any]:
    group = {
        "PlacedAllocs": 2,
        "HealthyAllocs": 2,
        "UnhealthyAllocs": 0,
        "DesiredTotal": 2,
        "DesiredCanaries": 0,
    }
    return {
        "ID": "d1", "Namespace": "default", "JobID": "web", "JobVersion": 1, "Status": status,
        "CreateTime": START + 1000 * SECOND, "CreateIndex": 10, "ModifyIndex": 11,
        "TaskGroups": {"app": {**group, **fields}},
    }  # fmt: skip


def spec(version: int, job: str = "web", **fields: Any) -> dict[str, Any]:
    return {
        "ID": job, "Namespace": "default", "Version": version, "Type": "service", "JobModifyIndex": version,
        "SubmitTime": START + 1000 * version * SECOND, "TaskGroups": [{"Name": "app", "Count": 2}], **fields,
    }  # fmt: skip


def healthy(after: float) -> dict[str, Any]:
    return {"DeploymentStatus": {"Healthy": True, "Timestamp": at(after).isoformat()}}


@pytest.mark.parametrize(
    ("waits", "expected"), [(15, []), (45, [("info", "AF209")]), (90, [("warning", "AF209")])]
)
def test_an_instance_that_its_deployment_does_not_call_healthy_is_held_against_those_before_it(
    tmp_path: Path, waits: float, expected: list[tuple[str, str]]
) -> None:
    before = [instance("web", 0, started(1), n=n, **healthy(5)) for n in range(2)]
    new = instance("web", 1000, started(1001), n=2, JobVersion=1)
    history = af.History.from_json(jobs=[[spec(0), spec(1)]], deployments=[deployment()])
    assert told(tmp_path, *before, new, clock(1000 + waits), history=history) == expected


def two_tasks(n: int, begin: float, *, old: bool, hook: str = "wait", begun: bool = False) -> dict[str, Any]:
    """Return an instance whose task `hook` ended long ago, or still runs, before its main task."""
    length = 1 if old else None
    ends = [] if length is None else [event("Terminated", begin + 2, exit_code=0)]
    first = {"State": "running" if length is None else "dead", "Events": [started(begin + 1), *ends]}
    of_main = [event("Received", begin), *([event("Downloading Artifacts", begin + 1)] if begun else [])]
    main = {"State": "pending", "Events": of_main}
    if old:
        main = {
            "State": "running",
            "Events": [*of_main, started(begin + 2)],
            "StartedAt": at(begin + 2).isoformat(),
        }
    states = {hook: {**first, "StartedAt": at(begin + 1).isoformat()}, "main": main}
    more = {**healthy(begin + 5)} if old else {"JobVersion": 1}
    return {**instance("web", begin, n=n, **more), "TaskStates": states}


def group_of(*tasks: str, env: str = "") -> dict[str, Any]:
    hooks = {name: {"Lifecycle": {"Hook": "prestart"}, "Env": {"V": env}} for name in tasks if name != "main"}
    made = [{"Name": name, "Driver": "exec", **hooks.get(name, {})} for name in tasks]
    return {"TaskGroups": [{"Name": "app", "Count": 2, "Tasks": made}]}


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        (group_of("main"), group_of("wait", "main"), ("job version", "likely")),
        (group_of("wait", "main", env="a"), group_of("wait", "main", env="b"), ("unknown", "unknown")),
        (group_of("wait", "main"), {**group_of("wait", "main"), "Meta": {"a": "b"}}, ("unknown", "unknown")),
    ],
)
def test_a_version_is_blamed_for_a_start_that_hangs_if_it_added_the_task_that_hangs(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], cause: tuple[str, str]
) -> None:
    old = [instance("web", 0, started(1), n=n, **healthy(5), DesiredStatus="stop") for n in range(2)]
    for row in old:
        row["TaskStates"] = {"main": {**row["TaskStates"]["server"], "StartedAt": at(1).isoformat()}}
    new = [two_tasks(n, 1000, old=False) for n in range(2)]
    history = af.History.from_json(jobs=[[spec(0, **before), spec(1, **after)]])
    diagnosis = af.diagnose(snapshot(tmp_path, *old, *new, clock(1100)), history=history)
    (incident,) = diagnosis.incidents
    assert (incident.cause.kind, incident.cause.confidence, incident.severity) == (*cause, "critical")
    assert "Task main has not started in 2 of 2 instances" in incident.summary
    assert "task wait" in incident.summary


@pytest.mark.parametrize(
    ("waits", "others", "expected"),
    [
        (5, 0, []),
        (40, 0, [("info", "AF209")]),
        (90, 0, [("critical", "AF209")]),
        (90, 1, [("warning", "AF209")]),
    ],
)
def test_a_main_task_behind_another_one_is_held_against_those_before_it(
    tmp_path: Path, waits: float, others: int, expected: list[tuple[str, str]]
) -> None:
    old = [two_tasks(n, 0, old=True) for n in range(2)]
    for row in old[others:]:
        row["DesiredStatus"] = "stop"
    new = [two_tasks(n, 1000, old=False) for n in range(others, 2)]
    assert told(tmp_path, *old, *new, clock(1000 + waits)) == expected


def test_a_task_that_runs_at_the_end_is_not_said_to_wait(tmp_path: Path) -> None:
    """Its name says nothing, and no allocation shows whether it comes first or last."""
    rows = [two_tasks(n, 0, old=False, hook="server") for n in range(2)]
    assert told(tmp_path, *rows, clock(5000)) == []


def test_a_main_task_that_downloads_beside_a_sidecar_is_told_by_its_step(tmp_path: Path) -> None:
    old = [{**two_tasks(n, 0, old=True), "DesiredStatus": "stop"} for n in range(2)]
    new = [two_tasks(n, 1000, old=False, begun=True) for n in range(2)]
    (incident,) = af.diagnose(snapshot(tmp_path, *old, *new, clock(1100))).incidents
    assert (
        "Task main has not started in 2 of 2 instances for 1.7 min (Downloading Artifacts)"
        in incident.summary
    )


def run(n: int, begin: float, length: float | None, kind: str = "dispatch") -> dict[str, Any]:
    name = f"nightly/{kind}-{START // SECOND + int(begin)}" + (f"-{n:08x}" if kind == "dispatch" else "")
    over = [] if length is None else [event("Terminated", begin + length, exit_code=0)]
    state = {} if length is None else {"state": "dead", "ClientStatus": "complete"}
    row = instance("nightly", begin, started(begin), *over, n=n, JobType="batch", **state)
    if length is not None:
        row["TaskStates"]["server"]["FinishedAt"] = at(begin + length).isoformat()
    return {**row, "JobID": name, "Name": f"{name}.app[0]"}


@pytest.mark.parametrize(
    ("runs", "elapsed", "expected"),
    [
        (20, 55, []),
        (20, 95, [("warning", "AF210")]),
        (3, 95, [("info", "AF210")]),  # of three runs the next one may well be ten times as long
        (1, 95, []),
    ],
)
def test_a_run_is_held_against_all_that_completed(
    tmp_path: Path, runs: int, elapsed: float, expected: list[tuple[str, str]]
) -> None:
    rows = [run(n, 7 * n + n % 3, 1 + n % 5) for n in range(runs)]
    assert told(tmp_path, *rows, run(99, 1000, None), clock(1000 + elapsed)) == expected


@pytest.mark.parametrize(("stopped", "expected"), [(False, [("info", "AF211")]), (True, [])])
def test_due_runs_that_nobody_made_are_told_unless_somebody_stopped_the_job(
    tmp_path: Path, stopped: bool, expected: list[tuple[str, str]]
) -> None:
    rows = [run(n, 60 * n, 2, kind="periodic") for n in range(8)]
    history = af.History.from_json(jobs=[[spec(0, "nightly", Stop=stopped, Type="batch")]])
    assert told(tmp_path, *rows, clock(7 * 60 + 100), history=history) == []
    assert told(tmp_path, *rows, clock(7 * 60 + 400), history=history) == expected


def test_instances_that_nobody_replaces_are_missing_except_in_a_part_of_a_snapshot(tmp_path: Path) -> None:
    history = af.History.from_json(jobs=[[spec(0), spec(1)]], deployments=[deployment("successful")])
    both = [instance("web", 1000, started(1001), n=n, JobVersion=1) for n in range(2)]
    assert told(tmp_path, *both, clock(1200), history=history) == []
    assert told(tmp_path, both[0], clock(1200), history=history) == [("critical", "AF602")]
    assert told(tmp_path, both[0], clock(1010), history=history) == []
    part = snapshot(tmp_path, *both, clock(1200)).filter(alloc_id=both[0]["ID"])
    assert af.diagnose(part, history=history).incidents == []


def lost_one(status: str | None = "failed", *, evaluation: str = "complete", **fields: Any) -> dict[str, Any]:
    """Return what a job of two tells after the node of one has gone: its rows, and its history."""
    down = "alloc is lost since its node is down"
    gone = {"ClientStatus": "lost", "DesiredStatus": "stop", "DesiredDescription": down, "NodeID": "n9"}
    rows = [
        instance("web", 1000, started(1001), n=0, **{"JobVersion": 1, **fields}),
        instance("web", 1000, started(1001), n=1, **{"JobVersion": 1, **gone, **fields}),
    ]
    row = {
        "ID": "e1", "Namespace": "default", "JobID": "web", "Type": "service", "Status": evaluation,
        "TriggeredBy": "node-update", "CreateTime": START + 1100 * SECOND, "CreateIndex": 20,
    }  # fmt: skip
    deployments = [] if status is None else [deployment(status)]
    history = af.History.from_json(jobs=[[spec(0), spec(1)]], deployments=deployments, evaluations=[row])
    return {"rows": [*rows, clock(1300)], "history": history}


@pytest.mark.parametrize("status", ["failed", "successful", None])
def test_what_a_lost_node_leaves_at_half_strength_is_missing_if_nothing_waits(
    tmp_path: Path, status: str | None
) -> None:
    """Servers forget deployments; the last evaluation may queue nothing after the deployment has failed."""
    case = lost_one(status)
    found = af.diagnose(snapshot(tmp_path, *case["rows"]), history=case["history"]).incidents
    (missing,) = [each for each in found if each.cause.mechanism == "missing"]
    assert missing.severity == "critical"
    assert "1 of 2 instances runs; the other was lost with " in missing.summary
    assert ("has failed: Nomad places none for it" in missing.summary) == (status == "failed")


@pytest.mark.parametrize(
    "case",
    [
        lost_one("running"),
        lost_one(evaluation="blocked"),
        lost_one(evaluation="pending"),
        lost_one(JobType="system"),
        lost_one(JobType="batch"),
        lost_one(None, JobVersion=0),
    ],
    ids=["deployment runs", "waits for room", "waits", "system", "batch", "of an older version"],
)
def test_what_is_to_come_or_is_not_wanted_is_not_missing(tmp_path: Path, case: dict[str, Any]) -> None:
    found = af.diagnose(snapshot(tmp_path, *case["rows"]), history=case["history"]).incidents
    assert "missing" not in {each.cause.mechanism for each in found}


@pytest.mark.parametrize(
    ("status", "age", "expected"),
    [("pending", 30, []), ("pending", 100, [("warning", "AF603")]), ("failed", 5, [("warning", "AF603")])],
)
def test_a_job_that_no_scheduler_takes_is_told(
    tmp_path: Path, status: str, age: float, expected: list[tuple[str, str]]
) -> None:
    row = {
        "ID": "e1", "Namespace": "default", "JobID": "new", "Type": "service", "Status": status,
        "TriggeredBy": "job-register", "CreateTime": START + int((1000 - age) * SECOND), "CreateIndex": 5,
    }  # fmt: skip
    snap = snapshot(tmp_path, clock(1000))
    found = af.diagnose(snap, evaluations=af.tables.evaluations_frame([row])).incidents
    assert [(each.severity, each.findings[0].code) for each in found] == expected


def test_canaries_that_are_not_healthy_yet_wait_for_nobody(tmp_path: Path) -> None:
    words = {"StatusDescription": "Deployment is running but requires manual promotion"}
    rows = [instance("web", 1000, started(1001), n=n, JobVersion=1) for n in range(2)]
    for number, expected in ((1, []), (2, [("info", "AF402")])):
        waits = {**deployment(DesiredCanaries=2, HealthyAllocs=number, Promoted=False), **words}
        history = af.History.from_json(jobs=[[spec(0), spec(1)]], deployments=[waits])
        assert told(tmp_path, *rows, clock(1010), history=history) == expected


def test_a_group_that_an_earlier_version_set_to_0_is_told_until_a_later_one_sets_it_again(
    tmp_path: Path,
) -> None:
    def version(number: int, count: int, env: str) -> dict[str, Any]:
        groups = [{"Name": "web", "Count": count}, {"Name": "app", "Count": 2, "Meta": {"v": env}}]
        return spec(number, TaskGroups=groups, SubmitTime=START + number * SECOND)

    rows = [instance("web", 0, started(1)), clock(1000)]
    specs = [version(0, 3, "a"), version(1, 0, "a"), version(2, 0, "b"), version(3, 4, "b")]
    (incident,) = af.diagnose(
        snapshot(tmp_path, *rows), history=af.History.from_json(jobs=[specs[:3]])
    ).incidents
    assert (
        incident.summary == "web (group web) was set to 0. Group web from 3 to 0 at 14:13 UTC, by version 1."
    )
    assert told(tmp_path, *rows, history=af.History.from_json(jobs=[specs])) == []
