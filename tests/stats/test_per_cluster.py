"""Clusters are kept apart: what has the same name or ID in two of them is never counted together.

The two clusters here are one and the same under two names, so that every name and every ID is in both.
"""

from __future__ import annotations

import inspect
from typing import Any

import duckdb
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from services import services

import allocframe as af
from allocframe import plots, sim, stats

PURE = {"cumulative_incidence", "kaplan_meier", "laplace", "logrank", "mean_cumulative", "vocabulary"}
"""What takes numbers, not tables."""

OF_TABLES = sorted(set(stats.__all__) - PURE - {"failure_ranking"})


@pytest.fixture(scope="module")
def twice(snap: af.Snapshot) -> af.MultiSnapshot:
    return af.combine({"us": snap, "eu": snap})


def _given(name: str, snap: af.Snapshot, cluster: af.sim.Cluster) -> Any:
    """Return what a statistic takes first."""
    if name == "headroom":
        running = snap.filter(client_status="running")
        with af.Client(cluster.address, token=cluster.token) as client:
            return client.usage(running.allocations["alloc_id"][:10]).samples
    if name == "placement_failures":
        with af.Client(cluster.address, token=cluster.token) as client:
            return client.evaluations(namespace="*")
    return snap


def _doubled(given: Any, twice: af.MultiSnapshot) -> Any:
    if isinstance(given, af.Snapshot):
        return twice
    return pd.concat([given.assign(cluster="eu"), given.assign(cluster="us")], ignore_index=True)


@pytest.mark.parametrize("name", OF_TABLES)
def test_a_statistic_of_several_clusters_is_that_of_each(
    name: str, snap: af.Snapshot, twice: af.MultiSnapshot, cluster: af.sim.Cluster
) -> None:
    given, statistic = _given(name, snap, cluster), getattr(stats, name)
    alone = statistic(given).reset_index(drop=True)
    both = statistic(_doubled(given, twice))
    assert both.columns.tolist() == ["cluster", *alone.columns]
    assert len(both) == 2 * len(alone)
    for which in ("eu", "us") if len(alone) else ():
        mine = both[both["cluster"] == which].drop(columns="cluster").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, alone, check_categorical=False)


@pytest.mark.parametrize(
    "name", [name for name in OF_TABLES if "by" in inspect.signature(getattr(stats, name)).parameters]
)
def test_grouping_by_cluster_too_says_the_same(
    name: str, snap: af.Snapshot, twice: af.MultiSnapshot, cluster: af.sim.Cluster
) -> None:
    given, statistic = _given(name, snap, cluster), getattr(stats, name)
    both = _doubled(given, twice)
    by = (
        ["job_id", "task"]
        if name in ("headroom", "lemon_nodes")
        else "job_type"
        if name == "end_causes"
        else "job_id"
    )
    plain = [by] if isinstance(by, str) else by
    if name != "failure_clustering":
        pd.testing.assert_frame_equal(statistic(both, by=["cluster", *plain]), statistic(both, by=by))
        if name != "lemon_nodes":
            whole = statistic(both, by="cluster")
            assert whole["cluster"].astype(str).drop_duplicates().tolist() == ["eu", "us"]
            mine = whole[whole["cluster"] == "us"].drop(columns="cluster").reset_index(drop=True)
            pd.testing.assert_frame_equal(mine, statistic(given, by=[]), check_categorical=False)


def test_shares_of_failures_are_of_all_clusters_together(snap: af.Snapshot, twice: af.MultiSnapshot) -> None:
    alone, both = stats.failure_ranking(snap), stats.failure_ranking(twice)
    assert both["failures"].sum() == 2 * alone["failures"].sum()
    assert both["share"].max() == pytest.approx(alone["share"].max() / 2)
    assert both["cumulative_share"].iloc[-1] == 1.0
    assert both["failures"].is_monotonic_decreasing
    assert stats.failure_ranking(twice, by="cluster")["share"].tolist() == [0.5, 0.5]


def test_frames_and_mappings_with_a_column_cluster_are_kept_apart_too(twice: af.MultiSnapshot) -> None:
    wanted = stats.failures(twice, by="job_id")["count"].tolist()
    tables = {"events": twice.events, "allocations": twice.allocations, "task_states": twice.task_states}
    assert stats.failures(tables, by="job_id")["count"].tolist() == wanted
    assert stats.failures(twice.events, by="job_id")["count"].tolist() == wanted
    assert len(twice.events.alloc.explain()) == len(twice.events)


def test_tables_of_duckdb_are_kept_apart_too(twice: af.MultiSnapshot) -> None:
    events = twice.events.drop(columns="time").assign(time=twice.events["time"].dt.tz_localize(None))
    with duckdb.connect() as connection:
        relation = connection.sql("FROM events")
        wanted = stats.restarts(twice.events, by="job_id").sort_values(["cluster", "job_id"])["count"]
        found = stats.restarts(relation, by="job_id").sort_values(["cluster", "job_id"])["count"]
        assert found.tolist() == wanted.tolist()
        explained = stats.explain_events(relation)
        assert explained.columns[0] == "cluster"
        assert explained.aggregate("count(*)").fetchall() == [(len(events),)]


def test_tables_of_which_some_do_not_say_the_cluster_are_refused(
    snap: af.Snapshot, twice: af.MultiSnapshot
) -> None:
    with pytest.raises(TypeError, match="allocations has none"):
        stats.runs({"events": twice.events, "allocations": snap.allocations})


def test_findings_are_those_of_each_cluster(snap: af.Snapshot, twice: af.MultiSnapshot) -> None:
    alone, both = af.findings(snap), af.findings(twice)
    assert len(both) == 2 * len(alone)
    for which in ("eu", "us"):
        mine = [one for one in both if one.about["cluster"] == which]
        assert [one.summary for one in mine] == [f"{which}: {one.summary}" for one in alone]
        for one, its in zip(mine, alone, strict=True):
            assert len(one.evidence) == len(its.evidence)
            assert one.evidence.empty or set(one.evidence["cluster"]) == {which}


def test_a_second_table_is_divided_by_cluster_as_well() -> None:
    with (
        sim.Cluster("calm", allocations=90, seed=4) as made,
        af.Client(made.address, token=made.token) as client,
    ):
        client.stop(services(made)[0].id)
        told, one = client.evaluations(namespace="*"), client.snapshot(namespace="*")
    drained = told.assign(cluster="eu", triggered_by="node-drain")
    with af.combine({"eu": one, "us": one}) as both:
        found = stats.explain_stops(both, pd.concat([drained, told.assign(cluster="us")]))
    assert found.dropna(subset=["stop_reason"])[["cluster", "stop_reason"]].to_numpy().tolist() == [
        ["eu", "node drained"], ["us", "stopped by operator"]
    ]  # fmt: skip


def test_evaluations_of_several_clusters_must_say_which(twice: af.MultiSnapshot, client: af.Client) -> None:
    told = client.evaluations(namespace="*")
    with pytest.raises(ValueError, match="column 'cluster'"):
        af.findings(twice, evaluations=told)
    both = pd.concat([told.assign(cluster="eu"), told.assign(cluster="us")])
    assert len(af.findings(twice, evaluations=both)) == 2 * len(
        af.findings(twice.clusters["eu"], evaluations=told)
    )


def test_plots_have_a_lane_for_each_cluster_or_refuse(twice: af.MultiSnapshot) -> None:
    drawn = [label.get_text() for label in plots.timeline(twice, lanes="job").get_yticklabels()]
    assert {name.partition(": ")[0] for name in drawn} == {"eu", "us"}
    bars = [label.get_text() for label in plots.pareto(stats.failure_ranking(twice)).get_yticklabels()]
    assert any(name.startswith("eu: ") for name in bars)
    rows = plots.heatmap(stats.restarts(twice, by="job_id", bin="1h")).get_yticklabels()
    assert {row.get_text().partition(" ")[0] for row in rows} == {"eu", "us"}
    with pytest.raises(
        ValueError, match="the waterfall of checkout must be drawn for one cluster, got eu, us"
    ):
        plots.waterfall(twice, "checkout")
    with pytest.raises(ValueError, match="the plot of days must be drawn for one cluster"):
        plots.daily(stats.daily(twice))
    plt.close("all")
