"""Clusters are kept apart: equal names or IDs in two of them are never counted together.

The two clusters here are the same cluster under two names, so every name and ID is in both.
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

ARRAY_FUNCTIONS = {
    "cumulative_incidence",
    "kaplan_meier",
    "laplace",
    "logrank",
    "mean_cumulative",
    "vocabulary",
}
"""Functions that take arrays, not tables."""

TABLE_STATISTICS = sorted(set(stats.__all__) - ARRAY_FUNCTIONS - {"failure_ranking"})


@pytest.fixture(scope="module")
def two_clusters(snap: af.Snapshot) -> af.MultiSnapshot:
    return af.combine({"us": snap, "eu": snap})


def _first_argument(name: str, snap: af.Snapshot, cluster: af.sim.Cluster) -> Any:
    """Return what a statistic takes first."""
    if name == "headroom":
        running = snap.filter(client_status="running")
        with af.Client(cluster.address, token=cluster.token) as client:
            return client.usage(running.allocations["alloc_id"][:10]).samples
    if name == "placement_failures":
        with af.Client(cluster.address, token=cluster.token) as client:
            return client.evaluations(namespace="*")
    return snap


def _in_two_clusters(argument: Any, two_clusters: af.MultiSnapshot) -> Any:
    if isinstance(argument, af.Snapshot):
        return two_clusters
    return pd.concat([argument.assign(cluster="eu"), argument.assign(cluster="us")], ignore_index=True)


@pytest.mark.parametrize("name", TABLE_STATISTICS)
def test_a_statistic_of_several_clusters_is_that_of_each(
    name: str, snap: af.Snapshot, two_clusters: af.MultiSnapshot, cluster: af.sim.Cluster
) -> None:
    argument, statistic = _first_argument(name, snap, cluster), getattr(stats, name)
    of_one = statistic(argument).reset_index(drop=True)
    both = statistic(_in_two_clusters(argument, two_clusters))
    assert both.columns.tolist() == ["cluster", *of_one.columns]
    assert len(both) == 2 * len(of_one)
    for name_of_cluster in ("eu", "us") if len(of_one) else ():
        mine = both[both["cluster"] == name_of_cluster].drop(columns="cluster").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, of_one, check_categorical=False)


@pytest.mark.parametrize(
    "name", [name for name in TABLE_STATISTICS if "by" in inspect.signature(getattr(stats, name)).parameters]
)
def test_grouping_by_cluster_too_says_the_same(
    name: str, snap: af.Snapshot, two_clusters: af.MultiSnapshot, cluster: af.sim.Cluster
) -> None:
    argument, statistic = _first_argument(name, snap, cluster), getattr(stats, name)
    both = _in_two_clusters(argument, two_clusters)
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
            pd.testing.assert_frame_equal(mine, statistic(argument, by=[]), check_categorical=False)


def test_shares_of_failures_are_of_all_clusters_together(
    snap: af.Snapshot, two_clusters: af.MultiSnapshot
) -> None:
    of_one, both = stats.failure_ranking(snap), stats.failure_ranking(two_clusters)
    assert both["failures"].sum() == 2 * of_one["failures"].sum()
    assert both["share"].max() == pytest.approx(of_one["share"].max() / 2)
    assert both["cumulative_share"].iloc[-1] == 1.0
    assert both["failures"].is_monotonic_decreasing
    assert stats.failure_ranking(two_clusters, by="cluster")["share"].tolist() == [0.5, 0.5]


def test_frames_and_mappings_with_a_column_cluster_are_kept_apart_too(two_clusters: af.MultiSnapshot) -> None:
    expected = stats.failures(two_clusters, by="job_id")["count"].tolist()
    tables = {
        "events": two_clusters.events,
        "allocations": two_clusters.allocations,
        "task_states": two_clusters.task_states,
    }
    assert stats.failures(tables, by="job_id")["count"].tolist() == expected
    assert stats.failures(two_clusters.events, by="job_id")["count"].tolist() == expected
    assert len(two_clusters.events.alloc.explain()) == len(two_clusters.events)


def test_tables_of_duckdb_are_kept_apart_too(two_clusters: af.MultiSnapshot) -> None:
    events = two_clusters.events.drop(columns="time").assign(
        time=two_clusters.events["time"].dt.tz_localize(None)
    )
    with duckdb.connect() as connection:
        relation = connection.sql("FROM events")
        expected = stats.restarts(two_clusters.events, by="job_id").sort_values(["cluster", "job_id"])[
            "count"
        ]
        table = stats.restarts(relation, by="job_id").sort_values(["cluster", "job_id"])["count"]
        assert table.tolist() == expected.tolist()
        explained = stats.explain_events(relation)
        assert explained.columns[0] == "cluster"
        assert explained.aggregate("count(*)").fetchall() == [(len(events),)]


def test_tables_of_which_some_do_not_say_the_cluster_are_refused(
    snap: af.Snapshot, two_clusters: af.MultiSnapshot
) -> None:
    with pytest.raises(TypeError, match="It is missing in: allocations"):
        stats.runs({"events": two_clusters.events, "allocations": snap.allocations})


def test_findings_are_those_of_each_cluster(snap: af.Snapshot, two_clusters: af.MultiSnapshot) -> None:
    of_one, both = af.findings(snap), af.findings(two_clusters)
    assert len(both) == 2 * len(of_one)
    for name_of_cluster in ("eu", "us"):
        mine = [one for one in both if one.subject["cluster"] == name_of_cluster]
        assert [one.summary for one in mine] == [f"{name_of_cluster}: {one.summary}" for one in of_one]
        for one, its in zip(mine, of_one, strict=True):
            assert len(one.evidence) == len(its.evidence)
            assert one.evidence.empty or set(one.evidence["cluster"]) == {name_of_cluster}


def test_a_second_table_is_divided_by_cluster_as_well() -> None:
    with (
        sim.Cluster("calm", allocations=90, seed=4) as made,
        af.Client(made.address, token=made.token) as client,
    ):
        client.stop(services(made)[0].id)
        evaluations, one = client.evaluations(namespace="*"), client.snapshot(namespace="*")
    drained = evaluations.assign(cluster="eu", triggered_by="node-drain")
    with af.combine({"eu": one, "us": one}) as both:
        table = stats.explain_stops(both, pd.concat([drained, evaluations.assign(cluster="us")]))
    assert table.dropna(subset=["stop_reason"])[["cluster", "stop_reason"]].to_numpy().tolist() == [
        ["eu", "node drained"], ["us", "stopped by operator"]
    ]  # fmt: skip


def test_evaluations_of_several_clusters_must_say_which(
    two_clusters: af.MultiSnapshot, client: af.Client
) -> None:
    evaluations = client.evaluations(namespace="*")
    with pytest.raises(ValueError, match="column 'cluster'"):
        af.findings(two_clusters, evaluations=evaluations)
    both = pd.concat([evaluations.assign(cluster="eu"), evaluations.assign(cluster="us")])
    assert len(af.findings(two_clusters, evaluations=both)) == 2 * len(
        af.findings(two_clusters.clusters["eu"], evaluations=evaluations)
    )


def test_plots_have_a_lane_for_each_cluster_or_refuse(two_clusters: af.MultiSnapshot) -> None:
    drawn = [label.get_text() for label in plots.timeline(two_clusters, lanes="job").get_yticklabels()]
    assert {name.partition(": ")[0] for name in drawn} == {"eu", "us"}
    bars = [label.get_text() for label in plots.pareto(stats.failure_ranking(two_clusters)).get_yticklabels()]
    assert any(name.startswith("eu: ") for name in bars)
    rows = plots.heatmap(stats.restarts(two_clusters, by="job_id", bin="1h")).get_yticklabels()
    assert {row.get_text().partition(" ")[0] for row in rows} == {"eu", "us"}
    with pytest.raises(
        ValueError, match="the waterfall of checkout must be drawn for one cluster, got eu, us"
    ):
        plots.waterfall(two_clusters, "checkout")
    with pytest.raises(ValueError, match="the plot of days must be drawn for one cluster"):
        plots.daily(stats.daily(two_clusters))
    plt.close("all")
