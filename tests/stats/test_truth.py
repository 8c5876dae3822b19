"""Statistics hold against known truth: a fixed part of what `make truth` simulates."""

from __future__ import annotations

from typing import Any

import pytest
from truth import patterns, rows


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("mixed", [False, True], ids=["equal", "mixed"])
def test_intervals_of_rates_hold_the_true_rate(cut: bool, mixed: bool) -> None:
    results = rows.coverage_of_rates("failures", "restarts", "mtbf", tasks=50, cut=cut, mixed=mixed, count=80)
    assert len(results) == 6
    assert all(result.passed for result in results), results


@pytest.mark.parametrize("tasks", [5, 500])
def test_intervals_hold_in_small_and_large_jobs_whose_rings_are_cut(tasks: int) -> None:
    results = rows.coverage_of_rates(
        "failures", tasks=tasks, cut=True, mixed=False, count=200 if tasks == 5 else 8
    )
    assert all(result.passed for result in results), results


def test_a_rate_in_a_window_holds_the_truth_though_rings_are_cut() -> None:
    results = rows.coverage_of_rates("failures", tasks=50, cut=True, mixed=False, window=True, count=80)
    assert all(result.passed for result in results), results


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("growing", [False, True], ids=["constant", "growing"])
def test_the_test_of_trend_rejects_a_constant_hazard_in_one_of_twenty(cut: bool, growing: bool) -> None:
    assert rows.size_of_trend(cut=cut, growing=growing, count=120)[0].passed


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize(
    "measure", [rows.survival_at_median, rows.mean_cumulative_restarts, rows.availability_of_fleets]
)
def test_curves_and_availability_hold_the_truth(measure: Any, cut: bool) -> None:
    results = measure(cut=cut, count=120)
    assert all(result.passed for result in results), results


def test_survival_is_right_although_servers_have_removed_what_ended() -> None:
    assert rows.survival_after_removal(count=4)[0].passed


def test_lemon_nodes_blame_no_node_for_being_new_and_find_the_bad_one() -> None:
    results = rows.lemons(count=12)
    assert all(result.passed for result in results), results


@pytest.mark.parametrize(
    ("measure", "count"),
    [
        (patterns.changes_by_chance, 60),
        (patterns.changes_found, 40),
        (patterns.latency_of_starts, 100),
        (patterns.storms, 4),
        (patterns.blast_of_a_lost_node, 6),
        (patterns.deployments_that_fail, 60),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_changes_storms_latencies_losses_and_deployments_are_those_that_happened(
    measure: Any, count: int
) -> None:
    results = measure(count=count)
    assert all(result.passed for result in results), results
