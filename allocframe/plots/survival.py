"""Survival and cumulative-restart curves with their bands."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ._style import CYCLE, axes, label, nothing, plain

MOST_CURVES = len(CYCLE)
_FAR = 10
_TICKS = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 36_000, 360_000, 3_600_000)


def survival(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of runs that last longer than each time, with 95 % bands.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.survival` or `stats.kaplan_meier` returns. At most seven curves are drawn, those with most events.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.survival(af.stats.survival(snap, by="job_version")).get_ylabel()
    'share still running'
    """
    ax = _curves(table, "survival", "runs", axes(ax))
    ax.set_ylim(0, 1.02)
    ax.set_ylabel("share still running")
    ax.set_xlabel("since the start of the run")
    return ax


def cumulative_restarts(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the mean number of restarts of a task by age, with 95 % bands.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.cumulative_restarts` or `stats.mean_cumulative` returns. At most seven curves are drawn, those with most events.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.cumulative_restarts(af.stats.cumulative_restarts(snap)).get_ylabel()
    'restarts per task'
    """
    ax = _curves(table, "mean", "tasks", axes(ax))
    ax.set_ylim(bottom=0)
    ax.set_ylabel("restarts per task")
    ax.set_xlabel("since the allocation was created")
    return ax


def _curves(table: pd.DataFrame, value: str, size: str, ax: Axes) -> Axes:
    keys = list(table.columns[: table.columns.get_loc("time")])
    if table.empty:
        return nothing(ax, "nothing ran")
    named = table.assign(curve=table[keys].astype("str").agg(" ".join, axis=1) if keys else "")
    by_events = named.groupby("curve")["events"].sum().sort_values(ascending=False, kind="stable")
    told = by_events[by_events > 0] if by_events.any() else by_events
    for colour, curve in zip(CYCLE, told.index, strict=False):
        part = named[named["curve"] == curve]
        known = part.dropna(subset=["lower", "upper"])
        n = f"{part[size].iloc[0]:,} {size}, " if size in part.columns else ""
        said = f"{label(curve)} ({n}{by_events[curve]:,} events)".strip()
        ax.step(part["time"], part[value], where="post", color=colour, label=said, linewidth=1.8)
        ax.fill_between(
            known["time"], known["lower"], known["upper"], step="post", color=colour, alpha=0.15, linewidth=0
        )
    hidden = len(by_events) - min(len(told), MOST_CURVES)
    if hidden:
        ax.set_title(f"{hidden:,} curves with fewer events, or none, not shown", loc="left", fontsize=9)
    _across(ax, named[named["curve"].isin(told.index[:MOST_CURVES])])
    plain(ax, grid="both")
    ax.legend(frameon=False, fontsize=8, title=", ".join(keys) or None, title_fontsize=8)
    return ax


def _across(ax: Axes, shown: pd.DataFrame) -> None:
    """Spread short times out where the longest are far longer than where most happens."""
    happened = shown.loc[(shown["events"] > 0) & (shown["time"] > 0), "time"]
    longest = shown["time"].max()
    if len(happened) and longest > _FAR * happened.median():
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(FixedLocator([seconds / 3600 for seconds in _TICKS]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(happened.min() / 2, longest)
    else:
        ax.set_xlim(0, longest or 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda hours, _: _length(hours)))


def _length(hours: float) -> str:
    """Return hours as a tick says them: in seconds, minutes or hours."""
    seconds = hours * 3600
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds else "0"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{hours:.3g} h"
