"""Survival curves and curves of cumulative restarts, with their confidence bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from .._utils.prose import count
from ._style import (
    CYCLE,
    LEGEND,
    axes,
    colours_of_curves,
    draw_empty,
    format_seconds,
    joined,
    label,
    require_table,
    strip_frame,
    write_title,
)

MAX_CURVES = len(CYCLE)
_MOST_POINTS = 3000
_LOG_SCALE_FROM = 10
"""The time axis is logarithmic if the longest time is this many times the median time of the events."""

_TICKS_IN_SECONDS = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000, 3_600_000)


def survival(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of runs that last longer than each time, with 95 % bands.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.survival` or `stats.kaplan_meier` returns, with times in hours. The seven curves with most
        events are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> af.plots.survival(af.stats.survival(snap, by="job_version")).get_ylabel()
    'share of runs still running'
    """
    require_table(table, "survival", "survival")
    ax, ends = _draw_curves(table, "survival", "runs", axes(ax))
    if ends.empty:
        return ax
    ax.set_ylim(0, 1.02)
    ax.legend(title=", ".join(_keys(table)) or None, title_fontsize=8, **LEGEND)
    shortest = table[table["survival"] <= 0.5]
    if len(ends) and len(shortest):
        row = shortest.iloc[[int(shortest["time"].to_numpy(float).argmin())]]
        who = joined(row, _keys(table)).iloc[0] if _keys(table) else ""
        lasts = format_seconds(3600 * float(row["time"].iloc[0]))
        half = f"Half of the runs{f' of {label(who)}' if who else ''} last {lasts} at most"
    else:
        half = "Most runs are still running"
    write_title(ax, half, _hidden(ends))
    ax.set_ylabel("share of runs still running")
    ax.set_xlabel("time since the start of the run")
    return ax


def cumulative_restarts(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean number of restarts of a task by age, with 95 % bands.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.cumulative_restarts` or `stats.mean_cumulative` returns, with times in hours. The seven
        curves with most events are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> af.plots.cumulative_restarts(af.stats.cumulative_restarts(snap)).get_ylabel()
    'mean restarts per task'
    """
    require_table(table, "cumulative_restarts", "cumulative_restarts")
    ax, ends = _draw_curves(table, "mean", "tasks", axes(ax))
    if ends.empty:
        return ax
    ax.set_ylim(bottom=0)
    _label_ends(ax, ends)
    most: dict[Any, Any] = ends.iloc[int(ends["mean"].fillna(-1).to_numpy(float).argmax())].to_dict()
    who = f"{label(most['curve'])}: " if most["curve"] else ""
    after = format_seconds(3600 * most["time"])
    mean = f"{most['mean']:.3g}"
    restarts = f"{mean} restart{'' if mean == '1' else 's'} of a task"
    write_title(ax, f"{who}{restarts} on average after {after}", _hidden(ends))
    ax.set_ylabel("mean restarts per task")
    ax.set_xlabel("time since the allocation was created")
    return ax


def _hidden(ends: pd.DataFrame) -> str:
    hidden = int(ends["hidden"].iloc[0])
    return f"{count(hidden, 'curves')} with fewer or no events" if hidden else ""


def _label_ends(ax: Axes, ends: pd.DataFrame) -> None:
    """Name each curve beside its end, so that nobody has to look up its colour."""
    room = 0.05 * float(ax.get_ylim()[1])
    lowest = -room
    for row in ends.dropna(subset=["mean"]).sort_values("mean").to_dict("records"):
        # names of curves that end close together stand one above the other
        lowest = max(float(row["mean"]), lowest + room)
        tasks = f", {count(row['tasks'], 'tasks')}" if "tasks" in row else ""
        ax.annotate(
            f" {label(row['curve'])} {row['mean']:.3g}{tasks}".rstrip(), (row["time"], row["mean"]),
            xytext=(row["time"], lowest), fontsize=8, va="center", color=row["colour"], annotation_clip=False,
        )  # fmt: skip


def _keys(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.columns[: table.columns.get_loc("time")]]


def _draw_curves(table: pd.DataFrame, value: str, size: str, ax: Axes) -> tuple[Axes, pd.DataFrame]:
    """Draw the curves with most events; return the axes, and the last row of each curve that is drawn."""
    keys = list(table.columns[: table.columns.get_loc("time")])
    if table.empty:
        return draw_empty(ax, "nothing ran"), table
    curve = joined(table, keys) if keys else pd.Series("", index=table.index)
    events = table["events"].groupby(curve.to_numpy()).sum().sort_values(ascending=False, kind="stable")
    # a curve without events is a flat line; draw those only if there is nothing else
    drawn = events[events > 0] if events.any() else events
    drawn = drawn.head(MAX_CURVES)
    shown = table[curve.isin(drawn.index).to_numpy()].assign(curve=curve)
    ends = []
    for colour, name in zip(colours_of_curves(ax), drawn.index, strict=False):
        part = _thinned(shown[shown["curve"] == name])
        bounded = part.dropna(subset=["lower", "upper"])
        n = f"{count(int(part[size].iloc[0]), size)}, " if size in part.columns else ""
        legend = f"{label(name)} ({n}{count(int(events[name]), 'events')})".strip()
        ax.step(part["time"], part[value], where="post", color=colour, label=legend, linewidth=1.8)
        ax.fill_between(
            bounded["time"],
            bounded["lower"],
            bounded["upper"],
            step="post",
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        ends.append(part.iloc[[-1]].assign(colour=colour))
    _scale_time(ax, shown)
    strip_frame(ax, grid="both")
    hidden = len(events) - len(drawn)
    return ax, pd.concat(ends).assign(hidden=hidden)


def _thinned(part: pd.DataFrame) -> pd.DataFrame:
    """Return some thousand rows of a curve, evenly: more cannot be seen, and take minutes to draw."""
    if len(part) <= _MOST_POINTS:
        return part
    return part.iloc[np.unique(np.linspace(0, len(part) - 1, _MOST_POINTS).astype(int))]


def _scale_time(ax: Axes, shown: pd.DataFrame) -> None:
    """Use a logarithmic time axis if most events come early: crashes after seconds next to runs of weeks."""
    event_times = shown.loc[(shown["events"] > 0) & (shown["time"] > 0), "time"]
    longest = shown["time"].max()
    if len(event_times) and longest > _LOG_SCALE_FROM * event_times.median():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([seconds / 3600 for seconds in _TICKS_IN_SECONDS]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(event_times.min() / 2, longest)
    else:
        ax.set_xlim(0, longest or 1)
        # round numbers of the unit that the labels have
        unit = next(each for each in (1, 1 / 60, 1 / 3600) if longest >= each or each == 1 / 3600)
        ticks = MaxNLocator(7).tick_values(0, longest / unit)
        ax.xaxis.set_major_locator(FixedLocator([unit * float(tick) for tick in ticks]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda hours, _: format_seconds(3600 * hours)))
