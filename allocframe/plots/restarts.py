"""The heatmap of restarts over time, and the pareto of failures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ._style import BLUE, RED, axes, days, in_time, label, nothing, plain, with_cluster

MOST_ROWS = 25


def heatmap(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw counts over time, a row for each group.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.restarts` or its sisters return with ``bin=``. At most 25 rows are drawn, those with the highest counts.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.heatmap(af.stats.restarts(snap, by="job_id", bin="15min")).get_xlabel()
    'time (UTC)'
    """
    if "bin" not in table.columns:
        raise ValueError("heatmap draws counts over time: ask the statistic for bin='15min' or so")
    keys = list(table.columns[: table.columns.get_loc("bin")])
    named = table.assign(row=table[keys].astype("str").agg(" ".join, axis=1) if keys else "all")
    totals = named.groupby("row")["count"].sum().sort_values(ascending=False, kind="stable")
    rows = totals[totals > 0].index[:MOST_ROWS]
    if not len(rows):
        return nothing(axes(ax, 2), "nothing to count in this window")
    grid = named.pivot_table(index="row", columns="bin", values="count", aggfunc="sum", fill_value=0).loc[
        rows
    ]
    ax = axes(ax, 1.6 + 0.26 * len(rows))
    left = pd.DatetimeIndex(grid.columns)
    width = left[1] - left[0] if len(left) > 1 else table["window_end"].iloc[0] - left[0]
    edges = days([*left, left[-1] + width])
    values = np.ma.masked_equal(grid.to_numpy(), 0)
    drawn = ax.pcolormesh(
        edges, np.arange(len(rows) + 1), values, cmap="cividis_r", vmin=0, edgecolors="white", linewidth=0.4
    )
    ax.set_yticks(np.arange(len(rows)) + 0.5, [label(row) for row in rows], fontsize=8)
    ax.invert_yaxis()
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.01, label=f"count in {_span(width)}")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    plain(ax, grid="both")
    ax.grid(visible=False)
    in_time(ax)
    hidden = int((totals > 0).sum()) - len(rows)
    ax.set_title(
        f"{int(totals.sum()):,} in all, by {' and '.join(keys) or 'time'}"
        + (f"; {hidden:,} smaller rows not shown" if hidden else ""),
        loc="left",
    )
    return ax


def _span(width: pd.Timedelta) -> str:
    minutes = width.total_seconds() / 60
    return f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h"


def pareto(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw who causes most failures, with the share that the first ones make up together.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.failure_ranking` returns. At most 25 bars are drawn; the last sums up the others.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.pareto(af.stats.failure_ranking(snap, by="job_id")).get_xlabel()
    'failures'
    """
    if table.empty:
        return nothing(axes(ax, 2), "no failures")
    name = next(column for column in map(str, table.columns) if column != "cluster")
    table = table.assign(**{name: with_cluster(table, name)})
    shown = table.head(MOST_ROWS)
    rest = table.iloc[MOST_ROWS:]
    names = [label(value) for value in shown[name]] + ([f"{len(rest):,} others"] if len(rest) else [])
    counts = [*shown["failures"], *([int(rest["failures"].sum())] if len(rest) else [])]
    reached = [*shown["cumulative_share"], *([1.0] if len(rest) else [])]
    ax = axes(ax, 1.4 + 0.26 * len(names))
    ax.barh(range(len(names)), counts, color=BLUE, height=0.7)
    for place, (count, share) in enumerate(zip(counts, reached, strict=True)):
        ax.text(count, place, f" {count:,}, together {share:.0%}", va="center", fontsize=8)
    ax.axhline(int(np.searchsorted(reached, 0.8)) + 0.5, color=RED, linewidth=1, linestyle="--")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, max(counts) * 1.25)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("failures")
    ax.set_title(f"{sum(counts):,} failures by {name}; above the dashed line 80 %", loc="left")
    plain(ax)
    return ax
