"""The diagnosis of a snapshot: incidents, findings, the quality of the data; each cluster by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from .._utils.memory import return_memory
from .._utils.progress import Progress, Show, shown
from .._utils.prose import as_html, one_line
from ..snapshot.snapshot import Snapshot
from ..stats._per_cluster import CLUSTER, part_of
from . import incident_sentences as sentences
from ._codes import code_incident
from ._engine import Account, investigate
from ._failures import build_case
from .data_quality import DataQuality, covered_window, data_quality
from .finding import SEVERITIES, Finding, Findings, Thresholds, json_facts, plain
from .incident import Incident
from .rules import RULES, Sources, missing_cluster
from .verdict_sentences import verdict


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong in a snapshot, made by `diagnose`.

    Attributes
    ----------
    incidents : list of Incident
        What went wrong, the worst first.
    findings : Findings
        Coded facts, the most severe first.
    data_quality : DataQuality
        What the snapshot covers, what is missing, and what that could hide.
    account : Account
        What had to be explained (failed and lost allocations, failed tasks, restarts), and how much is not.
    """

    incidents: list[Incident]
    findings: Findings
    data_quality: DataQuality
    account: Account

    @property
    def all_clear(self) -> bool:
        """Whether nothing above "info" happened and every failure, loss and restart is explained.

        Of no allocations at all nothing is said.
        """
        quiet = all(incident.severity == "info" for incident in self.incidents)
        explained = not self.account.unexplained and not self.account.unreadable
        return quiet and explained and self.account.allocations > 0

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        return verdict(self.incidents, self.account, self.all_clear)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per incident.

        Columns: severity, state, title, cause, mechanism, confidence, jobs, nodes, allocations, began_at,
        last_at, began_before, summary.

        Examples
        --------
        >>> af.diagnose(snap).to_frame()["severity"].iloc[0]
        'critical'
        """
        rows = [
            (
                incident.severity, incident.state, incident.title, incident.cause.kind,
                incident.cause.mechanism, incident.cause.confidence, sentences.names(incident.jobs),
                ", ".join(incident.nodes), len(incident.alloc_ids), incident.began_at, incident.last_at,
                incident.began_before, incident.summary,
            )
            for incident in self.incidents
        ]  # fmt: skip
        frame = pd.DataFrame(rows, columns=_FRAME_COLUMNS)
        text = [name for name in _FRAME_COLUMNS if name not in (*_TIMES, "allocations", "began_before")]
        types = dict.fromkeys(text, "str") | dict.fromkeys(_TIMES, "datetime64[ns, UTC]")
        return frame.astype({**types, "allocations": "int64", "began_before": "bool"})

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, for programs.

        Examples
        --------
        >>> answer = af.diagnose(snap).to_dict()
        >>> sorted(answer)
        ['account', 'all_clear', 'data_quality', 'findings', 'incidents', 'summary']
        """
        return {
            "summary": self.summary,
            "all_clear": self.all_clear,
            "incidents": [incident.to_dict() for incident in self.incidents],
            "findings": [
                {
                    "code": finding.code,
                    "severity": finding.severity,
                    "title": finding.title,
                    "summary": finding.summary,
                    "subject": json_facts(finding.subject),
                    "facts": json_facts(finding.facts),
                }
                for finding in self.findings
            ],
            "data_quality": self.data_quality.to_dict(),
            "account": dict(self.account.__dict__),
        }

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, *, limit: int | None = 10) -> list[str]:
        """Return the diagnosis as lines of text: the verdict, then one incident a line, at most `limit`.

        Examples
        --------
        >>> diagnosis = af.diagnose(snap)
        >>> diagnosis.lines()[0] == diagnosis.summary
        True
        """
        shown = self.incidents if limit is None else self.incidents[:limit]
        lines = [self.summary]
        lines += [f"{incident.severity:8} {one_line(incident.summary)}" for incident in shown]
        if hidden := len(self.incidents) - len(shown):
            lines.append(f"and {hidden:,} more")
        return lines

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        head = "".join(f"<th {left}>{name}</th>" for name in ("severity", "state", "what happened", "cause"))
        rows = "".join(
            f"<tr><td {left}>{incident.severity}</td><td {left}>{incident.state}</td>"
            f"<td {left}>{as_html(incident.summary)}</td>"
            f"<td {left}>{as_html(f'{incident.cause.kind} ({incident.cause.confidence})')}</td></tr>"
            for incident in self.incidents[:10]
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        hidden = len(self.incidents) - 10
        more = f"<p>and {hidden:,} more: see .incidents</p>" if hidden > 0 else ""
        return f"<p>{as_html(self.summary)}</p>{table}{more}"


_TIMES = ("began_at", "last_at")
_FRAME_COLUMNS = [
    "severity", "state", "title", "cause", "mechanism", "confidence", "jobs", "nodes", "allocations",
    "began_at", "last_at", "began_before", "summary",
]  # fmt: skip


def diagnose(
    snapshot: Snapshot,
    *,
    history: Any = None,
    evaluations: pd.DataFrame | None = None,
    usage: pd.DataFrame | None = None,
    thresholds: Thresholds | None = None,
    progress: Progress = None,
) -> Diagnosis:
    """Return what went wrong in a snapshot, why, with evidence for and against, and how good the data is.

    Parameters
    ----------
    snapshot : Snapshot
        Of one cluster or several; each cluster is diagnosed by itself.
    history : History, optional
        What had changed: job versions, deployments, nodes, evaluations. Default: ``snapshot.history``.
    evaluations : pandas.DataFrame, optional
        The result of `Client.evaluations`, to find jobs that cannot be placed. Default: those of the history.
        For several clusters it needs a column ``cluster``.
    usage : pandas.DataFrame, optional
        The ``samples`` of `Client.usage`, to find too little and too much reserved memory and CPU.
    thresholds : Thresholds, optional
        The limits above which something becomes a finding or an incident.
    progress : bool or callable, optional
        Whether to show which of three steps is under way; by default after a second, on a terminal or in a
        notebook. A function is called with the number of steps that are done and with three; of several
        clusters, with the numbers of clusters.

    Raises
    ------
    ValueError
        The snapshot is of several clusters, and evaluations or usage have no column ``cluster``.

    Examples
    --------
    >>> diagnosis = af.diagnose(snap)
    >>> diagnosis.incidents[0].severity
    'critical'
    >>> diagnosis.incidents[0].cause.confidence in ("certain", "likely", "possible", "unknown")
    True
    """
    limits = thresholds or Thresholds()
    sources = Sources(snapshot, evaluations, usage, limits)
    with shown(progress) as show, return_memory(snapshot._counts["events"]):
        if snapshot.clusters:
            return _of_several_clusters(sources, history, show)
        incidents, findings, account = _of_one_cluster(sources, history, show)
        return Diagnosis(incidents, _sorted(findings), data_quality(snapshot), account)


def findings(
    snapshot: Snapshot,
    *,
    evaluations: pd.DataFrame | None = None,
    usage: pd.DataFrame | None = None,
    thresholds: Thresholds | None = None,
    progress: Progress = None,
) -> Findings:
    """Return the findings of a snapshot: ``diagnose(snapshot).findings``, with the same parameters.

    Examples
    --------
    >>> findings = af.findings(snap)
    >>> findings[0].severity
    'critical'
    """
    return diagnose(
        snapshot, evaluations=evaluations, usage=usage, thresholds=thresholds, progress=progress
    ).findings


def _sorted(findings: list[Finding]) -> Findings:
    return Findings(sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), finding.code)))


def _of_one_cluster(
    sources: Sources, history: Any, show: Show | None = None
) -> tuple[list[Incident], list[Finding], Account]:
    snapshot = sources.snapshot
    if history is None:
        history = getattr(snapshot, "history", None)
    evaluations = sources.evaluations
    if evaluations is None:
        evaluations = getattr(history, "evaluations", None)
    show = show or (lambda done, total, of="": None)
    show(0, 3, "diagnosis: failures")
    case = build_case(snapshot)
    show(1, 3, "diagnosis: causes")
    sources = replace(sources, case=case)
    incidents, account = investigate(case, history, evaluations, sources.thresholds)
    show(2, 3, "diagnosis: findings")
    observed_at = plain(covered_window(snapshot)[1])
    of_data = [replace(each, observed_at=observed_at) for rule in RULES.values() for each in rule(sources)]
    coded = [code_incident(incident, sources.thresholds.loop_restarts) for incident in incidents]
    incidents = [replace(incident, findings=codes) for incident, codes in zip(incidents, coded, strict=True)]
    show(3, 3, "diagnosis: findings")
    return incidents, [*of_data, *(each for codes in coded for each in codes)], account


def _of_several_clusters(sources: Sources, history: Any, show: Show) -> Diagnosis:
    """Diagnose each cluster by itself: equal names in two of them are different things."""
    findings: list[Finding] = []
    incidents: list[Incident] = []
    account = Account()
    for name, info in sources.snapshot.info["clusters"].items():
        if info["error"]:
            findings.append(missing_cluster(name, info["error"]))
    clusters = sources.snapshot.clusters
    for number, (name, member) in enumerate(clusters.items()):
        show(number, len(clusters), f"diagnosis: {name}")
        evaluations, usage = (
            None if rows is None else _cluster_rows(rows, name)
            for rows in (sources.evaluations, sources.usage)
        )
        part = Sources(member, evaluations, usage, sources.thresholds)
        history_of = history.get(name) if isinstance(history, Mapping) else None
        of_cluster, coded, its_account = _of_one_cluster(part, history_of)
        incidents += [replace(incident, cluster=name) for incident in of_cluster]
        account = account.plus(its_account)
        for finding in coded:
            evidence = finding.evidence.copy()
            if len(evidence.columns):
                evidence.insert(0, CLUSTER, name)
            findings.append(replace(finding, subject={CLUSTER: name, **finding.subject}, evidence=evidence))
    incidents.sort(key=lambda incident: SEVERITIES.index(incident.severity))
    return Diagnosis(incidents, _sorted(findings), data_quality(sources.snapshot), account)


def _cluster_rows(rows: pd.DataFrame, cluster: str) -> pd.DataFrame:
    if CLUSTER not in rows.columns:
        raise ValueError(
            "evaluations and usage must have a column 'cluster' if the snapshot is of several clusters, "
            f"got {', '.join(map(str, rows.columns[:5]))}, ..."
        )
    part: pd.DataFrame = part_of(rows, cluster)
    return part
