"""Job runs, start latency, common onsets, deployments, changepoints, clocks and waste, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import alloc, as_frames, at, ended, event, gave_up, restarting, snapshot, started

from allocframe import stats
from allocframe.stats.changepoints import partition
from allocframe.stats.estimators import mean_cumulative_of_rows
from allocframe.stats.trends import has_ended


def run_of(
    number: int, code: int, *, parent: str = "backup", status: str = "", **more: Any
) -> dict[str, Any]:
    begin = number * 1000.0
    end = [ended(begin + 10, code), *([gave_up(begin + 10)] if code else [])]
    job = f"{parent}/periodic-{1764000000 + number}"
    return alloc(
        f"a{number}",
        event("Received", begin),
        started(begin),
        *end,
        JobID=job,
        JobType="batch",
        state="dead",
        CreateTime=at(begin).value,
        ClientStatus=status or ("failed" if code else "complete"),
        **more,
    )


def test_runs_of_a_periodic_job_have_a_share_and_a_streak(tmp_path: Path) -> None:
    rows = [run_of(n, code) for n, code in enumerate([0, 0, 1, 0, 1, 1])]
    row = stats.job_runs(snapshot(tmp_path, *rows, alloc("z"))).iloc[0]
    assert (row["job_id"], row["runs"], row["succeeded"], row["failed"]) == ("backup", 6, 3, 3)
    assert (row["streak"], row["last_result"], row["failed_share"]) == (-2, "failed", 0.5)
    assert row["lower"] < 0.5 < row["upper"]


def test_a_run_that_succeeds_after_a_retry_has_succeeded(tmp_path: Path) -> None:
    failed = run_of(1, 1)
    again = {**run_of(1, 0), "ID": "again", "PreviousAllocation": "a1", "CreateTime": at(1100).value}
    row = stats.job_runs(snapshot(tmp_path, failed, again)).iloc[0]
    assert (row["runs"], row["succeeded"], row["retries"], row["streak"]) == (1, 1, 1, 1)


def test_the_run_time_of_failed_batch_work_is_wasted_and_that_of_services_is_not(tmp_path: Path) -> None:
    rows = [run_of(n, int(n == 0)) for n in range(4)]
    service = alloc("z", event("Received", 0), started(0), ended(50), restarting(50), started(60))
    table = stats.wasted_time(snapshot(tmp_path, *rows, service))
    assert table[["job_id", "runs", "failed_runs", "share"]].values.tolist() == [["backup", 4, 1, 0.25]]


def test_the_time_to_start_is_split_into_phases(tmp_path: Path) -> None:
    rows = [
        alloc(
            f"a{n}", event("Received", 1), event("Task Setup", 1), event("Driver", 3), started(3 + n),
            Name=f"web.app[{n}]", CreateTime=at(0).value,
        )
        for n in range(1, 6)
    ]  # fmt: skip
    waiting = alloc("w", event("Received", 1), Name="web.app[9]", state="pending")
    table = stats.start_latency(snapshot(tmp_path, *rows, waiting), by="job_id").set_index("phase")
    assert table["p50"].dt.total_seconds().to_dict() == {
        "Received": 0.0, "Task Setup": 2.0, "Driver": 3.0, "received to started": 5.0,
        "placed to received": 1.0,
    }  # fmt: skip
    assert table.loc["Driver", "p95"] == pd.Timedelta("5s")
    assert table["not_started"].unique().tolist() == [1]
    nowhere = {**rows[0], "NodeName": None}
    by_node = stats.start_latency(snapshot(tmp_path, nowhere, *rows[1:], waiting), by="node_name")
    assert by_node[by_node["phase"] == "received to started"]["n"].tolist() == [4, 1]


def test_more_may_be_gone_where_something_has_ended_or_follows_what_is_gone(tmp_path: Path) -> None:
    running, ended_one = alloc("a"), alloc("b", ClientStatus="complete", Name="web.app[1]")
    for rows, expected in (
        ([running], False),
        ([running, ended_one], True),
        ([{**running, "PreviousAllocation": "gone"}], True),
        ([running, alloc("c", PreviousAllocation="a")], False),
    ):
        assert has_ended(snapshot(tmp_path, *rows)) is expected


def failing(job: str, second: float, *, number: int = 0, kind: str = "Terminated") -> dict[str, Any]:
    end = [ended(second)] if kind == "Terminated" else [event(kind, second)]
    events = [event("Received", 0), started(0), *end, restarting(second), started(second + 15)]
    return alloc(f"{job}-{number}", *events, JobID=job, Name=f"{job}.app[{number}]")


def test_jobs_that_begin_to_fail_within_a_minute_have_a_common_onset(tmp_path: Path) -> None:
    together = [failing(f"svc-{n}", 50_000 + n * 10) for n in range(4)]
    apart = [failing(f"other-{n}", 5_000 + n * 9_000) for n in range(3)]
    table = stats.common_onsets(snapshot(tmp_path, *together, *apart))
    assert table["jobs"].tolist() == [4]
    assert table["job_ids"].item() == [f"default/svc-{n}" for n in range(4)]
    assert table["began_at"].item() == at(50_000)
    nowhere = [{**row, "Namespace": None} for row in [*together, *apart]]
    assert stats.common_onsets(snapshot(tmp_path, *nowhere))["jobs"].tolist() == [4]
    # each of the 7 jobs had half an onset more than those 3 of the others, over all of the time
    assert table["expected"].item() == pytest.approx(
        7 * 3.5 / 7 * 60 / (3600 * table["exposure_hours"].item())
    )
    assert stats.common_onsets(snapshot(tmp_path, *apart)).empty


def test_jobs_that_never_ran_well_have_no_common_onset(tmp_path: Path) -> None:
    at_once = [failing(f"svc-{n}", 5 + n) for n in range(5)]
    assert stats.common_onsets(snapshot(tmp_path, *at_once)).empty


def test_deployments_are_read_off_the_health_of_allocations(tmp_path: Path) -> None:
    def placed(number: int, version: int, healthy: bool | None) -> dict[str, Any]:
        status = {} if healthy is None else {"DeploymentStatus": {"Healthy": healthy, "Canary": False}}
        return alloc(
            f"a{number}", started(version * 100.0), JobVersion=version, CreateTime=at(version * 100).value,
            Name=f"web.app[{number}]", **status,
        )  # fmt: skip

    snap = snapshot(tmp_path, placed(0, 0, True), placed(1, 1, False), placed(2, 1, True), placed(3, 2, True))
    table = stats.deployments(snap)
    assert table["status"].tolist() == ["successful", "failed", "successful"]
    assert table["restored_after"].dropna().tolist() == [pd.Timedelta("100s")]
    rate = stats.change_failure_rate(snap, by=[]).iloc[0]
    assert (rate["deployments"], rate["failed"], rate["restored_median"]) == (3, 1, pd.Timedelta("100s"))
    assert rate["lower"] < 1 / 3 < rate["upper"]


def test_nomads_own_deployments_come_first(tmp_path: Path) -> None:
    own = pd.DataFrame(
        {
            "namespace": ["default"] * 2, "job_id": ["web"] * 2, "job_version": [0, 1],
            "status": ["successful", "failed"], "started_at": [at(0), at(100)], "ended_at": [at(60), at(400)],
            "placed": [2, 2], "healthy": [2, 0], "unhealthy": [0, 2], "auto_reverted": [False, True],
        }
    )  # fmt: skip
    tables = {**as_frames(snapshot(tmp_path, alloc("a", started(0)))), "deployments": own}
    table = stats.deployments(tables)
    assert table["known_from"].unique().tolist() == ["deployments"]
    assert table["duration"].dt.total_seconds().tolist() == [60, 300]
    assert table["failed"].tolist() == [False, True]


def test_a_rate_that_changed_is_cut_there_and_one_that_did_not_is_whole() -> None:
    rng = np.random.default_rng(5)
    changed = np.concatenate([rng.poisson(2, 60), rng.poisson(8, 40)]).astype(float)
    starts = partition(changed, np.ones(100))
    assert len(starts) == 2
    assert abs(starts[1] - 60) <= 2
    constant = [len(partition(rng.poisson(4, 100).astype(float), np.ones(100))) > 1 for _ in range(200)]
    assert np.mean(constant) <= 0.05
    growing = rng.poisson(np.arange(1, 101)).astype(float)
    assert partition(growing, np.arange(1.0, 101)) == [0]


def test_changepoints_of_a_snapshot_have_rates_and_ratios(tmp_path: Path) -> None:
    rows = [failing("web", 90_000 + 400 * n, number=n) for n in range(40)]
    pieces = stats.changepoints(snapshot(tmp_path, *rows), bin="1h")
    assert pieces["count"].sum() == 40
    assert len(pieces) == 2 or len(pieces) == 3
    assert pieces["ratio_lower"].iloc[1] > 1


def test_changepoints_leave_out_jobs_whose_tasks_never_ran(tmp_path: Path) -> None:
    never = alloc("x", event("Received", 0), event("Driver Failure", 1), JobID="never", state="dead")
    runs = [failing("web", 400 * n, number=n) for n in range(3)]
    assert set(stats.changepoints(snapshot(tmp_path, never, *runs))["job_id"]) == {"web"}


def test_a_node_whose_clock_is_behind_is_found(tmp_path: Path) -> None:
    def on(node: str, offset: float, number: int) -> dict[str, Any]:
        begin = 1000.0 * number
        return alloc(
            f"{node}{number}", event("Received", begin + offset), started(begin + offset + 1), NodeName=node,
            CreateTime=at(begin).value, Name=f"{node}.app[{number}]",
        )  # fmt: skip

    rows = [on(node, offset, n) for node, offset in (("a", 0.3), ("b", -5), ("c", 0.5)) for n in range(3)]
    table = stats.clock_offset(snapshot(tmp_path, *rows)).set_index("node_name")
    assert table["off"].to_dict() == {"b": True, "c": False, "a": False}
    assert table.loc["b", "offset"] == pd.Timedelta("-5s")


@pytest.mark.parametrize("seed", range(20))
def test_the_linear_mean_cumulative_function_equals_the_sum_over_all_units(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 12))
    begins = rng.integers(0, 5, count) * rng.integers(0, 2, count) * 1.0
    ends = begins + rng.integers(-1, 9, count)
    units, ages = rng.integers(0, count, 30), rng.integers(0, 13, 30) * 1.0
    table = mean_cumulative_of_rows(units, ages, begins, ends)
    time = table["time"].to_numpy()
    at_risk = (begins[:, None] <= time) & (ends[:, None] >= time)
    events = np.zeros((count, len(time)))
    inside = (ages >= begins[units]) & (ages <= ends[units])
    np.add.at(events, (units[inside], np.searchsorted(time, ages[inside])), 1)
    n = np.maximum(at_risk.sum(axis=0), 1)
    step = events.sum(axis=0) / n
    deviation = np.sqrt((np.cumsum(np.where(at_risk, events - step, 0) / n, axis=1) ** 2).sum(axis=0))
    known = at_risk.sum(axis=0) > 0
    np.testing.assert_allclose(table["mean"][known], np.cumsum(step)[known], atol=1e-12)
    mean = np.cumsum(step)
    some = known & (mean > 0)
    upper = mean[some] * np.exp(1.959963984540054 * deviation[some] / mean[some])
    np.testing.assert_allclose(table["upper"][some], upper, rtol=1e-6)
    assert table["mean"][~known].isna().all()


def test_periods_that_nomad_has_forgotten_are_not_compared(tmp_path: Path) -> None:
    gone = alloc("a", event("Received", 0), started(0), PreviousAllocation="gone")
    row = stats.compare_periods(snapshot(tmp_path, gone), by=[], period="1min", until=at(200)).iloc[0]
    assert not row["sure"]
    assert "record an archive" in row["unknown"]
    assert pd.isna(row["ratio"])


def test_rows_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    frames = as_frames(snapshot(tmp_path, alloc("a", event("Received", 0), started(0))))
    twice = pd.concat([frames["events"], frames["events"]])
    with pytest.raises(ValueError, match=r"events must hold each row once, got .* twice"):
        stats.failures({**frames, "events": twice})


def test_delayed_entry_leaves_out_those_who_could_not_have_been_met() -> None:
    table = stats.kaplan_meier([2, 3, 4], [True, True, False], entry=[0, 2, 1])
    assert table["at_risk"].tolist() == [1, 2, 2, 1]
    assert table["survival"].tolist() == [1.0, 0.5, 0.25, 0.25]
    with pytest.raises(ValueError, match="entry"):
        stats.kaplan_meier([1], [True], entry=[2])


def test_a_log_rank_test_of_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="durations must be numbers"):
        stats.logrank([1, float("nan")], [True, True], ["a", "b"])
