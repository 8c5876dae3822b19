"""The incident timeline and the waterfall of a job's allocations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .. import stats
from .._utils.times import to_utc
from ..stats.runs import slots_of
from ._style import (
    BLUE,
    CAUSES,
    RED,
    axes,
    days,
    in_time,
    label,
    nothing,
    one_cluster,
    plain,
    unwatched,
    with_cluster,
)

MOST_LANES = 30
_BINS = 160
_LANES = {"task": "slot_task", "job": "job_id", "node": "node_name"}


def timeline(
    source: Any,
    *,
    lanes: str | None = None,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what went wrong when: a lane for each task, job or node, a mark for each end that was no success.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    lanes : str, optional
        "task" (slots of ``job.group[0]``), "job" or "node"; else tasks if there are few, else jobs, else nodes. Only lanes in
        which something happened are drawn, at most 30, the busiest ones.
    since, until : time, optional
        The window; else from shortly before the first mark to the end.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Marks that would lie on each other are one, larger mark. Pale bars show when tasks ran, where lanes are tasks.

    Examples
    --------
    >>> af.plots.timeline(snap.events).get_xlabel()
    'time (UTC)'
    """
    marks, ran = _marks(source)
    marks = _between(marks, since, until)
    if marks.empty:
        return nothing(axes(ax, 2), "no failure, restart or loss in this window")
    name = _lane(marks, lanes)
    marks = marks.assign(lane=marks[name].astype("str"))
    busiest = marks["lane"].value_counts()
    chosen = marks[marks["lane"].isin(busiest.index[:MOST_LANES])]
    order = chosen.groupby("lane")["at"].min().sort_values(kind="stable").index.tolist()
    place = {lane: number for number, lane in enumerate(order)}
    ax = axes(ax, 1.6 + 0.24 * len(order))
    start, end = _limits(marks, ran, since, until)
    if name == "slot_task":
        _bars(ax, ran.assign(lane=ran["slot_task"]), place, start, end)
    _scatter(ax, chosen, place, start, end)
    ax.set_yticks(range(len(order)), [label(lane) for lane in order], fontsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    unwatched(ax, source)
    ax.set_xlim(days([start, end]))
    plain(ax)
    in_time(ax)
    hidden = len(busiest) - len(order)
    what = {"slot_task": "task", "job_id": "job", "node_name": "node"}[name]
    ax.set_title(
        f"{len(marks):,} {'disturbance' if len(marks) == 1 else 'disturbances'} by {what}"
        + (f"; {hidden:,} quieter {what}s not shown" if hidden else ""),
        loc="left",
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return ax


def _marks(source: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the disturbances (ends that were no success, failed starts, losses) and the runs."""
    ran = stats.runs(source)
    ran["slot_task"] = _short(ran["slot"]) + " " + ran["task"].astype("str")
    events = stats.explain_events(source)
    asked = (events["type"] == "Terminated") & events["cause"].isin(CAUSES["on request"][2])
    told = events[events["failure"].astype(bool) | asked].copy()
    told["slot_task"] = _short(slots_of(told, ran)) + " " + told["task"].astype("str")
    columns = ["at", "cause", *_LANES.values()]
    lost = ran[ran["end"] == "lost"].assign(at=lambda table: table["ended_at"], cause="lost")
    marks = [
        part.assign(**{name: with_cluster(part, name) for name in _LANES.values()})[columns]
        for part in (told.rename(columns={"time": "at"}), lost)
    ]
    return pd.concat(marks, ignore_index=True).dropna(subset=["at"]), ran.assign(
        slot_task=with_cluster(ran, "slot_task")
    )


def _short(slot: pd.Series[Any]) -> pd.Series[Any]:
    return slot.astype("str").str.replace(r"^[^/]*/", "", regex=True)


def _between(marks: pd.DataFrame, since: Any, until: Any) -> pd.DataFrame:
    if since is not None:
        marks = marks[marks["at"] >= to_utc(since, "since")]
    return marks if until is None else marks[marks["at"] <= to_utc(until, "until")]


def _lane(marks: pd.DataFrame, lanes: str | None) -> str:
    if lanes is not None:
        if lanes not in _LANES:
            raise ValueError(f"lanes must be 'task', 'job' or 'node', not {lanes!r}")
        return _LANES[lanes]
    few = [name for name in _LANES.values() if marks[name].nunique() <= MOST_LANES]
    return few[0] if few else "node_name"


def _limits(
    marks: pd.DataFrame, ran: pd.DataFrame, since: Any, until: Any
) -> tuple[pd.Timestamp, pd.Timestamp]:
    end = to_utc(until, "until") if until is not None else max(marks["at"].max(), ran["ended_at"].max())
    first = marks["at"].min()
    pause = max((end - first) * 0.05, pd.Timedelta("1min"))
    return (to_utc(since, "since") if since is not None else first - pause), end + pause * 0.2


def _bars(ax: Axes, ran: pd.DataFrame, place: dict[str, int], start: pd.Timestamp, end: pd.Timestamp) -> None:
    shown = ran[ran["lane"].isin(list(place)) & (ran["ended_at"] >= start) & (ran["started_at"] <= end)]
    for lane, part in shown.groupby("lane"):
        left = days(part["started_at"].where(part["started_at"] > start, start))
        width = days(part["ended_at"].where(part["ended_at"] < end, end)) - left
        ax.broken_barh(
            list(zip(left, width, strict=True)),
            (place[str(lane)] - 0.3, 0.6),
            facecolors="#dbe9f4",
            linewidth=0,
        )


def _scatter(
    ax: Axes, marks: pd.DataFrame, place: dict[str, int], start: pd.Timestamp, end: pd.Timestamp
) -> None:
    """Draw one mark for all that happened in a lane within a 160th of the width."""
    width = (end - start) / _BINS
    kinds = {cause: kind for kind, (_, _, causes) in CAUSES.items() for cause in causes}
    marks = marks.assign(kind=marks["cause"].map(kinds).fillna("other"), bin=((marks["at"] - start) // width))
    for kind, (colour, mark, _) in CAUSES.items():
        part = marks[marks["kind"] == kind]
        if part.empty:
            continue
        cells = part.groupby(["lane", "bin"]).agg(at=("at", "mean"), n=("at", "size")).reset_index()
        size = 26 + 16 * np.log2(cells["n"])
        y = cells["lane"].map(place).to_numpy()
        ax.scatter(
            days(cells["at"]),
            y,
            s=size,
            c=colour,
            marker=mark,
            linewidths=0.4,
            edgecolors="white",
            label=f"{kind} ({len(part):,})",
            zorder=3,
        )


def waterfall(source: Any, job_id: str, *, namespace: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the allocations of a job one below the other in the order they were placed: when they ran, in which version, how they ended.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With `allocations`.
    job_id : str
    namespace : str, optional
        Where several namespaces have a job of that name.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.waterfall(snap, "payments-api").get_xlabel()
    'time (UTC)'
    """
    ran = stats.runs(source)
    mine = ran[ran["job_id"].astype("str") == job_id]
    if namespace is not None:
        mine = mine[mine["namespace"].astype("str") == namespace]
    if mine.empty:
        raise ValueError(f"no task of a job {job_id!r} ran, as far as these tables tell")
    one_cluster(mine, f"the waterfall of {job_id}")
    first = mine.groupby(mine["alloc_id"].astype("str"))["started_at"].min().sort_values(kind="stable")
    place = {alloc: number for number, alloc in enumerate(first.index)}
    ax = axes(ax, min(2.0 + 0.2 * len(place), 7.0))
    versions = sorted(mine["job_version"].dropna().unique())
    tones = dict(zip(versions, _tones(len(versions)), strict=True))
    for version, part in mine.groupby("job_version", observed=True):
        left = days(part["started_at"])
        y = part["alloc_id"].astype("str").map(place).to_numpy()
        ax.barh(
            y,
            np.maximum(days(part["ended_at"]) - left, 0),
            left=left,
            height=0.8,
            color=tones[version],
            label=f"version {version}",
            linewidth=0,
        )
    _unseen(ax, mine, first, place, source)
    failed = mine[mine["failure"]]
    if len(failed):
        y = failed["alloc_id"].astype("str").map(place).to_numpy()
        small = max(6.0, 36 - len(place) / 8)
        ax.scatter(
            days(failed["ended_at"]),
            y,
            s=small,
            c=RED,
            marker="X",
            linewidths=0.3,
            edgecolors="white",
            label=f"failed run ({len(failed):,})",
            zorder=3,
        )
    few = len(place) <= 40
    ax.set_yticks(
        range(len(place)) if few else [],
        [f"{alloc[:8]}" for alloc in place] if few else [],
        fontsize=7,
        family="monospace",
    )
    ax.set_ylim(len(place) - 0.4, -0.6)
    ax.set_ylabel("" if few else f"{len(place):,} allocations, oldest first")
    ax.set_title(
        f"{label(job_id)}: {len(place):,} allocations, {len(versions)} versions".replace(
            " 1 versions", " 1 version"
        ),
        loc="left",
    )
    plain(ax)
    in_time(ax)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return ax


def _unseen(ax: Axes, mine: pd.DataFrame, first: pd.Series[Any], place: dict[str, int], source: Any) -> None:
    """Draw in grey the beginnings that the rings have lost."""
    cut = mine.loc[mine["left_truncated"].astype(bool), "alloc_id"].astype("str").unique()
    allocations = stats.reschedule_chains(source)
    created = allocations.set_index(allocations["alloc_id"].astype("str"))["created_at"].reindex(cut)
    left, right = days(created), days(first.reindex(cut))
    if len(cut):
        y = [place[alloc] for alloc in cut]
        ax.barh(
            y,
            np.maximum(right - left, 0),
            left=left,
            height=0.5,
            color="#d0d0d0",
            label="events gone",
            linewidth=0,
        )


def _tones(count: int) -> list[Any]:
    """Return blues from pale to strong, the newest version the strongest; one version is blue."""
    if count == 1:
        return [BLUE]
    pale, strong = np.array([0.78, 0.86, 0.93]), np.array([0.0, 0.36, 0.60])
    return [tuple(pale + (strong - pale) * share) for share in np.linspace(0, 1, count)]
