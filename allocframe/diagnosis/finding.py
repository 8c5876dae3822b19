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
    """The limits above which something becomes a finding. Durations are texts that pandas reads, as "5min".

    Attributes
    ----------
    loop_restarts : int, default 3
        An instance that failed at least this often is in a crash loop (AF201). Nomad's ten events of a task
        show about three crashes.
    version_tasks : int, default 2
        A version is blamed (AF401) without a statistical test only if it has at least this many failures or
        changed a field that fits them. One failure may be chance.
    skewed_runs : int, default 1
        At least this many runs that end before they start show a clock that was set back (AF104). A clock
        that only runs forward makes none.
    usage_samples : int, default 10
        A task needs at least this many samples for AF701 and AF702. Fewer may all miss its peak.
    tight_share : float, default 0.9
        A task that used at least this share of its reserved memory is close to the limit (AF701). Its next
        peak may exceed it.
    idle_share : float, default 0.25
        A task that uses less than this share of its memory and of its CPU has far more than it needs
        (AF702). With half the reservation, twice its use would still fit.
    critical_share : float, default 0.5
        An incident is critical if it hits at least this share of a job's instances or runs. With half of
        them down, a service has lost its redundancy.
    critical_jobs : int, default 3
        At least this many jobs that fail together may have a common cause (AF501), and an ongoing incident
        that hits as many is critical. No single job is to blame then.
    failed_run_share : float, default 0.1
        Failed runs of a periodic or parameterized job are a warning if the 95 % lower bound of their share
        is above this one. Below it, retries are usual.
    onset_window : str, default "60s"
        Failures of several jobs that begin within this time may have one cause. Clients report every fifth
        of a second, restarts are delayed by up to 15 seconds, and clocks of nodes differ.
    change_window : str, default "5min"
        A failure that begins within this time after a change may come from it. It covers a start, the
        deadline of a health check and a cache together.
    significance_level : float, default 0.01
        The family-wise error rate of the tests that make a cause "likely": one wrong name in a hundred
        snapshots.
    incident_gap : str, default "1h"
        Failures of a job with a longer calm between them are two incidents. It is longer for rare failures:
        ten times their median distance, or twice their median run. Nomad's longest delay between
        reschedules is an hour.
    single_failure_gap : str, default "24h"
        Failures of an instance that runs for longer than this in between are single failures, not a loop.
    history_age : str, default "24h"
        Stops, removals, missing instances and failed evaluations that are older are history: people know.
    start_overdue : str, default "10min"
        An allocation that waits for its start for longer than this is a warning (AF209), whatever earlier
        ones took. It is twice the time after which Docker gives up a pull.
    template_wait : str, default "30s"
        A start that takes longer than this is a warning if Nomad says that a template misses something, and
        info if it takes `slow_start_factor` times as long as earlier ones. Before that, the missing value may
        be about to come. Missing instances (AF602) are reported after this time without a change.
    slow_start : str, default "60s"
        A start without an earlier one to compare with is reported after this time. Nothing that takes less
        is `outlier_factor` times as long as usual, overdue (AF211) or unscheduled (AF603).
    slow_start_factor : float, default 3
        A start is reported if it takes this many times as long as the longest earlier one.
    outlier_factor : float, default 10
        A start is a warning, and a run is reported (AF210), if it takes this many times as long as the
        longest earlier one. If lengths of runs differ as much as those of real batch work (log-normal, sigma
        2), a sixth run is ten times as long as the longest of five in less than 1 % of cases.
    outlier_runs : int, default 5
        A run that takes so long is a warning only if at least this many have ended before it. See
        `outlier_factor` for the reason.
    """

    loop_restarts: int = 3
    version_tasks: int = 2
    skewed_runs: int = 1
    usage_samples: int = 10
    tight_share: float = 0.9
    idle_share: float = 0.25
    critical_share: float = 0.5
    critical_jobs: int = 3
    failed_run_share: float = 0.1
    onset_window: str = "60s"
    change_window: str = "5min"
    significance_level: float = 0.01
    incident_gap: str = "1h"
    single_failure_gap: str = "24h"
    history_age: str = "24h"
    start_overdue: str = "10min"
    template_wait: str = "30s"
    slow_start: str = "60s"
    slow_start_factor: float = 3
    outlier_factor: float = 10
    outlier_runs: int = 5


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
