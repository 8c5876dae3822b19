"""Instances that a job wants and that nobody makes: no failure, no loss, no evaluation that waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Ledger
from ._deployments import newest_deployments
from ._failures import Case
from ._groups import ONGOING, RECOVERED
from ._others import alloc_keys
from ._tables import NEVER, Array, Job, moment, nanoseconds, numbers
from .finding import Thresholds, plain
from .incident import Cause, Evidence, Incident


def find_missing(
    case: Case,
    history: Any,
    evaluations: pd.DataFrame | None,
    incidents: list[Incident],
    limits: Thresholds,
    ledger: Ledger,
) -> Iterator[Incident]:
    """Yield the jobs that nobody schedules, and those of which fewer instances run than were deployed.

    Jobs of which an incident tells already are left to it.
    """
    told = {job for each in incidents if _explains(each) for job in each.jobs}
    waiting = list(_not_scheduled(case, evaluations, limits))
    yield from (each for each in waiting if each.jobs[0] not in told)
    told |= {job for each in waiting for job in each.jobs}
    if not case.evidence.partial:
        yield from _fewer_than_wanted(case, history, evaluations, told, limits, ledger)


def _explains(incident: Incident) -> bool:
    """Return whether an incident tells why instances do not run now.

    One of a node tells of all that was on it, and not which job still lacks something.
    """
    of_node = incident.cause.kind == "node" and incident.cause.mechanism == "lost"
    return incident.severity != "info" and incident.state != RECOVERED and not of_node


def _not_scheduled(case: Case, evaluations: pd.DataFrame | None, limits: Thresholds) -> Iterator[Incident]:
    """Yield the jobs whose newest evaluation no scheduler has taken, or that the schedulers gave up on."""
    if evaluations is None or evaluations.empty or case.now == NEVER:
        return
    known = evaluations.dropna(subset=["job_id", "created_at"]).sort_values("create_index", kind="stable")
    last = known.drop_duplicates(["namespace", "job_id"], keep="last")
    status = last["status"].astype("str").to_numpy()
    created = nanoseconds(last["created_at"])
    # a delayed reschedule waits for its time
    due = np.maximum(created, nanoseconds(last["wait_until"]))
    late = case.now - due > pd.Timedelta(limits.slow_start).value
    recent = case.now - created <= pd.Timedelta(limits.history_age).value
    stands = ((status == "pending") & late) | ((status == "failed") & recent)
    for row, at, is_failed in zip(
        last[stands].to_dict("records"), due[stands], status[stands] == "failed", strict=True
    ):
        job = (str(row["namespace"]), str(row["job_id"]))
        facts = {
            "not_scheduled": "failed" if is_failed else "pending",
            "for": pd.Timedelta(int(case.now - at), unit="ns"),
            "triggered_by": plain(row["triggered_by"]),
            "words": plain(row["status_description"]),
        }
        evidence = Evidence("not scheduled", facts, [{"eval_id": str(row["eval_id"])}])
        subject = {"namespace": job[0], "job_id": job[1]}
        cause = Cause("unknown", "not scheduled", subject, "unknown", [evidence])
        when = moment(int(at))
        yield Incident("warning", ONGOING, cause, [cause], [job], [], [], when, when, False, facts)


def _fewer_than_wanted(
    case: Case,
    history: Any,
    evaluations: pd.DataFrame | None,
    told: set[Job],
    limits: Thresholds,
    ledger: Ledger,
) -> Iterator[Incident]:
    """Yield the jobs of which fewer instances run than their newest version wants, and no more are to come.

    A deployment says how many it wants. Servers remove it after an hour: then those count that were lost and
    not replaced.
    """
    if case.now == NEVER:
        return
    rows, instances = case.evidence.allocations, case.instances
    service = rows["job_type"].eq("service").to_numpy(dtype=bool)
    status = rows["client_status"]
    # what is out of reach may come back, and its node's incident tells of it
    alive = status.isin(["running", "pending"]).to_numpy(dtype=bool) & instances.wanted
    alive |= status.eq("unknown").to_numpy(dtype=bool) & rows["desired_status"].eq("run").to_numpy(dtype=bool)
    version = numbers(rows["job_version"], -1)
    # a replacement has the version of its job, whatever the lost one had
    canary = rows["canary"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    open_ends = service & instances.final & instances.lost & ~alive & ~canary
    # by job, once: a large cluster has thousands
    size = len(instances.families)
    running = np.bincount(instances.family[alive & service], minlength=size)
    has_lost = np.bincount(instances.family[open_ends], minlength=size) > 0
    changed = np.full(size, NEVER, dtype=np.int64)
    np.maximum.at(changed, instances.family[service], rows["modified_at"].to_numpy()[service])
    deployments = newest_deployments(history, "desired")
    waiting = _waits(evaluations)
    for family in np.unique(instances.family[service]).tolist():
        job = instances.families[family]
        newest = ledger.newest_version(job)
        if newest is None or job in told or job in waiting:
            continue
        row = deployments.get(job, {})
        row = row if row and int(row["job_version"]) == newest else {}
        if row and str(row["status"]) not in _OVER:
            continue
        failed, ended = bool(row) and str(row["status"]) == "failed", plain(row.get("ended_at"))
        # beside canaries that nobody promoted, what is wanted is still the older version
        unpromoted = failed and plain(row.get("promoted")) is False
        lost = np.zeros(0, dtype=bool)
        if has_lost[family]:
            lost = open_ends & (instances.family == family) & (unpromoted | (version == newest))
        desired = int(row["desired"]) if row and not unpromoted else 0
        # of groups that its version left alone, a deployment does not tell
        wanted = max(desired, int(running[family] + lost.sum()))
        runs, last = int(running[family]), max(int(changed[family]), NEVER if ended is None else ended.value)
        # what replaces it may be about to come
        settled = last != NEVER and case.now - last > pd.Timedelta(limits.template_wait).value
        if runs >= wanted or not settled or _was_ended(job, newest, history, ledger):
            continue
        mine = instances.family == family
        gone = np.flatnonzero(mine & ~alive & instances.final & (open_ends | (version == newest)))
        lost_rows = gone[instances.lost[gone]]
        lost_on = {case.node_names[each] for each in case.nodes[lost_rows]} - {""}
        facts = {
            "missing": wanted - runs, "instances_wanted": wanted, "running": runs, "job_version": newest,
            "deployment_failed": failed, "lost_instances": len(lost_rows), "lost_with": sorted(lost_on),
            "evaluated": evaluations is not None,
        }  # fmt: skip
        yield _missing(case, job, gone, last, facts, limits)


_OVER = ("successful", "failed")
"""Statuses of deployments after which nothing more is to come of them."""


def _was_ended(job: Job, version: int, history: Any, ledger: Ledger) -> bool:
    """Return whether somebody stopped or purged a job since its newest version."""
    if ledger.ended_by(job, ledger.submitted_at(job, version)) is not None:
        return True
    table = history.job_versions
    if "stopped" not in table:
        return False
    mine = table["namespace"].eq(job[0]) & table["job_id"].eq(job[1]) & table["version"].eq(version)
    return bool(table["stopped"][mine].eq(True).fillna(False).any())


def _missing(
    case: Case, job: Job, gone: Array, last: int, facts: dict[str, Any], limits: Thresholds
) -> Incident:
    evidence = Evidence("missing", facts, alloc_keys(case, gone))
    cause = Cause("unknown", "missing", {"namespace": job[0], "job_id": job[1]}, "unknown", [evidence])
    half = facts["missing"] >= limits.critical_share * facts["instances_wanted"]
    ids = case.evidence.allocations["alloc_id"].iloc[gone].astype("str").tolist()
    return Incident(
        "critical" if half else "warning", ONGOING, cause, [cause], [job], facts["lost_with"], ids,
        moment(last), moment(last), False, facts,
    )  # fmt: skip


def _waits(evaluations: pd.DataFrame | None) -> set[Job]:
    """Return the jobs of which an evaluation is still to come: it will make what is missing."""
    if evaluations is None or evaluations.empty:
        return set()
    rows = evaluations[evaluations["status"].astype("str").isin(["pending", "blocked"])]
    return {(str(a), str(b)) for a, b in zip(rows["namespace"], rows["job_id"], strict=True)}
