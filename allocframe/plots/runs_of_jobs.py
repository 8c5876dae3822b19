"""The plot of runs of periodic and parameterized jobs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .._utils.prose import count
from ._style import (
    BLUE,
    GREY,
    LEGEND,
    RED,
    axes,
    draw_empty,
    label,
    require_table,
    strip_frame,
    with_cluster,
    write_title,
)

MAX_ROWS = 25


def job_runs(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many runs of each periodic or parameterized job succeeded, failed or are still running.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.job_runs` returns. The 25 jobs with most failed runs are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Next to each bar stands the share that failed, with its 95 % interval, and how the last runs went.

    Examples
    --------
    >>> af.plots.job_runs(af.stats.job_runs(snap)).get_xlabel()
    'runs'
    """
    require_table(table, "job_runs", "job_runs")
    shown = table.head(MAX_ROWS)
    ax = axes(ax, 1.4 + 0.3 * max(len(shown), 2))
    ax.set_xlabel("runs")
    if shown.empty:
        return draw_empty(ax, "no run of a periodic or parameterized job is on record")
    y, left = np.arange(len(shown)), np.zeros(len(shown))
    for name, colour, word in (
        ("failed", RED, "failed"),
        ("succeeded", BLUE, "succeeded"),
        ("going_on", GREY, "still running"),
    ):
        counts = shown[name].to_numpy(float)
        ax.barh(y, counts, left=left, color=colour, height=0.7, label=f"{word} ({int(table[name].sum()):,})")
        left += counts
    for place, (row, total) in enumerate(zip(shown.to_dict("records"), left, strict=True)):
        ax.text(total, place, f" {_in_words(row)}", va="center", fontsize=8)
    ax.set_yticks(y, [label(name) for name in with_cluster(shown, "job_id")], fontsize=8)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(0, 1.6 * float(left.max()))
    failing = int((table["last_result"].astype("str") == "failed").sum())
    hidden = len(table) - len(shown)
    write_title(
        ax,
        f"The last run of {failing:,} of {count(len(table), 'jobs')} failed",
        f"{count(hidden, 'jobs')} with fewer failed runs" if hidden else "",
    )
    strip_frame(ax)
    ax.legend(**LEGEND)
    return ax


def _in_words(row: dict[Any, Any]) -> str:
    """Return the share of failed runs, and how the last ones went."""
    share, low, high, streak = (row[name] for name in ("failed_share", "lower", "upper", "streak"))
    if pd.isna(share):
        return "none has ended"
    last = f"last {abs(int(streak))} {'failed' if int(streak) < 0 else 'succeeded'}" if streak else ""
    return f"{share:.0%} failed ({low:.0%} to {high:.0%}); {last}"
