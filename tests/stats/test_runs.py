"""Runs, the gaps between them, and what follows from both."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tables import alloc, at, ended, event, gave_up, restarting, snapshot, started

from allocframe import stats


def test_runs_last_from_start_to_end_and_the_last_up_to_the_present(tmp_path: Path) -> None:
    snap = snapshot(
        tmp_path, alloc("a", event("Received", 0), started(10), ended(40), restarting(40), started(55))
    )
    runs = stats.runs(snap, observed_at=at(100))
    assert runs["duration"].dt.total_seconds().tolist() == [30, 45]
    assert runs["end"].tolist() == ["failure", "running"]
    assert runs["failure"].tolist() == [True, False]
    assert runs["right_censored"].tolist() == [False, True]
    assert not runs["left_truncated"].any()


def test_a_run_whose_start_the_ring_has_lost_is_marked_and_begins_with_its_first_event(
    tmp_path: Path,
) -> None:
    events = [
        ended(5),
        restarting(6),
        *(e for n in range(2) for e in (started(10 + n * 10), ended(15 + n * 10), restarting(16 + n * 10))),
    ]
    runs = stats.runs(
        snapshot(tmp_path, alloc("a", *events, started(40), event("Signaling", 41))), observed_at=at(60)
    )
    assert runs["left_truncated"].tolist() == [True, False, False, False]
    assert runs["duration"].dt.total_seconds().tolist() == [0, 5, 5, 20]


def test_a_running_task_whose_started_is_gone_is_known_by_its_state(tmp_path: Path) -> None:
    row = alloc("a", *(event("Signaling", n) for n in range(100, 110)))
    row["TaskStates"]["server"]["StartedAt"] = at(3).isoformat().replace("+00:00", "Z")
    runs = stats.runs(snapshot(tmp_path, row), observed_at=at(203))
    assert runs["duration"].dt.total_seconds().tolist() == [200]
    assert runs["end"].tolist() == ["running"]


def test_what_was_lost_with_its_node_ends_when_the_servers_said_so(tmp_path: Path) -> None:
    row = alloc(
        "a",
        event("Received", 0),
        started(0),
        ClientStatus="lost",
        DesiredStatus="stop",
        ModifyTime=at(600).value,
    )
    runs = stats.runs(snapshot(tmp_path, row), observed_at=at(9999))
    assert runs["end"].tolist() == ["lost"]
    assert runs["duration"].dt.total_seconds().tolist() == [600]


def test_a_clock_that_was_set_back_gives_no_negative_length_but_a_mark(tmp_path: Path) -> None:
    runs = stats.runs(
        snapshot(
            tmp_path, alloc("a", event("Received", 0), started(100), ended(40), gave_up(41), state="dead")
        )
    )
    assert runs["duration"].dt.total_seconds().tolist() == [0]
    assert runs["skewed"].tolist() == [True]


def chain(folder: Path) -> object:
    """Return one slot: up 0 to 100 s and 120 to 200 s, failed for good, its replacement up from 260 s."""
    first = alloc(
        "a", event("Received", 0), started(0), ended(100), restarting(100), started(120), ended(200),
        gave_up(200), state="dead", ClientStatus="failed", NextAllocation="b",
    )  # fmt: skip
    return snapshot(
        folder,
        first,
        alloc("b", event("Received", 255), started(260), PreviousAllocation="a", CreateTime=at(250).value),
    )


def test_an_outage_reaches_from_the_end_of_a_run_to_the_next_start_in_place_or_elsewhere(
    tmp_path: Path,
) -> None:
    gaps = stats.outages(chain(tmp_path), observed_at=at(360))
    assert gaps["duration"].dt.total_seconds().tolist() == [20, 60]
    assert gaps["open"].tolist() == [False, False]
    table = stats.availability(chain(tmp_path), observed_at=at(360)).iloc[0]
    assert table["availability"] == pytest.approx(280 / 360)
    assert (table["outages"], table["slots"]) == (2, 1)
    assert table["longest_outage"] == pd.Timedelta("60s")
    assert stats.runs(chain(tmp_path))["slot"].unique().tolist() == ["default/web.app[0]"]


def test_time_to_recover_is_told_by_median_and_p90_and_what_has_not_recovered_counts(tmp_path: Path) -> None:
    row = stats.time_to_recover(chain(tmp_path), observed_at=at(360)).iloc[0]
    assert (row["recoveries"], row["unrecovered"], row["longest"]) == (2, 0, pd.Timedelta("60s"))
    down = snapshot(
        tmp_path,
        alloc(
            "a", event("Received", 0), started(0), ended(9), gave_up(9), state="dead", ClientStatus="failed"
        ),
    )
    row = stats.time_to_recover(down, observed_at=at(500)).iloc[0]
    assert (row["recoveries"], row["unrecovered"]) == (0, 1)
    assert pd.isna(row["median"])


def test_a_batch_task_that_is_done_leaves_no_outage(tmp_path: Path) -> None:
    done = alloc(
        "a",
        event("Received", 0),
        started(0),
        ended(50, 0),
        state="dead",
        ClientStatus="complete",
        JobType="batch",
    )
    assert stats.outages(snapshot(tmp_path, done), observed_at=at(500)).empty


def test_the_mean_between_failures_has_an_interval_and_without_failures_a_lower_bound(tmp_path: Path) -> None:
    row = stats.mtbf(chain(tmp_path), observed_at=at(360)).iloc[0]
    assert (row["failures"], row["mtbf_hours"]) == (2, pytest.approx(280 / 3600 / 2))
    assert row["lower"] < row["mtbf_hours"] < row["upper"]
    calm = stats.mtbf(
        snapshot(tmp_path, alloc("c", event("Received", 0), started(0))), observed_at=at(3 * 3600)
    ).iloc[0]
    assert pd.isna(calm["mtbf_hours"])
    assert calm["lower"] == pytest.approx(1.0, rel=0.01)


def test_chains_follow_links_and_slots_and_mark_what_is_gone(tmp_path: Path) -> None:
    snap = snapshot(
        tmp_path,
        alloc(
            "b",
            PreviousAllocation="gone",
            CreateTime=at(10).value,
            ClientStatus="failed",
            DesiredStatus="stop",
        ),
        alloc("c", CreateTime=at(20).value, ClientStatus="failed", NextAllocation="d"),
        alloc("d", CreateTime=at(30).value),
        alloc("x", Name="web.app[1]", CreateTime=at(5).value),
    )
    chains = stats.reschedule_chains(snap).set_index("alloc_id")
    assert chains.loc[["b", "c", "d"], "position"].tolist() == [0, 1, 2]
    assert chains.loc[["c", "d"], "linked_by"].tolist() == ["slot", "link"]
    assert chains["broken"].to_dict() == {"b": True, "c": False, "d": False, "x": False}
    assert chains["length"].to_dict() == {"b": 3, "c": 3, "d": 3, "x": 1}


def test_a_ring_of_links_ends(tmp_path: Path) -> None:
    snap = snapshot(
        tmp_path, alloc("a", PreviousAllocation="b"), alloc("b", PreviousAllocation="a", Name="web.app[1]")
    )
    assert len(stats.reschedule_chains(snap)) == 2
