"""Instances that a job wants and that nobody makes: no failure, no loss, no evaluation that waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Ledger
from ._failures import Case
from ._groups import ONGOING
from ._others import alloc_keys
from ._tables import NEVER, moment, nanoseconds, numbers
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
    told = {job for each in incidents if each.severity != "info" for job in each.jobs}
    waiting = list(_not_scheduled(case, evaluations, limits))
    yield from (each for each in waiting if each.jobs[0] not in told)
    told |= {job for each in waiting for job in each.jobs}
    if not case.evidence.partial:
        yield from _fewer_than_deployed(case, history, evaluations, told, limits, ledger)


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


def _fewer_than_deployed(
    case: Case,
    history: Any,
    evaluations: pd.DataFrame | None,
    told: set[tuple[str, str]],
    limits: Thresholds,
    ledger: Ledger,
) -> Iterator[Incident]:
    """Yield the jobs whose newest version was deployed in full, and of which fewer instances are left."""
    table = getattr(history, "deployments", None)
    if table is None or table.empty or case.now == NEVER:
        return
    rows, instances = case.evidence.allocations, case.instances
    alive = rows["client_status"].isin(["running", "pending"]).to_numpy(dtype=bool) & instances.wanted
    waiting = _waits(evaluations)
    # by job, once: a large cluster has thousands of deployments
    number = {job: place for place, job in enumerate(instances.families)}
    running = np.bincount(instances.family[alive], minlength=len(number))
    changed = np.full(len(number), NEVER, dtype=np.int64)
    np.maximum.at(changed, instances.family, rows["modified_at"].to_numpy())
    table = table.dropna(subset=["job_version", "desired"]).sort_values("create_index", kind="stable")
    for row in table.drop_duplicates(["namespace", "job_id"], keep="last").to_dict("records"):
        job, version = (str(row["namespace"]), str(row["job_id"])), int(row["job_version"])
        is_newest = ledger.newest_version(job) == version and str(row["status"]) == "successful"
        if not is_newest or job in told or job in waiting or job not in number:
            continue
        wanted, runs = int(row["desired"]), int(running[number[job]])
        last = int(changed[number[job]])
        # what replaces it may be about to come
        settled = last != NEVER and case.now - last > pd.Timedelta(limits.template_wait).value
        if runs >= wanted or not settled or ledger.ended_by(job, ledger.submitted_at(job, version)):
            continue
        mine = instances.family == number[job]
        gone = np.flatnonzero(mine & ~alive & instances.final & (numbers(rows["job_version"], -1) == version))
        facts = {
            "missing": wanted - runs, "instances_wanted": wanted, "running": runs, "job_version": version,
        }  # fmt: skip
        evidence = Evidence("missing", facts, alloc_keys(case, gone))
        subject = {"namespace": job[0], "job_id": job[1]}
        cause = Cause("unknown", "missing", subject, "unknown", [evidence])
        half = wanted - runs >= limits.critical_share * wanted
        ids = rows["alloc_id"].iloc[gone].astype("str").tolist()
        yield Incident(
            "critical" if half else "warning", ONGOING, cause, [cause], [job], [], ids,
            moment(last), moment(last), False, facts,
        )  # fmt: skip


def _waits(evaluations: pd.DataFrame | None) -> set[tuple[str, str]]:
    """Return the jobs of which an evaluation is still to come: it will make what is missing."""
    if evaluations is None or evaluations.empty:
        return set()
    rows = evaluations[evaluations["status"].astype("str").isin(["pending", "blocked"])]
    return {(str(a), str(b)) for a, b in zip(rows["namespace"], rows["job_id"], strict=True)}
