"""The diagnosis of a snapshot: the rules, over each cluster by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from .._utils.prose import as_html, one_line
from .._utils.text import escaped
from ..snapshot.snapshot import Snapshot
from ..stats._per_cluster import CLUSTER, part_of
from .data_quality import DataQuality, covered_window, data_quality
from .finding import SEVERITIES, Finding, Findings, Thresholds, plain
from .incidents import Incident, group_incidents
from .rules import RULES, Sources, missing_cluster


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong in a snapshot, made by `diagnose`.

    Attributes
    ----------
    findings : Findings
        Coded facts, the most severe first.
    incidents : list of Incident
        Findings about the same thing, together.
    data_quality : DataQuality
        What the snapshot covers, what is missing, and what that could hide.
    """

    findings: Findings
    incidents: list[Incident]
    data_quality: DataQuality

    def to_frame(self) -> pd.DataFrame:
        """Return one row per incident: severity, title, began_at, last_at, codes, summary.

        Examples
        --------
        >>> af.diagnose(snap).to_frame()["severity"].iloc[0]
        'critical'
        """
        rows = [
            (
                incident.severity,
                incident.title,
                incident.began_at,
                incident.last_at,
                ", ".join(dict.fromkeys(finding.code for finding in incident.findings)),
                incident.findings[0].summary,
            )
            for incident in self.incidents
        ]
        frame = pd.DataFrame(rows, columns=["severity", "title", "began_at", "last_at", "codes", "summary"])
        times = ["began_at", "last_at"]
        text = dict.fromkeys(["severity", "title", "codes", "summary"], "str")
        return frame.astype({**text, **dict.fromkeys(times, "datetime64[ns, UTC]")})

    def __repr__(self) -> str:
        lines = [f"{incident.severity:8} {one_line(incident.headline)}" for incident in self.incidents]
        return "\n".join([self._title(), *lines, *self._other_findings()])

    def _title(self) -> str:
        return f"<Diagnosis: {len(self.incidents)} incidents, {len(self.findings)} findings>"

    def _other_findings(self) -> list[str]:
        """Return a line for each finding that belongs to no incident."""
        grouped = {id(finding) for incident in self.incidents for finding in incident.findings}
        others = (finding for finding in self.findings if id(finding) not in grouped)
        return [f"{finding.severity:8} {one_line(finding.summary)} ({finding.code})" for finding in others]

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        head = "".join(f"<th {left}>{name}</th>" for name in ("severity", "incident", "what happened"))
        rows = "".join(
            f"<tr><td {left}>{incident.severity}</td><td {left}>{escaped(incident.title)}</td>"
            f"<td {left}>{as_html(incident.findings[0].summary)}</td></tr>"
            for incident in self.incidents
        )
        incidents = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        return f"<p>{escaped(self._title())}</p>{incidents}{self.findings._repr_html_()}"


def diagnose(
    snapshot: Snapshot,
    *,
    evaluations: pd.DataFrame | None = None,
    usage: pd.DataFrame | None = None,
    thresholds: Thresholds | None = None,
) -> Diagnosis:
    """Return what went wrong in a snapshot: incidents, the findings behind them, and how good the data is.

    Parameters
    ----------
    snapshot : Snapshot
        Of one cluster or several; each cluster is diagnosed by itself.
    evaluations : pandas.DataFrame, optional
        The result of `Client.evaluations`, to find placement failures. For several clusters it needs a column
        ``cluster``.
    usage : pandas.DataFrame, optional
        The ``samples`` of `Client.usage`, to find too little and too much reserved memory and CPU.
    thresholds : Thresholds, optional
        The limits above which something becomes a finding.

    Raises
    ------
    ValueError
        The snapshot is of several clusters, and evaluations or usage have no column ``cluster``.

    Examples
    --------
    >>> diagnosis = af.diagnose(snap)
    >>> diagnosis.incidents[0].title
    'checkout version 1'
    >>> diagnosis.findings[0].severity
    'critical'
    """
    coded = _findings(snapshot, evaluations, usage, thresholds)
    return Diagnosis(coded, group_incidents(coded, None, None), data_quality(snapshot))


def findings(
    snapshot: Snapshot,
    *,
    evaluations: pd.DataFrame | None = None,
    usage: pd.DataFrame | None = None,
    thresholds: Thresholds | None = None,
) -> Findings:
    """Return the findings of a snapshot: ``diagnose(snapshot).findings``, with the same parameters.

    Examples
    --------
    >>> findings = af.findings(snap)
    >>> findings[0].severity
    'critical'
    >>> {"AF201", "AF202", "AF301"} <= {finding.code for finding in findings}
    True
    """
    return diagnose(snapshot, evaluations=evaluations, usage=usage, thresholds=thresholds).findings


def _findings(
    snapshot: Snapshot,
    evaluations: pd.DataFrame | None,
    usage: pd.DataFrame | None,
    thresholds: Thresholds | None,
) -> Findings:
    sources = Sources(snapshot, evaluations, usage, thresholds or Thresholds())
    findings = Findings(_of_several_clusters(sources) if snapshot.clusters else _of_one_cluster(sources))
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.code))
    return findings


def _of_one_cluster(sources: Sources) -> Iterator[Finding]:
    observed_at = plain(covered_window(sources.snapshot)[1])
    for rule in RULES.values():
        for finding in rule(sources):
            yield replace(finding, observed_at=observed_at)


def _of_several_clusters(sources: Sources) -> Iterator[Finding]:
    """Diagnose each cluster by itself: equal names in two of them are different things."""
    for name, info in sources.snapshot.info["clusters"].items():
        if info["error"]:
            yield missing_cluster(name, info["error"])
    for name, member in sources.snapshot.clusters.items():
        evaluations, usage = (
            None if rows is None else _cluster_rows(rows, name)
            for rows in (sources.evaluations, sources.usage)
        )
        for finding in _of_one_cluster(Sources(member, evaluations, usage, sources.thresholds)):
            evidence = finding.evidence.copy()
            if len(evidence.columns):
                evidence.insert(0, CLUSTER, name)
            yield replace(finding, subject={CLUSTER: name, **finding.subject}, evidence=evidence)


def _cluster_rows(rows: pd.DataFrame, cluster: str) -> pd.DataFrame:
    if CLUSTER not in rows.columns:
        raise ValueError(
            "evaluations and usage must have a column 'cluster' if the snapshot is of several clusters, "
            f"got {', '.join(map(str, rows.columns[:5]))}, ..."
        )
    part: pd.DataFrame = part_of(rows, cluster)
    return part
