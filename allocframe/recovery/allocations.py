"""Allocations as they were last known, put together from the changes in a Raft log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .rings import TaskHistory

JSON = dict[str, Any]

_SERVER = (
    "Namespace", "EvalID", "Name", "NodeID", "NodeName", "JobID", "TaskGroup", "AllocatedResources",
    "DesiredStatus", "DesiredDescription", "DesiredTransition", "DeploymentID", "PreviousAllocation",
    "NextAllocation", "FollowupEvalID", "RescheduleTracker", "PreemptedByAllocation",
    "PreemptedAllocations", "CreateTime", "JobVersion", "JobType",
)  # fmt: skip
"""Fields that servers write. The others are not kept: identities and job specifications are among them."""

_CLIENT = ("ClientStatus", "ClientDescription", "DeploymentStatus")
"""Fields that nodes write."""


class KnownAllocation:
    """What is known of one allocation: the newest value of each field, and every task event."""

    __slots__ = (
        "_client_index", "_server_index", "collected_at", "create_index", "fields", "modify_index", "tasks",
    )  # fmt: skip

    def __init__(self, alloc_id: str) -> None:
        self.fields: JSON = {"ID": alloc_id}
        self.tasks: dict[str, TaskHistory] = {}
        self.create_index: int | None = None
        self.modify_index: int = 0
        self.collected_at: int | None = None
        self._server_index = -1
        self._client_index = -1

    def place(self, row: Mapping[str, Any], index: int, job: Mapping[str, Any] | None) -> None:
        """Note what servers decided: a placement, or an update in place."""
        known = {name: row[name] for name in _SERVER if row.get(name) not in (None, "", {}, [])}
        known |= _job_facts(job)
        if index >= self._server_index:
            self._server_index = index
            self.fields |= known
        else:  # read later than what came after it
            self.fields = {**known, **self.fields}
        # An update in place has the index of the placement.
        created = row.get("CreateIndex")
        created = created if isinstance(created, int) and created else index
        self.create_index = created if self.create_index is None else min(created, self.create_index)
        # Of an allocation that a node already reports, servers change its status only to these.
        if self._client_index < 0 or row.get("ClientStatus") in ("lost", "unknown"):
            self._keep_client(row)
        self._touch(row, index)

    def decide(self, changes: Mapping[str, Any], index: int) -> None:
        """Note a decision of servers that changes some fields only."""
        if index >= self._server_index:
            self._server_index = index
            self.fields |= changes
        else:
            self.fields = {**changes, **self.fields}
        self._touch(changes, index)

    def end(self, status: str, index: int) -> None:
        """Note a status that servers give an allocation, such as lost; its node may know better later."""
        if index >= self._client_index:
            self.fields["ClientStatus"] = status

    def report(self, row: Mapping[str, Any], index: int) -> None:
        """Note what its node said: its status, and its tasks with their rings.

        Servers ignore reports of an allocation that they have collected; its last events are in them.
        """
        if self._is_collected(index):
            pass
        elif index >= self._client_index:
            self._client_index = index
            self._keep_client(row)
            if row.get("NodeID"):
                self.fields.setdefault("NodeID", row["NodeID"])
        for task, state in _objects(row.get("TaskStates")).items():
            self.tasks.setdefault(task, TaskHistory()).add(state, index)
        if not self._is_collected(index):
            self._touch(row, index)

    def _is_collected(self, index: int) -> bool:
        return self.collected_at is not None and index > self.collected_at

    def merge(self, row: Mapping[str, Any], index: int) -> None:
        """Note a whole allocation, as a state, a list or an event has it."""
        if isinstance(row.get("CreateIndex"), int):
            self.create_index = row["CreateIndex"]
        self.place(row, index, row.get("Job"))
        self.report(row, index)

    def _keep_client(self, row: Mapping[str, Any]) -> None:
        self.fields |= {name: row[name] for name in _CLIENT if row.get(name) not in (None, "")}

    def _touch(self, row: Mapping[str, Any], index: int) -> None:
        if index >= self.modify_index:
            self.modify_index = index
            if row.get("ModifyTime"):
                self.fields["ModifyTime"] = row["ModifyTime"]

    @property
    def events(self) -> int:
        return sum(map(len, self.tasks.values()))

    def to_json(self) -> str:
        """Return the allocation as Nomad's list shows it, with all events."""
        fields = {
            **self.fields,
            "CreateIndex": self.create_index,
            "ModifyIndex": self.modify_index,
        }
        text = json.dumps(fields, separators=(",", ":"))
        tasks = ",".join(f"{json.dumps(name)}:{task.to_json()}" for name, task in self.tasks.items())
        return f'{text[:-1]},"TaskStates":{{{tasks}}}}}'


def _job_facts(job: Any) -> JSON:
    """Return what of a job specification is kept with an allocation."""
    if not isinstance(job, dict):
        return {}
    facts = {"JobVersion": job.get("Version"), "JobType": job.get("Type"), "JobID": job.get("ID")}
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _objects(value: Any) -> dict[str, JSON]:
    """Return the entries of a JSON object that are objects themselves."""
    if not isinstance(value, dict):
        return {}
    return {name: item for name, item in value.items() if isinstance(item, dict)}


class Allocations:
    """All allocations that some entry named."""

    def __init__(self) -> None:
        self._known: dict[str, KnownAllocation] = {}
        self._collected: dict[str, int] = {}

    def __getitem__(self, alloc_id: str) -> KnownAllocation:
        if alloc_id not in self._known:
            self._known[alloc_id] = KnownAllocation(alloc_id)
            self._known[alloc_id].collected_at = self._collected.get(alloc_id)
        return self._known[alloc_id]

    def __contains__(self, alloc_id: object) -> bool:
        return alloc_id in self._known

    def __iter__(self) -> Iterator[KnownAllocation]:
        return iter(self._known.values())

    def __len__(self) -> int:
        return len(self._known)

    def collect(self, alloc_id: str, index: int) -> None:
        """Note that servers removed an allocation."""
        self._collected[alloc_id] = index
        if alloc_id in self._known:
            self._known[alloc_id].collected_at = index

    def incomplete_tasks(self) -> list[tuple[str, str]]:
        """Return the allocation and name of each task that lacks events."""
        return [
            (alloc.fields["ID"], name)
            for alloc in self
            for name, task in alloc.tasks.items()
            if not task.complete
        ]
