"""Availability in constructed cases whose truth is counted by hand, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flatten import DATA
from tables import alloc, at, ended, event, gave_up, restarting, snapshot, started

import allocframe as af
from allocframe import stats

DAY = 86_400


def share(snap: Any, seconds: float, **options: Any) -> float:
    table = stats.availability(snap, by="job_id", observed_at=at(seconds), **options)
    assert (table["lower"] == table["availability"]).all(), "whole rings leave nothing unknown"
    return float(table["availability"].iloc[0])


def test_a_version_that_never_starts_is_out_from_its_placement(tmp_path: Path) -> None:
    old = [
        alloc(f"o{n}", event("Received", 0), started(0), Name=f"web.app[{n}]", JobVersion=0) for n in range(5)
    ]
    bad = alloc(
        "bad", event("Received", 0), event("Driver Failure", 1), restarting(1), event("Driver Failure", 600),
        Name="web.app[5]", JobVersion=1, ClientStatus="pending", state="pending",
    )  # fmt: skip
    snap = snapshot(tmp_path, *old, bad)
    assert share(snap, DAY) == pytest.approx(5 / 6, abs=0.001)
    by_version = stats.availability(snap, by="job_version", observed_at=at(DAY))
    assert by_version.set_index("job_version")["availability"].to_dict() == {0: 1.0, 1: 0.0}
    assert stats.outages(snap, observed_at=at(DAY))["cause"].tolist() == ["failed start"]


def test_a_failed_batch_job_is_not_wanted_any_more(tmp_path: Path) -> None:
    row = alloc(
        "a", event("Received", 0), started(0), ended(60), gave_up(60), JobType="batch", state="dead",
        ClientStatus="failed", ModifyTime=at(60).value,
    )  # fmt: skip
    assert share(snapshot(tmp_path, row), 10 * DAY) == 1.0


def test_a_service_that_was_stopped_is_not_down_for_ever(tmp_path: Path) -> None:
    row = alloc(
        "a", event("Received", 0), started(0), event("Killing", 3600), ended(3601, 0), state="dead",
        ClientStatus="complete", DesiredStatus="stop", ModifyTime=at(3602).value,
    )  # fmt: skip
    assert share(snapshot(tmp_path, row), 10 * DAY) == pytest.approx(1.0, abs=0.001)


def test_a_failed_service_is_wanted_until_somebody_stops_it(tmp_path: Path) -> None:
    fields = {"state": "dead", "ClientStatus": "failed"}
    events = [event("Received", 0), started(0), ended(3600), gave_up(3600)]
    snap = snapshot(tmp_path, alloc("a", *events, **fields))
    assert share(snap, 4 * 3600) == pytest.approx(0.25)
    stopped = alloc("a", *events, **fields, DesiredStatus="stop", ModifyTime=at(7200).value)
    assert share(snapshot(tmp_path, stopped), 4 * 3600) == pytest.approx(0.5)


def test_a_prestart_task_that_completed_is_no_service_time(tmp_path: Path) -> None:
    row = alloc("a", event("Received", 1), started(1), state="running", CreateTime=at(0).value)
    init = {"State": "dead", "Restarts": 0, "Events": [event("Received", 0), started(0), ended(1, 0)]}
    row["TaskStates"]["init"] = init
    assert share(snapshot(tmp_path, row), DAY) == pytest.approx(1.0, abs=0.001)


def test_a_reboot_costs_at_most_the_time_until_the_node_was_back() -> None:
    snap = af.read_json(DATA / "cases" / "reboot.json")
    table = stats.availability(snap)
    assert table["availability"].item() == pytest.approx(1, abs=0.001)
    assert table["up_hours"].item() > 24


def test_a_rolling_update_is_no_outage_and_a_gap_in_it_is(tmp_path: Path) -> None:
    def version(identity: str, begin: float, end: float | None, number: int) -> dict[str, Any]:
        events = [event("Received", begin), started(begin)]
        if end is None:
            return alloc(identity, *events, JobVersion=number, CreateTime=at(begin).value)
        events += [event("Killing", end), ended(end, 0)]
        return alloc(
            identity, *events, JobVersion=number, CreateTime=at(begin).value, state="dead",
            ClientStatus="complete", DesiredStatus="stop", ModifyTime=at(end).value,
        )  # fmt: skip

    smooth = snapshot(tmp_path, version("a", 0, 1000, 0), version("b", 990, None, 1))
    assert share(smooth, 2000) == 1.0
    gap = snapshot(tmp_path, version("a", 0, 1000, 0), version("b", 1050, None, 1))
    assert share(gap, 2000) == pytest.approx(1 - 50 / 2000, abs=0.03)


def test_a_window_takes_only_its_part(tmp_path: Path) -> None:
    snap = snapshot(
        tmp_path, alloc("a", event("Received", 0), started(0), ended(100), restarting(100), started(200))
    )
    assert share(snap, 400) == pytest.approx(0.75)
    assert share(snap, 400, since=at(200)) == 1.0
    assert share(snap, 400, since=at(100), until=at(200)) == 0.0


def test_with_two_tasks_of_three_up_the_job_is_not_at_full_strength(tmp_path: Path) -> None:
    rows = [alloc(f"a{n}", event("Received", 0), started(0), Name=f"web.app[{n}]") for n in range(2)]
    broken = alloc(
        "b", event("Received", 0), started(0), ended(50), restarting(50), started(100), Name="web.app[2]"
    )
    row = stats.availability(snapshot(tmp_path, *rows, broken), observed_at=at(200)).iloc[0]
    assert row["availability"] == pytest.approx(1 - 50 / 600)
    assert row["full_share"] == pytest.approx(0.75)


def test_an_error_budget_says_how_much_of_what_a_target_allows_is_used(tmp_path: Path) -> None:
    snap = snapshot(
        tmp_path, alloc("a", event("Received", 0), started(0), ended(900), restarting(900), started(904))
    )
    for target in (0.99, "99%", " 99.0% "):
        row = stats.error_budget(snap, target=target, observed_at=at(1000)).iloc[0]
        assert row["used"] == pytest.approx(0.4)
        assert row["budget_hours"] * 3600 == pytest.approx(10)
        assert row["left_hours"] * 3600 == pytest.approx(6)


@pytest.mark.parametrize("target", [0, 1, 99.9, "99.9", "100%", "0%", "high", True, None, float("nan")])
def test_a_target_that_is_no_share_is_refused(tmp_path: Path, target: Any) -> None:
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), started(0)))
    with pytest.raises(ValueError, match=r"target must be a number between 0 and 1, or a text such as"):
        stats.error_budget(snap, target=target)


def test_times_to_recover_are_after_failures_and_those_on_request_are_apart(tmp_path: Path) -> None:
    asked = event("Restart Signaled", 200, restart_reason="User requested restart")
    events = [
        event("Received", 0), started(0), ended(100), restarting(100), started(130), asked, ended(201, 143),
        restarting(201, ""), started(203),
    ]  # fmt: skip
    snap = snapshot(tmp_path, alloc("a", *events))
    after_failure = stats.time_to_recover(snap, observed_at=at(400)).iloc[0]
    assert (after_failure["recoveries"], after_failure["median"]) == (1, pd.Timedelta("30s"))
    on_request = stats.time_to_recover(snap, after="request", observed_at=at(400)).iloc[0]
    assert (on_request["recoveries"], on_request["median"]) == (1, pd.Timedelta("2s"))
    with pytest.raises(ValueError, match="after must be"):
        stats.time_to_recover(snap, after="lunch")
