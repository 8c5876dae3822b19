"""The postmortem of an incident: what happened, as far as a snapshot holds evidence of it, and no further."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from .. import stats
from .._utils.prose import clock, count
from ..client.client import Client
from ..diagnosis.data_quality import brief_gaps, covered, data_quality, disturbances, of_one, unwatched
from ..diagnosis.diagnose import findings
from ..diagnosis.finding import Findings
from ..diagnosis.incidents import Incident, incidents
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ..stats.vocabulary import LOST, REQUEST_CAUSES
from .log_excerpts import NOT_ASKED, LogLines, log_lines
from .render import Points, Prose

_MOST_IN_SUMMARY = 6
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_AT_THE_END = pd.Timedelta("10min")


@dataclass(frozen=True)
class Postmortem:
    """What happened in a window of time, made by `postmortem`.

    Attributes
    ----------
    summary : Prose
        One paragraph: what happened, since when, to whom, the cause as far as the evidence goes, and what is not known.
    causes : Points
        Each incident with its cause and its numbers.
    radius : pandas.DataFrame
        One row for each incident, and one for what belongs to none: jobs, nodes, allocations, disturbances, first_at, last_at.
    jobs : pandas.DataFrame
        One row for each job that was hit: allocations hit and lost, failures, restarts on request.
    recovery : pandas.DataFrame
        One row for each job of which a task was down: outages, how long, when the last task was back, and how many are not.
    missing : Points
        What the evidence covers and lacks.
    logs : LogLines
        Log lines around failures, where `postmortem` was given a client.
    since, until : Timestamp
        The window.
    findings : Findings
        All that was found in the snapshot.
    """

    summary: Prose
    causes: Points
    radius: pd.DataFrame
    jobs: pd.DataFrame
    recovery: pd.DataFrame
    missing: Points
    logs: LogLines
    since: pd.Timestamp
    until: pd.Timestamp
    findings: Findings = field(repr=False)

    def __repr__(self) -> str:
        return repr(self.summary)

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()

    def _repr_markdown_(self) -> str:
        return self.summary._repr_markdown_()


def postmortem(
    snapshot: Snapshot,
    *,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    client: Client | None = None,
) -> Postmortem:
    """Say what happened, to whom, why as far as the evidence goes, and what is not known.

    Parameters
    ----------
    snapshot : Snapshot
    since, until : time, optional
        The window, UTC where no offset is given; else all that the snapshot covers. Incidents that reach into the window are told
        as a whole; what is counted besides them is of the window alone.
    client : Client, optional
        The cluster, to ask for the log lines around failures. Needs read-logs, and that the nodes still have them.

    Raises
    ------
    ConfigError
        A time cannot be read, or there is no task event in the window.

    Examples
    --------
    >>> print(af.postmortem(snap).causes.points[0][0])
    checkout version 1
    """
    of_one(snapshot)
    begin, end = window(snapshot, since, until)
    found = findings(snapshot)
    told = incidents(found, begin, end)
    rows = disturbances(snapshot)
    rows = rows[(rows["at"] >= begin) & (rows["at"] <= end)]
    return Postmortem(
        summary=Prose(_summary(snapshot, told, rows, begin, end)),
        causes=_causes(told),
        radius=_radius(told, rows),
        jobs=_jobs(rows),
        recovery=_recovery(snapshot, begin, end),
        missing=data_quality(snapshot),
        logs=LogLines(NOT_ASKED, []) if client is None else log_lines(snapshot, client, begin, end),
        since=begin,
        until=end,
        findings=found,
    )


def window(
    snapshot: Snapshot, since: pd.Timestamp | str | None, until: pd.Timestamp | str | None
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the window that is asked for, or that the snapshot covers, once it is sure that something is in it."""
    times = snapshot.events["time"].dropna()
    if times.empty:
        raise ConfigError(
            "the snapshot holds no task event, so there is nothing to tell; was it fetched without task states, or of "
            "an empty namespace?"
        )
    first, last = covered(snapshot)
    begin, end = _moment("since", since, first), _moment("until", until, last)
    covers = f"the snapshot covers {clock(first)} to {clock(last)} UTC"
    if begin > end:
        raise ConfigError(f"since ({clock(begin)}) is after until ({clock(end)}); {covers}")
    if begin > last or end < first:
        raise ConfigError(f"the window {clock(begin)} to {clock(end)} UTC lies outside: {covers}")
    if not times.between(begin, end).any():
        dark = unwatched(snapshot, begin, end)
        raise ConfigError(
            f"there is no task event from {clock(begin)} to {clock(end)} UTC; {covers}{'; ' if dark else ''}{dark}"
        )
    return begin, end


def _moment(name: str, given: pd.Timestamp | str | None, otherwise: pd.Timestamp) -> pd.Timestamp:
    return otherwise if given is None else moment(name, given)


def moment(name: str, given: pd.Timestamp | str) -> pd.Timestamp:
    """Return a time that was asked for; ConfigError if it is none."""
    try:
        stamp = pd.Timestamp(given)
        if pd.isna(stamp):
            raise ValueError
        return stamp.tz_convert("UTC") if stamp.tzinfo else stamp.tz_localize("UTC")
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{name} must be a time such as 2026-11-24T09:30, not {given!r}") from None


def _summary(
    snapshot: Snapshot, told: list[Incident], rows: pd.DataFrame, begin: pd.Timestamp, end: pd.Timestamp
) -> str:
    if not told:
        return _calm(snapshot, rows, begin, end)
    parts = [one.clause + (f"; {one.suspect}" if one.suspect else "") for one in told[:_MOST_IN_SUMMARY]]
    listed = [f"({place}) {part}" for place, part in enumerate(parts, 1)] if len(parts) > 1 else parts
    rest = len(told) - len(parts)
    more = f"; and {count(rest, 'more things')}, told below" if rest else ""
    unknown = list(dict.fromkeys(one.unknown for one in told[:_MOST_IN_SUMMARY]))
    sentences = [
        f"{_when(told, begin, end)}: {'; '.join(listed)}{more}.",
        f"In all, {_hit(snapshot, rows)}.",
        f"Not known from this evidence: {'; '.join(unknown)}.",
        unwatched(snapshot, begin, end),
        brief_gaps(snapshot),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _when(told: list[Incident], begin: pd.Timestamp, end: pd.Timestamp) -> str:
    """Say how many things went wrong, and when."""
    amount = _NUMBERS[len(told)] if len(told) < len(_NUMBERS) else f"{len(told):,}"
    what = f"{amount} thing{'s' if len(told) > 1 else ''} went wrong"
    began = min((one.began_at for one in told if not pd.isna(one.began_at)), default=None)
    if began is None:
        return f"Between {clock(begin)} and {clock(end, begin)} UTC {what}"
    last = max(one.last_at for one in told if not pd.isna(one.last_at))
    if end - last <= _AT_THE_END:
        return (
            f"Since {clock(began)} UTC, and up to the end of the time looked at, {clock(end, began)}, {what}"
        )
    if clock(began) == clock(last):
        return f"At {clock(began)} UTC {what}"
    return f"Between {clock(began)} and {clock(last, began)} UTC {what}"


def _hit(snapshot: Snapshot, rows: pd.DataFrame) -> str:
    everyone = snapshot.allocations
    hit, jobs, nodes = (
        f"{len(rows[names].drop_duplicates()):,} of {count(len(everyone[names].drop_duplicates()), what)}"
        for names, what in (
            (["alloc_id"], "allocations"),
            (["namespace", "job_id"], "jobs"),
            (["node_name"], "nodes"),
        )
    )
    return f"{hit} failed, restarted on request or were lost; they belong to {jobs} and ran on {nodes}"


def _calm(snapshot: Snapshot, rows: pd.DataFrame, begin: pd.Timestamp, end: pd.Timestamp) -> str:
    singles = (
        f"Of single events, without a pattern: {_hit(snapshot, rows)}."
        if len(rows)
        else "Not even a single task failed."
    )
    return (
        f"Nothing stands out between {clock(begin)} and {clock(end, begin)} UTC: no crash loop, kill for memory, failing version, "
        f"lost or suspicious node, series of failed starts or restart storm. {singles} "
        f"{unwatched(snapshot, begin, end)} {brief_gaps(snapshot)}"
    ).strip()


def _causes(told: list[Incident]) -> Points:
    points = []
    for one in told:
        suspect = (
            f"The cause, as far as the evidence goes: {one.suspect}."
            if one.suspect
            else "The evidence names no cause beyond this."
        )
        numbers = [f"{each.code} {each.title.lower()}: {each.summary}." for each in one.findings]
        points.append(
            (
                one.title,
                [
                    f"{one.clause[0].upper()}{one.clause[1:]}.",
                    f"{suspect} Not known: {one.unknown}.",
                    *numbers,
                ],
            )
        )
    return Points(
        points or [("Nothing stands out", ["No rule found anything in this window above the usual."])]
    )


def _radius(told: list[Incident], rows: pd.DataFrame) -> pd.DataFrame:
    """Count what each incident hit; what two incidents hit counts with the first."""
    whose = pd.Series("none of these", index=rows.index, dtype="str")
    for one in reversed(told):
        whose = whose.mask(one.touches(rows), one.title)
    found = rows.assign(incident=whose).groupby("incident", sort=False).agg(
        jobs=("job_id", "nunique"), nodes=("node_name", "nunique"), allocations=("alloc_id", "nunique"), disturbances=("at", "size"),
        first_at=("at", "min"), last_at=("at", "max"),
    )  # fmt: skip
    order = [
        title
        for title in dict.fromkeys([*(one.title for one in told), "none of these"])
        if title in found.index
    ]
    return found.loc[order].reset_index()


def _jobs(rows: pd.DataFrame) -> pd.DataFrame:
    requested, lost = rows["cause"].isin(REQUEST_CAUSES), rows["cause"] == LOST
    counted = rows.assign(requested=requested, lost=lost, failed=~requested & ~lost)
    found = counted.groupby(["namespace", "job_id"], observed=True).agg(
        allocations_hit=("alloc_id", "nunique"), allocations_lost=("lost", "sum"), failures=("failed", "sum"),
        restarts_on_request=("requested", "sum"), first_at=("at", "min"), last_at=("at", "max"),
    )  # fmt: skip
    return found.sort_values(["failures", "allocations_lost"], ascending=False, kind="stable").reset_index()


def _recovery(snapshot: Snapshot, begin: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Return the outages that reach into the window, by job; what lies outside of it is not counted."""
    down = stats.outages(snapshot)
    down = down[(down["ended_at"] >= begin) & (down["began_at"] <= end)]
    still = down["open"] | (down["ended_at"] > end)
    length = down["ended_at"].mask(down["ended_at"] > end, end) - down["began_at"].mask(
        down["began_at"] < begin, begin
    )
    counted = down.assign(
        still=still,
        length=length,
        back=down["ended_at"].where(~still),
        place=down["slot"] + "/" + down["task"].astype("str"),
    )
    found = counted.groupby(["namespace", "job_id"], observed=True).agg(
        tasks_hit=("place", "nunique"), outages=("length", "size"), first_down_at=("began_at", "min"), last_back_at=("back", "max"),
        still_down=("still", "sum"), longest=("length", "max"), down_in_all=("length", "sum"),
    )  # fmt: skip
    return found.sort_values(["still_down", "down_in_all"], ascending=False, kind="stable").reset_index()
