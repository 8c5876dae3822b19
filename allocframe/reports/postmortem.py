"""The postmortem of an incident: what happened, as far as a snapshot holds evidence of it, and no further."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from .._utils.memory import give_back
from .._utils.prose import Points, Prose, clock
from .._utils.times import to_utc
from ..client.client import Client
from ..diagnosis.data_quality import (
    DataQuality,
    covered_window,
    require_one_cluster,
    unwatched_note,
)
from ..diagnosis.diagnose import Diagnosis, diagnose
from ..diagnosis.finding import Findings
from ..diagnosis.incident import Incident
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ..stats._source import pandas_table
from ..stats.availability import parse_target
from .as_html import STYLE, render_body
from .as_markdown import render_markdown
from .document import Document, Part, plain
from .impact import Course, Instances, JobImpact
from .ledger import Change, changes_of, first_human_action
from .log_excerpts import NOT_ASKED, LogLines, log_lines
from .people import Written

NO_INCIDENTS = (
    "no crash loop, kill for memory, failing version, lost or suspicious node, "
    "series of failed starts or restart storm"
)
"""What a calm cluster is free of."""


@dataclass(frozen=True)
class Facts:
    """What a postmortem is made of: facts, no sentences.

    Attributes
    ----------
    since, until : Timestamp
        The window.
    begin, end : Timestamp
        From the first sign of the incidents to their end, inside the window. Impact is counted there.
    incidents, minor : list of Incident
        Those above "info" that reach into the window, and the others.
    jobs : list of JobImpact
        What happened to each job, the worst first.
    courses : list of Course
        When each incident was mitigated and over.
    human : list of Change or None
        The first human action on each incident.
    changes : list of Change
        What changed, in order of time.
    versions_known : bool
        Job versions, deployments and nodes were fetched.
    slo : float or None
        The availability target.
    """

    snapshot: Snapshot
    diagnosis: Diagnosis
    since: pd.Timestamp
    until: pd.Timestamp
    begin: pd.Timestamp
    end: pd.Timestamp
    incidents: list[Incident]
    minor: list[Incident]
    jobs: list[JobImpact]
    courses: list[Course]
    human: list[Change | None]
    changes: list[Change]
    instances: Instances
    versions_known: bool
    audit_rows: int
    slo: float | None = None
    similar: list[dict[str, Any]] | None = None
    since_given: bool = False

    @property
    def is_ongoing(self) -> bool:
        """Whether an incident is ongoing, or Nomad gave up on it."""
        return any(each.state in ("ongoing", "gave up") for each in self.incidents)


@dataclass(frozen=True)
class Postmortem:
    """What happened in a window of time, made by `postmortem`. A notebook shows it as the report.

    Attributes
    ----------
    document : Document
        Its twelve sections. `document.section("causes")` is one, `document.texts()` are its sentences.
    summary : Prose
        What happened: a line for each incident.
    causes : Points
        Each incident with its causes, the evidence for and against, and what would settle it.
    incidents : list of Incident
        Those above "info" that reach into the window, the worst first.
    jobs : pandas.DataFrame
        One row per job that was hit: instances and instances_hit; from the first sign of the incidents to
        their end, down, wanted and unknown (time of its instances) and availability; and
        availability_before.
    milestones : pandas.DataFrame
        One row per incident: began_at, first_human_action_at, mitigated_at, recovered_at. What is not known
        is missing.
    timeline : pandas.DataFrame
        One row per line: at, text, key (for ``star``), shown.
    missing : DataQuality
        What the evidence covers and lacks.
    logs : LogLines
        Log lines around failures, if `postmortem` was given a client.
    since, until : Timestamp
        The window.
    findings : Findings
        All findings of the snapshot.
    """

    document: Document
    facts: Facts = field(repr=False)
    timeline: pd.DataFrame = field(repr=False)
    logs: LogLines = field(repr=False)
    stars: list[str] = field(default_factory=list, repr=False)

    @property
    def since(self) -> pd.Timestamp:
        return self.facts.since

    @property
    def until(self) -> pd.Timestamp:
        return self.facts.until

    @property
    def incidents(self) -> list[Incident]:
        return self.facts.incidents

    @property
    def missing(self) -> DataQuality:
        return self.facts.diagnosis.data_quality

    @property
    def findings(self) -> Findings:
        return self.facts.diagnosis.findings

    @cached_property
    def summary(self) -> Prose:
        return Prose(self.document.title + ".", self.document.texts("glance"))

    @cached_property
    def causes(self) -> Points:
        parts = [block for block in self.document.section("causes").blocks if isinstance(block, Part)]
        return Points(
            (part.title, [text for block in part.blocks for text in _texts(block)]) for part in parts
        )

    @cached_property
    def jobs(self) -> pd.DataFrame:
        rows = [
            (
                *each.job, each.instances, each.hit,
                each.during and each.during.down, each.during and each.during.wanted,
                each.during and each.during.unknown, each.during and each.during.availability,
                each.before and each.before.availability,
            )
            for each in self.facts.jobs
        ]  # fmt: skip
        spans, shares = ["down", "wanted", "unknown"], ["availability", "availability_before"]
        columns = ["namespace", "job_id", "instances", "instances_hit", *spans, *shares]
        types = dict.fromkeys(spans, "timedelta64[ns]") | dict.fromkeys(shares, "Float64")
        return pd.DataFrame(rows, columns=columns).astype({"namespace": "str", "job_id": "str", **types})

    @cached_property
    def milestones(self) -> pd.DataFrame:
        facts = self.facts
        rows = [
            (
                each.title, each.state, each.began_at, human and human.at, course.mitigated_at,
                course.recovered_at,
            )
            for each, human, course in zip(facts.incidents, facts.human, facts.courses, strict=True)
        ]  # fmt: skip
        times = ["began_at", "first_human_action_at", "mitigated_at", "recovered_at"]
        frame = pd.DataFrame(rows, columns=["incident", "state", *times])
        return frame.astype(
            {"incident": "str", "state": "str", **dict.fromkeys(times, "datetime64[ns, UTC]")}
        )

    def _with_similar(self, similar: list[dict[str, Any]]) -> Postmortem:
        """Return it with similar incidents of earlier times: at, title, length, ended, alike."""
        from .postmortem_causes import similar_section

        facts = replace(self.facts, similar=similar)
        sections = [
            similar_section(facts) if section.key == "similar" else section
            for section in self.document.sections
        ]
        return replace(self, facts=facts, document=replace(self.document, sections=sections))

    def to_markdown(self) -> str:
        """Return the report as Markdown, without pictures.

        Examples
        --------
        >>> af.postmortem(snap).to_markdown().splitlines()[0][:2]
        '# '
        """
        return render_markdown(self.document, Written(stars=self.stars), "")

    def __repr__(self) -> str:
        return repr(self.summary)

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{render_body(self.document, Written(stars=self.stars))}"

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def _texts(block: Any) -> list[str]:
    if hasattr(block, "items"):
        return [plain(item) for item in block.items]
    return [plain(block.text)] if hasattr(block, "text") else []


def postmortem(
    snapshot: Snapshot,
    *,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    client: Client | None = None,
    slo: float | str | None = None,
    star: list[str] | None = None,
    audit: pd.DataFrame | None = None,
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
    slo : float or str, optional
        An availability target such as ``"99.9%"``, to show how much of the error budget was used.
    star : list of str, optional
        Keys of lines that the timeline must have, from the column ``key`` of `Postmortem.timeline`.
    audit : pandas.DataFrame, optional
        Actions of people: the result of `read_audit`.

    Raises
    ------
    ConfigError
        A time is not valid, the window holds no task event, or `slo` or `star` cannot be used.

    Examples
    --------
    >>> report = af.postmortem(snap, slo="99.9%")
    >>> print(report.causes.points[0][0])
    1. platform/search-indexer runs out of memory
    >>> report.jobs["instances_hit"].sum() >= 1
    np.True_
    """
    from .postmortem_sections import make_document
    from .timeline_lines import timeline_lines

    require_one_cluster(snapshot)
    target = _check_target(slo)
    start, end = window(snapshot, since, until)
    facts = replace(gather(snapshot, start, end, audit), slo=target, since_given=since is not None)
    logs = LogLines(NOT_ASKED, []) if client is None else log_lines(snapshot, client, start, end)
    lines = timeline_lines(facts, list(star or []))
    return Postmortem(make_document(facts, lines, logs), facts, lines, logs, list(star or []))


def _check_target(slo: float | str | None) -> float | None:
    try:
        return None if slo is None else parse_target(slo)
    except ValueError as error:
        raise ConfigError(str(error).replace("target", "slo", 1)) from None


def gather(snapshot: Snapshot, start: pd.Timestamp, end: pd.Timestamp, audit: pd.DataFrame | None) -> Facts:
    """Return the facts of a postmortem."""
    diagnosis = diagnose(snapshot, progress=False)
    near = [each for each in diagnosis.incidents if each.reaches_into(start, end)]
    incidents = [each for each in near if each.severity != "info"]
    instances = Instances(snapshot, incidents)
    changes = [each for each in changes_of(snapshot, audit) if each.at <= end]
    give_back(snapshot._counts["events"])
    courses = [instances.course(each) for each in incidents]
    begin, over = _extent(incidents, courses, start, end)
    first = max(start, covered_window(snapshot)[0])
    human = [
        first_human_action(each, changes, course.recovered_at)
        for each, course in zip(incidents, courses, strict=True)
    ]
    return Facts(
        snapshot=snapshot,
        diagnosis=diagnosis,
        since=start,
        until=end,
        begin=begin,
        end=over,
        incidents=incidents,
        minor=[each for each in near if each.severity == "info"],
        jobs=instances.impact(incidents, first, begin, over),
        courses=courses,
        human=human,
        changes=changes,
        instances=instances,
        versions_known=snapshot.history is not None,
        audit_rows=sum(each.kind == "audit log" for each in changes),
    )


def _extent(
    incidents: list[Incident], courses: list[Course], start: pd.Timestamp, end: pd.Timestamp
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return from when until when the incidents lasted, inside the window."""
    began = [each.began_at for each in incidents if each.began_at is not None]
    begin = max(start, min(began)) if began else start
    if not incidents or any(each.state in ("ongoing", "gave up") for each in incidents):
        return begin, end
    over = [course.recovered_at or each.last_at for each, course in zip(incidents, courses, strict=True)]
    known = [time for time in over if time is not None]
    return begin, min(end, max([begin, *known]))


def window(
    snapshot: Snapshot, since: pd.Timestamp | str | None, until: pd.Timestamp | str | None
) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the window asked for, or all that the snapshot covers.

    Raises
    ------
    ConfigError
        A time is not valid, or the window holds no task event.
    """
    times = pandas_table(snapshot, "events", "time")["time"].dropna()
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
