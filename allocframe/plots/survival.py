"""Survival curves and curves of cumulative restarts, with their confidence bands."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ._style import CYCLE, axes, draw_empty, label, require_table, strip_frame

MAX_CURVES = len(CYCLE)
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
    ax = _draw_curves(table, "survival", "runs", axes(ax))
    ax.set_ylim(0, 1.02)
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
    ax = _draw_curves(table, "mean", "tasks", axes(ax))
    ax.set_ylim(bottom=0)
    ax.set_ylabel("mean restarts per task")
    ax.set_xlabel("time since the allocation was created")
    return ax


def _draw_curves(table: pd.DataFrame, value: str, size: str, ax: Axes) -> Axes:
    keys = list(table.columns[: table.columns.get_loc("time")])
    if table.empty:
        return draw_empty(ax, "nothing ran")
    named = table.assign(curve=table[keys].astype("str").agg(" ".join, axis=1) if keys else "")
    events = named.groupby("curve")["events"].sum().sort_values(ascending=False, kind="stable")
    # a curve without events is a flat line; draw those only if there is nothing else
    drawn = events[events > 0] if events.any() else events
    for colour, curve in zip(CYCLE, drawn.index, strict=False):
        part = named[named["curve"] == curve]
        bounded = part.dropna(subset=["lower", "upper"])
        n = f"{part[size].iloc[0]:,} {size}, " if size in part.columns else ""
        legend = f"{label(curve)} ({n}{events[curve]:,} events)".strip()
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
    hidden = len(events) - min(len(drawn), MAX_CURVES)
    if hidden:
        ax.set_title(f"{hidden:,} curves with fewer or no events not shown", loc="left", fontsize=9)
    _scale_time(ax, named[named["curve"].isin(drawn.index[:MAX_CURVES])])
    strip_frame(ax, grid="both")
    ax.legend(frameon=False, fontsize=8, title=", ".join(keys) or None, title_fontsize=8)
    return ax


def _scale_time(ax: Axes, shown: pd.DataFrame) -> None:
    """Use a logarithmic time axis if most events come early: crashes after seconds beside runs of weeks."""
    event_times = shown.loc[(shown["events"] > 0) & (shown["time"] > 0), "time"]
    longest = shown["time"].max()
    if len(event_times) and longest > _LOG_SCALE_FROM * event_times.median():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([seconds / 3600 for seconds in _TICKS_IN_SECONDS]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(event_times.min() / 2, longest)
    else:
        ax.set_xlim(0, longest or 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda hours, _: _format_hours(hours)))


def _format_hours(hours: float) -> str:
    """Return hours as the label of a tick: in seconds, minutes or hours."""
    seconds = hours * 3600
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds else "0"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{hours:.3g} h"
