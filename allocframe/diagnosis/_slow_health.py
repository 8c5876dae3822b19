"""Deployments that go on for longer than those before them, because nothing of them becomes healthy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Ledger
from ._deployments import newest_deployments
from ._failures import Case
from ._groups import ONGOING, Jobs
from ._others import alloc_keys, make
from ._tables import NEVER, Array, Job, numbers
from ._usual import by_version, how_slow, job_of, numbers_of, usual_of
from .finding import Thresholds, plain
from .incident import Cause, Evidence, Incident

_WHAT_HEALTHY_MEANS = ("Update.MinHealthyTime", "Update.HealthCheck", "Check", "Service")
"""Fields of a job that say when it is healthy: after such a change, earlier times do not compare."""

_FIRST_HEALTH = pd.Timedelta("5min")
"""Without others to compare it with: Nomad's own default for the time until an allocation is healthy."""

_LATE_SHARE = 0.5
"""The share of its progress deadline after which a deployment is late, whatever it waits for."""


def under_way(history: Any) -> tuple[tuple[str, str, int], ...]:
    """Return the deployments that are under way: namespace, job and version."""
    newest = newest_deployments(history).items()
    return tuple(
        sorted((*job, int(row["job_version"])) for job, row in newest if str(row["status"]) == "running")
    )


def find_not_healthy(
    case: Case, jobs: Jobs, runs: Array, limits: Thresholds, history: Any, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs whose deployment waits for allocations to become healthy for longer than usual.

    That is a main task that waits for a prestart task, or a check that does not pass: Nomad says nothing of
    it until the deadline. `runs` says which allocations run, and belong to no incident.
    """
    rows, families = case.evidence.allocations, case.instances.families
    created, decided = rows["created_at"].to_numpy(), rows["deployment_health_at"].to_numpy()
    unknown = rows["deployment_healthy"].isna().to_numpy(dtype=bool)
    known = case.healthy & (created != NEVER) & (decided != NEVER)
    took = np.where(known, np.maximum(decided - np.where(known, created, decided), 0), -1)
    usual, age = usual_of(case, took), case.now - created
    late, far = how_slow(age, usual, limits)
    late &= (usual.earlier > 0) | (age > _FIRST_HEALTH.value)
    places = np.flatnonzero(runs & unknown & late)
    if not len(places):
        return
    deployments = newest_deployments(history)
    for alloc in by_version(case, places):
        job = families[int(case.instances.family[alloc[0]])]
        version = int(numbers(rows["job_version"].iloc[alloc[:1]], -1)[0])
        row = deployments.get(job)
        if row is None:
            alloc = alloc[far[alloc]]
            if not len(alloc) or not _never_healthy(case, alloc, version):
                continue
        elif str(row["status"]) != "running" or int(row["job_version"]) != version:
            continue
        changed = [str(each["path"]) for each in ledger.changed_fields(job, version)]
        changed = [path for path in changed if any(part in path for part in _WHAT_HEALTHY_MEANS)]
        facts = {
            "undecided": len(alloc),
            **numbers_of(case, jobs, alloc, age, usual),
            **_of_deployment(case, job, row, history),
            "changed": list(dict.fromkeys(changed)),
        }
        due = _is_due(facts["deployed_for"], facts["progress_deadline"])
        severity = "warning" if row is not None and far[alloc].any() and (due or not changed) else "info"
        evidence = Evidence("not healthy yet", facts, alloc_keys(case, alloc))
        cause = Cause("unknown", "health", job_of(case, alloc), "unknown", [evidence])
        if changed:
            touches = Evidence("change touches", {"job_version": version, "fields": facts["changed"]})
            subject = job_of(case, alloc) | {"job_version": version}
            cause = Cause("job version", "health", subject, "possible", [touches, evidence])
        yield make(case, alloc, cause, severity, ONGOING, created[alloc], facts)


def _is_due(deployed_for: pd.Timedelta | None, deadline: pd.Timedelta | None) -> bool:
    """Return whether a good part of a deployment's deadline has passed, if it has one."""
    if deployed_for is None or not deadline:
        return False
    return deployed_for.value > _LATE_SHARE * deadline.value


def _never_healthy(case: Case, alloc: Array, version: int) -> bool:
    """Return whether no allocation of a newest version has become healthy, and those of older ones had.

    Without a history, that tells its deployment from none: what is replaced after one has no health.
    """
    rows = case.evidence.allocations
    its = numbers(rows["job_version"], -1)
    mine = case.instances.family == case.instances.family[alloc[0]]
    mine &= rows["task_group"].isin(rows["task_group"].iloc[alloc].unique()).to_numpy(dtype=bool)
    newest = not np.any(mine & (its > version))
    return newest and not case.healthy[mine & (its == version)].any() and bool(case.healthy[mine].any())


def _of_deployment(case: Case, job: Job, row: dict[Any, Any] | None, history: Any) -> dict[str, Any]:
    """Return how far a deployment is, and how long the last successful one of its job took."""
    if row is None:
        names = ("placed", "healthy", "desired", "deployed_for", "progress_deadline", "last_took")
        return dict.fromkeys(names)
    table = history.deployments
    mine = table[table["namespace"].eq(job[0]) & table["job_id"].eq(job[1])]
    done = mine[mine["status"].astype("str").eq("successful")].sort_values("create_index", kind="stable")
    took = (done["ended_at"] - done["started_at"]).dropna()
    started = plain(row["started_at"])
    return {
        **{name: plain(row[name]) for name in ("placed", "healthy", "desired")},
        "deployed_for": None if started is None else pd.Timestamp(case.now, tz="UTC") - started,
        "progress_deadline": plain(row.get("progress_deadline")),
        "last_took": plain(took.iloc[-1]) if len(took) else None,
    }
