"""Jobs of which nothing runs because somebody wanted it so: purged with all traces, or scaled to 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Job, Ledger
from ._failures import Case
from ._groups import STOPPED
from ._tables import NEVER, moment
from .finding import Thresholds
from .incident import Cause, Evidence, Incident


def find_absent(case: Case, ledger: Ledger, limits: Thresholds) -> Iterator[Incident]:
    """Yield the jobs of which nothing runs, and of which no failure tells."""
    since = case.now - pd.Timedelta(limits.rare).value if case.now != NEVER else NEVER
    yield from _purged(case, ledger, since)
    yield from _scaled_to_zero(case, ledger, since)


def _purged(case: Case, ledger: Ledger, since: int) -> Iterator[Incident]:
    """Yield the jobs that were purged, and of which nothing is left to tell how they ran."""
    known = set(case.instances.families)
    gone = {job: at for job, at in ledger.purged_since(since).items() if job not in known}
    # runs are purged by the hundred
    gone = {job: at for job, at in gone.items() if "/dispatch-" not in job[1] and "/periodic-" not in job[1]}
    if not gone:
        return
    jobs = sorted(gone)
    evidence = Evidence("purged", {"jobs": [job for _, job in jobs]})
    yield _absent(jobs, "purge", "certain", evidence, gone.values(), {"purged": len(jobs)})


def _scaled_to_zero(case: Case, ledger: Ledger, since: int) -> Iterator[Incident]:
    """Yield the jobs whose newest version wants none of a group that ran before."""
    runs = case.instances.wanted & case.evidence.allocations["desired_status"].eq("run").to_numpy(dtype=bool)
    alive = {case.instances.families[each] for each in np.unique(case.instances.family[runs])}
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
            yield _absent([job], "scale", "certain", Evidence("scaled to 0", facts), [at], facts)


def _absent(
    jobs: list[Job], mechanism: str, confidence: str, evidence: Evidence, times: Any, facts: dict[str, Any]
) -> Incident:
    subject = {"namespace": jobs[0][0], "job_id": jobs[0][1]} if len(jobs) == 1 else {}
    cause = Cause("operator", mechanism, subject, confidence, [evidence])
    known = sorted(int(each) for each in times)
    return Incident(
        "info", STOPPED, cause, [cause], jobs, [], [], moment(known[0]), moment(known[-1]), False, facts
    )
