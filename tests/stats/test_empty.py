"""Every statistic and plot takes a cluster without allocations, and one fetched without task states."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import allocframe as af
from allocframe import plots, stats

OF_ARRAYS = {"kaplan_meier", "logrank", "laplace", "mean_cumulative", "cumulative_incidence"}
OF_SNAPSHOTS = [
    name for name in stats.__all__ if name not in {*OF_ARRAYS, "vocabulary", "placement_failures", "headroom"}
]
DRAWN = {
    "timeline": plots.timeline,
    "heatmap": lambda snap: plots.heatmap(stats.restarts(snap, bin="1h")),
    "survival": lambda snap: plots.survival(stats.survival(snap)),
    "cumulative_restarts": lambda snap: plots.cumulative_restarts(stats.cumulative_restarts(snap)),
    "daily": lambda snap: plots.daily(stats.daily(snap)),
    "funnel": lambda snap: plots.funnel(stats.lemon_nodes(snap)),
    "pareto": lambda snap: plots.pareto(stats.failure_ranking(snap)),
}


@pytest.fixture(scope="module", params=["no allocations", "no task states"])
def bare(request: pytest.FixtureRequest) -> Iterator[af.Snapshot]:
    with (
        af.sim.Cluster("node_loss", allocations=60, seed=3, acl=False) as cluster,
        af.Client(cluster.address) as client,
        client.snapshot(namespace="none")
        if request.param == "no allocations"
        else client.snapshot(namespace="*", task_states=False) as snap,
    ):
        yield snap


@pytest.mark.parametrize("name", OF_SNAPSHOTS)
def test_a_statistic_of_nothing_is_an_empty_table_with_its_columns(
    bare: af.Snapshot, snap: af.Snapshot, name: str
) -> None:
    found = getattr(stats, name)(bare)
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == list(getattr(stats, name)(snap).columns)


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_plot_of_nothing_says_so(bare: af.Snapshot, draw: Any) -> None:
    ax = draw(bare)
    ax.figure.canvas.draw()
    assert len(ax.texts) == 1
    plt.close("all")


def test_findings_say_when_they_cannot_know(bare: af.Snapshot) -> None:
    codes = [one.code for one in af.findings(bare)]
    assert ("AF102" in codes) == (len(bare) > 0)
