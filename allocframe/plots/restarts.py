"""The heatmap of counts over time, and the Pareto chart of failures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ._style import (
    BLUE,
    RED,
    axes,
    days,
    draw_empty,
    label,
    require_table,
    strip_frame,
    use_time_axis,
    with_cluster,
)

MAX_ROWS = 25


def heatmap(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw counts over time, a row for each group.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.restarts`, `failures`, `failed_starts` or `oom_kills` returns with ``bin=``. The 25 rows
        with the highest counts are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        The table has no bins.

    Examples
    --------
    >>> af.plots.heatmap(af.stats.restarts(snap, by="job_id", bin="15min")).get_xlabel()
    'time (UTC)'
    """
    require_table(table, "heatmap", "restarts")
    if "bin" not in table.columns:
        raise ValueError("table must have a column 'bin'. Call the statistic with bin='15min', for example.")
    keys = list(table.columns[: table.columns.get_loc("bin")])
    named = table.assign(row=table[keys].astype("str").agg(" ".join, axis=1) if keys else "all")
    totals = named.groupby("row")["count"].sum().sort_values(ascending=False, kind="stable")
    rows = totals[totals > 0].index[:MAX_ROWS]
    if not len(rows):
        return draw_empty(axes(ax, 2), "nothing to count in this window")
    counts = named.pivot_table(index="row", columns="bin", values="count", aggfunc="sum", fill_value=0)
    counts = counts.loc[rows]
    ax = axes(ax, 1.6 + 0.26 * len(rows))
    left = pd.DatetimeIndex(counts.columns)
    width = left[1] - left[0] if len(left) > 1 else table["window_end"].iloc[0] - left[0]
    edges = days([*left, left[-1] + width])
    cells = np.ma.masked_equal(counts.to_numpy(), 0)  # an empty cell stays white, whatever the colour of 1
    mesh = ax.pcolormesh(
        edges, np.arange(len(rows) + 1), cells, cmap="cividis_r", vmin=0, edgecolors="white", linewidth=0.4
    )
    ax.set_yticks(np.arange(len(rows)) + 0.5, [label(row) for row in rows], fontsize=8)
    ax.invert_yaxis()
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.01, label=f"count per {_format_width(width)}")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    strip_frame(ax, grid="both")
    ax.grid(visible=False)
    use_time_axis(ax)
    hidden = int((totals > 0).sum()) - len(rows)
    ax.set_title(
        f"{int(totals.sum()):,} in total, by {' and '.join(keys) or 'time'}"
        + (f"; {hidden:,} smaller rows not shown" if hidden else ""),
        loc="left",
    )
    return ax


def _format_width(width: pd.Timedelta) -> str:
    minutes = width.total_seconds() / 60
    return f"{minutes:g} min" if minutes < 60 else f"{minutes / 60:g} h"


def pareto(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw who causes most failures, with the cumulative share.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.failure_ranking` returns. At most 25 bars are drawn, and one for all others.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        The bars above the dashed line make up 80 % of the failures.

    Examples
    --------
    >>> af.plots.pareto(af.stats.failure_ranking(snap, by="job_id")).get_xlabel()
    'failures'
    """
    require_table(table, "pareto", "failure_ranking")
    if table.empty:
        return draw_empty(axes(ax, 2), "no failures")
    name = next(column for column in map(str, table.columns) if column != "cluster")
    table = table.assign(**{name: with_cluster(table, name)})
    shown = table.head(MAX_ROWS)
    rest = table.iloc[MAX_ROWS:]
    names = [label(value) for value in shown[name]] + ([f"{len(rest):,} others"] if len(rest) else [])
    counts = [*shown["failures"], *([int(rest["failures"].sum())] if len(rest) else [])]
    cumulative = [*shown["cumulative_share"], *([1.0] if len(rest) else [])]
    ax = axes(ax, 1.4 + 0.26 * len(names))
    ax.barh(range(len(names)), counts, color=BLUE, height=0.7)
    for row, (count, share) in enumerate(zip(counts, cumulative, strict=True)):
        ax.text(count, row, f" {count:,}, cumulative {share:.0%}", va="center", fontsize=8)
    ax.axhline(int(np.searchsorted(cumulative, 0.8)) + 0.5, color=RED, linewidth=1, linestyle="--")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, max(counts) * 1.25)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("failures")
    ax.set_title(f"{sum(counts):,} failures by {name}; 80 % lie above the dashed line", loc="left")
    strip_frame(ax)
    return ax
