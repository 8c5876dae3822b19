"""The estimators against scipy on any data, and against results of lifelines (tests/data/lifelines.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flatten import DATA
from hypothesis import given
from hypothesis import strategies as st

import allocframe as af
from allocframe import stats

LIFELINES: dict[str, Any] = json.loads((DATA / "lifelines.json").read_text())
LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=2, max_size=60)


def test_kaplan_meier_equals_lifelines() -> None:
    estimate = stats.kaplan_meier(LIFELINES["durations"], LIFELINES["observed"])
    expected = LIFELINES["kaplan_meier"]
    assert estimate["time"].tolist() == expected["time"]
    np.testing.assert_allclose(estimate["survival"], expected["survival"], atol=1e-9)
    inner = (estimate["survival"] > 0) & (estimate["survival"] < 1)
    np.testing.assert_allclose(estimate["lower"][inner], np.array(expected["lower"])[inner], atol=1e-6)
    np.testing.assert_allclose(estimate["upper"][inner], np.array(expected["upper"])[inner], atol=1e-6)


def test_the_log_rank_test_equals_lifelines() -> None:
    estimate = stats.logrank(LIFELINES["durations"], LIFELINES["observed"], LIFELINES["groups"])
    assert estimate["statistic"] == pytest.approx(LIFELINES["logrank"]["statistic"])
    assert estimate["p"] == pytest.approx(LIFELINES["logrank"]["p"])
    assert estimate["degrees_of_freedom"] == 2


def test_aalen_johansen_equals_lifelines() -> None:
    expected = LIFELINES["aalen_johansen"]
    estimate = stats.cumulative_incidence(expected["time"][1:], [end or None for end in LIFELINES["ends"]])
    for kind in ("failed", "updated", "lost"):
        np.testing.assert_allclose(estimate[kind], expected[kind], atol=1e-9)


@given(LENGTHS)
def test_kaplan_meier_equals_scipy_on_any_data(reference: Any, data: list[tuple[int, bool]]) -> None:
    length, is_event = np.array([d for d, _ in data], float), np.array([s for _, s in data])
    estimate = stats.kaplan_meier(length, is_event).set_index("time")
    if not is_event.any():
        assert (estimate["survival"] == 1).all()
        return
    sample = reference.CensoredData(uncensored=length[is_event], right=length[~is_event])
    expected = reference.ecdf(sample).sf
    np.testing.assert_allclose(
        estimate["survival"].loc[expected.quantiles], expected.probabilities, atol=1e-12
    )


@given(LENGTHS, st.data())
def test_the_ways_to_end_and_survival_add_up_to_one(
    data: list[tuple[int, bool]], more: st.DataObject
) -> None:
    kinds = [more.draw(st.sampled_from(["failed", "lost"])) if is_event else None for _, is_event in data]
    shares = stats.cumulative_incidence([d for d, _ in data], kinds).drop(columns=["time", "at_risk"])
    survival = stats.kaplan_meier([d for d, _ in data], [is_event for _, is_event in data])["survival"]
    np.testing.assert_allclose(shares.sum(axis=1) + survival, 1, atol=1e-9)


def test_two_groups_agree_with_scipys_log_rank_test(reference: Any) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.exponential(2, 40), rng.exponential(4, 50)
    expected = reference.logrank(a, b)
    estimate = stats.logrank([*a, *b], [True] * 90, ["a"] * 40 + ["b"] * 50)
    assert estimate["statistic"] == pytest.approx(expected.statistic**2)
    assert estimate["p"] == pytest.approx(expected.pvalue)


def test_the_mean_cumulative_function_is_nelsons_example_by_hand() -> None:
    estimate = stats.mean_cumulative(["a", "a", "b"], [1, 3, 2], {"a": 4, "b": 2.5, "c": 1.5})
    np.testing.assert_allclose(estimate["mean"], [0, 1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 1])
    assert (estimate["lower"] <= estimate["mean"]).all()
    late = stats.mean_cumulative(["a"], [3], {"a": 4, "b": 4}, since={"b": 3.5})
    assert late["at_risk"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="until"):
        stats.mean_cumulative(["z"], [1], {"a": 1})


def test_laplace_tells_worsening_from_settling() -> None:
    day = pd.date_range("2026-01-01", periods=101, freq="h", tz="UTC")
    assert stats.laplace(day[80:], day[0], day[-1])[0] > 5
    assert stats.laplace(day[:20], day[0], day[-1])[0] < -5
    assert abs(stats.laplace(day[::5], day[0], day[-1])[0]) < 0.5
    assert np.isnan(stats.laplace(day[:2], day[0], day[-1])[0])


@pytest.mark.parametrize("bad", [([1, 2], [True]), ([-1.0], [True]), ([float("nan")], [True])])
def test_lengths_that_cannot_be_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="durations"):
        stats.kaplan_meier(*bad)


def test_groups_of_a_snapshot_get_their_curves(snap: af.Snapshot) -> None:
    curves = stats.survival(snap, by="job_id")
    ran = stats.runs(snap)
    by_job, of_runs = curves.groupby("job_id", observed=True), ran.groupby("job_id", observed=True)
    assert (by_job["runs"].first() + by_job["left_out"].first()).to_dict() == of_runs.size().to_dict()
    # what began before the oldest end that is known has no event that could be met
    assert (by_job["events"].sum() <= of_runs["failure"].sum()).all()
    never_ended = by_job["horizon_at"].first().isna() & ~of_runs["cut"].any()
    assert (by_job["events"].sum() == of_runs["failure"].sum())[never_ended].all()
    restarts = stats.cumulative_restarts(snap, by="job_id")
    assert restarts["events"].sum() == (snap.events["type"] == "Restarting").sum()
    ends = stats.end_causes(snap, by="job_type")
    assert ends.groupby(["job_type", "time"], observed=True)["share"].sum().max() <= 1 + 1e-9


def test_the_figures_say_what_made_them() -> None:
    assert LIFELINES["made_by"].startswith("lifelines ")
    assert Path(DATA / "lifelines.json").stat().st_size < 100_000
