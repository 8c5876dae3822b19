"""Every statistic and plot takes a cluster without allocations, and one fetched without task states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import allocframe as af
from allocframe import plots, stats

ARRAY_FUNCTIONS = {"kaplan_meier", "logrank", "laplace", "mean_cumulative", "cumulative_incidence"}
SNAPSHOT_STATISTICS = [
    name
    for name in stats.__all__
    if name not in {*ARRAY_FUNCTIONS, "vocabulary", "placement_failures", "headroom"}
]
PLOTS = {
    "timeline": plots.timeline,
    "heatmap": lambda snap: plots.heatmap(stats.restarts(snap, bin="1h")),
    "survival": lambda snap: plots.survival(stats.survival(snap)),
    "cumulative_restarts": lambda snap: plots.cumulative_restarts(stats.cumulative_restarts(snap)),
    "daily": lambda snap: plots.daily(stats.daily(snap)),
    "funnel": lambda snap: plots.funnel(stats.lemon_nodes(snap)),
    "pareto": lambda snap: plots.pareto(stats.failure_ranking(snap)),
}


@pytest.fixture(scope="module", params=["no allocations", "no task states"])
def bare_snap(request: pytest.FixtureRequest) -> Iterator[af.Snapshot]:
    with (
        af.sim.Cluster("node_loss", allocations=60, seed=3, acl=False) as cluster,
        af.Client(cluster.address) as client,
        client.snapshot(namespace="none")
        if request.param == "no allocations"
        else client.snapshot(namespace="*", task_states=False) as snap,
    ):
        yield snap


@pytest.mark.parametrize("name", SNAPSHOT_STATISTICS)
def test_a_statistic_of_nothing_is_an_empty_table_with_its_columns(
    bare_snap: af.Snapshot, snap: af.Snapshot, name: str
) -> None:
    table = getattr(stats, name)(bare_snap)
    assert isinstance(table, pd.DataFrame)
    assert list(table.columns) == list(getattr(stats, name)(snap).columns)


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)
def test_a_plot_of_nothing_says_so(bare_snap: af.Snapshot, draw: Any) -> None:
    ax = draw(bare_snap)
    ax.figure.canvas.draw()
    assert len(ax.texts) == 1
    plt.close("all")


def test_findings_say_when_they_cannot_know(bare_snap: af.Snapshot) -> None:
    codes = [finding.code for finding in af.findings(bare_snap)]
    assert ("AF102" in codes) == (len(bare_snap) > 0)
