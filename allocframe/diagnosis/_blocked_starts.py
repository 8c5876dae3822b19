"""Allocations that "run" and do nothing: their main tasks wait for a task before them that does not end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Ledger, tasks_added
from ._failures import Case
from ._groups import ONGOING
from ._others import alloc_keys, make
from ._tables import NEVER, Array, Job, categories, numbers
from .finding import Thresholds
from .incident import Cause, Evidence, Incident

PULL = pd.Timedelta("5min")
"""Docker gives up a pull of an image after this time. How long one takes depends on the node's cache, and not
on how long earlier starts took."""

_OF_ANY_START = ("Received", "Alloc Unhealthy")
"""Events of a task that has not begun to start: it waits for another one."""


@dataclass(frozen=True)
class _Tasks:
    """The tasks of all allocations, with what is known of the role that each name has in its task group.

    Attributes
    ----------
    key : numpy.ndarray
        Number of job, group and name together.
    waits, begun, runs : numpy.ndarray
        Whether a task has never started, has begun to start (downloads, say), runs.
    early : numpy.ndarray
        Whether tasks of that name start with their allocation, as main tasks do, and not after its end.
    lasting : numpy.ndarray
        Whether tasks of that name run beside the main tasks, as sidecars do.
    """

    key: Array
    waits: Array
    begun: Array
    runs: Array
    early: Array
    lasting: Array


def find_blocked_starts(
    case: Case, runs: Array, limits: Thresholds, ledger: Ledger
) -> Iterator[tuple[Incident, Array]]:
    """Yield jobs whose main tasks wait longer than usual for tasks before them, and their allocations.

    Nomad calls such an allocation "running". `runs` says which allocations to look at.
    """
    rows = case.evidence.allocations
    age = case.now - rows["created_at"].to_numpy()
    look = runs & ~case.healthy & (age > pd.Timedelta(limits.template_wait).value)
    alloc = case.evidence.tasks["alloc"].to_numpy()
    never = case.evidence.tasks["state"].eq("pending").to_numpy(dtype=bool)
    never = never & (case.evidence.tasks["started"].to_numpy() == NEVER)
    if not np.any(never & look[alloc]):
        return
    groups, names = categories(rows["task_group"])
    hit = np.zeros(len(case.instances.families), dtype=bool)
    hit[case.instances.family[alloc[never & look[alloc]]]] = True
    tasks = _read_tasks(case, never, hit, groups)
    # most tasks that wait are those that run at the end: of a large cluster there are many
    told = [job in ledger.hooked for job in case.instances.families]
    sure = tasks.begun | tasks.early | np.array(told, dtype=bool)[case.instances.family[alloc]]
    places = np.unique(alloc[never & look[alloc] & sure])
    if not len(places):
        return
    version = numbers(rows["job_version"], -1)
    order = places[np.lexsort((version[places], groups[places], case.instances.family[places]))]
    same = np.stack([case.instances.family[order], groups[order], version[order]])
    for part in np.split(order, np.flatnonzero(np.any(np.diff(same), axis=0)) + 1):
        group = names[int(groups[part[0]])]
        found = _of_group(case, tasks, part, group, age, limits, ledger)
        if found is not None:
            yield found, part


def _read_tasks(case: Case, never: Array, hit: Array, groups: Array) -> _Tasks:
    """Return the tasks, with the roles of those whose job may have a start that hangs."""
    rows, tasks, events = case.evidence.allocations, case.evidence.tasks, case.evidence.events
    alloc = tasks["alloc"].to_numpy()
    name, names = pd.factorize(tasks["task"])
    pair = case.instances.family[alloc] * (int(groups.max()) + 1) + groups[alloc]
    # tasks of other jobs are one and the same: nothing asks for them
    joined = np.where(hit[case.instances.family[alloc]], pair * len(names) + name, -1)
    _, key = np.unique(joined, return_inverse=True)
    owner, types = events["owner"].to_numpy(), events["type"]
    begun, killed = np.zeros(len(tasks), dtype=bool), np.zeros(len(tasks), dtype=bool)
    begun[owner[~types.isin(_OF_ANY_START).to_numpy(dtype=bool)]] = True
    killed[owner[types.eq("Killing").to_numpy(dtype=bool)]] = True
    started = tasks["started"].to_numpy()
    decided = rows["deployment_health_at"].to_numpy()[alloc]
    runs = tasks["state"].eq("running").to_numpy(dtype=bool)
    # what had started when its allocation was called healthy does not wait for its end; nor does what was
    # asked to stop
    before = (started != NEVER) & case.healthy[alloc] & (started <= decided)
    size = int(key.max()) + 1
    early, lasting = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    early[key[before | (killed & (started != NEVER))]] = True
    lasting[key[killed | (runs & case.healthy[alloc])]] = True
    return _Tasks(key, never, never & begun, runs, early[key], lasting[key])


def _of_group(
    case: Case,
    tasks: _Tasks,
    alloc: Array,
    group: str,
    age: Array,
    limits: Thresholds,
    ledger: Ledger,
) -> Incident | None:
    """Return what blocks allocations of one task group and version; None if nothing surely does."""
    rows, instances = case.evidence.allocations, case.instances
    family = int(instances.family[alloc[0]])
    job, version = instances.families[family], int(numbers(rows["job_version"].iloc[alloc[:1]], -1)[0])
    hooks = _hooks(ledger, job, version, group)
    mine = np.flatnonzero(np.isin(case.evidence.tasks["alloc"].to_numpy(), alloc))
    names = case.evidence.tasks["task"].astype("str").to_numpy(dtype=object)[mine]
    hook = np.array([hooks.get(name, "") for name in names], dtype=object)
    # without a word on its role, a task that waits may be one that runs at the end
    sure = tasks.begun[mine] | tasks.early[mine] | (hook != "")
    waits = tasks.waits[mine] & sure & (hook != "poststop")
    by_itself = waits & tasks.begun[mine]
    alone = bool(by_itself.any())
    waits = by_itself if alone else waits
    took = _times_to_start(case, tasks, np.unique(tasks.key[mine[waits]]))
    late, far = _how_late(int(age[alloc].max()), took, limits)
    if not waits.any() or not late:
        return None
    runs = tasks.runs[mine]
    blocking = [] if alone else sorted(set(names[runs & ~tasks.lasting[mine]]))
    step = _step(case, mine[waits]) if alone else None
    same = (instances.family == family) & rows["task_group"].eq(group).to_numpy(dtype=bool)
    serving = same & instances.wanted & rows["client_status"].eq("running").to_numpy(dtype=bool)
    serving[alloc] = False
    versions = numbers(rows["job_version"], -1)[instances.family == family]
    brought = tasks_added(ledger.changed_fields(job, version), group)
    facts: dict[str, Any] = {
        "blocked": len(alloc),
        "tasks": sorted(set(names[waits])),
        "behind": blocking,
        "hooks": {each: hooks[each] for each in blocking if each in hooks},
        "added": [each for each in blocking if each in brought],
        "step": step,
        "task_group": group if len(set(rows["task_group"][instances.family == family])) > 1 else None,
        "instances_wanted": len(np.unique(instances.lane[same & instances.wanted])),
        "serving": int(serving.sum()),
        "longest": pd.Timedelta(int(age[alloc].max()), unit="ns"),
        "earlier": len(took),
        "earlier_longest": pd.Timedelta(int(took.max()), unit="ns") if len(took) else None,
        "job_version": version if bool(np.any(versions != version)) else None,
    }
    if step == "Driver" and age[alloc].max() <= PULL.value:
        far = False
    # next to a task that has not started, others of its allocation may serve
    serves = alone and bool(np.any(runs & tasks.lasting[mine] & (hook == "")))
    is_service = str(rows["job_type"].iloc[alloc[0]]) in ("service", "system")
    nobody = is_service and not facts["serving"] and not serves
    severity = ("critical" if nobody else "warning") if far else "info"
    causes = _causes(case, ledger, (job, version), group, alloc, facts)
    incident = make(case, alloc, causes[0], severity, ONGOING, rows["created_at"].to_numpy()[alloc], facts)
    return replace(incident, hypotheses=list(causes))


def _hooks(ledger: Ledger, job: Job, version: int, group: str) -> dict[str, str]:
    """Return the lifecycle hooks of a task group's tasks that the known changes tell, by their names."""
    found: dict[str, str] = {}
    for each in range(version + 1):
        for row in ledger.changed_fields(job, each):
            if row["path"] == "Lifecycle.Hook" and row.get("task_group") == group and row["new"]:
                found[str(row["task"])] = str(row["new"])
    return found


def _times_to_start(case: Case, tasks: _Tasks, keys: Array) -> Array:
    """Return how long tasks took from their allocation's creation to their start, where that is known."""
    rows, table = case.evidence.allocations, case.evidence.tasks
    created = rows["created_at"].to_numpy()[table["alloc"].to_numpy()]
    started = table["started"].to_numpy()
    # after a restart the state of a task has the time of its last start
    known = (started != NEVER) & (created != NEVER) & table["restarts"].eq(0).to_numpy(dtype=bool)
    known &= np.isin(tasks.key, keys)
    result: Array = np.maximum(started[known] - created[known], 0)
    return result


def _how_late(age: int, took: Array, limits: Thresholds) -> tuple[bool, bool]:
    """Return whether a start takes longer than earlier ones, and whether far longer."""
    slow, stuck = (pd.Timedelta(each).value for each in (limits.slow_start, limits.start_overdue))
    if not len(took):
        return age > slow, age > stuck
    longest = int(took.max())
    return age > limits.slow_start_factor * longest, age > limits.outlier_factor * longest and age > slow


def _step(case: Case, owners: Array) -> str | None:
    """Return the last word of tasks on their own start."""
    events = case.evidence.events
    mine = events[np.isin(events["owner"].to_numpy(), owners) & ~events["type"].eq("Alloc Unhealthy")]
    last = mine.drop_duplicates("owner", keep="last")["type"].astype("str")
    return str(last.mode().iloc[0]) if len(last) else None


def _causes(
    case: Case, ledger: Ledger, of: tuple[Job, int], group: str, alloc: Array, facts: dict[str, Any]
) -> list[Cause]:
    """Return why main tasks wait: the version, if it brought what they wait for, or changed it."""
    job, version = of
    names = {name: facts[name] for name in ("blocked", "tasks", "behind", "step")}
    blocked = Evidence("blocked", names, alloc_keys(case, alloc))
    subject = {"namespace": job[0], "job_id": job[1]}
    unknown = Cause("unknown", "start", subject, "unknown", [blocked])
    behind = facts["behind"]
    fields = [
        str(row["path"])
        for row in ledger.changed_fields(job, version)
        if row.get("task_group") == group and row.get("task") in behind and row["new"] != row["old"]
    ]
    if not fields:
        return [unknown]
    of_version = {**subject, "job_version": version}
    if facts["added"]:
        brought = Evidence("task added", {"job_version": version, "tasks": facts["added"]})
        return [Cause("job version", "start", of_version, "likely", [brought, blocked])]
    touched = Evidence("change touches", {"job_version": version, "fields": fields})
    return [unknown, Cause("job version", "start", of_version, "possible", [touched])]
