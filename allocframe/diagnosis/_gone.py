"""What a version of a job removed: nothing failed, and by a change on record it is no longer there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ..tables.run_ids import is_run
from ._absent import groups_alive, scaling_requests
from ._changes import Ledger, tasks_added
from ._failures import Case
from ._groups import STOPPED
from ._slow_runs import CALM_GAPS, launches_of, schedule_fields
from ._tables import NEVER, Array, Job, moment, numbers
from .finding import Thresholds
from .incident import Cause, Evidence, Incident

_SLACK = 2 * 10**9
"""A version and the stops that it brings are of one moment, by clocks of servers."""

_DEMANDS = re.compile(r"(^|\.)(Constraints\[|Datacenters\[|NodePool$)")
"""Fields by which a version can close nodes to its job."""

_PART = re.compile(r"^(?:(.*)\bServices\[([^\]]*)\])(?:\.Checks\[([^\]]*)\])?\.Name$")


@dataclass
class _Taken:
    """What one version removed, as parts of a sentence's facts, and the allocations that ended with it."""

    parts: list[dict[str, Any]] = field(default_factory=list)
    alloc: list[int] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Change:
    """What one version of a job changed, and when.

    Attributes
    ----------
    fields : list of dict
        See `Ledger.changed_fields`.
    places : numpy.ndarray
        Rows of the job's allocations.
    settled : set
        What newer versions removed or added, so that older ones no longer count for it.
    taken : _Taken
        Where to note what it removed.
    """

    job: Job
    version: int
    at: int
    fields: list[dict[str, Any]]
    places: Array
    settled: set[tuple[str, ...]]
    taken: _Taken

    def settle(self, *key: str) -> bool:
        """Return whether no newer version has settled this; it is settled then."""
        is_new = key not in self.settled
        self.settled.add(key)
        return is_new


def find_gone(case: Case, history: Any, ledger: Ledger, limits: Thresholds) -> Iterator[Incident]:
    """Yield what versions of jobs removed, and no later version restored."""
    if case.now == NEVER or getattr(history, "job_changes", None) is None:
        return
    look = _Look(case, history, ledger, case.now - pd.Timedelta(limits.history_age).value)
    for job, newest in ledger.newest_versions():
        if is_run(job[1]):
            continue
        for version, taken in sorted(look.taken_from(job, newest).items()):
            yield _incident(case, ledger, job, version, taken)


class _Look:
    """What is needed to see what versions removed."""

    def __init__(self, case: Case, history: Any, ledger: Ledger, since: int) -> None:
        self.case, self.ledger, self.since = case, ledger, since
        self.number = {job: place for place, job in enumerate(case.instances.families)}
        # a large cluster has thousands of jobs
        self.in_order = np.argsort(case.instances.family, kind="stable")
        self.families = case.instances.family[self.in_order]
        self.alive, self.requests = groups_alive(case), scaling_requests(history)
        self.open_nodes, self.pools = _open_nodes(getattr(history, "nodes", None))
        rows = case.evidence.allocations
        self.runs = case.instances.wanted & rows["desired_status"].eq("run").to_numpy(dtype=bool)

    def taken_from(self, job: Job, newest: int) -> dict[int, _Taken]:
        """Return what versions of a job removed and none restored, by version."""
        found: dict[int, _Taken] = {}
        settled: set[tuple[str, ...]] = set()
        places = self._allocations(job)
        for version in range(newest, -1, -1):
            at = self.ledger.submitted_at(job, version)
            if at == NEVER or at < min(self.since, self._since_for_schedules(job)):
                break
            fields = self.ledger.changed_fields(job, version)
            if not fields:
                continue
            if self.ledger.ended_by(job, at) is not None:
                break
            taken, undone = found.setdefault(version, _Taken()), _Taken()
            # a rollback removes what had been tried: that is not a loss
            of_job = taken if self.ledger.same_as(job, version) is None else undone
            change = _Change(job, version, at, fields, places, settled, of_job)
            self._schedule(replace(change, taken=taken))
            if at < self.since:
                continue
            self._groups_and_tasks(change)
            self._counts(change)
            _services(change)
            self._nodes(change)
            self._launches(replace(change, taken=taken))
        return {version: taken for version, taken in found.items() if taken.parts}

    def _allocations(self, job: Job) -> Array:
        place = self.number.get(job)
        if place is None:
            return np.zeros(0, dtype=int)
        begin, end = np.searchsorted(self.families, [place, place + 1])
        return self.in_order[begin:end]

    def _groups_and_tasks(self, change: _Change) -> None:
        """Note groups, and tasks of groups that stay, which a version removed."""
        whole = {
            row["task_group"]
            for row in change.fields
            if row["path"] == "Count" and row["kind"] in ("added", "removed")
        }
        for row in change.fields:
            group, task, kind = row.get("task_group"), row.get("task"), row["kind"]
            is_group = row["path"] == "Count" and task is None
            is_task = row["path"] == "Driver" and task is not None and group not in whole
            if kind not in ("added", "removed") or not (is_group or is_task):
                continue
            key = ("group", str(group)) if is_group else ("task", str(group), str(task))
            if not change.settle(*key):
                continue
            if kind == "added" or (is_group and (*change.job, str(group)) in self.alive):
                continue
            what: dict[str, Any] = {"what": key[0], "name": key[-1], "task_group": str(group)}
            if is_group:
                ran = self._of_group(change.places, str(group), change.version)
                what["instances"] = len(np.unique(self.case.instances.lane[ran])) or int(row["old"])
                change.taken.alloc += ran.tolist()
            change.taken.parts.append({**what, "instead": _added_beside(change.fields, key)})

    def _of_group(self, places: Array, group: str, version: int) -> Array:
        """Return the last allocations of a task group that older versions than one ran."""
        rows = self.case.evidence.allocations.iloc[places]
        older = numbers(rows["job_version"], -1) < version
        found: Array = places[
            rows["task_group"].eq(group).to_numpy(dtype=bool) & older & self.case.instances.final[places]
        ]
        return found

    def _counts(self, change: _Change) -> None:
        """Note the groups of which a deploy wants fewer instances; a request to scale is everyday work."""
        job, version = change.job, change.version
        for row in change.fields:
            group = str(row.get("task_group"))
            if row["path"] != "Count" or not change.settle("count", group):
                continue
            old, new = (int(each) if str(each).isdigit() else None for each in (row["old"], row["new"]))
            # to 0 is reported by itself
            if not old or not new or new >= old or (*job, version) in self.requests:
                continue
            part: dict[str, Any] = {"what": "count", "task_group": group, "old": old, "new": new}
            part["was_scaled"] = (*job, version - 1) in self.requests
            change.taken.parts.append(part)

    def _launches(self, change: _Change) -> None:
        """Note that a version turned a periodic job's launches off, with how often it ran before."""
        for row in change.fields:
            if row["path"] != "Periodic.Enabled" or not change.settle("runs"):
                continue
            launches = self._launches_of(change.job)
            if str(row["new"]) == "true" or (len(launches) and launches[-1] > change.at + _SLACK):
                continue
            change.taken.parts.append({"what": "runs", **self._rhythm(launches)})

    def _schedule(self, change: _Change) -> None:
        """Note that a periodic job has made no run for long since a version edited its schedule.

        When the next one is due is not computed: a much rarer schedule looks the same as a mistake.
        """
        edited = schedule_fields(change.fields)
        if not edited or not change.settle("schedule") or ("runs",) in change.settled:
            return
        launches = self._launches_of(change.job)
        status = self.case.evidence.allocations["client_status"].iloc[change.places]
        alive = self.runs[change.places] & status.isin(["running", "pending"]).to_numpy(dtype=bool)
        # a run under way may be what the next one waits for
        if len(launches) < 2 or self.case.evidence.partial or alive.any():
            return
        calm = self.case.now - max(int(launches[-1]), change.at)
        if launches[-1] > change.at + _SLACK or calm <= CALM_GAPS * int(np.median(np.diff(launches))):
            return
        change.taken.parts.append({"what": "schedule", **self._rhythm(launches), "edits": _edits(edited)})

    def _launches_of(self, job: Job) -> Array:
        family = self.number.get(job)
        return np.zeros(0, dtype=np.int64) if family is None else launches_of(self.case, family)

    def _since_for_schedules(self, job: Job) -> int:
        """Return since when an edited schedule is news: a daily job is missed after days."""
        family = self.number.get(job)
        if family is None or not self.case.instances.has_runs[family]:
            return self.since
        gaps = np.diff(self._launches_of(job))
        return self.case.now - (2 * CALM_GAPS * int(np.median(gaps)) if len(gaps) else 0)

    def _rhythm(self, launches: Array) -> dict[str, Any]:
        """Return how often a periodic job ran, and when last."""
        gaps = np.diff(launches)
        last = moment(int(launches[-1])) if len(launches) else None
        return {
            "runs_before": len(launches),
            "every": pd.Timedelta(int(np.median(gaps)), unit="ns") if len(gaps) else None,
            "last_run": last,
            "ago": None if last is None else pd.Timestamp(self.case.now, tz="UTC") - last,
        }

    def _nodes(self, change: _Change) -> None:
        """Note the nodes that a version's demands closed to its job; they are ready for others."""
        places, taken = change.places, change.taken
        demands = [
            row for row in change.fields if _DEMANDS.search(str(row["path"])) and row["new"] != row["old"]
        ]
        if not demands or not len(places):
            return
        rows = self.case.evidence.allocations.iloc[places]
        left, now = self._who_left(rows, places, change.at)
        everywhere = _everywhere(rows)
        for group in sorted(set(rows["task_group"].astype("str")[left])):
            mine = rows["task_group"].eq(group).to_numpy(dtype=bool)
            asks = [row for row in demands if row.get("task_group") in (None, group)]
            runs_on = set(rows["node_name"].astype("str")[mine & now])
            gone = set(rows["node_name"].astype("str")[mine & left]) - runs_on
            gone &= self.open_nodes
            if not everywhere[mine].all():
                # elsewhere any deploy may move a job: only its datacenters and pools say that this one did
                asks = [row for row in asks if "Constraints[" not in str(row["path"])]
                gone = {each for each in gone if self._place(each) not in map(self._place, runs_on)}
            if not asks or not gone or not runs_on or not change.settle("nodes", group):
                continue
            which = mine & left & rows["node_name"].isin(gone).to_numpy(dtype=bool)
            taken.alloc += places[which].tolist()
            taken.nodes += sorted(gone)
            part: dict[str, Any] = {"what": "nodes", "nodes": sorted(gone), "task_group": group}
            part["everywhere"] = bool(everywhere[mine].all())
            part["instances"] = int(which.sum())
            part["runs_on"] = sorted(runs_on)
            part["demands"], part["no_longer"] = _demands(asks)
            taken.parts.append(part)

    def _who_left(self, rows: pd.DataFrame, places: Array, at: int) -> tuple[Array, Array]:
        """Return which allocations a version at a time ended, and which run now."""
        created, modified = rows["created_at"].to_numpy(), rows["modified_at"].to_numpy()
        now = self.runs[places] & rows["client_status"].isin(["running", "pending", "complete"]).to_numpy()
        ended = ~self.runs[places] | rows["client_status"].isin(["complete"]).to_numpy(dtype=bool)
        before = (created != NEVER) & (created < at - _SLACK) & (modified >= at - _SLACK)
        # a finished run of an older version is not a run of this one
        done = rows["job_type"].eq("sysbatch").to_numpy(dtype=bool) & (created < at - _SLACK)
        # elsewhere the next allocation of an instance may be on another node
        last = self.case.instances.final[places] | ~_everywhere(rows)
        left: Array = last & ended & (before | done) & ~self.case.instances.lost[places]
        return left, now & ~left

    def _place(self, node: str) -> tuple[str | None, str | None]:
        return self.ledger.datacenters.get(node), self.pools.get(node)


def _everywhere(rows: pd.DataFrame) -> Array:
    """Return which allocations are of jobs that run on every node."""
    result: Array = rows["job_type"].isin(vocabulary.NODE_BOUND_JOB_TYPES).to_numpy(dtype=bool)
    return result


def _added_beside(fields: list[dict[str, Any]], key: tuple[str, ...]) -> list[str]:
    """Return what a version added where it removed something: it may be the same under a new name."""
    if key[0] == "task":
        return tasks_added(fields, key[1])
    new = [row["task_group"] for row in fields if row["path"] == "Count" and row["kind"] == "added"]
    return sorted(map(str, new))


def _services(change: _Change) -> None:
    """Note services and checks that a version removed from groups and tasks that stay."""
    whole = {
        (row.get("task_group"), row.get("task"))
        for row in change.fields
        if row["path"] in ("Count", "Driver") and row["kind"] == "removed"
    }
    found = []
    for row in change.fields:
        match = _PART.search(str(row["path"]))
        if match is None or row["kind"] == "edited":
            continue
        where = str(row.get("task_group")), str(row.get("task"))
        gone_with = {(row.get("task_group"), row.get("task")), (row.get("task_group"), None)} & whole
        is_new = change.settle("service", *where, match[2], match[3] or "")
        if is_new and row["kind"] == "removed" and not gone_with:
            found.append((where, match[2], match[3]))
    services = {(where, service) for where, service, check in found if check is None}
    for where, service, check in found:
        if check is None:
            change.taken.parts.append({"what": "service", "name": service, "task_group": where[0]})
        elif (where, service) not in services:
            part = {"what": "check", "name": check, "service": service, "task_group": where[0]}
            change.taken.parts.append(part)


def _edits(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what of a schedule was edited: old and new values, of its times and of its time zone."""
    found = []
    for name, of_zone in (("schedule", False), ("time zone", True)):
        mine = [row for row in fields if ("TimeZone" in str(row["path"])) == of_zone]
        old, new = (
            [str(row[side]) for row in mine if row[side] is not None and str(row[side])]
            for side in ("old", "new")
        )
        if mine:
            found.append({"name": name, "old": old, "new": new})
    return found


def _demands(fields: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return what a version asks of nodes, and what it no longer asks, in the words of a job's file."""
    constraints: dict[str, dict[str, str]] = {}
    others, dropped = [], []
    for row in fields:
        path, new = str(row["path"]), row["new"]
        found = re.search(r"^(.*Constraints\[[^\]]*\])\.(\w+)$", path)
        if found:
            constraints.setdefault(found[1], {})[found[2]] = "" if new is None else str(new)
        elif "Datacenters" in path and new is None:
            dropped.append(f"datacenter {row['old']}")
        elif "Datacenters" in path:
            others.append(f"datacenter {new}")
        elif path == "NodePool":
            others.append(f"node pool {new if new is not None else 'default'}")
    names = ("LTarget", "Operand", "RTarget")
    # a constraint of which one field was edited has only that one on record
    said = [" ".join(each[name] for name in names if each.get(name)) for each in constraints.values()]
    return list(dict.fromkeys([f"constraint {each}" for each in said if each] + others)), dropped


def _open_nodes(nodes: pd.DataFrame | None) -> tuple[set[str], dict[str, str]]:
    """Return the names of the nodes that take work now, and the pool of each node."""
    if nodes is None or nodes.empty:
        return set(), {}
    ready = nodes["status"].astype("str").eq("ready") & nodes["eligibility"].astype("str").eq("eligible")
    ready &= ~nodes["draining"].eq(True).fillna(False)
    pools = {
        str(name): str(pool)
        for name, pool in zip(nodes["node_name"], nodes["node_pool"], strict=True)
        if pd.notna(name) and pd.notna(pool)
    }
    return set(nodes["node_name"][ready].dropna().astype("str")), pools


def _incident(case: Case, ledger: Ledger, job: Job, version: int, taken: _Taken) -> Incident:
    facts = {"gone": taken.parts, "job_version": version}
    paths = [str(row["path"]) for row in ledger.changed_fields(job, version)]
    ids = case.evidence.allocations["alloc_id"].iloc[sorted(set(taken.alloc))].astype("str").tolist()
    keys = [{"alloc_id": each} for each in ids[:20]]
    evidence = Evidence("taken away", {"job_version": version, "fields": paths, "gone": taken.parts}, keys)
    subject = {"namespace": job[0], "job_id": job[1], "job_version": version}
    cause = Cause("operator", "withdrawal", subject, "certain", [evidence])
    at = moment(ledger.submitted_at(job, version))
    nodes = sorted(set(taken.nodes))
    return Incident("info", STOPPED, cause, [cause], [job], nodes, ids, at, at, False, facts)
