"""Incidents: findings about the same thing, together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..stats.vocabulary import LOST
from . import sentences
from .finding import Finding

_PRIMARY = ("AF202", "AF201", "AF401", "AF301", "AF204", "AF205", "AF302", "AF501")
"""The findings that make an incident. Of several in one incident, the earlier one here gives the headline."""

_OF_A_VERSION = ("AF202", "AF201", "AF401")
_OF_A_NODE = ("AF301", "AF302")
_VERSION_KEYS = ("namespace", "job_id", "job_version")


@dataclass(frozen=True)
class Incident:
    """One thing that went wrong.

    Attributes
    ----------
    findings : list of Finding
        What is known of it; the first gives subject, facts and severity.
    began_at, last_at : Timestamp or None
        First and last sign of it in the evidence; None if the findings are about all of it.
    """

    findings: list[Finding]
    began_at: pd.Timestamp | None = None
    last_at: pd.Timestamp | None = None

    @property
    def severity(self) -> str:
        """The severity of its first finding."""
        return self.findings[0].severity

    @property
    def subject(self) -> dict[str, Any]:
        """What it is about."""
        return self.findings[0].subject

    @property
    def facts(self) -> dict[str, Any]:
        """The numbers of its first finding."""
        return self.findings[0].facts

    @property
    def title(self) -> str:
        """What it is about, in a few words."""
        return sentences.incident_title(self.findings)

    @property
    def headline(self) -> str:
        """What happened, with its numbers."""
        return self.findings[0].description

    @property
    def suspect(self) -> str:
        """Where to look first; empty if the evidence does not say."""
        return sentences.incident_suspect(self.findings)

    @property
    def unknown(self) -> str:
        """What the evidence does not show."""
        return sentences.incident_unknown(self.findings)

    def touches(self, rows: pd.DataFrame) -> pd.Series[Any]:
        """Return which disturbances belong to it, by its job version, its node, or its cause and time."""
        first = self.findings[0]
        if first.code in _OF_A_VERSION:
            of_version: pd.Series[Any] = rows["cause"] != LOST
            for name in _VERSION_KEYS:
                of_version &= rows[name].astype("str") == _text(self.subject[name])
            return of_version
        if first.code in _OF_A_NODE:
            on_node: pd.Series[Any] = rows["node_name"].astype("str") == str(self.subject["node_name"])
            return on_node & (rows["cause"] == LOST) if first.code == "AF301" else on_node
        same_cause: pd.Series[Any] = rows["cause"] == str(self.facts["cause"])
        return same_cause & (rows["at"] >= self.began_at) & (rows["at"] <= self.last_at)


def group_incidents(
    findings: Iterable[Finding], start: pd.Timestamp | None, end: pd.Timestamp | None
) -> list[Incident]:
    """Group the findings of a window by what they are about, critical ones first.

    Parameters
    ----------
    findings : iterable of Finding
    start, end : Timestamp or None
        The window. An incident that reaches into it counts as a whole; None leaves that side open.
    """
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for finding in findings:
        if finding.code in _PRIMARY and _reaches_into(finding, start, end):
            groups.setdefault(_group_key(finding), []).append(finding)
    incidents = [_incident(group) for group in groups.values()]
    return sorted(incidents, key=lambda incident: incident.severity != "critical")


def _reaches_into(finding: Finding, start: pd.Timestamp | None, end: pd.Timestamp | None) -> bool:
    if finding.began_at is None or finding.last_at is None:
        return True
    return (end is None or finding.began_at <= end) and (start is None or finding.last_at >= start)


def _group_key(finding: Finding) -> tuple[str, ...]:
    """Return what findings of one incident share."""
    subject, facts = finding.subject, finding.facts
    cluster = str(subject.get("cluster", ""))
    if finding.code in _OF_A_VERSION:
        return (cluster, *(_text(subject[name]) for name in _VERSION_KEYS))
    if finding.code == "AF501":
        return (cluster, finding.code, str(facts["began_at"]))
    return (cluster, finding.code, str(subject.get("node_name") or facts.get("cause")))


def _text(value: object) -> str:
    """Return a value as it is written in a column of text, in which what is missing is "<NA>"."""
    return "<NA>" if value is None else str(value)


def _incident(group: list[Finding]) -> Incident:
    findings = sorted(group, key=lambda finding: _PRIMARY.index(finding.code))
    began = [finding.began_at for finding in findings if finding.began_at is not None]
    last = [finding.last_at for finding in findings if finding.last_at is not None]
    return Incident(findings, min(began, default=None), max(last, default=None))
