"""The incident timeline and the waterfall of a job's allocations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .. import stats
from .._utils.times import to_utc
from ..stats import vocabulary
from ..stats.explain import failures_and_requests
from ..stats.runs import slots_of
from ._style import (
    BLUE,
    KIND_STYLES,
    RED,
    axes,
    days,
    draw_empty,
    label,
    require_one_cluster,
    shade_unwatched,
    strip_frame,
    use_time_axis,
    with_cluster,
)

MAX_LANES = 30
_BINS = 160
"""Marks closer than this fraction of the width would lie on each other and are drawn as one."""

_LANES = {"task": "slot_task", "job": "job_id", "node": "node_name"}
_LEGEND: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
    "fontsize": 8,
}


def timeline(
    source: Any,
    *,
    lanes: str | None = None,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw failures, restarts on request and losses over time, in a lane for each task, job or node.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    lanes : str, optional
        "task" (slots of ``job.group[0]``), "job" or "node"; else tasks if there are few, else jobs, else
        nodes. Only lanes with a mark are drawn, at most the 30 busiest.
    since, until : time, optional
        The window; else from shortly before the first mark to the end. A time without an offset is UTC.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Marks that would lie on each other are drawn as one larger mark. Pale bars show when tasks ran, if
        lanes are tasks.

    Raises
    ------
    ValueError
        `lanes` is none of the three.

    Examples
    --------
    >>> af.plots.timeline(snap.events).get_xlabel()
    'time (UTC)'
    """
    marks, runs = _disturbances_and_runs(source)
    marks = _between(marks, since, until)
    if marks.empty:
        return draw_empty(axes(ax, 2), "no failure, restart or loss in this window")
    lane_column = _choose_lanes(marks, lanes)
    marks = marks.assign(lane=marks[lane_column].astype("str"))
    by_count = marks["lane"].value_counts()
    shown = marks[marks["lane"].isin(by_count.index[:MAX_LANES])]
    order = shown.groupby("lane")["at"].min().sort_values(kind="stable").index.tolist()
    row_of_lane = {lane: row for row, lane in enumerate(order)}
    ax = axes(ax, 1.6 + 0.24 * len(order))
    start, end = _limits(marks, runs, since, until)
    if lane_column == "slot_task":
        _draw_runs(ax, runs.assign(lane=runs["slot_task"]), row_of_lane, start, end)
    _draw_marks(ax, shown, row_of_lane, start, end)
    ax.set_yticks(range(len(order)), [label(lane) for lane in order], fontsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    shade_unwatched(ax, source)
    ax.set_xlim(days([start, end]))
    strip_frame(ax)
    use_time_axis(ax)
    ax.set_title(_title(len(marks), len(by_count) - len(order), lane_column), loc="left")
    ax.legend(**_LEGEND)
    return ax


def _title(marks: int, hidden: int, lane_column: str) -> str:
    noun = next(noun for noun, column in _LANES.items() if column == lane_column)
    title = f"{marks:,} {'disturbance' if marks == 1 else 'disturbances'} by {noun}"
    return title + (f"; {hidden:,} quieter {noun}s not shown" if hidden else "")


def _disturbances_and_runs(source: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what is marked (failures, ends on request, losses) with its possible lanes, and the runs."""
    runs = stats.runs(source)
    runs["slot_task"] = _without_namespace(runs["slot"]) + " " + runs["task"].astype("str")
    events = failures_and_requests(stats.explain_events(source)).copy()
    events["slot_task"] = _without_namespace(slots_of(events, runs)) + " " + events["task"].astype("str")
    lost = runs[runs["end"] == vocabulary.LOST]
    lost = lost.assign(at=lost["ended_at"], cause=vocabulary.LOST)
    columns = ["at", "cause", *_LANES.values()]
    marks = [
        part.assign(**{name: with_cluster(part, name) for name in _LANES.values()})[columns]
        for part in (events.rename(columns={"time": "at"}), lost)
    ]
    return (
        pd.concat(marks, ignore_index=True).dropna(subset=["at"]),
        runs.assign(slot_task=with_cluster(runs, "slot_task")),
    )


def _without_namespace(slot: pd.Series[Any]) -> pd.Series[Any]:
    return slot.astype("str").str.replace(r"^[^/]*/", "", regex=True)


def _between(marks: pd.DataFrame, since: Any, until: Any) -> pd.DataFrame:
    if since is not None:
        marks = marks[marks["at"] >= to_utc(since, "since")]
    return marks if until is None else marks[marks["at"] <= to_utc(until, "until")]


def _choose_lanes(marks: pd.DataFrame, lanes: str | None) -> str:
    """Return the column whose values are the lanes: that asked for, or the finest with few enough values."""
    if lanes is not None:
        if lanes not in _LANES:
            raise ValueError(f"lanes must be 'task', 'job' or 'node', got {lanes!r}")
        return _LANES[lanes]
    few = [name for name in _LANES.values() if marks[name].nunique() <= MAX_LANES]
    return few[0] if few else "node_name"


def _limits(
    marks: pd.DataFrame, runs: pd.DataFrame, since: Any, until: Any
) -> tuple[pd.Timestamp, pd.Timestamp]:
    end = to_utc(until, "until") if until is not None else max(marks["at"].max(), runs["ended_at"].max())
    first = marks["at"].min()
    margin = max((end - first) * 0.05, pd.Timedelta("1min"))
    return (to_utc(since, "since") if since is not None else first - margin), end + margin * 0.2


def _draw_runs(
    ax: Axes, runs: pd.DataFrame, row_of_lane: dict[str, int], start: pd.Timestamp, end: pd.Timestamp
) -> None:
    shown = runs[
        runs["lane"].isin(list(row_of_lane)) & (runs["ended_at"] >= start) & (runs["started_at"] <= end)
    ]
    for lane, part in shown.groupby("lane"):
        left = days(part["started_at"].where(part["started_at"] > start, start))
        width = days(part["ended_at"].where(part["ended_at"] < end, end)) - left
        ax.broken_barh(
            list(zip(left, width, strict=True)),
            (row_of_lane[str(lane)] - 0.3, 0.6),
            facecolors="#dbe9f4",
            linewidth=0,
        )


def _draw_marks(
    ax: Axes, marks: pd.DataFrame, row_of_lane: dict[str, int], start: pd.Timestamp, end: pd.Timestamp
) -> None:
    """Draw one mark for all disturbances of a kind in a lane within a 160th of the width."""
    bin_width = (end - start) / _BINS
    kinds = marks["cause"].map(vocabulary.CAUSE_KINDS).fillna("other")
    marks = marks.assign(kind=kinds, bin=(marks["at"] - start) // bin_width)
    for kind, (colour, mark) in KIND_STYLES.items():
        part = marks[marks["kind"] == kind]
        if part.empty:
            continue
        cells = part.groupby(["lane", "bin"]).agg(at=("at", "mean"), n=("at", "size")).reset_index()
        ax.scatter(
            days(cells["at"]),
            cells["lane"].map(row_of_lane).to_numpy(),
            s=26
            + 16 * np.log2(cells["n"]),  # by the logarithm, so that a thousand marks do not fill the plot
            c=colour,
            marker=mark,
            linewidths=0.4,
            edgecolors="white",
            label=f"{kind} ({len(part):,})",
            zorder=3,
        )


def waterfall(source: Any, job_id: str, *, namespace: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the allocations of a job, by their first start: when they ran, which version, how they ended.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    job_id : str
    namespace : str, optional
        Needed if several namespaces have a job of that name.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        One row for each allocation, the oldest at the top; grey is the time whose events the ring has lost.

    Raises
    ------
    ValueError
        No task of that job ran, or the source holds several clusters.

    Examples
    --------
    >>> af.plots.waterfall(snap, "payments-api").get_xlabel()
    'time (UTC)'
    """
    runs = stats.runs(source)
    runs = runs[runs["job_id"].astype("str") == job_id]
    if namespace is not None:
        runs = runs[runs["namespace"].astype("str") == namespace]
    if runs.empty:
        raise ValueError(f"job_id must be a job of which a task ran, got {job_id!r}")
    require_one_cluster(runs, f"the waterfall of {job_id}")
    first_start = runs.groupby(runs["alloc_id"].astype("str"))["started_at"].min().sort_values(kind="stable")
    row_of_alloc = {alloc: row for row, alloc in enumerate(first_start.index)}
    ax = axes(ax, min(2.0 + 0.2 * len(row_of_alloc), 7.0))
    _draw_versions(ax, runs, row_of_alloc)
    _draw_lost_events(ax, runs, first_start, row_of_alloc, source)
    _draw_failed_runs(ax, runs, row_of_alloc)
    has_room = len(row_of_alloc) <= 40
    ax.set_yticks(
        range(len(row_of_alloc)) if has_room else [],
        [alloc[:8] for alloc in row_of_alloc] if has_room else [],
        fontsize=7,
        family="monospace",
    )
    ax.set_ylim(len(row_of_alloc) - 0.4, -0.6)
    ax.set_ylabel("" if has_room else f"{len(row_of_alloc):,} allocations, oldest first")
    versions = runs["job_version"].dropna().nunique()
    ax.set_title(
        f"{label(job_id)}: {len(row_of_alloc):,} allocations, "
        f"{versions} {'version' if versions == 1 else 'versions'}",
        loc="left",
    )
    strip_frame(ax)
    use_time_axis(ax)
    ax.legend(**_LEGEND)
    return ax


def _draw_versions(ax: Axes, runs: pd.DataFrame, row_of_alloc: dict[str, int]) -> None:
    versions = sorted(runs["job_version"].dropna().unique())
    shades = dict(zip(versions, _shades(len(versions)), strict=True))
    for version, part in runs.groupby("job_version", observed=True):
        left = days(part["started_at"])
        ax.barh(
            part["alloc_id"].astype("str").map(row_of_alloc).to_numpy(),
            np.maximum(days(part["ended_at"]) - left, 0),
            left=left,
            height=0.8,
            color=shades[version],
            label=f"version {version}",
            linewidth=0,
        )


def _draw_failed_runs(ax: Axes, runs: pd.DataFrame, row_of_alloc: dict[str, int]) -> None:
    failed = runs[runs["failure"]]
    if failed.empty:
        return
    ax.scatter(
        days(failed["ended_at"]),
        failed["alloc_id"].astype("str").map(row_of_alloc).to_numpy(),
        s=max(6.0, 36 - len(row_of_alloc) / 8),
        c=RED,
        marker="X",
        linewidths=0.3,
        edgecolors="white",
        label=f"failed run ({len(failed):,})",
        zorder=3,
    )


def _draw_lost_events(
    ax: Axes, runs: pd.DataFrame, first_start: pd.Series[Any], row_of_alloc: dict[str, int], source: Any
) -> None:
    """Draw in grey the time from an allocation's creation to the first run that its ring still holds."""
    truncated = runs.loc[runs["left_truncated"].astype(bool), "alloc_id"].astype("str").unique()
    chains = stats.reschedule_chains(source)
    created = chains.set_index(chains["alloc_id"].astype("str"))["created_at"].reindex(truncated)
    left, right = days(created), days(first_start.reindex(truncated))
    if len(truncated):
        ax.barh(
            [row_of_alloc[alloc] for alloc in truncated],
            np.maximum(right - left, 0),
            left=left,
            height=0.5,
            color="#d0d0d0",
            label="events lost",
            linewidth=0,
        )


def _shades(count: int) -> list[Any]:
    """Return blues from pale to strong, the strongest for the newest version."""
    if count == 1:
        return [BLUE]
    pale, strong = np.array([0.78, 0.86, 0.93]), np.array([0.0, 0.36, 0.60])
    return [tuple(pale + (strong - pale) * share) for share in np.linspace(0, 1, count)]
