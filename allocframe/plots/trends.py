"""The plot of failures and restarts by day."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from .._utils.prose import number
from ._style import (
    BLUE,
    RED,
    axes,
    days,
    draw_empty,
    require_one_cluster,
    require_table,
    strip_frame,
    theme,
    write_title,
)

_SERIES = (("failures", RED, "X", -0.1), ("restarts", BLUE, "o", 0.1))
"""Column, colour and mark of each series, and its shift in days, which keeps their intervals side by side."""

_MAX_LABELS = 14


def daily(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw failures and restarts per 100 task hours by day, with 95 % intervals; incomplete days are grey.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.daily` returns.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        A grey day was not observed completely: its rates are those of what was seen. Its text says which
        share of it was watched.

    Raises
    ------
    ValueError
        The table holds several clusters.

    Examples
    --------
    >>> af.plots.daily(af.stats.daily(snap)).get_xlabel()
    'day (UTC)'
    """
    require_table(table, "daily", "daily")
    require_one_cluster(table, "the plot of days")
    ax = axes(ax, 3.6)
    with_exposure = table[table["exposure_hours"] > 0]
    if with_exposure.empty:
        return draw_empty(ax, "no task ran on these days")
    for name, colour, mark, shift in _SERIES:
        rate, lower, upper = (
            100 * with_exposure[f"{name}_{part}"].astype(float) for part in ("per_hour", "lower", "upper")
        )
        ax.errorbar(
            days(with_exposure["day"]) + 0.5 + shift, rate, yerr=[rate - lower, upper - rate],
            color=colour, marker=mark, markersize=7, linewidth=0.8, elinewidth=1.4, capsize=3, linestyle=":",
            label=f"{name} ({int(table[name].sum()):,})",
        )  # fmt: skip
    shading = _shade_incomplete_days(ax, table)
    first, last = days(table["day"])[[0, -1]]
    ax.set_xlim(first, last + 1)
    ax.set_ylim(0, max(1.22 * ax.get_ylim()[1], 0.1))  # room for the text of incomplete days
    ax.set_ylabel("per 100 task hours")
    _label_days(ax, table)
    strip_frame(ax, grid="y")
    rates = with_exposure["failures_per_hour"].to_numpy(float)
    worst: dict[Any, Any] = with_exposure.iloc[int(rates.argmax())].to_dict()
    most = 100 * float(rates.max())
    complete = f"{int(table['complete'].sum()):,} of {len(table):,} days observed completely"
    failures = f"Most failures on {worst['day']:%-d %b}: {number(most)} in 100 task hours"
    write_title(ax, f"{failures if worst['failures'] else 'No failure'}; {complete}")
    ax.legend(
        handles=[*ax.get_legend_handles_labels()[0], *shading],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
        fontsize=8,
    )
    return ax


def _shade_incomplete_days(ax: Axes, table: pd.DataFrame) -> list[Any]:
    """Shade the days that were not observed completely; return the entry of the legend."""
    has_room = len(table) <= 16
    for row in table[~table["complete"]].to_dict("records"):
        left = days([row["day"]])[0]
        ax.axvspan(left, left + 1, color=theme(ax)["unwatched"], zorder=0, linewidth=0)
        if has_room and not pd.isna(row["watched"]) and row["watched"] < 1:
            ax.text(
                left + 0.5, 0.98, f"{row['watched']:.0%}\nwatched", ha="center", va="top", fontsize=8,
                color=theme(ax)["soft"], transform=ax.get_xaxis_transform(),
            )  # fmt: skip
    return [] if table["complete"].all() else [Patch(color=theme(ax)["unwatched"], label="incomplete")]


def _label_days(ax: Axes, table: pd.DataFrame) -> None:
    """Name the days at their middles, as many as there is room for."""
    step = max(1, -(-len(table) // _MAX_LABELS))
    shown = table["day"].iloc[::step]
    ax.set_xticks(days(shown) + 0.5, [f"{day:%-d %b}" for day in shown], fontsize=8)
    ax.xaxis.set_minor_locator(mdates.DayLocator(tz="UTC"))
    ax.set_xlabel("day (UTC)")
