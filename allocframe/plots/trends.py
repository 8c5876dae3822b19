"""The plot of days."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from ._style import BLUE, RED, UNWATCHED, axes, days, nothing, one_cluster, plain

_SERIES = (("failures", RED, "X", -0.1), ("restarts", BLUE, "o", 0.1))


def daily(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw failures and restarts in 100 task hours by day, with their 95 % intervals; incomplete days are grey.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.daily` returns.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        A grey day was not observed as a whole: its rates are of what was seen. Its text says which share of it was watched.

    Examples
    --------
    >>> af.plots.daily(af.stats.daily(snap)).get_xlabel()
    'day (UTC)'
    """
    one_cluster(table, "the plot of days")
    ax = axes(ax, 3.6)
    known = table[table["exposure_hours"] > 0]
    if known.empty:
        return nothing(ax, "no task ran in these days")
    for name, colour, mark, shift in _SERIES:
        rate, lower, upper = (
            100 * known[f"{name}_{part}"].astype(float) for part in ("per_hour", "lower", "upper")
        )
        ax.errorbar(
            days(known["day"]) + 0.5 + shift, rate, yerr=[rate - lower, upper - rate], color=colour, marker=mark, markersize=7,
            linewidth=0.8, elinewidth=1.4, capsize=3, linestyle=":", label=f"{name} ({int(table[name].sum()):,})",
        )  # fmt: skip
    handles = _shaded(ax, table)
    first, last = days(table["day"])[[0, -1]]
    ax.set_xlim(first, last + 1)
    ax.set_ylim(0, max(1.22 * ax.get_ylim()[1], 0.1))  # room for what is said of incomplete days
    ax.set_ylabel("in 100 task hours")
    _dated(ax, table)
    plain(ax, grid="y")
    ax.set_title(
        f"{len(table):,} days, {int(table['complete'].sum()):,} of them observed as a whole", loc="left"
    )
    ax.legend(
        handles=[*ax.get_legend_handles_labels()[0], *handles], loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8
    )  # fmt: skip
    return ax


def _shaded(ax: Axes, table: pd.DataFrame) -> list[Any]:
    """Shade what was not observed as a whole; return what the legend says of it."""
    few = len(table) <= 16
    for row in table[~table["complete"]].to_dict("records"):
        left = days([row["day"]])[0]
        ax.axvspan(left, left + 1, color=UNWATCHED, zorder=0, linewidth=0)
        if few and not pd.isna(row["watched"]) and row["watched"] < 1:
            ax.text(
                left + 0.5, 0.98, f"{row['watched']:.0%}\nwatched", ha="center", va="top", fontsize=8, color="#555555",
                transform=ax.get_xaxis_transform(),
            )  # fmt: skip
    return [] if table["complete"].all() else [Patch(color=UNWATCHED, label="incomplete")]


def _dated(ax: Axes, table: pd.DataFrame) -> None:
    """Name the days under their middles, as many as there is room for."""
    step = max(1, -(-len(table) // 14))
    shown = table["day"].iloc[::step]
    ax.set_xticks(days(shown) + 0.5, [f"{day:%b %d}" for day in shown], fontsize=8)
    ax.xaxis.set_minor_locator(mdates.DayLocator(tz="UTC"))
    ax.set_xlabel("day (UTC)")
