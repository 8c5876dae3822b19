"""How a cluster does, in one paragraph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .. import stats
from .._utils.prose import clock, count, number
from ..diagnosis.data_quality import brief_gaps, covered, of_one
from ..diagnosis.diagnose import findings
from ..diagnosis.incidents import incidents
from ..snapshot.snapshot import Snapshot
from ..stats.vocabulary import FINISHED_STATUSES
from .postmortem import moment
from .render import Prose


def cluster_summary(snapshot: Snapshot, *, since: pd.Timestamp | str | None = None) -> Prose:
    """Say how a cluster does: how much ran, how often it failed, with its interval, and what stands out.

    Parameters
    ----------
    snapshot : Snapshot
        With task events.
    since : time, optional
        Only what happened from then on; all that the snapshot covers otherwise.

    Examples
    --------
    >>> "failures in 100 task hours" in str(af.cluster_summary(snap)).replace(chr(10), " ")
    True
    """
    of_one(snapshot)
    first, last = covered(snapshot)
    names = snapshot.allocations
    if since is not None:
        first = moment("since", since)
        names = names[~(names["client_status"].isin(FINISHED_STATUSES) & (names["modified_at"] < first))]
    ran = (
        f"From {clock(first)} to {clock(last, first)} UTC the cluster ran {count(len(names), 'allocations')} of "
        f"{count(len(names[['namespace', 'job_id']].drop_duplicates()), 'jobs')} on {count(names['node_name'].nunique(), 'nodes')}."
    )
    parts = [
        ran,
        _rate(snapshot, since),
        _worst(snapshot, since),
        _standing_out(snapshot, first, last),
        brief_gaps(snapshot),
    ]
    return Prose(" ".join(part for part in parts if part))


def _rate(snapshot: Snapshot, since: pd.Timestamp | str | None) -> str:
    row = stats.failures(snapshot, by=[], since=since).iloc[0]
    ran = f"In {number(row['exposure_hours'])} hours that tasks ran, {count(int(row['count']), 'failures')} were seen"
    if not row["exposure_hours"]:
        return f"{ran}."
    rate, lower, upper = (number(100 * float(row[name])) for name in ("rate_per_hour", "lower", "upper"))
    return f"{ran}: {rate} failures in 100 task hours (95 %: {lower} to {upper})."


def _worst(snapshot: Snapshot, since: pd.Timestamp | str | None) -> str:
    jobs = stats.failure_ranking(snapshot, by="job_id", since=since)
    if jobs.empty:
        return ""
    top = jobs.head(3)
    named = ", ".join(f"{row['job_id']} ({row['failures']:,})" for row in top.to_dict("records"))
    return (
        f"{float(top['cumulative_share'].iloc[-1]):.0%} of them are of {named}."
        if len(jobs) > 1
        else f"All are of {named}."
    )


def _standing_out(snapshot: Snapshot, first: pd.Timestamp, last: pd.Timestamp) -> str:
    told = incidents(findings(snapshot), first, last)
    if not told:
        return "Nothing stands out: no crash loop, kill for memory, failing version, lost or suspicious node, or restart storm."
    return f"What stands out: {'; '.join(dict.fromkeys(one.title for one in told))}."


_HOW = "Trends need an archive: allocframe record --archive DIR keeps one, and allocframe report cluster --archive DIR tells them."


@dataclass(frozen=True)
class Trends:
    """How a cluster does from day to day, made by `trends`.

    Attributes
    ----------
    summary : Prose
        The failure rate against the time before, and how well both were observed; without an archive, how to get one.
    days : pandas.DataFrame or None
        What `stats.daily` returns; None without an archive.
    jobs : pandas.DataFrame or None
        What `stats.compare_periods` returns by job, of jobs that failed in either time.
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
    """Compare a time with the one before it, day by day and by job.

    Parameters
    ----------
    snapshot : Snapshot
        Of an archive, from before both times on: ``archive.snapshot(since=...)``.
    since : time, optional
        The later time begins here, and the earlier one as long before; the middle of what the archive covers otherwise.

    Examples
    --------
    >>> print(af.trends(snap))
    Trends need an archive: allocframe record --archive DIR keeps one, and allocframe report cluster --archive DIR
    tells them.
    >>> af.trends(archive.snapshot(since="2026-01-01")).days.columns[0]
    'day'
    """
    of_one(snapshot)
    began = snapshot.info.get("recorded_since")
    if began is None:
        return Trends(Prose(_HOW))
    last = covered(snapshot)[1]
    first = max(pd.Timestamp(began), pd.Timestamp(snapshot.info.get("since") or began))
    begin = first + (last - first) / 2 if since is None else pd.Timestamp(since)
    begin = begin if begin.tzinfo else begin.tz_localize("UTC")
    length = max(last - begin, pd.Timedelta("1s"))
    days = stats.daily(snapshot, since=max(first, (begin - length).floor("D")))
    together = stats.compare_periods(snapshot, by=[], period=str(length)).iloc[0]
    jobs = stats.compare_periods(snapshot, by=["namespace", "job_id"], period=str(length))
    said = [_rate_change(together, begin, last), _loops(days, begin), _observed(days, first, begin - length)]
    return Trends(
        Prose(" ".join(filter(None, said))), days, jobs[jobs["failures"] + jobs["failures_before"] > 0]
    )


def _rate_change(row: pd.Series[Any], begin: pd.Timestamp, last: pd.Timestamp) -> str:
    rate, before = (100 * row[name] for name in ("rate_per_hour", "rate_per_hour_before"))
    head = f"From {clock(begin)} to {clock(last, begin)} UTC"
    if pd.isna(rate):
        return f"{head} no task was seen running."
    said = f"{head} {number(rate)} failures in 100 task hours were seen"
    if pd.isna(before):
        return f"{said}; of the same time before, the archive holds nothing to compare with."
    told = f"{said}, and {number(before)} in the same time before"
    if pd.isna(row["ratio"]):
        return f"{told}."
    if row["failures_before"] == 0:
        return f"{told}, in {number(row['exposure_hours_before'])} task hours."
    bounds = f"95 %: {number(row['lower'])} to {number(row['upper'])}"
    chance = "" if row["sure"] else ", so the difference may be chance"
    return f"{told}: {number(row['ratio'])} times as many ({bounds}){chance}."


def _loops(days: pd.DataFrame, begin: pd.Timestamp) -> str:
    late = days[days["day"] >= begin.floor("D")]
    began = [
        f"{row['new_loops']:,} on {row['day']:%Y-%m-%d}"
        for row in late.to_dict("records")
        if row["new_loops"]
    ]
    lost = int(late["nodes_lost"].sum())
    nodes = f" Nodes lost: {lost:,}." if lost else ""
    return (f"Crash loops that began: {', '.join(began)}." if began else "No crash loop began.") + nodes


def _observed(days: pd.DataFrame, first: pd.Timestamp, wanted: pd.Timestamp) -> str:
    lacking = int((~days["complete"]).sum())
    late = f"The archive begins only at {clock(first)} UTC. " if first > wanted else ""
    if not lacking:
        return f"{late}Every day was observed as a whole."
    are = "is" if lacking == 1 else "are"
    return f"{late}{lacking:,} of {count(len(days), 'days')} {are} incomplete: what is told of them is what was observed."
