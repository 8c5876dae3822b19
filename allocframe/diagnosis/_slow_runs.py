"""Runs of batch work that do not end, and runs of periodic jobs that were due and not made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Ledger
from ._failures import Case
from ._groups import ONGOING, SECOND
from ._others import alloc_keys, make
from ._tables import NEVER, Array, Job, moment
from ._usual import Usual, by_family, how_slow, usual_of
from .finding import Thresholds
from .incident import Cause, Evidence, Incident

_LAUNCH = re.compile(r"/periodic-(\d+)$")
"""The end of a periodic run's name: when it was due, in seconds since 1970."""

_SCHEDULE = re.compile(r"^Periodic\.(Spec|Specs|TimeZone)\b")
"""Fields of a job that say when its runs are due."""

_FEWEST_GAPS = 2
"""At least this many equal gaps between runs show how often they are due; fewer may be chance."""

CALM_GAPS = 5
"""If no run is under way, at least this many must be missing: schedules have nights and weekends."""


def find_slow_runs(
    case: Case, in_groups: Array, limits: Thresholds, history: Any, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs with a run that takes far longer than all runs before it, and those without new runs."""
    rows = case.evidence.allocations
    begin, length = _lengths(case)
    usual = usual_of(case, length)
    age = np.where(begin == NEVER, 0, case.now - np.where(begin == NEVER, case.now, begin))
    late, _ = how_slow(age, usual, limits)
    batch = rows["job_type"].isin(["batch", "sysbatch"]).to_numpy(dtype=bool)
    alive = batch & rows["desired_status"].eq("run").to_numpy(dtype=bool) & case.instances.final & ~in_groups
    runs = alive & rows["client_status"].eq("running").to_numpy(dtype=bool) & ~case.instances.lost
    # far longer alone: what takes three times as long is usual for batch work
    late &= (usual.earlier >= 2) & (age > limits.outlier_factor * usual.longest)
    told = np.unique(case.instances.family[runs & late & (age > pd.Timedelta(limits.slow_start).value)])
    # beside one that hangs, those that began later hang as well
    late &= (age > pd.Timedelta(limits.template_wait).value) & np.isin(case.instances.family, told)
    for alloc in by_family(case, np.flatnonzero(runs & late)):
        yield _hangs(case, alloc, age, length, usual, limits, ledger)
    pending = alive & rows["client_status"].eq("pending").to_numpy(dtype=bool)
    if not case.evidence.partial:
        yield from _no_new_runs(
            case, np.unique(case.instances.family[runs | pending]), limits, history, ledger
        )


def _lengths(case: Case) -> tuple[Array, Array]:
    """Return when each allocation's first task started, and how long one that completed took, else -1.

    Of tasks that were restarted only the last start is known.
    """
    tasks, rows = case.evidence.tasks, case.evidence.allocations
    owner, started, finished = (tasks[name].to_numpy() for name in ("alloc", "started", "finished"))
    never = np.iinfo(np.int64).max
    begin, end = np.full(len(rows), never), np.full(len(rows), NEVER)
    np.minimum.at(begin, owner, np.where(started == NEVER, never, started))
    np.maximum.at(end, owner, finished)
    again = np.zeros(len(rows), dtype=bool)
    again[owner[tasks["restarts"].to_numpy() > 0]] = True
    begin = np.where((begin == never) | again, NEVER, begin)
    done = rows["client_status"].eq("complete") & rows["desired_status"].eq("run")
    known = done.to_numpy(dtype=bool) & (begin != NEVER) & (end != NEVER)
    return begin, np.where(known, np.maximum(end - np.where(known, begin, end), 0), -1)


def _hangs(
    case: Case,
    alloc: Array,
    age: Array,
    length: Array,
    usual: Usual,
    limits: Thresholds,
    ledger: Ledger,
) -> Incident:
    rows, instances = case.evidence.allocations, case.instances
    longest = int(alloc[np.argmax(age[alloc])])
    family = int(instances.family[longest])
    same = (instances.family == family) & rows["task_group"].eq(rows["task_group"].iloc[longest]).to_numpy()
    before = length[same & (length >= 0)]
    due = _due(case, family, ledger)
    facts: dict[str, Any] = {
        "hanging": len(alloc),
        "running_for": pd.Timedelta(int(age[longest]), unit="ns"),
        "runs_before": int(usual.earlier[longest]),
        "median_before": pd.Timedelta(int(np.median(before)), unit="ns"),
        "longest_before": pd.Timedelta(int(usual.longest[longest]), unit="ns"),
        "of_runs": bool(instances.has_runs[family]),
        "due": due[0] if due else 0,
        "every": due[1] if due else None,
    }
    evidence = Evidence("far longer", facts, alloc_keys(case, alloc))
    namespace, job = instances.families[family]
    subject = {"namespace": namespace, "job_id": job}
    cause = Cause("unknown", "hang", subject, "unknown", [evidence])
    enough = facts["of_runs"] and usual.earlier[longest] >= limits.outlier_runs
    severity = "warning" if enough or facts["due"] >= 2 else "info"
    began = np.array([int(case.now - each) for each in age[alloc]], dtype=np.int64)
    return make(case, alloc, cause, severity, ONGOING, began, facts)


# Runs that were due


def launches_of(case: Case, family: int) -> Array:
    """Return when the known runs of a periodic job were due, in nanoseconds since 1970."""
    rows = case.evidence.allocations
    jobs = rows["job_id"].iloc[np.flatnonzero(case.instances.family == family)].astype("str").unique()
    found = (_LAUNCH.search(each) for each in jobs)
    return np.array(sorted(int(each[1]) * SECOND for each in found if each), dtype=np.int64)


def schedule_fields(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return those of the fields that a version changed which say when its runs are due."""
    return [row for row in fields if _SCHEDULE.search(str(row["path"])) and row["old"] != row["new"]]


def _schedule_since(ledger: Ledger, job: Job) -> int:
    """Return when a version last changed the schedule of a job, `NEVER` if none on record did."""
    for version in range(ledger.newest_version(job) or 0, 0, -1):
        if schedule_fields(ledger.changed_fields(job, version)):
            return ledger.submitted_at(job, version)
    return NEVER


def _due(
    case: Case, family: int, ledger: Ledger, fewest: int = _FEWEST_GAPS
) -> tuple[int, pd.Timedelta] | None:
    """Return how many runs were due since the last one, and their distance; None if it is not regular.

    Runs of an older schedule do not tell when those of a new one are due.
    """
    launches = launches_of(case, family)
    launches = launches[launches > _schedule_since(ledger, case.instances.families[family])]
    gaps = np.diff(launches)
    if len(gaps) < fewest or int(gaps.max() - gaps.min()) > SECOND:
        return None
    every = int(np.median(gaps))
    # one that is due this second may be about to come
    return max(case.now - SECOND - int(launches[-1]), 0) // every, pd.Timedelta(every, unit="ns")


def _no_new_runs(
    case: Case, busy: Array, limits: Thresholds, history: Any, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the periodic jobs that have made no run for long, although nobody has stopped them."""
    versions = getattr(history, "job_versions", None)
    if versions is None or "stopped" not in versions or not case.instances.has_runs.any():
        return
    stopped = {
        (str(namespace), str(job), int(version))
        for namespace, job, version, stop in zip(
            versions["namespace"], versions["job_id"], versions["version"], versions["stopped"], strict=True
        )
        if pd.notna(version) and pd.notna(stop) and stop
    }
    for family in np.flatnonzero(case.instances.has_runs).tolist():
        job = case.instances.families[family]
        newest = ledger.newest_version(job)
        due = _due(case, family, ledger, CALM_GAPS)
        if family in busy or newest is None or (*job, newest) in stopped or due is None:
            continue
        last = int(launches_of(case, family)[-1])
        late = due[0] >= CALM_GAPS and case.now - last > pd.Timedelta(limits.slow_start).value
        if not late or ledger.ended_by(job, last) is not None:
            continue
        facts = {"no_run_for": pd.Timedelta(case.now - last, unit="ns"), "due": due[0], "every": due[1]}
        subject = {"namespace": job[0], "job_id": job[1]}
        evidence = Evidence("no new run", facts)
        cause = Cause("unknown", "no new run", subject, "unknown", [evidence])
        at = moment(last)
        yield Incident("info", ONGOING, cause, [cause], [job], [], [], at, at, False, facts)
