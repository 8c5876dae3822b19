"""Plots show what their tables hold, with one task and with hundreds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

mpl.use("Agg")

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex, to_rgb
from tables import alloc, at, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe import plots, stats
from allocframe.plots._style import BLUE, KIND_STYLES, RED, use_time_axis

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
    assert [mdates.num2date(bar.get_x() + n * bar.get_width()) for bar in ax.patches for n in (0, 1)] == [
        at(started_or_ended) for started_or_ended in (10, 40, 55, 55)
    ]
    many = drawn(plots.waterfall(crowd, "nightly-report"))
    assert not lanes(many)
    assert "oldest first" in many.get_ylabel()
    with pytest.raises(ValueError, match="'nope'"):
        plots.waterfall(crowd, "nope")


def test_a_heatmap_holds_every_count(crowd: af.Snapshot) -> None:
    table = stats.restarts(crowd, by="job_id", bin="10min")
    ax = drawn(plots.heatmap(table))
    assert f" of {table['count'].sum():,}; most at " in ax.get_title("left")
    [mesh] = [each for each in ax.collections if isinstance(each, QuadMesh)]
    shown = table[table["job_id"].astype("str").isin(lanes(ax))]
    assert mesh.get_array().sum() == shown["count"].sum()
    assert len(lanes(ax)) <= 25
    assert ax.figure.axes[1].get_ylabel() == "count per 10 min"
    with pytest.raises(ValueError, match="bin="):
        plots.heatmap(stats.restarts(crowd))


def test_a_pareto_sums_up_what_it_does_not_name(crowd: af.Snapshot) -> None:
    table = pd.DataFrame({"job_id": [f"j{n}" for n in range(40)], "failures": range(40, 0, -1)})
    table["cumulative_share"] = table["failures"].cumsum() / table["failures"].sum()
    ax = drawn(plots.pareto(table))
    assert lanes(ax)[-1] == "15 others"
    assert sum(bar.get_width() for bar in ax.patches) == table["failures"].sum()
    enough = int((table["cumulative_share"] < 0.8).sum()) + 1
    assert ax.get_title("left") == f"{enough} of 40 jobs cause 80 % of 820 failures"
    # the 80 % line belongs to the curve of the cumulative share
    [other] = [each for each in ax.figure.axes if each is not ax]
    curve, line = other.lines
    assert list(curve.get_xdata()[:3]) == pytest.approx(list(table["cumulative_share"][:3]))
    assert set(line.get_xdata()) == {0.8}


def test_curves_have_their_bands_and_seven_at_most(snap: af.Snapshot, crowd: af.Snapshot) -> None:
    table = stats.survival(crowd, by="node_name")
    assert table[table["events"] > 0]["node_name"].nunique() > 7
    ax = drawn(plots.survival(table))
    assert len(ax.lines) == len(ax.collections) == len({line.get_color() for line in ax.lines}) == 7
    assert "last" in drawn(plots.survival(stats.survival(snap, by="job_id"))).get_title("left")
    assert drawn(plots.cumulative_restarts(stats.cumulative_restarts(snap, by="job_id"))).get_ylim()[0] == 0
    assert drawn(plots.survival(stats.kaplan_meier([1, 2], [True, False]))).get_ylim() == (0, 1.02)


def test_days_that_were_not_observed_as_a_whole_are_grey_and_say_so(crowd: af.Snapshot) -> None:
    table = stats.daily(crowd)
    ax = drawn(plots.daily(table))
    assert len(ax.patches) == len(table)
    for series, name in zip(ax.containers, ("failures", "restarts"), strict=True):
        times = pd.DatetimeIndex(mdates.num2date(series.lines[0].get_xdata()))
        assert list(times.floor("D")) == list(table["day"])
        assert list(series.lines[0].get_ydata()) == pytest.approx(list(100 * table[f"{name}_per_hour"]))
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
    name = cluster.truth.causes[0].node_name
    assert [text.get_text() for text in ax.texts] == [name]
    assert ax.get_title("left") == f"{name} fails more than the mix of jobs and chance explain"
    assert ax.get_xlabel() == "failed tasks expected from the mix of jobs"
    assert ax.get_ylabel() == "observed / expected"


def test_a_funnel_names_who_stands_out_though_it_may_be_chance() -> None:
    table = pd.DataFrame(
        {
            "node_name": ["a", "b", "c"],
            "observed": [9, 5, 4],
            "expected": [3.5, 5.0, 4.5],
            "lemon": [False] * 3,
        }
    )
    ax = drawn(plots.funnel(table.assign(ratio=table["observed"] / table["expected"])))
    assert [text.get_text() for text in ax.texts] == ["a"]
    assert ax.get_title("left").startswith("No lemon; 1 of the nodes")


REAL = Path(__file__).parents[1] / "data" / "incidents"


def test_a_timeline_of_a_real_incident_says_it_in_its_title_and_shades_it() -> None:
    with af.load(REAL / "nomad-1.3.1-two.allocframe") as snap:
        incidents = [each for each in af.diagnose(snap).incidents if each.severity != "info"]
        ax = drawn(plots.timeline(snap))
        start, end = mdates.num2date(ax.get_xlim())
        later = drawn(plots.timeline(snap, since=incidents[1].began_at, incidents=incidents[1:]))
    assert (
        ax.get_title("left")
        == "two/fetcher cannot download its artifact from 01:27; two/crasher crashes from 01:30"
    )
    # sorted by incident: the lanes of the worst come first
    assert lanes(ax)[:2] == ["fetcher", "crasher"]
    assert [text.get_text().strip() for text in ax.texts] == ["1", "2"]
    assert ax.xaxis.get_offset_text().get_text() == f"{incidents[0].began_at:%-d %b %Y}"
    # zoomed: a fifth of their length before they begin, and to the end
    lead = incidents[0].began_at - pd.Timestamp(start)
    assert lead / (pd.Timestamp(end) - incidents[0].began_at) == pytest.approx(0.2, abs=0.02)
    assert lanes(later)[0].startswith("crasher")


@pytest.mark.parametrize(
    ("hours", "said"), [(3, "1 Jun 2026"), (24 * 10, "2026"), (24 * 200, "2026"), (24 * 2000, "")]
)
def test_a_time_axis_says_once_what_its_labels_leave_out(hours: int, said: str) -> None:
    _, ax = plt.subplots()
    start = pd.Timestamp("2026-06-01T01:00")
    ax.set_xlim(mdates.date2num([start, start + pd.Timedelta(hours=hours)]))
    use_time_axis(ax)
    assert drawn(ax).xaxis.get_offset_text().get_text() == said


def test_runs_of_a_periodic_job_share_a_lane() -> None:
    with af.load(REAL / "nomad-1.3.1-periodicfail.allocframe") as snap:
        assert lanes(drawn(plots.timeline(snap, lanes="job"))) == ["nightly"]


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_every_plot_can_be_read_on_light_and_dark_paper(style: str, snap: af.Snapshot) -> None:
    """Nothing is drawn in the colour of the paper."""
    with plt.style.context(style):
        for draw in (*DRAWN.values(), *NEW.values()):
            ax = drawn(draw(snap))
            assert ax.get_xlabel(), draw
            paper = np.array(to_rgb(ax.get_facecolor()))
            seen = [each.get_facecolor() for each in ax.collections if isinstance(each, PathCollection)]
            for colour in (colour for colours in seen for colour in colours if colour[3] > 0):
                assert np.abs(np.array(to_rgb(colour)) - paper).max() > 0.2, (draw, colour)
            assert np.abs(np.array(to_rgb(ax.title.get_color())) - paper).max() > 0.5


def test_an_error_budget_that_is_spent_is_red_and_counted() -> None:
    table = pd.DataFrame(
        {"job_id": ["a", "b", "c"], "target": 0.999, "used": pd.array([12.0, 0.5, None], dtype="Float64")}
    )
    ax = drawn(plots.error_budget(table))
    assert lanes(ax) == ["a", "b"]
    assert [to_hex(bar.get_facecolor()).upper() for bar in ax.patches] == [RED, BLUE]
    assert ax.texts[0].get_text() == " 1,200%"
    assert ax.get_title("left") == "1 of 2 jobs spent their error budget (target 99.9 %)"


def test_deployments_say_how_many_failed(crowd: af.Snapshot) -> None:
    table = stats.deployments(crowd)
    ax = drawn(plots.deployments(table))
    ended = table[table["failed"].notna()]
    failed = int(ended["failed"].astype(bool).sum())
    assert ax.get_title("left").splitlines()[0] == f"{failed} of {len(ended)} deployments failed"
    assert marks(ax) == table["job_id"].isin(lanes(ax)).sum()


def test_latencies_are_in_order_of_the_slowest_and_all_phases_are_drawn(snap: af.Snapshot) -> None:
    table = stats.start_latency(snap)
    ax = drawn(plots.start_latency(table))
    whole = table[table["phase"].astype("str") == "received to started"].set_index("job_id")["p50"]
    assert whole[lanes(ax)[0]] == whole.max()
    phases = {text.get_text().removeprefix("after ") for text in ax.get_legend().get_texts()}
    assert phases <= set(table["phase"].astype("str"))


def test_runs_of_jobs_add_up() -> None:
    with af.load(REAL / "nomad-1.3.1-nodeloss.allocframe") as snap:
        table = stats.job_runs(snap)
        ax = drawn(plots.job_runs(table))
    assert (
        sum(bar.get_width() for bar in ax.patches) == table[["failed", "succeeded", "going_on"]].sum().sum()
    )
    assert (
        ax.get_title("left") == f"The last run of {(table['last_result'] == 'failed').sum()} of 3 jobs failed"
    )


NEW = {
    "error_budget": lambda snap: plots.error_budget(stats.error_budget(snap)),
    "deployments": lambda snap: plots.deployments(stats.deployments(snap)),
    "start_latency": lambda snap: plots.start_latency(stats.start_latency(snap)),
    "job_runs": lambda snap: plots.job_runs(stats.job_runs(snap)),
}

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
    "name",
    [
        "cumulative_restarts",
        "daily",
        "deployments",
        "error_budget",
        "funnel",
        "headroom",
        "heatmap",
        "job_runs",
        "pareto",
        "start_latency",
        "survival",
    ],
)
def test_a_plot_of_a_table_says_what_it_draws_if_it_is_given_a_snapshot(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"plots\.{name}\(stats\.\w+\(snap\)\)"):
        getattr(plots, name)(snapshot(tmp_path, alloc("a")))
