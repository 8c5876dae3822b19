"""The plot of error budgets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .._utils.prose import count
from ._style import (
    BLUE,
    GREY,
    RED,
    axes,
    draw_empty,
    joined,
    label,
    require_table,
    strip_frame,
    write_title,
)

MAX_ROWS = 25


def error_budget(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how much of its error budget each group has used, and at most if lost events were downtime.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.error_budget` returns. The 25 rows that used most are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Red bars are budgets that are spent. What is over three times a budget is cut, with its number.

    Examples
    --------
    >>> af.plots.error_budget(af.stats.error_budget(snap)).get_xlabel()
    'error budget used'
    """
    require_table(table, "error_budget", "error_budget")
    known = table.dropna(subset=["used"])
    shown = known[known["used"] > 0].head(MAX_ROWS)
    ax = axes(ax, 1.4 + 0.26 * max(len(shown), 2))
    if shown.empty:
        return draw_empty(ax, "no downtime on record")
    keys = [str(name) for name in table.columns[: table.columns.get_loc("target")] if name != "namespace"]
    used = shown["used"].astype(float).to_numpy()
    y = np.arange(len(shown))
    spent = used > 1
    ax.barh(y, np.minimum(used, _CUT), color=np.where(spent, RED, BLUE), height=0.7)
    for row, share in enumerate(used.tolist()):
        ax.text(
            min(share, _CUT), row, f" {share:,.0%}" if share >= 0.01 else " under 1%", va="center", fontsize=8
        )
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(y, [label(name) for name in joined(shown, keys)], fontsize=8)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(0, min(max(1.1, 1.15 * float(used.max())), 1.15 * _CUT))
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("error budget used")
    target, noun = float(known["target"].iloc[0]), " ".join(keys).removesuffix("_id").replace("_", " ")
    spent_of_all = f"{int((known['used'] > 1).sum()):,} of {count(len(known), f'{noun}s')}"
    whose = "its" if len(known) == 1 else "their"
    write_title(ax, f"{spent_of_all} spent {whose} error budget (target {100 * target:.6g} %)")
    strip_frame(ax)
    return ax


_CUT = 3.0
"""Budgets: a bar of a hundred would make all others invisible."""
