"""Every statistic and plot takes a cluster without allocations or task states, and rows that lack a value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from tables import alloc, at, ended, event, gave_up, restarting, snapshot, started

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


LACKING = {
    "Namespace": ("namespace", "default", ()),
    "NodeName": ("node_name", "node-1", ("clock_offset", "lemon_nodes", "restart_storms")),
}
"""Fields, their columns and values, and the statistics that are of nodes."""


def rows_of_a_bad_day() -> list[dict[str, Any]]:
    rows = []
    for job in ("web", "api"):
        for n in range(4):
            begin = 1000 * n
            events = [event("Received", begin), started(begin + 1)]
            for at_crash in range(begin + 5, begin + 155, 50):
                events += [ended(at_crash, 3), restarting(at_crash), started(at_crash + 9)]
            if n == 3:
                events += [ended(begin + 170), gave_up(begin + 170)]
            rows.append(
                alloc(f"{job}{n}", *events, JobID=job, Name=f"{job}.app[{n}]", JobVersion=n // 2,
                      DeploymentStatus={"Healthy": n < 3}, CreateTime=at(begin).value,
                      ClientStatus="failed" if n == 3 else "running")
            )  # fmt: skip
    return rows + [
        alloc(f"cron{n}", event("Received", n), started(n), ended(n + 5, n % 2), JobType="batch",
              JobID=f"cron/periodic-170000000{n}", ClientStatus="failed" if n % 2 else "complete",
              state="dead", CreateTime=at(n).value)
        for n in range(4)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def lacking(tmp_path_factory: pytest.TempPathFactory) -> dict[str, af.Snapshot]:
    """The same rows whole (under ""), and without a field."""
    folder: Path = tmp_path_factory.mktemp("lacking")
    return {
        field: snapshot(folder, *({**row, field: None} if field else row for row in rows_of_a_bad_day()))
        for field in ("", *LACKING, "JobVersion")
    }


@pytest.mark.parametrize("name", SNAPSHOT_STATISTICS)
def test_what_lacks_a_value_is_counted_as_the_others(lacking: dict[str, af.Snapshot], name: str) -> None:
    def amounts(snap: af.Snapshot) -> list[str]:
        table = getattr(stats, name)(snap).drop(columns=[*columns], errors="ignore")
        numbers = table[[each for each in table if table[each].dtype.kind in "iufbmM"]]
        return sorted(map(str, numbers.itertuples(index=False)))

    columns = [column for column, *_ in LACKING.values()]
    known = amounts(lacking[""])
    for field, (_, _, of_it) in LACKING.items():
        if name not in of_it:
            assert amounts(lacking[field]) == known, field


def test_a_ranking_by_a_column_has_a_row_for_what_lacks_it(lacking: dict[str, af.Snapshot]) -> None:
    for field, (column, value, _) in LACKING.items():
        known, missing = (stats.failure_ranking(lacking[each], by=column) for each in ("", field))
        assert known[column].tolist() == [value]
        assert missing[column].isna().tolist() == [True]
        assert known["failures"].item() == missing["failures"].item() > 0


def test_a_loop_of_an_unknown_version_is_a_loop(lacking: dict[str, af.Snapshot]) -> None:
    columns = ["slot", "crashes", "cause", "exit_code", "node_names", "median_run", "first_at", "state"]
    known, unknown = (stats.crash_loops(lacking[each]) for each in ("", "JobVersion"))
    assert unknown["job_version"].isna().all()
    assert len(known) == 8
    order = known[columns].sort_values("slot", ignore_index=True)
    pd.testing.assert_frame_equal(unknown[columns].sort_values("slot", ignore_index=True), order)


@pytest.mark.parametrize("draw", PLOTS.values(), ids=PLOTS)
def test_a_plot_of_nothing_says_so(bare_snap: af.Snapshot, draw: Any) -> None:
    ax = draw(bare_snap)
    ax.figure.canvas.draw()
    assert len(ax.texts) == 1
    plt.close("all")


def test_findings_say_when_they_cannot_know(bare_snap: af.Snapshot) -> None:
    codes = [finding.code for finding in af.findings(bare_snap)]
    assert ("AF102" in codes) == (len(bare_snap) > 0)
