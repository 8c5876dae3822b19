"""Jobs of which nothing runs because somebody wanted it so: stopped, purged with all traces, scaled to 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ._changes import Job, Ledger
from ._failures import Case
from ._groups import STOPPED
from ._tables import NEVER, moment
from .finding import Thresholds
from .incident import Cause, Evidence, Incident


def find_absent(
    case: Case, ledger: Ledger, incidents: list[Incident], limits: Thresholds
) -> Iterator[Incident]:
    """Yield the jobs of which nothing runs, and of which no incident tells why."""
    since = case.now - pd.Timedelta(limits.rare).value if case.now != NEVER else NEVER
    told = {job for each in incidents if each.severity != "info" for job in each.jobs}
    ended = {job: how for job, how in ledger.ended_since(since).items() if job not in told}
    # runs are stopped and purged by the hundred
    ended = {
        job: how for job, how in ended.items() if "/dispatch-" not in job[1] and "/periodic-" not in job[1]
    }
    known, alive = set(case.instances.families), _alive(case)
    gone = {job: at for job, (kind, at) in ended.items() if kind == "purge" and job not in known}
    if gone:
        evidence = Evidence("purged", {"jobs": [job for _, job in sorted(gone)]})
        yield _absent(sorted(gone), "purge", evidence, gone.values(), {"purged": len(gone)})
    for kind in ("operator stop", "purge"):
        stopped = {
            job: at for job, (how, at) in ended.items() if how == kind and job in known and job not in alive
        }
        if stopped:
            facts = {"stopped": len(stopped), "purge": kind == "purge"}
            evidence = Evidence("stopped", {"jobs": [job for _, job in sorted(stopped)], **facts})
            yield _absent(sorted(stopped), "stop", evidence, stopped.values(), facts)
    yield from _scaled_to_zero(case, ledger, alive, since)


def _alive(case: Case) -> set[Job]:
    """Return the jobs of which the servers want an allocation to run."""
    wanted = ~case.evidence.allocations["desired_status"].isin(vocabulary.STOPPING_STATUSES)
    runs = case.instances.wanted & wanted.to_numpy(dtype=bool)
    return {case.instances.families[each] for each in np.unique(case.instances.family[runs])}


def _scaled_to_zero(case: Case, ledger: Ledger, alive: set[Job], since: int) -> Iterator[Incident]:
    """Yield the jobs whose newest version wants none of a group that ran before."""
    for job, version in ledger.newest_versions():
        at = ledger.submitted_at(job, version)
        if at < since or at == NEVER:
            continue
        groups = [
            {"task_group": row.get("task_group"), "old": row["old"]}
            for row in ledger.changed_fields(job, version)
            if row["path"] == "Count" and str(row["new"]) == "0" and row["old"] is not None
        ]
        if groups and job not in alive:
            facts = {
                "scaled": groups, "job_version": version, "by_request": ledger.was_scaled(job, version),
            }  # fmt: skip
            yield _absent([job], "scale", Evidence("scaled to 0", facts), [at], facts)


def _absent(
    jobs: list[Job], mechanism: str, evidence: Evidence, times: Any, facts: dict[str, Any]
) -> Incident:
    subject = {"namespace": jobs[0][0], "job_id": jobs[0][1]} if len(jobs) == 1 else {}
    cause = Cause("operator", mechanism, subject, "certain", [evidence])
    known = sorted(int(each) for each in times)
    return Incident(
        "info", STOPPED, cause, [cause], jobs, [], [], moment(known[0]), moment(known[-1]), False, facts
    )
