"""The waterfall of a job's allocations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .. import stats
from .._utils.prose import count
from ._style import (
    BLUE,
    LEGEND,
    RED,
    axes,
    days,
    label,
    require_one_cluster,
    strip_frame,
    theme,
    use_time_axis,
    write_title,
)


def waterfall(source: Any, job_id: str, *, namespace: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the allocations of a job, by their first start: when they ran, which version, how they ended.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    job_id : str
    namespace : str, optional
        Needed if several namespaces have a job of that name.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        One row for each allocation, the oldest at the top; grey is the time whose events the ring has lost.

    Raises
    ------
    ValueError
        No task of that job ran, or the source holds several clusters.

    Examples
    --------
    >>> af.plots.waterfall(snap, "payments-api").get_xlabel()
    'time (UTC)'
    """
    runs = stats.runs(source)
    runs = runs[runs["job_id"].astype("str") == job_id]
    if namespace is not None:
        runs = runs[runs["namespace"].astype("str") == namespace]
    if runs.empty:
        raise ValueError(f"job_id must be a job that has run a task, got {job_id!r}")
    require_one_cluster(runs, f"the waterfall of {job_id}")
    first_start = runs.groupby(runs["alloc_id"].astype("str"))["started_at"].min().sort_values(kind="stable")
    row_of_alloc = {alloc: row for row, alloc in enumerate(first_start.index)}
    ax = axes(ax, min(2.0 + 0.2 * len(row_of_alloc), 7.0))
    _draw_versions(ax, runs, row_of_alloc)
    _draw_lost_events(ax, runs, first_start, row_of_alloc, source)
    _draw_failed_runs(ax, runs, row_of_alloc)
    has_room = len(row_of_alloc) <= 40
    ax.set_yticks(
        range(len(row_of_alloc)) if has_room else [],
        [alloc[:8] for alloc in row_of_alloc] if has_room else [],
        fontsize=7,
        family="monospace",
    )
    ax.set_ylim(len(row_of_alloc) - 0.4, -0.6)
    ax.set_ylabel("" if has_room else f"{len(row_of_alloc):,} allocations, oldest first")
    versions = runs["job_version"].dropna().nunique()
    size = f"{count(len(row_of_alloc), 'allocations')}, {count(versions, 'versions')}"
    failed = f"{int(runs['failure'].sum()):,} of {count(len(runs), 'runs')} failed"
    write_title(ax, f"{label(job_id)}: {failed} ({size})")
    strip_frame(ax)
    use_time_axis(ax)
    ax.legend(**LEGEND)
    return ax


def _draw_versions(ax: Axes, runs: pd.DataFrame, row_of_alloc: dict[str, int]) -> None:
    versions = sorted(runs["job_version"].dropna().unique())
    shades = dict(zip(versions, _shades(len(versions)), strict=True))
    for version, part in runs.groupby("job_version", observed=True):
        left = days(part["started_at"])
        ax.barh(
            part["alloc_id"].astype("str").map(row_of_alloc).to_numpy(),
            np.maximum(days(part["ended_at"]) - left, 0),
            left=left,
            height=0.8,
            color=shades[version],
            label=f"version {version}",
            linewidth=0,
        )


def _draw_failed_runs(ax: Axes, runs: pd.DataFrame, row_of_alloc: dict[str, int]) -> None:
    failed = runs[runs["failure"]]
    if failed.empty:
        return
    ax.scatter(
        days(failed["ended_at"]),
        failed["alloc_id"].astype("str").map(row_of_alloc).to_numpy(),
        s=max(6.0, 36 - len(row_of_alloc) / 8),
        c=RED,
        marker="X",
        linewidths=0.3,
        edgecolors=theme(ax)["paper"],
        label=f"failed run ({len(failed):,})",
        zorder=3,
    )


def _draw_lost_events(
    ax: Axes, runs: pd.DataFrame, first_start: pd.Series[Any], row_of_alloc: dict[str, int], source: Any
) -> None:
    """Draw in grey the time from an allocation's creation to the first run that its ring still holds."""
    truncated = runs.loc[runs["left_truncated"].astype(bool), "alloc_id"].astype("str").unique()
    chains = stats.reschedule_chains(source)
    created = chains.set_index(chains["alloc_id"].astype("str"))["created_at"].reindex(truncated)
    left, right = days(created), days(first_start.reindex(truncated))
    if len(truncated):
        ax.barh(
            [row_of_alloc[alloc] for alloc in truncated],
            np.maximum(right - left, 0),
            left=left,
            height=0.5,
            color=theme(ax)["lost"],
            label="events lost",
            linewidth=0,
        )


def _shades(count: int) -> list[Any]:
    """Return blues from pale to strong, the strongest for the newest version."""
    if count == 1:
        return [BLUE]
    pale, strong = np.array([0.78, 0.86, 0.93]), np.array([0.0, 0.36, 0.60])
    return [tuple(pale + (strong - pale) * share) for share in np.linspace(0, 1, count)]
