"""What a finding is, and from when on something is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .._utils.text import escaped, visible

SEVERITIES = ("critical", "warning", "info")


TITLES = {
    "AF101": "Events truncated",
    "AF102": "Snapshot incomplete",
    "AF103": "Values that did not fit",
    "AF104": "Clock set back",
    "AF201": "Crash loop",
    "AF202": "Out of memory",
    "AF203": "Kill timeout exceeded",
    "AF204": "Artifacts cannot be fetched",
    "AF205": "Tasks cannot start",
    "AF301": "Node lost",
    "AF302": "Node fails more than its jobs explain",
    "AF401": "Version fails more than the one before",
    "AF501": "Restart storm",
    "AF601": "Allocations cannot be placed",
    "AF701": "Memory close to what is reserved",
    "AF702": "Far more reserved than used",
}
"""The rules by their codes."""


_TIMES = (
    ("first_at", "last_at"),
    ("began_at", "ended_at"),
    ("time", "time"),
    ("modified_at", "modified_at"),
    ("placed_at", "placed_at"),
)
"""Where evidence says when: the columns of its first and last moment, by the first pair that is there."""


@dataclass(frozen=True)
class Thresholds:
    """From when on something is worth pointing at."""

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


@dataclass(frozen=True)
class Finding:
    """One thing to point at.

    Attributes
    ----------
    code : str
        Which rule, such as "AF201"; each has a page in ``docs/findings/``.
    severity : str
        "critical" (is still going on, or has cost allocations), "warning", or "info".
    summary : str
        One sentence with numbers.
    about : dict
        What it is about: job_id, job_version, node_name, cause, cluster, where they apply.
    evidence : pandas.DataFrame
        The rows behind it.
    """

    code: str
    severity: str
    summary: str
    about: dict[str, Any] = field(default_factory=dict)
    evidence: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)

    @property
    def title(self) -> str:
        """What the rule is called."""
        return TITLES[self.code]

    @property
    def times(self) -> tuple[Any, Any]:
        """The first and last moment of its evidence; NaT where it is about all of it."""
        for first, last in _TIMES:
            if first in self.evidence.columns:
                return self.evidence[first].min(), self.evidence[last].max()
        return pd.NaT, pd.NaT


class Findings(list[Finding]):
    """The findings of one snapshot, the most severe first."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each finding: code, severity, title, summary.

        Examples
        --------
        >>> af.findings(snap).to_frame().columns.tolist()
        ['code', 'severity', 'title', 'summary']
        """
        rows = [(one.code, one.severity, one.title, one.summary) for one in self]
        return pd.DataFrame(rows, columns=["code", "severity", "title", "summary"]).astype("str")

    def since(self, moment: pd.Timestamp | str | None) -> Findings:
        """Return those that went on at a time or later, and those that are about everything; all where it is None.

        Examples
        --------
        >>> {one.code for one in af.findings(snap).since("2100-01-01")}
        {'AF101'}
        """
        if moment is None:
            return self
        stamp = pd.Timestamp(moment)
        first = stamp if stamp.tzinfo else stamp.tz_localize("UTC")
        return Findings(one for one in self if pd.isna(one.times[1]) or one.times[1] >= first)

    def __repr__(self) -> str:
        if not self:
            return "nothing found"
        return "\n".join(f"{one.code} {one.severity:8} {visible(one.summary)}" for one in self)

    def _repr_html_(self) -> str:
        if not self:
            return "<p>Nothing found.</p>"
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><td {left}>{one.code}</td><td {left}>{one.severity}</td><td {left}>{escaped(one.title)}</td>"
            f"<td {left}>{escaped(one.summary)}</td></tr>"
            for one in self
        )
        head = "".join(f"<th {left}>{name}</th>" for name in ("code", "severity", "finding", "in numbers"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
