"""How a cluster does, in one paragraph."""

from __future__ import annotations

import pandas as pd

from .. import stats
from .._utils.prose import clock, count, number
from ..diagnosis.data_quality import brief_gaps, covered, of_one
from ..diagnosis.diagnose import findings
from ..diagnosis.incidents import incidents
from ..snapshot.snapshot import Snapshot
from .postmortem import moment
from .render import Prose

_ENDED = ("complete", "failed", "lost")


def overview(snapshot: Snapshot, *, since: pd.Timestamp | str | None = None) -> Prose:
    """Say how a cluster does: how much ran, how often it failed, with its interval, and what stands out.

    Parameters
    ----------
    snapshot : Snapshot
        With task events.
    since : time, optional
        Only what happened from then on; all that the snapshot covers otherwise.

    Examples
    --------
    >>> "failures in 100 task hours" in str(af.overview(snap)).replace(chr(10), " ")
    True
    """
    of_one(snapshot)
    first, last = covered(snapshot)
    names = snapshot.allocations
    if since is not None:
        first = moment("since", since)
        names = names[~(names["client_status"].isin(_ENDED) & (names["modified_at"] < first))]
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
    jobs = stats.concentration(snapshot, by="job_id", since=since)
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
