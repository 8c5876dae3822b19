"""Plots show what their tables hold, with one task and with hundreds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from tables import alloc, at, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe import plots, stats
from allocframe.plots._style import KIND_STYLES

HOSTILE = "<b>$\\frac{1}{0}$\x1b[31m‮"


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def crowd() -> Iterator[af.Snapshot]:
    with (
        af.sim.Cluster("restart_storm", allocations=700, seed=4, acl=False) as cluster,
        af.Client(cluster.address) as client,
        client.snapshot(namespace="*", progress=False) as snap,
    ):
        yield snap


def one_task(folder: Path, **more: Any) -> af.Snapshot:
    events = [event("Received", 0), started(10), ended(40, 3), restarting(40), started(55)]
    return snapshot(folder, alloc("a", *events, **more))


def drawn(ax: Axes) -> Axes:
    """Render, so that every warning and error of drawing comes out."""
    ax.figure.canvas.draw()
    return ax


def lanes(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def marks(ax: Axes) -> int:
    return sum(
        len(collection.get_offsets()) for collection in ax.collections if hasattr(collection, "get_sizes")
    )


def test_a_timeline_of_one_task_has_its_lane_its_mark_and_its_runs(tmp_path: Path) -> None:
    ax = drawn(plots.timeline(one_task(tmp_path)))
    assert lanes(ax) == ["web.app[0] server"]
    assert ax.get_title("left") == "1 disturbance, no incident"
    assert ax.get_legend().get_texts()[0].get_text() == "failure (1)"


def test_a_timeline_of_hundreds_of_tasks_is_aggregated_and_says_what_it_leaves_out(
    crowd: af.Snapshot,
) -> None:
    ax = drawn(plots.timeline(crowd, lanes="task"))
    assert len(lanes(ax)) == 30
    assert re.search(r"disturbances, no incident; not shown: \d+ quieter tasks$", ax.get_title("left"))
    ax = drawn(plots.timeline(crowd))
    assert len(lanes(ax)) <= 30
    assert marks(ax) < 30 * 160


def test_a_timeline_can_be_cut_to_a_window_and_drawn_on_given_axes(tmp_path: Path) -> None:
    _, ax = plt.subplots()
    assert plots.timeline(one_task(tmp_path), since=at(0), until=at(60), ax=ax) is ax
    empty = drawn(plots.timeline(one_task(tmp_path), since=at(50)))
    assert empty.texts[0].get_text() == "no failure, restart or loss in this window"
    with pytest.raises(ValueError, match="lanes"):
        plots.timeline(one_task(tmp_path), lanes="rack")


def test_names_of_the_cluster_are_drawn_as_they_are_and_not_obeyed(tmp_path: Path) -> None:
    snap = one_task(tmp_path, JobID=HOSTILE, NodeName=HOSTILE, Name=f"{HOSTILE}.app[0]")
    for ax in (
        plots.timeline(snap),
        plots.pareto(stats.failure_ranking(snap)),
        plots.waterfall(snap, HOSTILE),
    ):
        drawn(ax)
        assert not any("\x1b" in text for text in [*lanes(ax), ax.get_title("left")])


def test_a_waterfall_has_a_bar_for_each_run_and_a_mark_for_each_failure(
    tmp_path: Path, crowd: af.Snapshot
) -> None:
    ax = drawn(plots.waterfall(one_task(tmp_path), "web"))
    assert len(ax.patches) == 2
    assert marks(ax) == 1
    many = drawn(plots.waterfall(crowd, "nightly-report"))
    assert not lanes(many)
    assert "oldest first" in many.get_ylabel()
    with pytest.raises(ValueError, match="'nope'"):
        plots.waterfall(crowd, "nope")


def test_a_heatmap_holds_every_count(crowd: af.Snapshot) -> None:
    table = stats.restarts(crowd, by="job_id", bin="10min")
    ax = drawn(plots.heatmap(table))
    assert f"{table['count'].sum():,} in total" in ax.get_title("left")
    assert len(lanes(ax)) <= 25
    with pytest.raises(ValueError, match="bin="):
        plots.heatmap(stats.restarts(crowd))


def test_a_pareto_sums_up_what_it_does_not_name(crowd: af.Snapshot) -> None:
    import pandas as pd

    table = pd.DataFrame({"job_id": [f"j{n}" for n in range(40)], "failures": range(40, 0, -1)})
    table["cumulative_share"] = table["failures"].cumsum() / table["failures"].sum()
    ax = drawn(plots.pareto(table))
    assert lanes(ax)[-1] == "15 others"
    assert sum(bar.get_width() for bar in ax.patches) == table["failures"].sum()


def test_curves_have_their_bands_and_seven_at_most(snap: af.Snapshot) -> None:
    ax = drawn(plots.survival(stats.survival(snap, by="job_id")))
    assert 1 <= len(ax.lines) <= 7
    assert len(ax.collections) == len(ax.lines)
    assert drawn(plots.cumulative_restarts(stats.cumulative_restarts(snap, by="job_id"))).get_ylim()[0] == 0
    assert drawn(plots.survival(stats.kaplan_meier([1, 2], [True, False]))).get_ylim() == (0, 1.02)


def test_days_that_were_not_observed_as_a_whole_are_grey_and_say_so(crowd: af.Snapshot) -> None:
    table = stats.daily(crowd)
    assert len(drawn(plots.daily(table)).patches) == len(table)
    table["watched"], table["complete"] = 0.25, [False] + [True] * (len(table) - 1)
    ax = drawn(plots.daily(table))
    assert [text.get_text() for text in ax.texts] == ["25%\nwatched"]
    assert len(ax.patches) == 1


def test_a_funnel_names_the_lemons() -> None:
    with (
        af.sim.Cluster("lemon_node", allocations=200, seed=1, acl=False) as cluster,
        af.Client(cluster.address) as client,
    ):
        ax = drawn(plots.funnel(stats.lemon_nodes(client.snapshot(namespace="*"))))
    assert [text.get_text() for text in ax.texts] == [cluster.truth.causes[0].node_name]


DRAWN = {
    "timeline": plots.timeline,
    "pareto": lambda snap: plots.pareto(stats.failure_ranking(snap)),
    "funnel": lambda snap: plots.funnel(stats.lemon_nodes(snap)),
    "heatmap": lambda snap: plots.heatmap(stats.restarts(snap, bin="1h")),
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_a_calm_snapshot_says_that_there_is_nothing_to_draw(tmp_path: Path, draw: Any) -> None:
    ax = drawn(draw(snapshot(tmp_path, alloc("a", event("Received", 0), started(1)))))
    assert len(ax.texts) == 1


def test_every_kind_of_cause_has_its_own_colour_and_mark() -> None:
    assert set(KIND_STYLES) == set(stats.vocabulary.CAUSE_KINDS.values())
    colours, marks_of_kinds = zip(*KIND_STYLES.values(), strict=True)
    assert len(set(colours)) == len(set(marks_of_kinds)) == len(KIND_STYLES)


@pytest.mark.parametrize(
    "name", ["cumulative_restarts", "daily", "funnel", "headroom", "heatmap", "pareto", "survival"]
)
def test_a_plot_of_a_table_says_what_it_draws_if_it_is_given_a_snapshot(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"plots\.{name}\(stats\.\w+\(snap\)\)"):
        getattr(plots, name)(snapshot(tmp_path, alloc("a")))
