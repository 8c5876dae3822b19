"""The heatmap of counts over time, and the Pareto chart of failures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .._utils.prose import count
from ._style import (
    BLUE,
    RED,
    axes,
    days,
    draw_empty,
    format_seconds,
    joined,
    label,
    require_table,
    strip_frame,
    theme,
    use_time_axis,
    with_cluster,
    write_title,
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
        raise ValueError("table must have a column 'bin'. Call the statistic with bin='15min', for example")
    keys = list(table.columns[: table.columns.get_loc("bin")])
    # what is empty cannot be seen, and most of a large table is
    counted = table[table["count"] > 0]
    counted = counted.assign(row=joined(counted, keys))
    totals = counted.groupby("row")["count"].sum().sort_values(ascending=False, kind="stable")
    rows = totals.index[:MAX_ROWS]
    if not len(rows):
        return draw_empty(axes(ax, 2), "nothing to count in this window")
    bins = pd.DatetimeIndex(table["bin"].unique()).sort_values()
    shown = counted[counted["row"].isin(rows)]
    counts = shown.pivot_table(index="row", columns="bin", values="count", aggfunc="sum", fill_value=0)
    counts = counts.reindex(index=rows, columns=bins, fill_value=0)
    ax = axes(ax, 1.6 + 0.26 * len(rows))
    width = bins[1] - bins[0] if len(bins) > 1 else table["window_end"].iloc[0] - bins[0]
    edges = days([*bins, bins[-1] + width])
    cells = np.ma.masked_equal(counts.to_numpy(), 0)  # an empty cell is paper, whatever the colour of 1
    colours = theme(ax)
    mesh = ax.pcolormesh(
        edges, np.arange(len(rows) + 1), cells, cmap=colours["map"], vmin=0, edgecolors=colours["paper"],
        linewidth=0.4 if len(bins) <= 120 else 0,
    )  # fmt: skip
    ax.set_yticks(np.arange(len(rows)) + 0.5, [label(row) for row in rows], fontsize=8)
    ax.invert_yaxis()
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.01, label=f"count per {_format_width(width)}")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    strip_frame(ax, grid="both")
    ax.grid(visible=False)
    use_time_axis(ax)
    hidden = len(totals) - len(rows)
    write_title(ax, _busiest(totals, counted, keys), count(hidden, "smaller rows") if hidden else "")
    return ax


def _busiest(totals: pd.Series[Any], counted: pd.DataFrame, keys: list[str]) -> str:
    """Return which row counts most, and when most was counted."""
    total = int(totals.sum())
    by_bin = counted.groupby("bin")["count"].sum()
    when = f"most at {by_bin.idxmax():%-d %b %H:%M} ({int(by_bin.max()):,})"
    first = (
        f"{label(totals.index[0])} has {int(totals.iloc[0]):,} of {total:,}"
        if keys
        else f"{total:,} in total"
    )
    return f"{first}; {when}"


def _format_width(width: pd.Timedelta) -> str:
    return format_seconds(width.total_seconds())


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
        Its bars are failures; the line is their cumulative share, on the scale above, with 80 % dashed.

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
    ax = axes(ax, 1.6 + 0.26 * len(names))
    rows = range(len(names))
    ax.barh(rows, counts, color=BLUE, height=0.7)
    for row, failures in enumerate(counts):
        ax.text(failures, row, f" {failures:,}", va="center", fontsize=8)
    ax.set_yticks(rows, names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, max(counts) * 1.25)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("failures")
    many = len(table)
    enough = int(np.searchsorted(table["cumulative_share"].to_numpy(float), 0.8 - 1e-9)) + 1
    noun = name.removesuffix("_id").removesuffix("_name").replace("_", " ")
    total, verb = f"{int(table['failures'].sum()):,}", "causes" if enough == 1 else "cause"
    title = f"{enough:,} of {many:,} {noun}s {verb} 80 % of {total} failures"
    one = "The only failure is" if total == "1" else f"All {total} failures are"
    write_title(ax, title if many > 1 else f"{one} of {names[0]}")
    strip_frame(ax)
    if many > 1:
        _draw_cumulative(ax, cumulative)
    return ax


def _draw_cumulative(ax: Axes, cumulative: list[float]) -> None:
    """Draw the cumulative share over the bars, and where it passes 80 %."""
    share = ax.twiny()
    share.plot(cumulative, range(len(cumulative)), color=RED, marker="o", markersize=3, linewidth=1.2)
    share.axvline(0.8, color=RED, linewidth=0.8, linestyle="--")
    share.set_xlim(0, 1.05)
    share.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    share.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    share.tick_params(labelsize=8, colors=RED)
    share.set_xlabel("cumulative share", fontsize=8, color=RED)
    for side in ("right", "bottom"):
        share.spines[side].set_visible(False)
