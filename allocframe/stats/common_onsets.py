"""Common onsets: several jobs that began to fail together."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, times_from_us
from .runs import build_runs

_JOB = ["namespace", "job_id"]
_MICROSECOND = pd.Timedelta(microseconds=1)
_COLUMNS = [
    "began_at", "ended_at", "jobs", "job_ids", "expected", "p", "cause", "cause_share", "node_name",
    "node_name_share", "exposure_hours",
]  # fmt: skip


@per_cluster
def common_onsets(
    source: Source, *, window: str = "60s", min_jobs: int = 3, quiet: str = "10min", p_below: float = 0.01
) -> pd.DataFrame:
    """Find times at which several jobs began to fail together, against what chance gives.

    An onset is the first failure of a job after a quiet time. Not counted are failures of a job that had not
    run well before (a job whose first placement fails has troubles of its own), the first event of a
    truncated event history (the true onset is not known), and onsets by another mechanism than the
    majority's. The runs of a periodic or parameterized job are one job.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    window : str
        Time in which the onsets must lie.
    min_jobs : int
        Jobs that make a common onset.
    quiet : str
        How long a job must not have failed for its next failure to count as an onset.
    p_below : float
        Upper limit of p.

    Returns
    -------
    pandas.DataFrame
        One row for each common onset, the one with most jobs first: began_at, ended_at (datetime64[ns, UTC]),
        jobs (number), job_ids (list of "namespace/job"), expected (jobs in a window by chance), p (of as many
        jobs in one window, by each job's own rate of onsets outside of it, corrected for the number of
        windows), the most frequent cause and node_name with their shares of the jobs, and exposure_hours (the
        time in which onsets were looked for).

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> onsets = af.stats.common_onsets(snap)
    >>> bool((onsets["jobs"] >= 3).all())
    True
    """
    derived = derive(source)
    width = pd.Timedelta(window) // _MICROSECOND
    onsets = _onsets(source, pd.Timedelta(quiet), width)
    span = max(derived.observed_us - derived.began_us, width)
    all_jobs = pd.MultiIndex.from_frame(build_runs(source)[_JOB].astype("str")).nunique()
    rows = []
    free = np.ones(len(onsets), dtype=bool)
    at = onsets["time_us"].to_numpy(dtype="int64")
    ends = np.searchsorted(at, at + width, side="right")
    # the windows with most onsets first; a window's onsets belong to one common onset only
    for first in np.argsort(-(ends - np.arange(len(at))), kind="stable"):
        part = onsets.iloc[first : ends[first]]
        part = part[free[first : ends[first]]]
        part = part[part["cause"] == part["cause"].mode().iloc[0]] if len(part) else part
        jobs = part.drop_duplicates("job")
        if not free[first] or len(jobs) < min_jobs:
            continue
        # each job's own rate elsewhere; one half more, since a job without another onset could have had one
        others = onsets[~onsets.index.isin(part.index)].groupby("job").size().reindex(jobs["job"]).fillna(0)
        typical = (len(onsets) - len(part) + 0.5) / max(all_jobs, 1)
        chances = np.minimum(np.maximum(others.to_numpy(), typical) * width / span, 1.0)
        expected = float(max(chances.mean() * all_jobs, chances.sum()))
        p = min(_confidence.poisson_tail(len(jobs) - 1, expected) * max(len(onsets), 1), 1.0)
        free[first : ends[first]] = False
        if p < p_below:
            rows.append(_describe(jobs, expected, p, span))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    for name in ("began_at", "ended_at"):
        table[name] = table[name].astype("datetime64[ns, UTC]")
    return table.sort_values("jobs", ascending=False, kind="stable", ignore_index=True)


def _describe(jobs: pd.DataFrame, expected: float, p: float, span_us: int) -> list[Any]:
    times = times_from_us(jobs["time_us"])
    row: list[Any] = [times.min(), times.max(), len(jobs), sorted(jobs["job"]), expected, p]
    for name in ("cause", "node_name"):
        counts = jobs[name].astype("str").value_counts()
        row += [counts.index[0], counts.iloc[0] / len(jobs)] if len(counts) else [None, np.nan]
    return [*row, span_us / 3_600_000_000]


def _onsets(source: Source, quiet: pd.Timedelta, width_us: int) -> pd.DataFrame:
    """Return the onsets in order of time, with their job, cause and node."""
    derived = derive(source)
    named = derived.tasks.select(
        *dict.fromkeys([*derived.task_columns, "alloc_id", *_JOB, "node_name", "truncated", "first_seen_us"])
    )
    failed = derived.events.filter(nw.col("failure")).select(*derived.task_columns, "time_us", "cause")
    rows = collect(failed.join(named, on=derived.task_columns, how="left")).dropna(subset=["time_us"])
    rows["job"] = rows["namespace"].astype("str").fillna("") + "/" + rows["job_id"].astype("str")
    rows = rows.sort_values("time_us", kind="stable", ignore_index=True)
    rows["time_us"] = rows["time_us"].astype("int64")
    pause = rows.groupby("job")["time_us"].diff()
    is_onset = ~(pause <= quiet // _MICROSECOND)
    cut_first = rows["truncated"].astype(bool) & (rows["time_us"] <= rows["first_seen_us"])
    # it ran well: a run of the job had lasted for a window by then
    runs = build_runs(source)
    job = runs["namespace"].astype("str").fillna("") + "/" + runs["job_id"].astype("str")
    well_from = (runs["started_at"].astype("int64") // 1000 + width_us).where(
        runs["duration"] >= pd.Timedelta(width_us, unit="us")
    )
    ran_well = well_from.groupby(job).min().reindex(rows["job"]).to_numpy(dtype="float64")
    onsets = rows[is_onset & ~cut_first & (rows["time_us"].to_numpy(dtype="float64") >= ran_well)]
    return onsets.reset_index(drop=True)
