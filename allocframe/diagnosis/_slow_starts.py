"""Instances that do not start, or do not become healthy, for longer than those before them took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ._attempts import ENDS
from ._blocked_starts import PULL, find_blocked_starts
from ._changes import Ledger
from ._failures import Case
from ._groups import ONGOING, Jobs
from ._others import alloc_keys, make
from ._tables import NEVER, Array, categories, numbers
from .finding import Thresholds
from .incident import Cause, Evidence, Hypothesis, Incident

_PROGRESS = {"Downloading Artifacts": "artifact", "Driver": "driver", "Template": "template"}
"""Events of a start under way, by what it waits for."""

_WHAT_HEALTHY_MEANS = ("Update.MinHealthyTime", "Update.HealthCheck", "Check", "Service")
"""Fields of a job that say when it is healthy: after such a change, earlier times do not compare."""


def find_slow_starts(
    case: Case, jobs: Jobs, in_groups: Array, limits: Thresholds, history: Any, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs of which instances have not started, or have not become healthy, for too long.

    `in_groups` says which allocations belong to incidents of failures already.
    """
    rows = case.evidence.allocations
    alive = rows["desired_status"].eq("run").to_numpy(dtype=bool) & case.instances.final & ~in_groups
    alive &= (rows["created_at"].to_numpy() != NEVER) & ~case.instances.lost
    status = rows["client_status"].astype("str").to_numpy(dtype=object)
    yield from _not_started(case, jobs, alive & (status == "pending"), limits, ledger)
    runs = alive & (status == "running")
    for incident, alloc in find_blocked_starts(case, runs, limits, ledger):
        runs[alloc] = False
        yield incident
    yield from _not_healthy(case, jobs, runs, limits, history, ledger)


@dataclass(frozen=True)
class Usual:
    """How long the earlier ones of each allocation's task group took: how many they are, and the longest."""

    earlier: Array
    longest: Array


def usual_of(case: Case, took: Array) -> Usual:
    """Return how long others of the same task group took, from the times that are known (else -1)."""
    group, names = categories(case.evidence.allocations["task_group"])
    key = case.instances.family * len(names) + group
    size = int(key.max()) + 1 if len(key) else 0
    known = took >= 0
    longest = np.full(size, -1, dtype=np.int64)
    np.maximum.at(longest, key[known], took[known])
    return Usual(np.bincount(key[known], minlength=size)[key], longest[key])


def _times_to_start(case: Case) -> Array:
    """Return how long each allocation took until its first task started; -1 where that is not known."""
    tasks, created = case.evidence.tasks, case.evidence.allocations["created_at"].to_numpy()
    first = np.full(len(created), np.iinfo(np.int64).max)
    # after a restart the state of a task has the time of its last start
    known = tasks["restarts"].eq(0).to_numpy() & (tasks["started"].to_numpy() != NEVER)
    np.minimum.at(first, tasks["alloc"].to_numpy()[known], tasks["started"].to_numpy()[known])
    unknown = (first == np.iinfo(np.int64).max) | (created == NEVER)
    return np.where(unknown, -1, np.maximum(first - np.where(unknown, 0, created), 0))


def _not_started(
    case: Case, jobs: Jobs, waits: Array, limits: Thresholds, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs with allocations that have waited for their start for too long, without any failure."""
    since, again = _waits_since(case)
    age = case.now - since
    usual = usual_of(case, _times_to_start(case))
    stuck = age > pd.Timedelta(limits.start_overdue).value
    told = (age > pd.Timedelta(limits.template_wait).value) & _lacks_data(case)
    slow, far = how_slow(age, usual, limits)
    for alloc in by_version(case, np.flatnonzero(waits & (stuck | told | slow))):
        kind, step, text = _waits_for(case, alloc)
        pulls = kind == "driver"
        is_far = far[alloc] & (age[alloc] > PULL.value) if pulls else far[alloc]
        loud = stuck[alloc] | told[alloc] | is_far
        facts = {
            "waiting": len(alloc),
            **_numbers(case, jobs, alloc, age, usual),
            "message": text,
            "step": step,
            "again": int(again[alloc].sum()),
        }
        confidence = "unknown" if kind == "unknown" else "likely" if text else "possible"
        evidence = Evidence("never started", facts, alloc_keys(case, alloc))
        cause = Cause(kind, kind if kind != "unknown" else None, _job(case, alloc), confidence, [evidence])
        half = limits.critical_share * max(facts["instances_wanted"], 1)
        severity = "critical" if int(stuck[alloc].sum()) >= half else "warning" if loud.any() else "info"
        incident = make(case, alloc, cause, severity, ONGOING, since[alloc], facts)
        yield replace(incident, hypotheses=[cause, *_of_version(case, alloc, kind, facts, ledger)])


def _waits_since(case: Case) -> tuple[Array, Array]:
    """Return since when each allocation waits, if it does, and whether a task that waits had run before.

    One that has run waits from the end of its last run on, not from its creation.
    """
    created = case.evidence.allocations["created_at"].to_numpy()
    tasks, alloc = case.evidence.tasks, case.evidence.tasks["alloc"].to_numpy()
    ended = tasks["finished"].to_numpy().copy()
    over = case.attempts[case.attempts["end"].ne(ENDS.index("running")).to_numpy(dtype=bool)]
    np.maximum.at(ended, over["owner"].to_numpy(), over["at"].to_numpy())
    ran = tasks["started"].to_numpy() != NEVER
    since, again = created.copy(), np.zeros(len(created), dtype=bool)
    known = ran & (created[alloc] != NEVER)
    np.maximum.at(since, alloc[known], ended[known])
    again[alloc[ran & tasks["state"].eq("pending").to_numpy(dtype=bool)]] = True
    return since, again


def _of_version(
    case: Case, alloc: Array, kind: str, facts: dict[str, Any], ledger: Ledger
) -> Iterator[Hypothesis]:
    """Yield the version that changed what these allocations wait for, if it did."""
    job, version = case.instances.families[int(case.instances.family[alloc[0]])], facts["job_version"]
    fields = ledger.fields_touching(job, version, kind) if version is not None else []
    if fields:
        evidence = Evidence("change touches", {"job_version": version, "fields": fields})
        yield Hypothesis(
            "job version", kind, _job(case, alloc) | {"job_version": version}, "possible", [evidence]
        )


def how_slow(age: Array, usual: Usual, limits: Thresholds) -> tuple[Array, Array]:
    """Return which take longer than usual, and which far longer; without a measure, which are slow."""
    slow = pd.Timedelta(limits.slow_start).value
    some = usual.earlier > 0
    longer = (age > limits.slow_start_factor * usual.longest) & (
        age > pd.Timedelta(limits.template_wait).value
    )
    return np.where(some, longer, age > slow), some & (age > limits.outlier_factor * usual.longest) & (
        age > slow
    )


def by_version(case: Case, places: Array) -> Iterator[Array]:
    """Yield allocations by their job and its version."""
    family = case.instances.family[places]
    version = numbers(case.evidence.allocations["job_version"].iloc[places], -1)
    for each in sorted(set(zip(family.tolist(), version.tolist(), strict=True))):
        yield places[(family == each[0]) & (version == each[1])]


def by_family(case: Case, places: Array) -> Iterator[Array]:
    """Yield allocations by their job."""
    family = case.instances.family[places]
    for each in np.unique(family):
        yield places[family == each]


def _numbers(case: Case, jobs: Jobs, alloc: Array, age: Array, usual: Usual) -> dict[str, Any]:
    """Return the numbers that all who wait have: for how long, how long others took, what serves."""
    rows, instances = case.evidence.allocations, case.instances
    family = int(instances.family[alloc[0]])
    version = int(numbers(rows["job_version"].iloc[alloc[:1]], -1)[0])
    others = instances.family == family
    several = bool(np.any(numbers(rows["job_version"], -1)[others] != version))
    others &= instances.wanted & rows["client_status"].eq("running").to_numpy(dtype=bool)
    others[alloc] = False
    longest = int(alloc[np.argmax(age[alloc])])
    return {
        "instances_wanted": int(jobs.wanted[family]),
        "longest": _length(age[longest]),
        "earlier": int(usual.earlier[longest]),
        "earlier_longest": _length(usual.longest[longest]) if usual.earlier[longest] else None,
        "job_version": version if several else None,
        "running": int(others.sum()),
    }


def _job(case: Case, alloc: Array) -> dict[str, Any]:
    namespace, job = case.instances.families[int(case.instances.family[alloc[0]])]
    return {"namespace": namespace, "job_id": job}


def _length(nanoseconds: Any) -> pd.Timedelta:
    return pd.Timedelta(int(nanoseconds), unit="ns")


def _lacks_data(case: Case) -> Array:
    """Return which allocations have a task whose last word is that its template misses something."""
    events = case.evidence.events
    # what its deployment says of it is not an event of its start
    of_start = np.flatnonzero(~events["type"].eq("Alloc Unhealthy").to_numpy(dtype=bool))
    owner = events["owner"].to_numpy()[of_start]
    last = events.iloc[of_start[np.append(owner[1:] != owner[:-1], True)[: len(owner)]]]
    last = last[last["type"].eq("Template")]
    missing = last[last["text"].astype("str").str.startswith("Missing")]
    result = np.zeros(len(case.evidence.allocations), dtype=bool)
    result[case.evidence.tasks["alloc"].to_numpy()[missing["owner"]]] = True
    return result


def _waits_for(case: Case, alloc: Array) -> tuple[str, str | None, str | None]:
    """Return what the last event of these allocations says of the start under way: kind, type and words."""
    owners = np.flatnonzero(np.isin(case.evidence.tasks["alloc"].to_numpy(), alloc))
    events = case.evidence.events
    mine = events[np.isin(events["owner"].to_numpy(), owners)]
    last = mine[~mine["type"].eq("Alloc Unhealthy")].drop_duplicates("owner", keep="last")
    if last.empty:
        return "unknown", None, None
    types = last["type"].astype("str")
    kinds = types.map(_PROGRESS).dropna()
    if kinds.empty:
        return "unknown", str(types.mode().iloc[0]), None
    kind = str(kinds.mode().iloc[0])
    texts = last["text"].astype("str")[types.map(_PROGRESS).eq(kind) & last["text"].notna()]
    return kind, str(types[types.map(_PROGRESS).eq(kind)].iloc[0]), str(texts.iloc[0]) if len(texts) else None


# Health


def _not_healthy(
    case: Case, jobs: Jobs, runs: Array, limits: Thresholds, history: Any, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs whose deployment waits for allocations to become healthy for longer than usual.

    That is a main task that waits for a prestart task, or a check that does not pass: Nomad says nothing of
    it until the deadline.
    """
    table = getattr(history, "deployments", None)
    if table is None or table.empty:
        return
    under_way = table[table["status"].astype("str").eq("running")].dropna(subset=["job_version"])
    deployed = {
        (str(namespace), str(job), int(version))
        for namespace, job, version in zip(
            under_way["namespace"], under_way["job_id"], under_way["job_version"], strict=True
        )
    }
    if not deployed:
        return
    rows, families = case.evidence.allocations, case.instances.families
    created, decided = rows["created_at"].to_numpy(), rows["deployment_health_at"].to_numpy()
    healthy = rows["deployment_healthy"].astype("boolean")
    known = healthy.fillna(False).to_numpy(dtype=bool) & (created != NEVER) & (decided != NEVER)
    took = np.where(known, np.maximum(decided - np.where(known, created, decided), 0), -1)
    usual, age = usual_of(case, took), case.now - created
    late, far = how_slow(age, usual, limits)
    late &= (usual.earlier > 0) | (age > _FIRST_HEALTH.value)
    for alloc in by_version(case, np.flatnonzero(runs & healthy.isna().to_numpy(dtype=bool) & late)):
        job = families[int(case.instances.family[alloc[0]])]
        version = int(numbers(rows["job_version"].iloc[alloc[:1]], -1)[0])
        if (*job, version) not in deployed:
            continue
        changed = [str(each["path"]) for each in ledger.changed_fields(job, version)]
        comparable = not any(part in path for path in changed for part in _WHAT_HEALTHY_MEANS)
        if not comparable and int(age[alloc].max()) <= _FIRST_HEALTH.value:
            continue
        facts = {"undecided": len(alloc), **_numbers(case, jobs, alloc, age, usual)}
        evidence = Evidence("not healthy yet", facts, alloc_keys(case, alloc))
        cause = Cause("unknown", "health", _job(case, alloc), "unknown", [evidence])
        severity = "warning" if comparable and far[alloc].any() else "info"
        yield make(case, alloc, cause, severity, ONGOING, created[alloc], facts)


_FIRST_HEALTH = pd.Timedelta("5min")
"""Without others to compare it with: Nomad's own default for the time until an allocation is healthy."""
