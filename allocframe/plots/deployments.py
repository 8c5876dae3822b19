"""The plot of deployments."""

from __future__ import annotations

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
    days,
    draw_empty,
    label,
    require_one_cluster,
    require_table,
    strip_frame,
    use_time_axis,
    write_title,
)

MAX_ROWS = 25


def deployments(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the deployments of each job over time: successful, failed, or without an end.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.deployments` returns. The 25 jobs with most failed ones, then with most, are drawn.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        A line lasts from the beginning of a deployment to its end, and its number is the version.

    Raises
    ------
    ValueError
        The table holds several clusters.

    Examples
    --------
    >>> af.plots.deployments(af.stats.deployments(snap)).get_xlabel()
    'time (UTC)'
    """
    require_table(table, "deployments", "deployments")
    require_one_cluster(table, "the plot of deployments")
    known = table.dropna(subset=["began_at"])
    ax = axes(ax, 1.4 + 0.26 * max(min(known["job_id"].nunique(), MAX_ROWS), 2))
    if known.empty:
        return draw_empty(ax, "no deployment is known")
    failed = known["failed"].astype("boolean")
    known = known.assign(bad=failed.fillna(value=False).astype(bool), open=failed.isna().to_numpy())
    jobs = known.groupby("job_id", observed=True)["bad"].agg(["sum", "size"])
    order = jobs.sort_values(["sum", "size"], ascending=False, kind="stable").index[:MAX_ROWS]
    row_of_job = {job: row for row, job in enumerate(order)}
    shown = known[known["job_id"].isin(order)]
    row = shown["job_id"].map(row_of_job).to_numpy()
    begin = days(shown["began_at"])
    end = days(shown["ended_at"].fillna(shown["began_at"]))
    for mask, colour, mark, name in (
        (~shown["bad"] & ~shown["open"], BLUE, "o", "successful"),
        (shown["bad"], RED, "X", "failed"),
        (shown["open"], GREY, "D", "no end on record"),
    ):
        part = mask.to_numpy()
        if part.any():
            ax.hlines(row[part], begin[part], end[part], color=colour, linewidth=3, alpha=0.5)
            ax.scatter(
                end[part], row[part], c=colour, marker=mark, s=30, zorder=3, label=f"{name} ({part.sum():,})"
            )
    if len(shown) <= _MOST_NUMBERED:
        for place, at, version in zip(row, end, shown["job_version"], strict=True):
            ax.annotate(f"v{version}", (at, place), xytext=(5, 3), textcoords="offset points", fontsize=7)
    ax.set_yticks(np.arange(len(order)), [label(job) for job in order], fontsize=8)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ended = known[~known["open"]]
    hidden = len(jobs) - len(order)
    write_title(
        ax,
        f"{int(ended['bad'].sum()):,} of {count(len(ended), 'deployments')} failed",
        f"{count(hidden, 'jobs')} with fewer" if hidden else "",
    )
    margin = max(0.05 * float(end.max() - begin.min()), 1 / 1440)
    ax.set_xlim(begin.min() - margin, end.max() + margin)
    strip_frame(ax)
    use_time_axis(ax)
    ax.legend(**LEGEND)
    return ax


_MOST_NUMBERED = 60
