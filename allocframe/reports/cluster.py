"""How a cluster is doing: a paragraph, and trends from an archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .. import stats
from .._utils.prose import Prose, clock, count, number
from .._utils.times import to_utc
from ..diagnosis.data_quality import covered_window, lower_bound_note, require_one_cluster
from ..diagnosis.diagnose import diagnose
from ..snapshot.snapshot import Snapshot
from ..stats._source import pandas_table
from ..stats.vocabulary import FINISHED_STATUSES
from .postmortem import NO_INCIDENTS


def cluster_summary(snapshot: Snapshot, *, since: pd.Timestamp | str | None = None) -> Prose:
    """Return how a cluster is doing: how much ran, how often it failed, and what stands out.

    Parameters
    ----------
    snapshot : Snapshot
        With task events.
    since : time, optional
        Count only what happened from then on; by default all that the snapshot covers.

    Raises
    ------
    ConfigError
        The snapshot is of several clusters, or `since` is not a time.

    Examples
    --------
    >>> "failures in 100 task hours" in af.cluster_summary(snap).text
    True
    """
    require_one_cluster(snapshot)
    first, last = covered_window(snapshot)
    allocations = pandas_table(
        snapshot, "allocations", "namespace", "job_id", "node_name", "client_status", "modified_at"
    )
    if since is not None:
        first = to_utc(since, "since")
        ended_before = allocations["client_status"].isin(FINISHED_STATUSES) & (
            allocations["modified_at"] < first
        )
        allocations = allocations[~ended_before]
    jobs = len(allocations[["namespace", "job_id"]].drop_duplicates())
    size = (
        f"From {clock(first)} to {clock(last, first)} UTC "
        f"the cluster ran {count(len(allocations), 'allocations')} of {count(jobs, 'jobs')} "
        f"on {count(allocations['node_name'].nunique(), 'nodes')}."
    )
    sentences = [
        size,
        _failure_rate(snapshot, since),
        _worst_jobs(snapshot, since),
        _standing_out(snapshot, first, last),
        lower_bound_note(snapshot),
    ]
    return Prose(" ".join(filter(None, sentences)))


def _failure_rate(snapshot: Snapshot, since: pd.Timestamp | str | None) -> str:
    row = stats.failures(snapshot, by=[], since=since).iloc[0]
    failures = count(int(row["count"]), "failures")
    if not row["exposure_hours"]:
        return f"No task ran; {failures} were seen."
    rate, lower, upper = (number(100 * float(row[name])) for name in ("rate_per_hour", "lower", "upper"))
    return (
        f"Tasks ran for {number(row['exposure_hours'])} hours with {failures}: "
        f"{rate} failures in 100 task hours (95% interval {lower} to {upper})."
    )


def _worst_jobs(snapshot: Snapshot, since: pd.Timestamp | str | None) -> str:
    jobs = stats.failure_ranking(snapshot, by="job_id", since=since)
    if jobs.empty:
        return ""
    worst = jobs.head(3)
    named = ", ".join(f"{row['job_id']} ({row['failures']:,})" for row in worst.to_dict("records"))
    if len(jobs) == 1:
        return f"All failures are in {named}."
    return f"{float(worst['cumulative_share'].iloc[-1]):.0%} of the failures are in {named}."


def _standing_out(snapshot: Snapshot, first: pd.Timestamp, last: pd.Timestamp) -> str:
    incidents = [
        each
        for each in diagnose(snapshot, progress=False).incidents
        if each.severity != "info" and each.reaches_into(first, last)
    ]
    if not incidents:
        return f"Nothing stands out: {NO_INCIDENTS}."
    titles = list(dict.fromkeys(incident.title for incident in incidents))
    more = f"; and {len(titles) - _MOST_TITLES:,} more" if len(titles) > _MOST_TITLES else ""
    return f"What stands out: {'; '.join(titles[:_MOST_TITLES])}{more}."


_MOST_TITLES = 10
"""A paragraph names at most this many incidents; the postmortem has all."""


_NEEDS_ARCHIVE = (
    "Trends need an archive. Record one with allocframe record --archive DIR, "
    "then run allocframe report cluster --archive DIR."
)


@dataclass(frozen=True)
class Trends:
    """How a cluster does from day to day, made by `trends`.

    Attributes
    ----------
    summary : Prose
        The failure rate against the period before, and how much of both was observed; without an archive, how
        to get one.
    days : pandas.DataFrame or None
        The result of `stats.daily`; None without an archive.
    jobs : pandas.DataFrame or None
        The result of `stats.compare_periods` by job, for jobs that failed in either period.
    """

    summary: Prose
    days: pd.DataFrame | None = field(default=None, repr=False)
    jobs: pd.DataFrame | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return repr(self.summary)

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()

    def _repr_markdown_(self) -> str:
        return self.summary._repr_markdown_()


def trends(snapshot: Snapshot, *, since: pd.Timestamp | str | None = None) -> Trends:
    """Compare a period with the previous one, day by day and by job.

    Parameters
    ----------
    snapshot : Snapshot
        From an archive, beginning before both periods: ``archive.snapshot(since=...)``.
    since : time, optional
        The start of the later period; the earlier one is as long. By default the middle of what the archive
        covers.

    Raises
    ------
    ConfigError
        The snapshot is of several clusters, or `since` is not a time.

    Examples
    --------
    >>> print(af.trends(snap))
    Trends need an archive. Record one with allocframe record --archive DIR, then run allocframe report
    cluster --archive DIR.
    >>> af.trends(archive.snapshot(since="2026-01-01")).days.columns[0]
    'day'
    """
    require_one_cluster(snapshot)
    recorded_since = snapshot.info.get("recorded_since")
    if recorded_since is None:
        return Trends(Prose(_NEEDS_ARCHIVE))
    last = covered_window(snapshot)[1]
    first = max(pd.Timestamp(recorded_since), pd.Timestamp(snapshot.info.get("since") or recorded_since))
    start = first + (last - first) / 2 if since is None else to_utc(since, "since")
    length = max(last - start, pd.Timedelta("1s"))
    days = stats.daily(snapshot, since=max(first, (start - length).floor("D")))
    overall = stats.compare_periods(snapshot, by=[], period=str(length)).iloc[0]
    jobs = stats.compare_periods(snapshot, by=["namespace", "job_id"], period=str(length))
    sentences = [
        *_rate_change(overall, start, last),
        *_loops_and_losses(days, start),
        *_observed(days, first, start - length),
    ]
    failed = jobs["failures"] + jobs["failures_before"] > 0
    return Trends(Prose(" ".join(sentences)), days, jobs[failed])


def _rate_change(row: pd.Series[Any], start: pd.Timestamp, last: pd.Timestamp) -> Iterator[str]:
    rate, before = (100 * row[name] for name in ("rate_per_hour", "rate_per_hour_before"))
    period = f"From {clock(start)} to {clock(last, start)} UTC"
    if pd.isna(rate):
        yield f"{period} no task was seen running."
        return
    yield f"{period} there were {number(rate)} failures in 100 task hours."
    if pd.isna(before):
        yield "The archive holds nothing of the period before to compare with."
        return
    hours = f" ({number(row['exposure_hours_before'])} task hours)" if row["failures_before"] == 0 else ""
    yield f"In the period before there were {number(before)}{hours}."
    if pd.isna(row["ratio"]) or row["failures_before"] == 0:
        return
    interval = f"95% interval {number(row['lower'])} to {number(row['upper'])}"
    chance = "" if row["sure"] else ", so the difference may be chance"
    yield f"That is {number(row['ratio'])} times as many ({interval}){chance}."


def _loops_and_losses(days: pd.DataFrame, start: pd.Timestamp) -> Iterator[str]:
    period = days[days["day"] >= start.floor("D")]
    began = [
        f"{row['new_loops']:,} on {row['day']:%Y-%m-%d}"
        for row in period.to_dict("records")
        if row["new_loops"]
    ]
    yield f"Crash loops that began: {', '.join(began)}." if began else "No crash loop began."
    lost = int(period["nodes_lost"].sum())
    if lost:
        yield f"Nodes lost: {lost:,}."


def _observed(days: pd.DataFrame, first: pd.Timestamp, needed: pd.Timestamp) -> Iterator[str]:
    """Yield how much of the two periods was observed."""
    if first > needed:
        yield f"The archive begins only at {clock(first)} UTC."
    incomplete = int((~days["complete"]).sum())
    if not incomplete:
        yield "All days were observed completely."
        return
    are = "is" if incomplete == 1 else "are"
    of_all = f"{incomplete:,} of {count(len(days), 'days')}"
    yield f"{of_all} {are} incomplete: their numbers are of the observed part."
