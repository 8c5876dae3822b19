"""The incident timeline: what failed when, in lanes that are sorted by incident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .._utils.prose import count
from .._utils.times import to_utc
from ..diagnosis.diagnose import diagnose
from ..diagnosis.incident import Incident
from ..snapshot.snapshot import Snapshot
from ..stats import vocabulary
from ..stats._per_cluster import per_cluster
from ..stats._source import look_up
from ..stats.explain import failures_and_requests
from ..stats.runs import build_runs, slot_by_allocation
from ._style import (
    KIND_STYLES,
    LEGEND,
    axes,
    days,
    draw_empty,
    label,
    shade_unwatched,
    strip_frame,
    theme,
    use_time_axis,
    with_cluster,
    write_title,
)

MAX_LANES = 30
_BINS = 160
"""Marks closer than this fraction of the width would lie on each other and are drawn as one."""

_LANES = {"task": "slot_task", "job": "job_id", "node": "node_name"}
_LOST = vocabulary.CAUSE_KINDS[vocabulary.LOST]
_LEAD = 0.2
"""The window opens this share of the incidents' length before them."""

_TITLE = 85
"""Characters of a title that fit into a line."""


def timeline(
    source: Any,
    *,
    lanes: str | None = None,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    incidents: Sequence[Incident] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw failures, restarts on request and losses over time, in a lane for each task, job or node.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    lanes : str, optional
        "task" (slots of ``job.group[0]``), "job" or "node"; else tasks if there are few, else jobs. Only
        lanes with a mark are drawn, at most 30: those of the worst incidents, then the busiest.
    since, until : time, optional
        The window; else from shortly before the first incident (or the first mark, if there is none) to the
        end. A time without an offset is UTC.
    incidents : list of Incident, optional
        They are shaded, they sort the lanes, and the title names the worst. By default, those that `diagnose`
        finds in a snapshot of one cluster, above "info"; of tables, none.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Marks that would lie on each other are drawn as one larger mark. Bars show when tasks ran, if lanes
        are tasks.

    Raises
    ------
    ValueError
        `lanes` is none of the three.

    Examples
    --------
    >>> af.plots.timeline(snap.events).get_xlabel()
    'time (UTC)'
    """
    if lanes is not None and lanes not in _LANES:
        raise ValueError(f"lanes must be 'task', 'job' or 'node', got {lanes!r}")
    if incidents is None:
        found = (
            diagnose(source, progress=False).incidents
            if isinstance(source, Snapshot) and not source.clusters
            else []
        )
        incidents = [each for each in found if each.severity != "info"]
    asked_start = None if since is None else to_utc(since, "since")
    asked_end = None if until is None else to_utc(until, "until")
    incidents = [
        each for each in incidents if each.began_at is not None and each.reaches_into(asked_start, asked_end)
    ]
    runs = _runs(source)
    marks = _marks(source, runs)
    last: pd.Timestamp = asked_end or max(marks["at"].max(), runs["ended_at"].max())
    start: pd.Timestamp = asked_start or _opening(incidents, marks, last)
    before = int((marks["at"] < start).sum()) if since is None and pd.notna(start) else 0
    marks = marks[(marks["at"] >= start) & (marks["at"] <= last)]
    if marks.empty:
        return draw_empty(axes(ax, 2), "no failure, restart or loss in this window")
    lane_column = "slot_task" if lanes is None else _LANES[lanes]
    lane = _lanes_of(marks, lane_column)
    if lanes is None and lane.nunique() > MAX_LANES:
        lane_column = "job_id"
        lane = _lanes_of(marks, lane_column)
    marks = marks.assign(lane=lane, incident=_incident_of(marks, incidents))
    order, owner = _order(marks)
    row_of_lane = {lane: row for row, lane in enumerate(order)}
    ax = axes(ax, 1.6 + 0.24 * len(order))
    if lane_column == "slot_task":
        inside = runs[(runs["ended_at"] >= start) & (runs["started_at"] <= last)]
        _draw_runs(ax, inside.assign(lane=_lanes_of(inside, lane_column)), row_of_lane, start, last)
    shown = marks[marks["lane"].isin(order)].astype({"lane": "str", "cause": "str"})
    _shade_incidents(ax, incidents, owner, start, last)
    _draw_marks(ax, shown, row_of_lane, start, last)
    ax.set_yticks(range(len(order)), [label(lane) for lane in order], fontsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    shade_unwatched(ax, source)
    ax.set_xlim(days([start, last + (last - start) * 0.01]))
    strip_frame(ax)
    use_time_axis(ax)
    hidden = marks["lane"].nunique() - len(order)
    write_title(ax, _title(incidents, len(marks), hidden, before, lane_column))
    ax.legend(**LEGEND)
    return ax


def _opening(incidents: Sequence[Incident], marks: pd.DataFrame, last: pd.Timestamp) -> pd.Timestamp:
    """Return where the window opens: a fifth of the incidents' length before they begin."""
    began = [each.began_at for each in incidents if each.began_at is not None]
    first = min(began) if began else marks["at"].min()
    lead = _LEAD if began else 0.05
    return first - max((last - first) * lead, pd.Timedelta("30s"))


def _incident_of(marks: pd.DataFrame, incidents: Sequence[Incident]) -> Any:
    """Return the number of the incident that each mark belongs to, the worst of several; else the last."""
    ids = [alloc_id for incident in incidents for alloc_id in incident.alloc_ids]
    index = np.repeat(np.arange(len(incidents)), [len(incident.alloc_ids) for incident in incidents])
    by_id = pd.Series(index, index=pd.Index(ids, dtype="str"))
    return look_up(marks["alloc_id"], by_id).fillna(len(incidents)).astype("int64").to_numpy()


def _order(marks: pd.DataFrame) -> tuple[list[str], list[int]]:
    """Return the lanes from top to bottom, by incident and time, and the incident of each."""
    by_lane = marks.groupby("lane", observed=True).agg(
        incident=("incident", "min"), at=("at", "min"), n=("at", "size")
    )
    kept = by_lane.sort_values(["incident", "n"], ascending=[True, False], kind="stable").head(MAX_LANES)
    kept = kept.sort_values(["incident", "at"], kind="stable")
    return kept.index.astype("str").tolist(), kept["incident"].tolist()


def _title(incidents: Sequence[Incident], marks: int, hidden: int, before: int, lane_column: str) -> str:
    """Return what happened, in one line, and in a second one what is not shown."""
    noun = next(noun for noun, column in _LANES.items() if column == lane_column)
    lacks = [f"{hidden:,} quieter {noun}s"] * bool(hidden) + [f"{before:,} earlier marks"] * bool(before)
    rest = f"not shown: {', '.join(lacks)}" if lacks else ""
    if not incidents:
        text = f"{count(marks, 'disturbances')}, no incident"
        return f"{text}; {rest}" if rest else text
    phrases = [_of_incident(each) for each in incidents]
    # the worst, and as many as fit into a line
    fit = 1
    while fit < len(phrases) and len("; ".join(phrases[: fit + 1])) <= _TITLE:
        fit += 1
    named = label("; ".join(phrases[:fit]), longest=_TITLE + 10)
    more = f"; {len(phrases) - fit:,} more" if len(phrases) > fit else ""
    return "\n".join(filter(None, [f"{named}{more}", rest]))


def _of_incident(incident: Incident) -> str:
    word = "at" if "lost" in incident.facts else "from"
    return f"{incident.title} {word} {incident.began_at or pd.NaT:%H:%M}"


@per_cluster
def _runs(source: Any) -> pd.DataFrame:
    """Return the runs, their names as categories: of a million allocations, texts take a gigabyte."""
    return build_runs(source)[
        ["slot", "task", "alloc_id", "job_id", "node_name", "started_at", "ended_at", "end"]
    ]


def _marks(source: Any, runs: pd.DataFrame) -> pd.DataFrame:
    """Return what is marked: failures, ends on request, losses. The slot of what never ran is missing."""
    events = failures_and_requests(source)
    events["slot"] = look_up(events["alloc_id"], slot_by_allocation(runs))
    lost = runs[runs["end"] == vocabulary.LOST]
    lost = lost.assign(at=lost["ended_at"], cause=vocabulary.LOST)[events.columns]
    parts = [part for part in (events, lost) if len(part)] or [events]
    return pd.concat(parts, ignore_index=True).dropna(subset=["at"])


def _lanes_of(rows: pd.DataFrame, column: str) -> pd.Series[Any]:
    """Return the lane of each row as a category. Its name is made once, and not for each row."""
    columns = ["slot", "alloc_id", "task"] if column == "slot_task" else [column]
    keys = {name: _as_numbers(rows[name]) for name in [*columns, *(["cluster"] if "cluster" in rows else [])]}
    if column == "slot_task":
        keys["alloc_id"] = keys["alloc_id"].where(rows["slot"].isna())
    number = pd.DataFrame(keys).groupby(list(keys), sort=False, dropna=False).ngroup().to_numpy()
    different = rows[~pd.Series(number).duplicated().to_numpy()]
    if column == "slot_task":
        slot = different["slot"].astype("str").fillna(different["alloc_id"].astype("str"))
        slot = slot.str.replace(r"^[^/]*/", "", regex=True)
        different = different.assign(slot_task=slot + " " + different["task"].astype("str"))
    names = with_cluster(different, column).astype("category")
    dtype: Any = names.dtype
    codes = names.cat.codes.to_numpy()[number]
    return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype), index=rows.index)


def _as_numbers(names: pd.Series[Any]) -> pd.Series[Any]:
    """Return the numbers of categories: pandas would make an object of each name to group by it."""
    return names.cat.codes if isinstance(names.dtype, pd.CategoricalDtype) else names


def _shade_incidents(
    ax: Axes, incidents: Sequence[Incident], owner: list[int], start: pd.Timestamp, end: pd.Timestamp
) -> None:
    """Shade the time of each incident over its lanes, and number it."""
    colours = theme(ax)
    for index, incident in enumerate(incidents):
        rows = [row for row, number in enumerate(owner) if number == index]
        if not rows or incident.began_at is None:
            continue
        over = incident.last_at
        if over is None or incident.state == "ongoing":
            over = end
        # a moment, such as the loss of a node, is as wide as one can see
        last = min(max(over, incident.began_at + (end - start) * 0.004), end)
        first = max(incident.began_at, start)
        low, high = days([first, last])
        ax.fill_betweenx(
            [rows[0] - 0.5, rows[-1] + 0.5], low, high, color=colours["shade"], linewidth=0, zorder=0.5
        )
        if rows[0] > 0:
            ax.axhline(rows[0] - 0.5, color=colours["grid"], linewidth=0.8, zorder=0.6)
        if len(incidents) > 1:
            ax.text(
                low, rows[0] - 0.42, f"{index + 1} ", ha="right", va="top", fontsize=8, fontweight="bold",
                color=colours["soft"],
            )  # fmt: skip


def _draw_runs(
    ax: Axes, runs: pd.DataFrame, row_of_lane: dict[str, int], start: pd.Timestamp, end: pd.Timestamp
) -> None:
    shown = runs[runs["lane"].isin(list(row_of_lane))].astype({"lane": "str"})
    for lane, part in shown.groupby("lane"):
        left = days(part["started_at"].where(part["started_at"] > start, start))
        width = days(part["ended_at"].where(part["ended_at"] < end, end)) - left
        ax.broken_barh(
            list(zip(left, width, strict=True)),
            (row_of_lane[str(lane)] - 0.3, 0.6),
            facecolors=theme(ax)["run"],
            linewidth=0,
        )


def _draw_marks(
    ax: Axes, marks: pd.DataFrame, row_of_lane: dict[str, int], start: pd.Timestamp, end: pd.Timestamp
) -> None:
    """Draw one mark for all disturbances of a kind in a lane within a 160th of the width."""
    bin_width = max((end - start) / _BINS, pd.Timedelta(1, "us"))
    kinds = marks["cause"].map(vocabulary.CAUSE_KINDS).fillna("other")
    marks = marks.assign(kind=kinds, bin=(marks["at"] - start) // bin_width)
    colours = theme(ax)
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
            c=colours["ink"] if colour == "ink" else colour,
            marker=mark,
            linewidths=0.4,
            edgecolors=colours["paper"],
            # an allocation with two tasks is lost once
            label=f"{kind} ({part['alloc_id'].nunique() if kind == _LOST else len(part):,})",
            zorder=3,
        )
