"""What an incident is: what happened, how it stands, and why, with evidence for and against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .._utils.prose import as_html, one_line
from . import evidence_sentences
from . import incident_sentences as sentences
from .finding import Finding, json_facts, json_value

STATES = ("ongoing", "gave up", "recovered", "stopped")
CONFIDENCES = ("certain", "likely", "possible", "unknown")


@dataclass(frozen=True)
class Evidence:
    """A fact that speaks for or against a cause.

    Attributes
    ----------
    fact : str
        What kind of fact it is, such as "exits" or "healthy deploy".
    numbers : dict
        Its numbers, names and times, as plain values.
    keys : list of dict
        The keys of the rows that show it, such as alloc_id and task; twenty at most.
    """

    fact: str
    numbers: dict[str, Any] = field(default_factory=dict)
    keys: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The fact as a sentence."""
        return evidence_sentences.evidence(self)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "fact": self.fact,
            "numbers": json_facts(self.numbers),
            "keys": [json_facts(key) for key in self.keys],
            "text": self.text,
        }


@dataclass(frozen=True)
class Hypothesis:
    """A cause that was considered.

    Attributes
    ----------
    kind : str
        "crash", "killed", "out of memory", "kill timeout", "artifact", "driver", "template", "secrets",
        "health check", "volume", "run duration", "job version", "node", "common cause", "operator", "drain",
        "placement" or "unknown".
    mechanism : str or None
        How it shows, where the kind does not say: "crash", "artifact", "lost", ...
    subject : dict
        What it is about: namespace, job_id, job_version, task, node_name, host, ...
    confidence : str
        "certain" (servers, driver or node say so), "likely" (an exact test, or begun right after a change),
        "possible" (it fits, and so do others) or "unknown".
    supporting, contradicting : list of Evidence
    """

    kind: str
    mechanism: str | None = None
    subject: dict[str, Any] = field(default_factory=dict)
    confidence: str = "possible"
    supporting: list[Evidence] = field(default_factory=list)
    contradicting: list[Evidence] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The cause in a few words."""
        return sentences.hypothesis(self)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "kind": self.kind,
            "mechanism": self.mechanism,
            "subject": json_facts(self.subject),
            "confidence": self.confidence,
            "supporting": [each.to_dict() for each in self.supporting],
            "contradicting": [each.to_dict() for each in self.contradicting],
            "text": self.text,
        }


class Cause(Hypothesis):
    """The hypothesis that the evidence bears out best, or "unknown"."""


@dataclass(frozen=True)
class Incident:
    """One thing that went wrong.

    Attributes
    ----------
    severity : str
        "critical", "warning" or "info".
    state : str
        "ongoing", "gave up" (no retries left), "recovered" or "stopped" (no longer desired).
    cause : Cause
        Why, as far as the evidence says.
    hypotheses : list of Hypothesis
        All causes that were considered, the best first. One without evidence is not among them.
    jobs : list of tuple
        Namespace and job of each job that it hit. Runs count as their periodic or parameterized job.
    nodes : list of str
        Names of the nodes where it shows.
    alloc_ids : list of str
        Its allocations.
    began_at, last_at : Timestamp or None
        First and last sign of it.
    began_before : bool
        Older events are lost: it began at `began_at` or earlier.
    facts : dict
        Its numbers.
    findings : list of Finding
        The coded findings about it.
    changes : list of dict
        Rows of the change ledger near its beginning, the most telling first.
    cluster : str or None
        Its cluster, if the snapshot is of several.
    observed_at : Timestamp or None
        When the snapshot was taken. Sentences leave out the date of times on this day.
    """

    severity: str
    state: str
    cause: Cause
    hypotheses: list[Hypothesis] = field(default_factory=list)
    jobs: list[tuple[str, str]] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    alloc_ids: list[str] = field(default_factory=list)
    began_at: pd.Timestamp | None = None
    last_at: pd.Timestamp | None = None
    began_before: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    cluster: str | None = None
    observed_at: pd.Timestamp | None = field(default=None, repr=False, compare=False)

    @property
    def title(self) -> str:
        """What happened to whom, in a few words."""
        return self._of_cluster(sentences.title(self))

    @property
    def summary(self) -> str:
        """What happened, with its numbers, in one or two sentences."""
        return self._of_cluster(sentences.summary(self))

    def _of_cluster(self, text: str) -> str:
        """Put the cluster's name before a text, if there are several."""
        return f"{self.cluster}: {text}" if self.cluster else text

    @property
    def not_known(self) -> str:
        """What the evidence does not show, as the end of "not known: ..."."""
        return sentences.not_known(self)

    def lines(self) -> list[str]:
        """Return the incident as lines of text: what happened, then each cause that was considered.

        A line of evidence for a cause begins with "+", one against it with "-".

        Examples
        --------
        >>> incident = af.diagnose(snap).incidents[0]
        >>> incident.lines()[0] == incident.summary
        True
        """
        return [one_line(self.summary), *self.cause_lines()]

    def cause_lines(self) -> list[str]:
        """Return the lines of the causes that were considered, and of their evidence.

        Examples
        --------
        >>> incident = af.diagnose(snap).incidents[0]
        >>> incident.lines()[1:] == incident.cause_lines()
        True
        """
        lines = []
        for hypothesis in self.hypotheses:
            lines.append(f"  {hypothesis.confidence}: {one_line(hypothesis.text)}")
            for sign, evidence in (("+", hypothesis.supporting), ("-", hypothesis.contradicting)):
                lines += [f"    {sign} {one_line(each.text)}" for each in evidence]
        return lines

    def __repr__(self) -> str:
        return "\n".join([f"{self.severity}, {self.state}", *self.lines()])

    def _repr_html_(self) -> str:
        summary, *others = self.lines()
        pieces = "".join(f"<li>{as_html(line.strip())}</li>" for line in others)
        return f"<p><b>{self.severity}, {self.state}</b>: {as_html(summary)}</p><ul>{pieces}</ul>"

    def reaches_into(self, start: pd.Timestamp | None, end: pd.Timestamp | None) -> bool:
        """Return whether a part of it lies in a window; None leaves that side open."""
        if self.began_at is None or self.last_at is None:
            return True
        goes_on = self.state == "ongoing"
        before_end = end is None or self.began_at <= end
        return before_end and (start is None or goes_on or self.last_at >= start)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "title": self.title,
            "summary": self.summary,
            "severity": self.severity,
            "state": self.state,
            "cause": self.cause.to_dict(),
            "hypotheses": [each.to_dict() for each in self.hypotheses],
            "jobs": [list(job) for job in self.jobs],
            "nodes": self.nodes,
            "alloc_ids": self.alloc_ids,
            "began_at": json_value(self.began_at),
            "last_at": json_value(self.last_at),
            "began_before": self.began_before,
            "facts": json_facts(self.facts),
            "findings": [finding.code for finding in self.findings],
            "changes": [json_facts(change) for change in self.changes],
        }
