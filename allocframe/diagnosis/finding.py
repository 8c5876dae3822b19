"""What a finding is: facts about one thing, and the rows behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .._utils.prose import as_html, one_line
from .._utils.text import escaped
from .._utils.times import to_utc
from . import sentences

SEVERITIES = ("critical", "warning", "info")

KEY_COLUMNS = (
    "cluster", "eval_id", "namespace", "job_id", "job_version", "task_group", "slot", "alloc_id", "task",
    "node_id", "node_name", "file", "record", "field",
)  # fmt: skip
"""Columns that name rows; times and numbers are not keys."""


@dataclass(frozen=True)
class Thresholds:
    """The limits above which something becomes a finding.

    Attributes
    ----------
    loop_restarts, loop_window
        A crash loop (AF201) has at least so many restarts within this time.
    shared_jobs
        If failed starts hit at least so many jobs, no single job or version is blamed.
    storm_slots, storm_window
        A restart storm (AF501) hits at least so many tasks within this time.
    storm_explained_share
        It is no storm if one job, or crash loops, account for at least this share of it.
    version_tasks
        A version (AF401) is blamed for at least so many failed tasks.
    skewed_runs
        AF104 needs at least so many runs that end before they start.
    usage_samples
        AF701 and AF702 need at least so many samples of a task.
    tight_share, idle_share
        The share of reserved memory from which it is tight (AF701), and below which it is idle (AF702).
    critical_share
        An incident is critical if at least this share of a job's instances, or of its runs, is hit: with half
        of them down a service has lost its redundancy.
    critical_jobs
        An incident that goes on is critical if it hits at least so many jobs: no one of them is to blame.
    failed_runs
        Failed runs of a periodic or parameterized job are a warning if their share is surely (95 % lower
        bound) above this one: below it, retries are usual.
    together
        Failures of several jobs that begin within this time may have one cause: clients report every fifth of
        a second, restarts are delayed by up to 15 seconds, and clocks of nodes differ.
    after_change
        A failure that begins within this time of a change may come from it: longer than a start, a health
        check's deadline and a cache together.
    level
        The family-wise error rate of the tests that make a cause likely: one wrong name in a hundred
        snapshots.
    calm
        Failures with a longer calm between them (or ten times their usual distance, or twice their usual
        run) are two incidents:
        Nomad's longest delay between reschedules is an hour.
    rare
        An instance that runs for longer than this between two crashes has single failures, not a loop.
    stuck
        An allocation that has waited so long for its start is worth a line.
    waiting
        ... this long, if Nomad says that its template misses something: that may be about to come. A start
        that is longer than usual is told from here on.
    slow
        What takes less is never called slow; nothing is said of a first start before.
    longer, far_longer
        A start or a run that takes so many times as long as the longest one before it is told; far longer is
        a warning. Of runs whose lengths differ as much as those of real batch work (a log-normal with sigma
        2), the next one is ten times as long as the longest of five in less than 1 % of cases.
    runs_before
        Runs that must have ended before one that takes far longer is a warning.
    """

    loop_restarts: int = 3
    loop_window: str = "10min"
    shared_jobs: int = 3
    storm_slots: int = 8
    storm_window: str = "5min"
    storm_explained_share: float = 0.5
    version_tasks: int = 2
    skewed_runs: int = 1
    usage_samples: int = 10
    tight_share: float = 0.9
    idle_share: float = 0.25
    critical_share: float = 0.5
    critical_jobs: int = 3
    failed_runs: float = 0.1
    together: str = "60s"
    after_change: str = "5min"
    level: float = 0.01
    calm: str = "1h"
    rare: str = "24h"
    stuck: str = "10min"
    waiting: str = "30s"
    slow: str = "60s"
    longer: float = 3
    far_longer: float = 10
    runs_before: int = 5


@dataclass(frozen=True)
class Finding:
    """Facts about one thing that deserves attention.

    Attributes
    ----------
    code : str
        The rule, such as "AF201"; each has a page in ``docs/findings/``.
    severity : str
        "critical" (ongoing, or it has cost allocations), "warning", or "info".
    subject : dict
        What it is about, as far as it applies: cluster, namespace, job_id, job_version, task_group, task,
        node_id, node_name.
    facts : dict
        Its numbers, times and causes by name, as plain values; None if unknown.
    began_at, last_at : Timestamp or None
        First and last sign of it; None if it is about all of the snapshot.
    observed_at : Timestamp or None
        When the snapshot was taken. Sentences leave out the date of times on this day.
    evidence : pandas.DataFrame
        The rows behind it.
    """

    code: str
    severity: str
    subject: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    began_at: pd.Timestamp | None = None
    last_at: pd.Timestamp | None = None
    observed_at: pd.Timestamp | None = field(default=None, compare=False, repr=False)
    evidence: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)

    @property
    def title(self) -> str:
        """The name of the rule."""
        return sentences.WORDINGS[self.code].title

    @property
    def summary(self) -> str:
        """The finding in one line, with its numbers."""
        return sentences.short(self)

    @property
    def description(self) -> str:
        """The finding in full sentences, for reports."""
        return sentences.long(self)

    @property
    def evidence_keys(self) -> list[dict[str, Any]]:
        """The keys of the rows behind it (alloc_id and task, node_name, and so on), each once."""
        keys = [name for name in KEY_COLUMNS if name in self.evidence.columns]
        rows = self.evidence[keys].drop_duplicates().to_dict("records")
        return [{str(name): plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """Return a value as plain Python, None if missing: facts are compared and written as JSON."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, dict):
        return plain_facts(value)
    if pd.isna(value):
        return None
    # numpy's scalars have .item(); pandas' Timestamp and Timedelta do not
    return value.item() if hasattr(value, "item") else value


def plain_facts(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a mapping of facts with plain values."""
    return {str(name): plain(value) for name, value in row.items()}


def json_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return facts as plain JSON: times as text, durations in seconds."""
    return {name: json_value(value) for name, value in plain_facts(facts).items()}


def json_value(value: Any) -> Any:
    """Return one value as plain JSON."""
    if isinstance(value, dict):
        return {str(name): json_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    value = plain(value)
    if isinstance(value, pd.Timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


class Findings(list[Finding]):
    """The findings of a snapshot, the most severe first."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row per finding: code, severity, title, summary.

        Examples
        --------
        >>> af.findings(snap).to_frame().columns.tolist()
        ['code', 'severity', 'title', 'summary']
        """
        rows = [(finding.code, finding.severity, finding.title, finding.summary) for finding in self]
        return pd.DataFrame(rows, columns=["code", "severity", "title", "summary"]).astype("str")

    def since(self, start: pd.Timestamp | str | None) -> Findings:
        """Return the findings whose last sign is at `start` or later, and those about all of the snapshot.

        Without a start, return all.

        Examples
        --------
        >>> {finding.code for finding in af.findings(snap).since("2100-01-01")}
        {'AF101'}
        """
        if start is None:
            return self
        first = to_utc(start, "start")
        return Findings(finding for finding in self if finding.last_at is None or finding.last_at >= first)

    def __repr__(self) -> str:
        if not self:
            return "no findings"
        lines = (f"{finding.code} {finding.severity:8} {one_line(finding.summary)}" for finding in self)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        if not self:
            return "<p>No findings.</p>"
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><td {left}>{finding.code}</td><td {left}>{finding.severity}</td>"
            f"<td {left}>{escaped(finding.title)}</td><td {left}>{as_html(finding.summary)}</td></tr>"
            for finding in self
        )
        head = "".join(f"<th {left}>{name}</th>" for name in ("code", "severity", "finding", "summary"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
