"""What had changed near the beginning of each incident, the most telling first."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ._failures import Case
from ._other_changes import OtherChanges
from ._placed_by import placed_by
from ._tables import NEVER, Array, Job, nanoseconds
from .finding import plain, plain_facts
from .incident import Incident

BEFORE = pd.Timedelta("30min")
"""Changes this long before an incident are shown with it: a slow rollout takes as long."""

AFTER = pd.Timedelta("10s")
"""Clocks of servers and nodes differ by so much at least."""

DRAIN = pd.Timedelta("1h")
"""The usual deadline of a drain: what moves later was moved by something else."""

RELEASE = pd.Timedelta("15s")
"""New versions of several jobs within this time are one release: a script submits one after the other."""

TRIED = ("job version", "scale", "operator stop", "purge")
"""What people do to a job that fails, and that is reported with it."""

_PLANNED = 2 * 10**9
"""An allocation is planned within moments of the version that makes it, by clocks of the same servers."""

MOST_CHANGES = 10

Version = tuple[str, str, int]

_TOUCHES = {
    "out of memory": ("MemoryMB", "MemoryMaxMB"),
    "killed": ("MemoryMB", "MemoryMaxMB", "KillTimeout"),
    "artifact": ("Artifact", "GetterSource"),
    "driver": ("Config", "Driver", "image", "User"),
    "crash": ("Config", "Env", "Command", "Template", "Artifact", "image"),
    "template": ("Template", "Vault", "Consul"),
    "secrets": ("Vault", "Identity", "Template"),
    "health check": ("Check", "Service", "Config", "Env", "Network", "image"),
    "volume": ("Volume", "Mount", "CSI"),
}
"""Fields of a job whose change can bring about each mechanism."""


class Ledger:
    """The change ledger of one cluster, by job and by node, with what versions changed and how they did.

    Without a history it holds the first placements of new versions: all that allocations tell.
    """

    def __init__(self, case: Case, history: Any = None) -> None:
        table = getattr(history, "changes", None)
        if table is None:
            table = _placements(case)
        table = table.dropna(subset=["at"]).sort_values("at", kind="stable")
        self._at = nanoseconds(table["at"])
        # whole columns once: rows of a frame are slow, and there are thousands
        self._columns = {str(name): table[name].astype(object).to_numpy() for name in table.columns}
        self._by_job: dict[Job, list[int]] = {}
        self._by_node: dict[str, list[int]] = {}
        versions = getattr(history, "job_versions", None)
        self._submitted, self._stable, self._same_as = _versions(versions)
        self._newest = _newest(versions)
        self._by_time: dict[Job, list[tuple[int, int]]] = {}
        for (namespace, job, number), at in self._submitted.items():
            if at != NEVER:
                self._by_time.setdefault((namespace, job), []).append((number, at))
        self._releases = sorted(
            (at, namespace, job)
            for (namespace, job, version), at in self._submitted.items()
            if at != NEVER and version > 0 and not self._is_equal((namespace, job), version)
        )
        self._release_times = np.array([each[0] for each in self._releases], dtype=np.int64)
        current: list[int] = []
        for place in range(len(table)):
            if self._has_time_of_older_version(place):
                continue
            current.append(place)
            job, node = self._columns["job_id"][place], self._columns["node_name"][place]
            if pd.notna(job):
                self._by_job.setdefault((str(self._columns["namespace"][place]), str(job)), []).append(place)
            elif pd.notna(node):  # what was done to an allocation is its job's, not its node's
                self._by_node.setdefault(str(node), []).append(place)
        self.others = OtherChanges(self._columns, self._at, current)
        self._moved_from = _moved_from(case)
        self._fields = _fields_by_version(getattr(history, "job_changes", None))
        self.hooked = {
            (namespace, job)
            for (namespace, job, _), fields in self._fields.items()
            if any(each["path"] == "Lifecycle.Hook" for each in fields)
        }
        nodes = getattr(history, "nodes", None)
        known = [] if nodes is None else zip(nodes["node_name"], nodes["datacenter"], strict=True)
        self.ready_since = _ready_since(nodes)
        by_id = [] if nodes is None else zip(nodes["node_id"].astype("str"), nodes["status"], strict=True)
        self.node_status = {node: str(status) for node, status in by_id}
        self.datacenters = {str(name): str(each) for name, each in known if pd.notna(name) and pd.notna(each)}

    def _has_time_of_older_version(self, place: int) -> bool:
        """Return whether a row is a version that a rollback brought back, with the time of the old one."""
        version = self._columns["version_after"][place]
        if self._columns["kind"][place] != "job version" or pd.isna(version):
            return False
        namespace, job = (str(self._columns[name][place]) for name in ("namespace", "job_id"))
        return bool(self._submitted.get((namespace, job, int(version) - 1), NEVER) > self._at[place])

    def submitted_at(self, job: Job, version: int) -> int:
        """Return when a version was submitted, `NEVER` if that is not known."""
        return self._submitted.get((*job, version), NEVER)

    def made_by(self, case: Case) -> Array:
        """Return the version that made each allocation, which is not its number after an update in place.

        An allocation that is older than its version was made by an earlier one. Versions that differ in
        counts alone, or in nothing, are one: more instances are the same program.
        """
        rows, instances = case.evidence.allocations, case.instances
        version = placed_by(case)
        created = rows["created_at"].to_numpy()
        several = [
            family for family, job in enumerate(instances.families) if len(self._by_time.get(job, ())) > 1
        ]
        eligible = np.flatnonzero(np.isin(instances.family, several) & (created != NEVER))
        order = eligible[np.lexsort((version[eligible], instances.family[eligible]))]
        keys = np.stack([instances.family[order], version[order]])
        for part in np.split(order, np.flatnonzero(np.any(np.diff(keys), axis=0)) + 1) if len(order) else ():
            job, number = instances.families[int(instances.family[part[0]])], int(version[part[0]])
            version[part] = self.brought_by(job, number)
            submitted = self.submitted_at(job, number)
            if submitted == NEVER:
                continue
            for place in part[created[part] < submitted - _PLANNED].tolist():
                older = [
                    each
                    for each, at in self._by_time[job]
                    if at <= created[place] + _PLANNED and each < number
                ]
                version[place] = self.brought_by(job, max(older, default=number))
        return version

    def _is_equal(self, job: Job, version: int) -> bool:
        """Return whether a version is the same as the one before it: 1.3.1 scales so."""
        return self.same_as(job, version) == version - 1

    def brought_by(self, job: Job, version: int) -> int:
        """Return the version that brought the specification of a version, but for its counts."""
        while version > 0:
            paths = {str(field["path"]) for field in self.changed_fields(job, version)}
            # 1.3.1 writes the new count into the version before, too: then both are equal
            if paths != {"Count"} and not self._is_equal(job, version):
                break
            version -= 1
        return version

    def version_at(self, job: Job, time: int) -> int | None:
        """Return the newest version of a job that had been submitted at a time; None if no history tells.

        One server writes both times: what was made just before a version was not made by it.
        """
        known = [(at, number) for number, at in self._by_time.get(job, ()) if at <= time]
        return max(known)[1] if known else None

    def was_stable(self, job: Job, version: int) -> bool:
        """Return whether a deployment of a version was healthy."""
        return (*job, version) in self._stable

    def same_as(self, job: Job, version: int) -> int | None:
        """Return the older version whose specification a version brought back, if any."""
        return self._same_as.get((*job, version))

    def ended_by(self, job: Job, since: int) -> str | None:
        """Return how a job was ended since a time: "purge" or "operator stop"."""
        for place in reversed(self._by_job.get(job, ())):
            alone = "alloc_id" in self._columns and pd.notna(self._columns["alloc_id"][place])
            kind = str(self._columns["kind"][place])
            if kind in ("purge", "operator stop") and not alone and self._at[place] >= since:
                return kind
        return None

    def was_drained(self, node: str, time: int) -> bool:
        """Return whether a drain of a node began in the hour before a time: its usual deadline."""
        places = self._by_node.get(node, ())
        times = [int(self._at[each]) for each in places if self._columns["kind"][each] == "drain"]
        return any(0 <= time - each <= DRAIN.value for each in times)

    def newest_version(self, job: Job) -> int | None:
        """Return the number of a job's newest version, None if no history tells."""
        return self._newest.get(job)

    def same_program(self, job: Job, version: int) -> set[int]:
        """Return a version with the later ones that brought all of it back, but for its counts."""
        found, net = {version}, dict[tuple[Any, ...], list[Any]]()
        for later in range(version + 1, (self.newest_version(job) or version) + 1):
            fields = self.changed_fields(job, later)
            if not fields and not self._is_equal(job, later):
                break  # what it changed is not on record
            for field in fields:
                key = tuple(field.get(name) for name in ("task_group", "task", "path"))
                net.setdefault(key, [field.get("old"), None])[1] = field.get("new")
            if all(old == new or key[2] == "Count" for key, (old, new) in net.items()):
                found.add(later)
        return found

    def changed_fields(self, job: Job, version: int) -> list[dict[str, Any]]:
        """Return the fields that a version changed: task_group, task, path, kind, old and new."""
        return self._fields.get((*job, version), [])

    def fields_touching(self, job: Job, version: int, mechanism: str) -> list[str]:
        """Return the fields that a version changed and that can bring about a mechanism."""
        parts = _TOUCHES.get(mechanism, ())
        paths = [str(field["path"]) for field in self._fields.get((*job, version), ())]
        return [path for path in paths if any(part in path for part in parts)]

    def version_before(self, job: Job, time: int, within: int) -> tuple[int, int, int] | None:
        """Return version, previous version and time of the last change of a job in a span before a time."""
        for place in reversed(self._by_job.get(job, ())):
            if self._at[place] > time or self._columns["kind"][place] != "job version":
                continue
            if time - self._at[place] > within:
                return None
            after, before = plain(self._columns["version_after"][place]), None
            if after and self._is_equal(job, int(after)):
                continue
            if "version_before" in self._columns:
                before = plain(self._columns["version_before"][place])
            return (int(after), int(before), int(self._at[place])) if after and before is not None else None
        return None

    def near(self, incident: Incident) -> list[dict[str, Any]]:
        """Return the changes near the beginning of an incident, the most telling first."""
        # if the event history is truncated, it began between these two
        begin, onset = incident.began_at, incident.facts.get("estimated_onset") or incident.began_at
        if begin is None or onset is None:
            return []
        first, last = (onset - BEFORE).value, (onset + AFTER).value
        jobs = set(incident.jobs)
        mechanism = incident.cause.mechanism or incident.cause.kind
        places = {place for job in jobs for place in self._by_job.get(job, ())}
        nodes = {*incident.nodes, *(node for job in jobs for node in self._moved_from.get(job, ()))}
        places |= {place for node in nodes for place in self._by_node.get(node, ())}
        # what somebody stopped or deployed just then may be what this one needs
        explained = {"node_name", "job_version"} & set(incident.cause.subject)
        others: list[int] = [] if explained else self.others.at_onset(jobs, onset.value, begin.value)
        ends: list[int] = []
        if incident.state == "recovered" and incident.last_at is not None and not explained:
            ends = self.others.at_end(jobs, incident.last_at.value)
        places |= {*others, *ends}
        ranked = []
        for place in sorted(places):
            kind = str(self._columns["kind"][place])
            change = plain_facts({name: values[place] for name, values in self._columns.items()})
            job = (str(change.get("namespace")), str(change.get("job_id")))
            # what was tried since is of the same job; what went before may be of its nodes
            tried = job in jobs and kind in TRIED and self._at[place] > last
            is_near = first <= self._at[place] <= last or place in others
            if self._is_itself(place, incident) or not (is_near or tried or place in ends):
                continue
            version = change.get("version_after")
            diff = self._fields.get((*job, int(version)), []) if version is not None else []
            touching = self.fields_touching(job, int(version), mechanism) if version is not None else []
            touches = job in jobs and bool(touching)
            change["before"] = begin - change["at"]
            change["at_most"] = incident.began_before and change["at"] <= begin
            if diff:
                change["diff"] = diff
            if version is not None and (same := self.same_as(job, int(version))) is not None:
                change["same_as"] = same
            change["touches"] = touches
            change["at_recovery"] = place in ends and not is_near
            if change.get("job_id") and job[0] not in {namespace for namespace, _ in jobs}:
                change["elsewhere"] = True
            # a first version and a node that came are seldom what it was
            dull = kind == "node up" or (kind in ("job version", "deployment") and not diff and not tried)
            distance = abs(onset - change["at"])
            ranked.append(((not touches or tried, dull, tried, job not in jobs, distance), change))
        ranked.sort(key=lambda pair: pair[0])
        return _once(_with_deployments([change for _, change in ranked]))[:MOST_CHANGES]

    def _is_itself(self, place: int, incident: Incident) -> bool:
        """Return whether a row is the incident itself: the loss of the node that it tells of."""
        lost = incident.cause.kind == "node" and incident.cause.mechanism == "lost"
        same = self._columns["node_name"][place] == incident.cause.subject.get("node_name")
        return lost and same and self._columns["kind"][place] == "node down"

    def went_down(self, node: str, time: int) -> int:
        """Return when a node that was back at a time had gone down, `NEVER` if that is not on record."""
        since = NEVER
        for place in self._by_node.get(node, ()):
            if not 0 <= time - self._at[place] <= DRAIN.value:
                continue
            kind = self._columns["kind"][place]
            # servers may say it again before the node is up
            if kind == "node down" and since == NEVER:
                since = int(self._at[place])
            elif kind == "node up":
                since = NEVER
        return since

    def stopped_alone(self) -> set[str]:
        """Return the IDs of the allocations that somebody asked to stop, one by one."""
        if "alloc_id" not in self._columns:
            return set()
        ids, kinds = self._columns["alloc_id"], self._columns["kind"]
        pairs = zip(ids, kinds, strict=True)
        return {str(each) for each, kind in pairs if kind == "operator stop" and pd.notna(each)}

    def ended_since(self, time: int) -> dict[Job, tuple[str, int]]:
        """Return the jobs that somebody stopped or purged since a time, how and when, and did not run again.

        Servers remove old jobs as well: only where an evaluation says so did somebody ask for it.
        """
        found: dict[Job, tuple[str, int]] = {}
        for job, places in self._by_job.items():
            for place in reversed(places):
                kind = str(self._columns["kind"][place])
                if kind in ("job version", "scale", "deployment", "dispatch"):
                    break
                alone = "alloc_id" in self._columns and pd.notna(self._columns["alloc_id"][place])
                asked = kind == "operator stop" and not alone
                source = self._columns["source"][place] if "source" in self._columns else None
                if (asked or (kind == "purge" and source == "evaluations")) and self._at[place] >= time:
                    found[job] = kind, int(self._at[place])
                    break
        return found

    def newest_versions(self) -> list[tuple[Job, int]]:
        """Return each job with its newest version."""
        return list(self._newest.items())

    def released_with(self, job: Job, version: int) -> list[tuple[Job, int]]:
        """Return the other jobs that got a new version at about the same time as a job, with the time."""
        at = self.submitted_at(job, version)
        if at == NEVER:
            return []
        begin, end = np.searchsorted(self._release_times, [at - RELEASE.value, at + RELEASE.value + 1])
        near = self._releases[begin:end]
        others = [((name, other), time) for time, name, other in near if other != job[1]]
        return [each for each in others if each[0][0] == job[0]]


def _ready_since(nodes: pd.DataFrame | None) -> dict[str, int]:
    """Return since when nodes are ready, by name."""
    if nodes is None or nodes.empty:
        return {}
    ready = nodes[nodes["status"].astype("str").eq("ready")]
    times = nanoseconds(ready["status_updated_at"]).tolist()
    return dict(zip(ready["node_name"].astype("str"), times, strict=True))


def _moved_from(case: Case) -> dict[Job, set[str]]:
    """Return the nodes that allocations of each job had to leave."""
    moved = (
        case.evidence.allocations["desired_description"].eq("alloc is being migrated").to_numpy(dtype=bool)
    )
    found: dict[Job, set[str]] = {}
    for place in np.flatnonzero(moved).tolist():
        job = case.instances.families[int(case.instances.family[place])]
        found.setdefault(job, set()).add(case.node_names[int(case.nodes[place])])
    return found


def _once(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return changes without those that two sources tell of: the same thing at about the same time."""
    kept: list[dict[str, Any]] = []
    for each in changes:
        names = ("kind", "namespace", "job_id", "node_name", "alloc_id", "version_after")
        same = [other for other in kept if all(other.get(name) == each.get(name) for name in names)]
        told = [other for other in same if abs(other["at"] - each["at"]) <= AFTER]
        if not told or each["kind"] in ("eligibility", "drain"):
            kept.append(each)
    return kept


def _with_deployments(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return changes in which each deployment is joined to the version that it brought."""
    versions = {
        (each.get("namespace"), each.get("job_id"), each.get("version_after")): each
        for each in changes
        if each["kind"] in ("job version", "scale")
    }
    kept = []
    for each in changes:
        key = (each.get("namespace"), each.get("job_id"), each.get("version_after"))
        if each["kind"] == "deployment" and key in versions:
            versions[key]["deployment"] = _status(each.get("detail"))
        else:
            kept.append(each)
    return kept


def _status(detail: str | None) -> str | None:
    """Return the status that the details of a deployment tell."""
    status = json.loads(detail).get("status") if detail else None
    return None if status is None else str(status)


def attach_changes(ledger: Ledger, incidents: list[Incident]) -> list[Incident]:
    """Return the incidents with the rows of the change ledger near their beginning."""
    return [
        incident if incident.severity == "info" else replace(incident, changes=ledger.near(incident))
        for incident in incidents
    ]


def _versions(table: pd.DataFrame | None) -> tuple[dict[Version, int], set[Version], dict[Version, int]]:
    """Return when versions were submitted, which were healthy, and which older ones some are the same as.

    Only of those that are known once.
    """
    if table is None or table.empty:
        return {}, set(), {}
    known = table.dropna(subset=["version"]).drop_duplicates(["namespace", "job_id", "version"], keep=False)
    keys = [
        (str(namespace), str(job), int(version))
        for namespace, job, version in zip(known["namespace"], known["job_id"], known["version"], strict=True)
    ]
    times = nanoseconds(known["submitted_at"]).tolist()
    stable = known["stable"].astype("boolean").fillna(False).tolist()
    submitted = dict(zip(keys, times, strict=True))
    same = known["same_as"].tolist() if "same_as" in known.columns else [None] * len(keys)
    same_as = {key: int(each) for key, each in zip(keys, same, strict=True) if pd.notna(each)}
    return submitted, {key for key, each in zip(keys, stable, strict=True) if each}, same_as


def _newest(table: pd.DataFrame | None) -> dict[Job, int]:
    """Return the newest version of each job, which is not the highest after a purge."""
    if table is None or table.empty:
        return {}
    order = "job_modify_index" if "job_modify_index" in table.columns else "version"
    known = table.dropna(subset=["version"]).sort_values(order, kind="stable")
    known = known.drop_duplicates(["namespace", "job_id"], keep="last")
    columns = (known[name] for name in ("namespace", "job_id", "version"))
    return {
        (str(namespace), str(job)): int(version) for namespace, job, version in zip(*columns, strict=True)
    }


def _fields_by_version(fields: pd.DataFrame | None) -> dict[Version, list[dict[str, Any]]]:
    """Return the changed fields of each job version."""
    found: dict[Version, list[dict[str, Any]]] = {}
    if fields is None or fields.empty:
        return found
    names = [name for name in ("task_group", "task", "path", "kind", "old", "new") if name in fields.columns]
    for row in fields.to_dict("records"):
        version = plain(row.get("version"))
        if version is not None:
            key = (str(row["namespace"]), str(row["job_id"]), int(version))
            found.setdefault(key, []).append({name: plain(row[name]) for name in names})
    return found


def tasks_added(fields: list[dict[str, Any]], group: str) -> list[str]:
    """Return the tasks of a group that are new among the fields that a version changed: each has a driver."""
    new = (row for row in fields if row["path"] == "Driver" and row["kind"] == "added")
    return sorted(str(row["task"]) for row in new if str(row["task_group"]) == group)


def _placements(case: Case) -> pd.DataFrame:
    """Return the first placements of new job versions: all that allocations tell of changes."""
    rows = case.evidence.allocations
    family = case.instances.family
    table = pd.DataFrame(
        {
            "family": family,
            "version": placed_by(case),
            "at": rows["created_at"].to_numpy(),
        }
    )
    table = table[(table["version"] >= 0) & (table["at"] != NEVER) & ~case.instances.has_runs[family]]
    placed = table.groupby(["family", "version"], as_index=False)["at"].min()
    placed["before"] = placed.groupby("family")["version"].shift()
    placed = placed[placed["before"].notna()]
    jobs = [case.instances.families[each] for each in placed["family"].tolist()]
    return pd.DataFrame(
        {
            "kind": "job version",
            "at": pd.to_datetime(placed["at"].to_numpy(), utc=True),
            "namespace": [namespace for namespace, _ in jobs],
            "job_id": [job for _, job in jobs],
            "node_name": None,
            "version_before": placed["before"].astype("int64").to_numpy(),
            "version_after": placed["version"].to_numpy(),
            "source": "allocations",
        }
    )
