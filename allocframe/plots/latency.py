"""The plot of how long tasks take to start."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .._utils.prose import count
from ._style import (
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

MAX_ROWS = 20
_WHOLE = "received to started"


def start_latency(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how long tasks of each group took to start: a dot for the median, a line to the 95th percentile.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.start_latency` returns. The 20 groups that took longest on their node are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        A colour for each phase; the time axis is logarithmic.

    Examples
    --------
    >>> af.plots.start_latency(af.stats.start_latency(snap)).get_xlabel()
    'time'
    """
    require_table(table, "start_latency", "start_latency")
    keys = [str(name) for name in table.columns[: table.columns.get_loc("phase")]]
    known = table.dropna(subset=["p50"])
    known = known.assign(
        row=joined(known, [key for key in keys if key != "namespace"]) if keys else "all tasks",
        median=known["p50"].dt.total_seconds(),
        high=known["p95"].fillna(known["p50"]).dt.total_seconds(),
    )
    known = known[known["median"] > 0]
    whole = known[known["phase"].astype("str") == _WHOLE].sort_values(
        "median", ascending=False, kind="stable"
    )
    order = list(dict.fromkeys(whole["row"]))[:MAX_ROWS]
    ax = axes(ax, 1.4 + 0.36 * max(len(order), 2))
    if not order:
        return draw_empty(ax, "no first start is on record")
    phases = list(dict.fromkeys(known.loc[known["row"].isin(order), "phase"].astype("str")))
    phases.sort(key=lambda phase: phase != _WHOLE)
    offsets = np.linspace(-0.3, 0.3, len(phases)) if len(phases) > 1 else np.zeros(1)
    rows = {name: place for place, name in enumerate(order)}
    colours = colours_of_curves(ax)
    for number, phase in enumerate(phases):
        part = known[(known["phase"].astype("str") == phase) & known["row"].isin(order)]
        y = part["row"].map(rows).to_numpy(float) + offsets[number]
        colour = colours[number % len(colours)]
        ax.hlines(y, part["median"], part["high"], color=colour, linewidth=2, alpha=0.6)
        # phases inside the start are named after the event they begin with
        name = f"after {phase}" if phase[0].isupper() else phase
        ax.scatter(part["median"], y, color=colour, s=18, zorder=3, label=name)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(lambda seconds, _: format_seconds(seconds))
    ax.set_xlabel("time")
    ax.set_yticks(range(len(order)), [label(name) for name in order], fontsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    slowest = whole.iloc[0]
    hidden = whole["row"].nunique() - len(order)
    lasts = format_seconds(slowest["median"])
    alike = len(order) > 1 and whole["median"].nunique() == 1
    write_title(
        ax,
        f"All rows take {lasts} (median) to start, once received"
        if alike
        else f"{label(order[0])} takes longest to start, once received: {lasts} (median)",
        count(hidden, "other rows") if hidden else "",
    )
    strip_frame(ax)
    ax.legend(**LEGEND)
    return ax
