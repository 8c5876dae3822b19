"""The rules of findings about data and resources: statistics of one cluster in, facts out.

The codes of incidents are in `_codes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from .. import stats
from ..snapshot.snapshot import Snapshot
from ..stats._derived import PART_ROWS, pop_columns
from ._failures import Case, ends_before_starts
from ._tables import select_columns
from .finding import Finding, Thresholds, plain, plain_facts


@dataclass(frozen=True)
class Sources:
    """What rules look at: a snapshot of one cluster, its attempts, and what was fetched besides it."""

    snapshot: Snapshot
    evaluations: pd.DataFrame | None = None
    usage: pd.DataFrame | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    case: Case | None = None


Rule = Callable[[Sources], Iterator[Finding]]

RULES: dict[str, Rule] = {}
"""The rule of each code."""


def rule(code: str) -> Callable[[Rule], Rule]:
    """Register the rule of a code."""

    def register(function: Rule) -> Rule:
        RULES[code] = function
        return function

    return register


def _finding(
    code: str,
    severity: str,
    subject: dict[str, Any],
    facts: dict[str, Any],
    evidence: pd.DataFrame | None = None,
    times: tuple[str, str] | None = None,
) -> Finding:
    """Return a finding; `times` are the columns of its evidence with the first and the last sign."""
    rows = pd.DataFrame() if evidence is None else evidence
    began, last = (rows[times[0]].min(), rows[times[1]].max()) if times else (None, None)
    return Finding(
        code,
        severity,
        plain_facts(subject),
        plain_facts(facts),
        began_at=None if times is None else plain(began),
        last_at=None if times is None else plain(last),
        evidence=rows,
    )


_TRUNCATED = select_columns("task_states", "alloc_id", "task", "events_truncated")


@rule("AF101")
def _truncated(sources: Sources) -> Iterator[Finding]:
    snapshot = sources.snapshot
    # all columns of a million tasks would take half a gigabyte
    parts, places = [], []
    for rows, at in snapshot._select_parts("task_states", _TRUNCATED, PART_ROWS):
        truncated = rows.pop("events_truncated").fillna(False).to_numpy(dtype=bool)
        parts.append(rows[truncated])
        places.append(at[truncated])
    order = np.argsort(np.concatenate(places), kind="stable")
    if len(order):
        facts = {"tasks_truncated": len(order), "tasks": snapshot._counts["task_states"]}
        evidence = pd.DataFrame({name: column.array.take(order) for name, column in pop_columns(parts)})
        yield _finding("AF101", "info", {}, facts, evidence)


@rule("AF102")
def _incomplete(sources: Sources) -> Iterator[Finding]:
    snapshot = sources.snapshot
    if len(snapshot) and not snapshot._counts["task_states"]:
        yield _finding("AF102", "warning", {}, {"reason": "no task states"})
    if snapshot.info.get("complete") is False:
        notes = snapshot.info.get("notes", [])
        yield _finding("AF102", "warning", {}, {"reason": "incomplete", "notes": notes})


def missing_cluster(name: str, error: str) -> Finding:
    """Return the finding that a cluster is missing from a snapshot of several."""
    return _finding("AF102", "warning", {"cluster": name}, {"reason": "cluster missing", "error": error})


@rule("AF103")
def _misfits(sources: Sources) -> Iterator[Finding]:
    issues = sources.snapshot.issues
    if len(issues):
        # "TaskStates[0].Events" and "TaskStates[1].Events" are one field
        fields = issues["field"].str.replace(r"\[\d+\]", "", regex=True).astype(str)
        facts = {"values": len(issues), "fields": sorted(set(fields))[:3]}
        yield _finding("AF103", "warning", {}, facts, issues)


@rule("AF104")
def _skewed(sources: Sources) -> Iterator[Finding]:
    skewed = ends_before_starts(sources.case) if sources.case else pd.DataFrame()
    if len(skewed) >= sources.thresholds.skewed_runs:
        facts = {"runs": len(skewed), "nodes": skewed["node_name"].nunique()}
        yield _finding("AF104", "info", {}, facts, skewed)


@rule("AF601")
def _unplaced(sources: Sources) -> Iterator[Finding]:
    if sources.evaluations is None:
        return
    keys = ["namespace", "job_id", "task_group"]
    failed = stats.placement_failures(sources.evaluations)
    for values, evaluations in failed.groupby(keys, observed=True):
        last = evaluations.sort_values("created_at").iloc[-1]
        facts = {name: last[name] for name in ("queued", "exhausted", "constraints")}
        facts["evaluations"] = len(evaluations)
        yield _finding("AF601", "warning", dict(zip(keys, values, strict=True)), facts, evaluations)


def _headroom(sources: Sources) -> pd.DataFrame:
    """Return the headroom of tasks with enough samples; empty without samples."""
    if sources.usage is None:
        return pd.DataFrame(columns=["memory_max_share", "cpu_p95_share"], dtype="Float64")
    headroom = stats.headroom(sources.usage)
    enough: pd.DataFrame = headroom[headroom["samples"] >= sources.thresholds.usage_samples]
    return enough


def _reserved(code: str, severity: str, tasks: pd.DataFrame) -> Iterator[Finding]:
    keys = ("namespace", "job_id", "task_group", "task")
    numbers = (
        "samples", "tasks", "memory_max_mib", "memory_requested_mib", "memory_max_share",
        "cpu_p95_mhz", "cpu_requested_mhz", "cpu_p95_share",
    )  # fmt: skip
    for row in tasks.to_dict("records"):
        facts = {name: row[name] for name in numbers}
        yield _finding(code, severity, {name: row[name] for name in keys}, facts, pd.DataFrame([row]))


@rule("AF701")
def _tight(sources: Sources) -> Iterator[Finding]:
    tasks = _headroom(sources)
    tight = tasks["memory_max_share"] >= sources.thresholds.tight_share
    yield from _reserved("AF701", "warning", tasks[tight.fillna(False)])


@rule("AF702")
def _idle(sources: Sources) -> Iterator[Finding]:
    tasks, limit = _headroom(sources), sources.thresholds.idle_share
    idle = (tasks["memory_max_share"] < limit) & (tasks["cpu_p95_share"] < limit)
    yield from _reserved("AF702", "info", tasks[idle.fillna(False)])
