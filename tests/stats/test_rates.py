"""Counts, exposures and intervals; the same on every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import alloc, at, ended, engines, event, plain, restarting, snapshot, started

import allocframe as af
from allocframe import stats
from allocframe.stats import _confidence, _source
from allocframe.stats._derived import derive

HOUR = 3600


def two_jobs(folder: Path) -> af.Snapshot:
    """`web` runs two hours in two runs with one restart, `api` one hour without; a third never ran."""
    return snapshot(
        folder,
        alloc("a", event("Received", 0), started(0), ended(HOUR), restarting(HOUR), started(HOUR),
              ModifyTime=at(2 * HOUR).value),
        alloc("b", event("Received", HOUR), started(HOUR), JobID="api", NodeName="node-2"),
        alloc("c", event("Received", 0), event("Driver Failure", 0), JobID="cron", state="dead"),
    )  # fmt: skip


def test_a_rate_is_count_over_the_time_that_tasks_ran(tmp_path: Path) -> None:
    table = stats.restarts(two_jobs(tmp_path), by="job_id").set_index("job_id")
    assert table.loc["web", ["count", "exposure_hours", "rate_per_hour", "tasks"]].tolist() == [
        1,
        2.0,
        0.5,
        1,
    ]
    assert table.loc["api", ["count", "exposure_hours", "rate_per_hour"]].tolist() == [0, 1.0, 0.0]
    assert table.loc["api", "upper"] == pytest.approx(3.689, abs=1e-3)


def test_without_exposure_the_rate_is_missing_and_the_count_is_not(tmp_path: Path) -> None:
    table = stats.failed_starts(two_jobs(tmp_path), by="job_id").set_index("job_id")
    assert table.loc["cron", "count"] == 1
    assert table.loc["cron", "exposure_hours"] == 0
    assert table.loc["cron", ["rate_per_hour", "lower", "upper"]].isna().all()


def test_a_window_counts_and_exposes_only_what_lies_in_it(tmp_path: Path) -> None:
    snap = two_jobs(tmp_path)
    later = stats.failures(snap, by=[], since=at(1.5 * HOUR)).iloc[0]
    assert (later["count"], later["exposure_hours"]) == (0, 1.0)
    earlier = stats.failures(snap, by=[], until=at(HOUR)).iloc[0]
    assert (earlier["count"], earlier["exposure_hours"]) == (1, 1.0)  # the crash at its end is in the next
    with pytest.raises(ValueError, match=r"since .* after until"):
        stats.failures(snap, since=at(9), until=at(8))


def test_bins_share_out_exposure_and_counts_without_loss(tmp_path: Path) -> None:
    snap = two_jobs(tmp_path)
    whole, parts = stats.restarts(snap, by="job_id"), stats.restarts(snap, by="job_id", bin="10min")
    sums = parts.groupby("job_id")[["count", "exposure_hours"]].sum()
    assert sums["count"].to_dict() == whole.set_index("job_id")["count"].to_dict()
    assert sums["exposure_hours"].to_dict() == pytest.approx(
        whole.set_index("job_id")["exposure_hours"].to_dict()
    )
    assert parts["bin"].is_monotonic_increasing
    with pytest.raises(ValueError, match="bins"):
        stats.restarts(snap, bin="1ms")


def test_by_cause_the_exposure_is_that_of_the_whole_group(tmp_path: Path) -> None:
    table = stats.failures(two_jobs(tmp_path), by=["job_id", "cause"]).set_index(["job_id", "cause"])
    assert table["count"].to_dict() == {("web", "failure"): 1, ("cron", "driver"): 1}
    assert table.loc[("web", "failure"), "exposure_hours"] == 2.0


def test_an_unknown_column_is_refused_naming_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"by must name columns among .*job_id.*, got 'datacenter'"):
        stats.restarts(two_jobs(tmp_path), by="datacenter")
    with pytest.raises(TypeError, match="exit_code"):
        stats.restarts(two_jobs(tmp_path).events.drop(columns="exit_code"))


def test_what_the_ring_has_lost_is_counted_by_the_node_and_said(tmp_path: Path) -> None:
    cycle = [
        event for n in range(3) for event in (started(n * 60), ended(n * 60 + 30), restarting(n * 60 + 30))
    ]
    row = stats.restarts(snapshot(tmp_path, alloc("a", *cycle, started(200), restarts=40)), by="job_id").iloc[
        0
    ]
    assert (row["count"], row["counter"], row["lost_to_ring"], row["unexplained"]) == (3, 40, 37, 0)
    assert row["truncated_share"] == 1.0


@pytest.fixture(scope="module")
def both_engines(snap: af.Snapshot) -> Iterator[tuple[dict[str, pd.DataFrame], dict[str, Any]]]:
    with engines(snap) as both:
        yield both


ALL_BY = ["job_id", ["node_name", "cause"], ["namespace", "job_version", "node_id"], []]


@pytest.mark.parametrize("by", ALL_BY)
def test_pandas_duckdb_and_a_snapshot_give_equal_rates(
    snap: af.Snapshot,
    both_engines: tuple[dict[str, pd.DataFrame], dict[str, Any]],
    by: str | list[str],
) -> None:
    order = [by] if isinstance(by, str) else by
    frames, relations = both_engines
    for rate in (stats.restarts, stats.failures, stats.oom_kills, stats.failed_starts):
        by_pandas, by_duckdb = rate(frames, by=by), rate(relations, by=by)
        assert plain(by_pandas, *order) == plain(by_duckdb, *order)
        counted = ["count"] if by else ["count", "tasks"]
        assert rate(snap, by=by)[counted].sum().tolist() == by_pandas[counted].sum().tolist()


def test_tables_too_large_to_fetch_are_computed_on_by_duckdb_with_the_same_results(
    both_engines: tuple[dict[str, pd.DataFrame], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, relations = both_engines
    assert derive(relations).eager
    monkeypatch.setattr(_source, "FETCHED_ROWS", len(frames["events"]) - 1)
    large = dict(relations)
    assert not derive(large).eager
    # rates differ only in the events that they select
    for rate, by in zip((stats.restarts, stats.failures, stats.oom_kills), ALL_BY[1:], strict=True):
        assert plain(rate(frames, by=by), *by) == plain(rate(large, by=by), *by)
    of_pandas, of_duckdb = (stats.restarts(tables, by="job_id", bin="1h") for tables in (frames, large))
    assert plain(of_pandas, "bin", "job_id") == plain(of_duckdb, "bin", "job_id")


def test_a_statistic_that_is_not_made_for_an_engine_fetches_the_tables_that_it_needs(
    both_engines: tuple[dict[str, pd.DataFrame], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, relations = both_engines
    monkeypatch.setattr(_source, "FETCHED_ROWS", 0)
    columns = ["job_id", "task", "crashes"]
    here, there = (stats.crash_loops(tables)[columns] for tables in (frames, dict(relations)))
    assert len(here) > 0
    assert plain(there, "job_id", "task", "crashes") == plain(here, "job_id", "task", "crashes")


def test_events_alone_are_enough_for_a_rate(snap: af.Snapshot) -> None:
    table = stats.failures(snap.events, by="job_id")
    assert table["count"].sum() == stats.failures(snap, by="job_id")["count"].sum()


def test_failed_allocations_are_a_share_of_those_that_finished(tmp_path: Path, reference: Any) -> None:
    rows = [
        alloc(f"a{n}", ClientStatus=status)
        for n, status in enumerate(["failed", "complete", "complete", "lost", "running"])
    ]
    row = stats.failure_share(snapshot(tmp_path, *rows), by="job_id").iloc[0]
    assert (row["failed"], row["finished"], row["allocations"], row["share"]) == (1, 4, 5, 0.25)
    low, high = reference.binomtest(1, 4).proportion_ci(method="wilson")
    assert (row["lower"], row["upper"]) == (pytest.approx(low), pytest.approx(high))
    none = stats.failure_share(snapshot(tmp_path, alloc("b")), by="job_id").iloc[0]
    assert pd.isna(none["share"])


@given(st.integers(0, 500), st.floats(0.01, 1e4))
def test_the_poisson_interval_is_exact(reference: Any, count: int, exposure: float) -> None:
    rate, low, high = _confidence.poisson([count], [exposure])
    assert rate[0] == count / exposure
    assert reference.poisson.sf(count - 1, low[0] * exposure) == pytest.approx(
        0.025 if count else 1, abs=1e-6
    )
    assert reference.poisson.cdf(count, high[0] * exposure) == pytest.approx(0.025, abs=1e-6)


@given(st.integers(0, 80), st.integers(0, 80), st.floats(0.1, 1e3), st.floats(0.1, 1e3))
def test_the_rate_ratio_agrees_with_a_binomial_test(
    reference: Any, new: int, old: int, time: float, base: float
) -> None:
    ratio, low, high = (found[0] for found in _confidence.rate_ratio([new], [time], [old], [base]))
    if new + old == 0:
        assert pd.isna(ratio)
        return
    equal = reference.binomtest(new, new + old, time / (time + base)).proportion_ci(0.95, method="exact")
    p = time / (time + base)
    assert (low > 1) == (equal.low > p)
    assert (high < 1) == (equal.high < p)


def test_a_ratio_of_nothing_observed_is_missing_and_of_new_failures_only_infinite() -> None:
    ratio, low, high = _confidence.rate_ratio([0, 3, 3], [1, 1, 0], [0, 0, 1], [1, 1, 1])
    assert pd.isna(ratio[0])
    assert (ratio[1], high[1]) == (float("inf"), float("inf"))
    assert low[1] > 0
    assert pd.isna(ratio[2])


def test_rates_of_a_parquet_file_that_duckdb_reads_are_those_of_the_snapshot(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    folder = snap.to_parquet(tmp_path / "tables.parquet")
    by_duckdb = stats.failures(duckdb.read_parquet(str(Path(folder) / "events.parquet")), by="job_id")
    by_pandas = stats.failures(snap.events, by="job_id")
    counted = ["job_id", "count"]
    assert plain(by_duckdb[counted], "job_id") == plain(by_pandas[counted], "job_id")
    assert by_duckdb["rate_per_hour"].sum() == pytest.approx(by_pandas["rate_per_hour"].sum(), rel=1e-6)
