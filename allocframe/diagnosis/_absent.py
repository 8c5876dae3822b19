"""Jobs of which nothing runs because somebody wanted it so: stopped, purged with all traces, scaled to 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ..tables.run_ids import is_run
from ._changes import Ledger
from ._failures import Case
from ._groups import STOPPED
from ._tables import NEVER, Job, categories, moment
from .finding import Thresholds
from .incident import Cause, Evidence, Incident


def find_absent(
    case: Case, history: Any, ledger: Ledger, incidents: list[Incident], limits: Thresholds
) -> Iterator[Incident]:
    """Yield the jobs of which nothing runs, and of which no incident tells why."""
    since = case.now - pd.Timedelta(limits.history_age).value if case.now != NEVER else NEVER
    told = {job for each in incidents if each.severity != "info" for job in each.jobs}
    ended = {job: how for job, how in ledger.ended_since(since).items() if job not in told}
    # runs are stopped and purged by the hundred
    ended = {job: how for job, how in ended.items() if not is_run(job[1])}
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
    yield from _scaled_to_zero(case, history, ledger, since)


def _alive(case: Case) -> set[Job]:
    """Return the jobs of which the servers want an allocation to run."""
    wanted = ~case.evidence.allocations["desired_status"].isin(vocabulary.STOPPING_STATUSES)
    runs = case.instances.wanted & wanted.to_numpy(dtype=bool)
    return {case.instances.families[each] for each in np.unique(case.instances.family[runs])}


def _scaled_to_zero(case: Case, history: Any, ledger: Ledger, since: int) -> Iterator[Incident]:
    """Yield the jobs of which a version wants none of a group that ran before, and that has none now."""
    alive, requests = groups_alive(case), scaling_requests(history)
    for job, newest in ledger.newest_versions():
        groups: dict[str, dict[str, Any]] = {}
        settled: set[str] = set()
        for version in range(newest, -1, -1):
            at = ledger.submitted_at(job, version)
            if at < since or at == NEVER:
                break
            counts = {
                str(row.get("task_group")): row
                for row in ledger.changed_fields(job, version)
                if row["path"] == "Count" and row["old"] is not None
            }
            for group in sorted(set(counts) - settled):
                row = counts[group]
                if str(row["new"]) == "0" and (*job, group) not in alive:
                    groups[group] = {"task_group": group, "old": row["old"], "version": version, "at": at}
            settled |= set(counts)  # what an older version set is history
        for version in sorted({each["version"] for each in groups.values()}):
            mine = [each for each in groups.values() if each["version"] == version]
            others_run = any(each[:2] == job for each in alive)
            yield _at_zero(job, version, mine, (*job, version) in requests, others_run)


def scaling_requests(history: Any) -> set[tuple[str, str, int]]:
    """Return the versions that a request to scale made, and no deploy: namespace, job and version."""
    versions, evaluations = (getattr(history, name, None) for name in ("job_versions", "evaluations"))
    if evaluations is None or versions is None or "job_modify_index" not in versions:
        return set()
    keys = ["namespace", "job_id", "job_modify_index"]
    scaled = evaluations[evaluations["triggered_by"].astype("str").eq("job-scaling")][keys].dropna()
    asked = {
        (str(namespace), str(job), int(index)) for namespace, job, index in scaled.to_numpy(dtype=object)
    }
    known = versions[[*keys, "version"]].dropna().to_numpy(dtype=object)
    return {
        (str(namespace), str(job), int(version))
        for namespace, job, index, version in known
        if (str(namespace), str(job), int(index)) in asked
    }


def groups_alive(case: Case) -> set[tuple[str, str, str]]:
    """Return the task groups of which allocations are wanted: namespace, job and group."""
    rows = case.evidence.allocations
    runs = case.instances.wanted & rows["desired_status"].eq("run").to_numpy(dtype=bool)
    group, names = categories(rows["task_group"])
    pairs = np.unique(np.stack([case.instances.family[runs], group[runs]]), axis=1)
    return {(*case.instances.families[family], names[each]) for family, each in pairs.T.tolist()}


def _at_zero(
    job: Job, version: int, groups: list[dict[str, Any]], by_request: bool, others_run: bool
) -> Incident:
    facts = {
        "scaled": [{"task_group": each["task_group"], "old": each["old"]} for each in groups],
        "job_version": version,
        "by_request": by_request,
        "others_run": others_run,
    }
    at = groups[0]["at"]
    return _absent([job], "scale", Evidence("scaled to 0", facts), [at], facts)


def _absent(
    jobs: list[Job], mechanism: str, evidence: Evidence, times: Any, facts: dict[str, Any]
) -> Incident:
    subject = {"namespace": jobs[0][0], "job_id": jobs[0][1]} if len(jobs) == 1 else {}
    cause = Cause("operator", mechanism, subject, "certain", [evidence])
    known = sorted(int(each) for each in times)
    return Incident(
        "info", STOPPED, cause, [cause], jobs, [], [], moment(known[0]), moment(known[-1]), False, facts
    )
