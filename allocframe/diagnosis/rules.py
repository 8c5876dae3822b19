"""The rules of findings, one for each code: statistics of one cluster in, facts out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from .. import stats
from ..snapshot.snapshot import Snapshot
from ..stats.explain import select_explained_events
from .finding import Finding, Thresholds, plain, plain_facts


@dataclass(frozen=True)
class Sources:
    """What rules look at: a snapshot of one cluster, and what was fetched besides it."""

    snapshot: Snapshot
    evaluations: pd.DataFrame | None = None
    usage: pd.DataFrame | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)

    @cached_property
    def failed_starts(self) -> pd.DataFrame:
        """The events of starts that failed."""
        return select_explained_events(self.snapshot, "type", list(stats.vocabulary.FAILED_STARTS))

    @cached_property
    def shared_start_failures(self) -> set[str]:
        """Causes of failed starts that hit so many jobs that no single job or version is to blame."""
        jobs = self.failed_starts.groupby("cause", observed=True)["job_id"].nunique()
        return set(jobs[jobs >= self.thresholds.shared_jobs].index.astype(str))


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


@rule("AF101")
def _truncated(sources: Sources) -> Iterator[Finding]:
    tasks = sources.snapshot.task_states
    truncated = tasks[tasks["events_truncated"]]
    if len(truncated):
        yield _finding(
            "AF101", "info", {}, {"tasks_truncated": len(truncated), "tasks": len(tasks)}, truncated
        )


@rule("AF102")
def _incomplete(sources: Sources) -> Iterator[Finding]:
    snapshot = sources.snapshot
    if len(snapshot) and snapshot.task_states.empty:
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
    runs = stats.runs(sources.snapshot)
    skewed = runs[runs["skewed"]]
    if len(skewed) >= sources.thresholds.skewed_runs:
        facts = {"runs": len(skewed), "nodes": skewed["node_name"].astype(str).nunique()}
        yield _finding("AF104", "info", {}, facts, skewed)


_FAILED_STARTS = ("artifact", "driver", "setup", "validation", "hook")
"""Loops of these are failed starts: AF204 and AF205."""


@rule("AF201")
def _crash_loops(sources: Sources) -> Iterator[Finding]:
    limits = sources.thresholds
    loops = stats.crash_loops(sources.snapshot, min_restarts=limits.loop_restarts, window=limits.loop_window)
    if loops.empty:
        return
    keys = ["namespace", "job_id", "task_group", "task", "job_version", "cause"]
    for values, slots in loops.groupby(keys, observed=True, dropna=False):
        *subject, cause = values
        if cause in _FAILED_STARTS:
            continue
        codes = slots["exit_code"].mode()
        looping = int((~slots["resolved"].astype(bool)).sum())
        facts = {
            "cause": cause,
            "exit_code": codes.iloc[0] if len(codes) else None,
            "median_run": slots["median_run"].median(),
            "crashes": slots["crashes"].sum(),
            "instances": len(slots),
            "looping": looping,
        }
        yield _finding(
            "AF201",
            "critical" if looping else "warning",
            dict(zip(keys, subject, strict=False)),
            facts,
            slots,
            ("first_at", "last_at"),
        )


@rule("AF202")
def _out_of_memory(sources: Sources) -> Iterator[Finding]:
    keys = ["namespace", "job_id", "job_version"]
    for certainty in ("confirmed", "suspected"):
        kills = select_explained_events(sources.snapshot, "oom", [certainty])
        for values, events in kills.groupby(keys, observed=True, dropna=False):
            confirmed = certainty == "confirmed"
            facts = {
                "cause": "out of memory",
                "confirmed": confirmed,
                "kills": len(events),
                "tasks": len(events.drop_duplicates(["alloc_id", "task"])),
            }
            severity = "critical" if confirmed else "warning"
            subject = dict(zip(keys, values, strict=True))
            yield _finding("AF202", severity, subject, facts, events, ("time", "time"))


@rule("AF203")
def _kill_timeouts(sources: Sources) -> Iterator[Finding]:
    kills = select_explained_events(sources.snapshot, "exit_meaning", ["kill timeout exceeded"])
    for (namespace, job), events in kills.groupby(["namespace", "job_id"], observed=True):
        subject = {"namespace": namespace, "job_id": job}
        yield _finding("AF203", "info", subject, {"kills": len(events)}, events, ("time", "time"))


@rule("AF204")
def _failed_artifacts(sources: Sources) -> Iterator[Finding]:
    yield from _failed_starts("AF204", sources, lambda cause: cause == "artifact")


@rule("AF205")
def _failed_tasks(sources: Sources) -> Iterator[Finding]:
    yield from _failed_starts("AF205", sources, lambda cause: cause != "artifact")


_ERROR_COLUMNS = {"artifact": "download_error", "driver": "driver_error"}


def _failed_starts(code: str, sources: Sources, covers: Callable[[str], bool]) -> Iterator[Finding]:
    for cause, events in sources.failed_starts.groupby("cause", observed=True):
        if not covers(str(cause)):
            continue
        jobs = sorted(set(events["job_id"].astype(str)))
        errors = events[_ERROR_COLUMNS.get(str(cause), "message")].dropna().astype(str).value_counts()
        facts = {
            "cause": cause,
            "jobs": jobs,
            "starts": len(events),
            "error": errors.index[0][:120] if len(errors) else None,
        }
        subject = {"job_id": jobs[0]} if len(jobs) == 1 else {}
        severity = "critical" if len(jobs) >= sources.thresholds.shared_jobs else "warning"
        yield _finding(code, severity, subject, facts, events, ("time", "time"))


@rule("AF301")
def _lost_nodes(sources: Sources) -> Iterator[Finding]:
    allocations = sources.snapshot.allocations
    for row in stats.blast_radius(sources.snapshot).to_dict("records"):
        on_node = allocations[allocations["node_id"].astype(str) == str(row["node_id"])]
        lost = on_node[on_node["client_status"].isin(stats.vocabulary.LOST_STATUSES)]
        facts = {
            "lost_at": row["at"],
            **{name: row[name] for name in ("lost", "jobs", "median_to_start", "unplaced")},
        }
        subject = {"node_id": row["node_id"], "node_name": row["node_name"]}
        yield _finding("AF301", "critical", subject, facts, lost, ("modified_at", "modified_at"))


@rule("AF302")
def _lemons(sources: Sources) -> Iterator[Finding]:
    nodes = stats.lemon_nodes(sources.snapshot)
    for row in nodes[nodes["lemon"]].to_dict("records"):
        facts = {name: row[name] for name in ("observed", "tasks", "expected", "ratio", "lower", "upper")}
        evidence = nodes[nodes["node_name"] == row["node_name"]]
        yield _finding("AF302", "warning", {"node_name": row["node_name"]}, facts, evidence)


@rule("AF401")
def _worse_versions(sources: Sources) -> Iterator[Finding]:
    rollouts = stats.rollouts(sources.snapshot)
    # the 95% intervals of the two shares do not meet
    separate = rollouts["share_lower"] > rollouts["base_share_upper"]
    worse = rollouts[(rollouts["failed_tasks"] >= sources.thresholds.version_tasks) & separate]
    for row in worse.to_dict("records"):
        if row["cause"] in sources.shared_start_failures:
            continue
        subject = {name: row[name] for name in ("namespace", "job_id", "job_version")}
        numbers = ("failed_tasks", "tasks", "base_version", "base_failed_tasks", "base_tasks")
        facts = {name: row[name] for name in ("canary", "placed_at")}
        facts |= {name: int(row[name]) for name in numbers}
        yield _finding("AF401", "critical", subject, facts, pd.DataFrame([row]), ("placed_at", "placed_at"))


@rule("AF501")
def _storms(sources: Sources) -> Iterator[Finding]:
    limits = sources.thresholds
    storms = stats.restart_storms(sources.snapshot, window=limits.storm_window, min_slots=limits.storm_slots)
    several = storms[
        (storms["job_id_share"] < limits.storm_explained_share)
        & (storms["looping_share"] < limits.storm_explained_share)
        & ~storms["cause"].isin(list(sources.shared_start_failures))
    ]
    names = (
        "slots", "expected", "cause", "cause_share", "node_name", "node_name_share", "began_at", "ended_at",
    )  # fmt: skip
    for row in several.to_dict("records"):
        on_one_node = bool(row["node_name_share"] >= 0.5)
        facts = {name: row[name] for name in names}
        facts |= {"window": limits.storm_window, "on_one_node": on_one_node}
        subject = {"node_name": row["node_name"]} if on_one_node else {}
        yield _finding("AF501", "warning", subject, facts, pd.DataFrame([row]), ("began_at", "ended_at"))


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
