"""The postmortem of an incident: what happened, as far as a snapshot holds evidence of it, and no further."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd

from .. import stats
from .._utils.prose import Points, Prose, clock, count
from .._utils.times import to_utc
from ..client.client import Client
from ..diagnosis.data_quality import (
    DataQuality,
    covered_window,
    lower_bound_note,
    require_one_cluster,
    unwatched_note,
)
from ..diagnosis.diagnose import diagnose
from ..diagnosis.disturbances import disturbances
from ..diagnosis.finding import Findings
from ..diagnosis.incident import Incident
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ..stats.vocabulary import LOST, REQUEST_CAUSES
from .log_excerpts import NOT_ASKED, LogLines, log_lines

_MOST_IN_SUMMARY = 6
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ONGOING = pd.Timedelta("10min")
"""An incident whose last sign is this close to the end of the window may be going on."""

NO_INCIDENTS = (
    "no crash loop, kill for memory, failing version, lost or suspicious node, "
    "series of failed starts or restart storm"
)
"""What a calm cluster is free of."""

_NO_INCIDENT = "none of these"


@dataclass(frozen=True)
class Postmortem:
    """What happened in a window of time, made by `postmortem`.

    Attributes
    ----------
    summary : Prose
        What happened, since when, to whom, and what is not known: a sentence, a list of the incidents, and a
        paragraph.
    causes : Points
        Each incident with its numbers, where to look first, and what is not known.
    radius : pandas.DataFrame
        One row per incident, and one for everything else: jobs, nodes, allocations, disturbances, first_at,
        last_at.
    jobs : pandas.DataFrame
        One row per affected job: allocations hit and lost, failures, restarts on request.
    recovery : pandas.DataFrame
        One row per job with a task that was down: outages, their length, when the last task was back, and how
        many are still down.
    missing : DataQuality
        What the evidence covers and lacks.
    logs : LogLines
        Log lines around failures, if `postmortem` was given a client.
    since, until : Timestamp
        The window.
    findings : Findings
        All findings of the snapshot.
    """

    summary: Prose
    causes: Points
    radius: pd.DataFrame
    jobs: pd.DataFrame
    recovery: pd.DataFrame
    missing: DataQuality
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
    """Say what happened, to whom, why as far as the evidence shows, and what is not known.

    Parameters
    ----------
    snapshot : Snapshot
    since, until : time, optional
        The window, in UTC unless they have an offset; by default all that the snapshot covers. An incident
        that reaches into the window is described as a whole; every other number is of the window alone.
    client : Client, optional
        The cluster, to read the log lines around failures. Needs read-logs, and nodes that still have the
        logs.

    Raises
    ------
    ConfigError
        A time is not valid, or the window holds no task event.

    Examples
    --------
    >>> print(af.postmortem(snap).causes.points[0][0])
    platform/search-indexer runs out of memory
    """
    require_one_cluster(snapshot)
    start, end = window(snapshot, since, until)
    diagnosis = diagnose(snapshot)
    incidents = [
        each for each in diagnosis.incidents if each.severity != "info" and each.reaches_into(start, end)
    ]
    rows = disturbances(snapshot)
    rows = rows[(rows["at"] >= start) & (rows["at"] <= end)]
    return Postmortem(
        summary=_summary(snapshot, incidents, rows, start, end),
        causes=_causes(incidents),
        radius=_radius(incidents, rows),
        jobs=_jobs(rows),
        recovery=_recovery(snapshot, start, end),
        missing=diagnosis.data_quality,
        logs=LogLines(NOT_ASKED, []) if client is None else log_lines(snapshot, client, start, end),
        since=start,
        until=end,
        findings=diagnosis.findings,
    )


def window(
    snapshot: Snapshot, since: pd.Timestamp | str | None, until: pd.Timestamp | str | None
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the window asked for, or all that the snapshot covers.

    Raises
    ------
    ConfigError
        A time is not valid, or the window holds no task event.
    """
    times = snapshot.events["time"].dropna()
    if times.empty:
        raise ConfigError(
            "the snapshot holds no task event, so there is nothing to report. "
            "Was it fetched without task states, or from an empty namespace?"
        )
    first, last = covered_window(snapshot)
    start = first if since is None else to_utc(since, "since")
    end = last if until is None else to_utc(until, "until")
    covers = f"the snapshot covers {clock(first)} to {clock(last, first)} UTC"
    if start > end:
        raise ConfigError(f"since must be before until, got {clock(start)} and {clock(end)}; {covers}")
    if start > last or end < first:
        raise ConfigError(f"the window {clock(start)} to {clock(end, start)} UTC lies outside: {covers}")
    if not times.between(start, end).any():
        unwatched = unwatched_note(snapshot, start, end)
        hint = f". {unwatched}" if unwatched else ""
        raise ConfigError(
            f"there is no task event from {clock(start)} to {clock(end, start)} UTC; {covers}{hint}"
        )
    return start, end


def _summary(
    snapshot: Snapshot,
    incidents: list[Incident],
    rows: pd.DataFrame,
    start: pd.Timestamp,
    end: pd.Timestamp,
) -> Prose:
    notes = [unwatched_note(snapshot, start, end), lower_bound_note(snapshot)]
    if not incidents:
        return Prose(_join([*_calm(snapshot, rows, start, end), *notes]))
    shown = incidents[:_MOST_IN_SUMMARY]
    hidden = len(incidents) - len(shown)
    further = f"{count(hidden, 'more incidents')} listed under Causes." if hidden else ""
    unknown = list(dict.fromkeys(incident.not_known for incident in shown))
    return Prose(
        _when(incidents, start, end),
        [_in_the_list(incident) for incident in shown],
        _join([further, *_extent(snapshot, rows), *notes]),
        *_not_known(unknown),
    )


def _not_known(unknown: list[str]) -> Iterator[str | list[str]]:
    head = "Not known from this evidence:"
    if len(unknown) == 1:
        yield f"{head} {unknown[0]}."
    else:
        yield head
        yield [f"{text[0].upper()}{text[1:]}." for text in unknown]


def _join(sentences: list[str]) -> str:
    return " ".join(filter(None, sentences))


def _in_the_list(incident: Incident) -> str:
    """Return what happened, and its cause where that says more than what happened."""
    if incident.cause.kind not in ("job version", "node", "common cause"):
        return incident.summary
    return f"{incident.summary} Cause ({incident.cause.confidence}): {incident.cause.text}."


def _began(incidents: list[Incident]) -> pd.Timestamp | None:
    return min((incident.began_at for incident in incidents if incident.began_at is not None), default=None)


def _when(incidents: list[Incident], start: pd.Timestamp, end: pd.Timestamp) -> str:
    """Return how many things went wrong, and when."""
    amount = _NUMBERS[len(incidents)] if len(incidents) < len(_NUMBERS) else f"{len(incidents):,}"
    what = f"{amount} thing{'s' if len(incidents) > 1 else ''} went wrong"
    began = _began(incidents)
    if began is None:
        return f"Between {clock(start)} and {clock(end, start)} UTC, {what}:"
    last = max(incident.last_at for incident in incidents if incident.last_at is not None)
    if end - last <= _ONGOING:
        return f"Since {clock(began)} UTC, {what}, up to the end of the window ({clock(end, began)}):"
    if clock(began) == clock(last):
        return f"At {clock(began)} UTC, {what}:"
    return f"Between {clock(began)} and {clock(last, began)} UTC, {what}:"


def _extent(snapshot: Snapshot, rows: pd.DataFrame) -> Iterator[str]:
    """Yield how much of the cluster was affected."""
    allocations = snapshot.allocations
    hit, jobs, nodes = (
        f"{len(rows[keys].drop_duplicates()):,} of {count(len(allocations[keys].drop_duplicates()), what)}"
        for keys, what in (
            (["alloc_id"], "allocations"),
            (["namespace", "job_id"], "jobs"),
            (["node_name"], "nodes"),
        )
    )
    yield f"In all, {hit} failed, restarted on request or were lost."
    yield f"They belong to {jobs} and ran on {nodes}."


def _calm(snapshot: Snapshot, rows: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp) -> Iterator[str]:
    yield f"Nothing stands out between {clock(start)} and {clock(end, start)} UTC."
    yield f"There was {NO_INCIDENTS}."
    if len(rows):
        yield "There were single events without a pattern."
        yield from _extent(snapshot, rows)
    else:
        yield "Not a single task failed."


def _causes(incidents: list[Incident]) -> Points:
    if not incidents:
        return Points([("Nothing stands out", ["No rule found an incident in this window."])])
    return Points((incident.title, _cause(incident)) for incident in incidents)


def _cause(incident: Incident) -> Iterator[str]:
    """Yield what happened, then each hypothesis with its evidence for and against."""
    yield incident.summary
    for hypothesis in incident.hypotheses:
        evidence = [
            *(each.text for each in hypothesis.supporting),
            *(f"Against it: {each.text}" for each in hypothesis.contradicting),
        ]
        yield _join([f"{hypothesis.confidence.capitalize()}: {hypothesis.text}.", *evidence])
    codes = ", ".join(dict.fromkeys(finding.code for finding in incident.findings))
    yield f"Not known: {incident.not_known}. Findings: {codes}."


def _radius(incidents: list[Incident], rows: pd.DataFrame) -> pd.DataFrame:
    """Count what each incident hit; what two incidents hit counts with the first."""
    titles = pd.Series(_NO_INCIDENT, index=rows.index, dtype="str")
    for incident in reversed(incidents):
        titles = titles.mask(_touched(incident, rows), incident.title)
    counts = rows.assign(incident=titles).groupby("incident", sort=False).agg(
        jobs=("job_id", "nunique"), nodes=("node_name", "nunique"), allocations=("alloc_id", "nunique"),
        disturbances=("at", "size"), first_at=("at", "min"), last_at=("at", "max"),
    )  # fmt: skip
    order = dict.fromkeys([*(incident.title for incident in incidents), _NO_INCIDENT])
    return counts.loc[[title for title in order if title in counts.index]].reset_index()


def _touched(incident: Incident, rows: pd.DataFrame) -> pd.Series[bool]:
    """Return which disturbances belong to an incident: losses to lost nodes, failures to the others."""
    lost = incident.cause.kind == "node" and incident.cause.mechanism == "lost"
    mine: pd.Series[bool] = rows["alloc_id"].isin(incident.alloc_ids) & ((rows["cause"] == LOST) == lost)
    return mine


def _jobs(rows: pd.DataFrame) -> pd.DataFrame:
    requested, lost = rows["cause"].isin(REQUEST_CAUSES), rows["cause"] == LOST
    counted = rows.assign(requested=requested, lost=lost, failed=~requested & ~lost)
    jobs = counted.groupby(["namespace", "job_id"], observed=True).agg(
        allocations_hit=("alloc_id", "nunique"), allocations_lost=("lost", "sum"), failures=("failed", "sum"),
        restarts_on_request=("requested", "sum"), first_at=("at", "min"), last_at=("at", "max"),
    )  # fmt: skip
    return jobs.sort_values(["failures", "allocations_lost"], ascending=False, kind="stable").reset_index()


def _recovery(snapshot: Snapshot, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Return the outages that reach into the window, by job; the part outside the window is not counted."""
    outages = stats.outages(snapshot)
    outages = outages[(outages["ended_at"] >= start) & (outages["began_at"] <= end)]
    down = outages["open"] | (outages["ended_at"] > end)
    began = outages["began_at"].mask(outages["began_at"] < start, start)
    ended = outages["ended_at"].mask(outages["ended_at"] > end, end)
    counted = outages.assign(
        down=down,
        length=ended - began,
        back=outages["ended_at"].where(~down),
        # one slot runs each task of its group
        instance=outages["slot"] + "/" + outages["task"].astype("str"),
    )
    jobs = counted.groupby(["namespace", "job_id"], observed=True).agg(
        tasks_hit=("instance", "nunique"), outages=("length", "size"),
        first_down_at=("began_at", "min"), last_back_at=("back", "max"), still_down=("down", "sum"),
        longest=("length", "max"), down_in_all=("length", "sum"),
    )  # fmt: skip
    return jobs.sort_values(["still_down", "down_in_all"], ascending=False, kind="stable").reset_index()
