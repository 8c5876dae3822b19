"""What a failure is, once for all: on allocations as Nomad answers them, each with a trap."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from flatten import DATA
from tables import alloc, at, ended, event, gave_up, restarting, snapshot, started

import allocframe as af
from allocframe import stats
from allocframe.diagnosis._failures import build_case

CASES = DATA / "cases"


def failed_events(name: str) -> pd.DataFrame:
    events = stats.explain_events(af.read_json(CASES / f"{name}.json"))
    return events[events["failure"]]


@pytest.mark.parametrize(
    ("name", "kind", "cause"),
    [
        ("max-run-duration", "Killing", "run duration"),
        ("template-failed-version", "Killing", "template failed"),
        ("csi-plugin-unhealthy", "Terminated", "plugin"),
        ("script-hook-then-crash", "Terminated", "failure"),
    ],
)
def test_what_nomad_kills_as_failed_is_one_failure_with_its_own_cause(
    name: str, kind: str, cause: str
) -> None:
    failed = failed_events(name)
    assert set(failed["type"]) == {kind}
    assert set(failed["cause"]) == {cause}
    assert not failed.duplicated(["alloc_id", "task", "attempt"]).any()


@pytest.mark.parametrize("name", ["identity-restart", "reboot"])
def test_a_restart_on_request_and_a_reboot_are_no_failures(name: str) -> None:
    assert failed_events(name).empty


def test_a_restart_without_a_reason_was_requested_even_if_the_ring_has_lost_the_request(
    tmp_path: Path,
) -> None:
    snap = snapshot(tmp_path, alloc("a", ended(9, 143, 15), restarting(10, ""), started(11)))
    events = stats.explain_events(snap)
    assert events["cause"].tolist()[:2] == ["requested", "requested"]
    assert not events["failure"].any()
    assert events["decision"].tolist()[1] == "on request"


def test_an_exit_inside_a_requested_restart_is_never_out_of_memory(tmp_path: Path) -> None:
    asked = event("Restart Signaled", 8, restart_reason="User requested running tasks to restart")
    snap = snapshot(tmp_path, alloc("a", started(1), asked, ended(9, 137, 9), restarting(10, "")))
    assert set(stats.explain_events(snap)["oom"].dropna()) == {"no"}


def exits_with_zero(*decision: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return alloc("a", event("Received", 0), started(1), ended(9, 0), *decision, **fields)


@pytest.mark.parametrize("decision", [restarting(10), gave_up(10)])
def test_a_service_that_exits_with_0_fails_because_its_policy_must_decide(
    tmp_path: Path, decision: dict[str, Any]
) -> None:
    snap = snapshot(tmp_path, exits_with_zero(decision))
    assert stats.failures(snap, by=[])["count"].tolist() == [1]
    assert stats.runs(snap)["end"].tolist() == ["failure"]


@pytest.mark.parametrize("job_type", ["batch", "service"])
def test_a_batch_or_hook_task_that_exits_with_0_is_done(tmp_path: Path, job_type: str) -> None:
    snap = snapshot(tmp_path, exits_with_zero(JobType=job_type, state="dead"))
    assert stats.failures(snap, by=[])["count"].tolist() == [0]
    assert stats.runs(snap)["end"].tolist() == ["completed"]


def test_a_hook_that_fails_before_the_start_is_a_failed_start_by_what_its_message_names(
    tmp_path: Path,
) -> None:
    rows = [
        alloc(name, event("Received", 0), event("Task hook failed", 1, display=text), gave_up(2))
        for name, text in {
            "a": "volumes: no such volume",
            "b": "vault: no token",
            "c": "logmon: oops",
        }.items()
    ]
    events = stats.explain_events(snapshot(tmp_path, *rows))
    assert events.loc[events["failure"], ["type", "cause"]].values.tolist() == [
        ["Task hook failed", "volume"],
        ["Task hook failed", "secrets"],
        ["Task hook failed", "hook"],
    ]


def test_a_kill_that_fails_the_task_is_counted_once_whatever_follows_it(tmp_path: Path) -> None:
    kill = event("Killing", 5, display="Vault: failed to derive vault token: no", fails_task=True)
    killed = event("Killed", 7, fails_task=True)
    snap = snapshot(tmp_path, alloc("a", started(1), kill, ended(6, 143, 15), killed, state="dead"))
    events = stats.explain_events(snap)
    assert events.loc[events["failure"], ["type", "cause"]].values.tolist() == [["Killing", "secrets"]]
    assert stats.runs(snap)["failure"].tolist() == [True]


def test_a_second_start_without_an_end_ends_the_run_before_it_at_an_unknown_time() -> None:
    runs = stats.runs(af.read_json(CASES / "reboot.json"))
    assert runs["end"].tolist() == ["unknown", "running"]
    assert runs["right_censored"].tolist() == [True, True]
    assert runs["started_at"].diff().iloc[1] == pd.Timedelta("1 days 00:00:08")
    assert runs["ended_at"].iloc[0] <= runs["started_at"].iloc[1]


def test_all_engines_agree_on_every_case() -> None:
    columns = ["alloc_id", "task", "seq", "attempt", "cause", "failure", "decision"]
    files = sorted(CASES.glob("*.json"))
    snap = af.combine({file.stem: af.read_json(file) for file in files})
    assert snap.events["cluster"].nunique() == len(files)
    events = snap.events.assign(alloc_id=snap.events["cluster"].astype(str) + snap.events["alloc_id"])
    events = events.drop(columns="cluster")
    of_pandas = stats.explain_events(events)[columns].astype(object)
    of_duckdb = stats.explain_events(duckdb.from_df(events)).df()[columns].astype(object)
    both = [
        frame.where(frame.notna(), None).sort_values(["alloc_id", "task", "seq"]).values.tolist()
        for frame in (of_pandas, of_duckdb)
    ]
    assert len(both[0]) == len(snap.events)
    assert both[0] == both[1]


def test_slots_of_equal_names_are_told_apart_by_their_jobs() -> None:
    runs = stats.runs(af.read_json(CASES / "slot-collision.json"))
    assert runs.groupby("job_id")["slot"].nunique().to_dict() == {"web": 1, "web.api": 1}
    assert runs["slot"].nunique() == 2
    gaps = stats.outages(af.read_json(CASES / "slot-collision.json"))
    assert gaps["duration"].dt.total_seconds().tolist() == [300.0]


def test_two_allocations_that_run_in_one_slot_are_instances_of_their_own(tmp_path: Path) -> None:
    one = alloc("a", event("Received", 0), started(0), ended(50), restarting(50), started(90))
    other = alloc("b", event("Received", 10), started(10), CreateTime=at(10).value)
    snap = snapshot(tmp_path, one, other)
    assert stats.runs(snap)["slot"].unique().tolist() == ["default/web.app[0]", "default/web.app[0] #2"]
    assert stats.outages(snap)["duration"].dt.total_seconds().tolist() == [40.0]
    replacement = {**other, "PreviousAllocation": "a"}
    assert stats.runs(snapshot(tmp_path, one, replacement))["slot"].nunique() == 1


def test_runs_of_a_periodic_or_dispatched_job_are_one_job(tmp_path: Path) -> None:
    names = [
        "ocr/dispatch-1764000000-0a1b2c3d",
        "ocr/dispatch-1764000001-0a1b2c3e",
        "ocr/periodic-1764000000",
    ]
    rows = [
        alloc(f"a{n}", event("Received", 0), started(1), ended(9), gave_up(9), JobID=name, JobType="batch")
        for n, name in enumerate(names)
    ]
    snap = snapshot(tmp_path, *rows, alloc("z", event("Received", 0), started(1), JobID="ocr/else"))
    table = stats.failures(snap, by="job_id").set_index("job_id")
    assert table["count"].to_dict() == {"ocr": 3, "ocr/else": 0}
    assert table["tasks"].to_dict() == {"ocr": 3, "ocr/else": 1}
    assert stats.failures(snap.events, by="job_id")["job_id"].tolist() == ["ocr", "ocr/else"]
    assert stats.failure_ranking(snap)["job_id"].tolist() == ["ocr"]
    assert stats.runs(snap)["slot"].nunique() == 4


def test_allocations_that_failed_without_any_event_are_told_beside_the_rate(tmp_path: Path) -> None:
    crash = alloc("a", event("Received", 0), started(1), ended(9), gave_up(9), ClientStatus="failed")
    silent = [
        {**alloc(f"s{n}", ClientStatus="failed", JobID=job, Name=f"{job}.app[0]"), "TaskStates": None}
        for n, job in enumerate(["web", "db", "db/dispatch-1795656401-0000000a"])
    ]
    snap = snapshot(tmp_path, crash, *silent)
    assert stats.failures(snap, by=[])[["count", "without_events"]].to_numpy().tolist() == [[1, 3]]
    rows = stats.failures(snap, by="job_id")[["job_id", "count", "without_events", "exposure_hours"]]
    assert rows["without_events"].tolist() == [1, 2]
    assert rows["job_id"].tolist() == ["web", "db"]
    assert (rows["count"].tolist(), rows["exposure_hours"].iloc[1]) == ([1, 0], 0)
    versions = stats.failures(snap, by=["job_id", "job_version"])
    assert versions["without_events"].tolist() == [1, 2]
    assert "without_events" not in stats.failures(snap, by="cause").columns
    assert "without_events" not in stats.failures(snap, by="job_id", since="2020-01-01").columns


@pytest.mark.parametrize(
    ("code", "signal", "end", "failed"),
    [(137, 9, 50.1, False), (137, 0, 50.1, False), (1, 0, 50.1, True), (137, 9, 90, True)],
)
def test_an_end_by_the_signal_that_an_operator_sent_is_no_failure(
    tmp_path: Path, code: int, signal: int, end: float, failed: bool
) -> None:
    row = alloc(
        "a", event("Received", 0), started(1), event("Signaling", 50, task_signal="SIGKILL"),
        ended(end, code, signal), restarting(end), started(end + 9),
    )  # fmt: skip
    events = stats.explain_events(snapshot(tmp_path, row))
    assert bool(events["failure"].any()) is failed
    assert ("operator" in set(events["cause"].dropna())) is not failed


CAPTURES = [
    "lab/nomad-2.0.5-opsignal", "lab/nomad-1.3.1-sidecar", "lab/nomad-2.0.5-healthcheck", "nomad-1.3.1-two",
    "lab/nomad-1.3.1-badtemplategaveup", "blind/nomad-2.0.5-healthy-noise",
]  # fmt: skip


@pytest.mark.parametrize("name", CAPTURES)
def test_the_diagnosis_and_the_statistics_count_the_same_failures(name: str) -> None:
    with af.load(DATA / "incidents" / f"{name}.allocframe") as snap:
        events = stats.explain_events(snap)
        failed = events[events["failure"]]
        counted = Counter(zip(failed["alloc_id"].astype(str), failed["task"].astype(str), strict=True))
        case = build_case(snap)
        rows = case.failures[case.failures["owner"] >= 0]
        ids = case.evidence.allocations["alloc_id"].astype(str).to_numpy()[rows["alloc"]]
        tasks = case.evidence.tasks["task"].to_numpy()[rows["owner"]]
    assert counted == Counter(zip(ids.tolist(), tasks.tolist(), strict=True))
