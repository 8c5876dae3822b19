"""A simulated allocation, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .jobs import Group, Job, Task
from .model import JSON, Node, TaskState, rfc3339

_TRANSITION = ("ForceReschedule", "Migrate", "NoShutdownDelay", "Reschedule")


@dataclass(slots=True)
class Alloc:
    """One instance of a task group, placed on a node."""

    id: str
    job: Job
    group: Group
    slot: int
    node: Node
    eval_id: str
    create_index: int
    modify_index: int
    create_time: int
    modify_time: int
    client_status: str = "pending"
    client_description: str = ""
    desired_status: str = "run"
    desired_description: str = ""
    migrate: bool = False
    followup_eval: str = ""
    previous: str = ""
    next: str = ""
    deployment_id: str = ""
    healthy: bool | None = None
    healthy_at: int = 0
    canary: bool = False
    tracker: list[tuple[int, str, str, int]] = field(default_factory=list)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    scheduled: int = 0

    @property
    def namespace(self) -> str:
        return self.job.namespace

    @property
    def name(self) -> str:
        return f"{self.job.id}.{self.group.name}[{self.slot}]"

    @property
    def terminal(self) -> bool:
        return self.client_status in ("complete", "failed", "lost")

    def field(self, name: str) -> Any:
        """Return a simple field without rendering the others. Most filters need only these."""
        return _SIMPLE_FIELDS[name](self)

    def stub(self, version: str, *, task_states: bool = True, resources: bool = False) -> JSON:
        """Return the allocation as a list shows it."""
        states = {name: state.render(version) for name, state in self.tasks.items()} if task_states else None
        transition: JSON = dict.fromkeys(_TRANSITION)
        transition["Migrate"] = True if self.migrate else None
        row: JSON = {
            **{
                name: read(self)
                for name, read in _SIMPLE_FIELDS.items()
                if name not in ("DeploymentID", "PreviousAllocation", "NextAllocation")
            },
            "DeploymentStatus": self._deployment_status(),
            "DesiredTransition": transition,
            "PreemptedAllocations": None,
            "RescheduleTracker": self._tracker(version),
            "TaskStates": states or None,
        }
        # Lists of 1.3.1 lack these two fields.
        if version != "1.3.1":
            transition["MigrateDisablePlacement"] = None
            row["NextAllocation"] = self.next
        if resources:
            row["AllocatedResources"] = self._resources()
        return row

    def full(self, version: str) -> JSON:
        """Return the allocation as a read of it shows it: without empty fields."""
        fields = self.struct(version)
        return {
            name: value for name, value in fields.items() if value not in ("", None, False) or name == "Job"
        }

    def struct(self, version: str) -> JSON:
        """Return every field, as filters see it."""
        row = self.stub(version, resources=True)
        # Only lists have these two; a read has the whole job.
        del row["JobVersion"], row["JobType"]
        return {
            **row,
            "AllocModifyIndex": self.create_index,
            "DeploymentID": self.deployment_id,
            "Job": self.job.full(version),
            "Metrics": self._metrics(version),
            "NextAllocation": self.next,
            "PreviousAllocation": self.previous,
            "Resources": self._total(version),
        }

    def _deployment_status(self) -> JSON | None:
        if not self.deployment_id:
            return None
        return {
            "Canary": self.canary,
            "Healthy": self.healthy,
            "ModifyIndex": self.modify_index if self.healthy_at else 0,
            "Timestamp": rfc3339(self.healthy_at),
        }

    def _tracker(self, version: str) -> JSON | None:
        if not self.tracker:
            return None
        events = [
            {"Delay": delay, "PrevAllocID": alloc, "PrevNodeID": node, "RescheduleTime": time}
            for time, alloc, node, delay in self.tracker
        ]
        return {"Events": events} if version == "1.3.1" else {"Events": events, "LastReschedule": "ok"}

    def _resources(self) -> JSON:
        return {
            "Shared": {"DiskMB": 300, "Networks": None, "Ports": None},
            "TaskLifecycles": {task.name: _lifecycle(task) for task in self.group.tasks},
            "Tasks": {
                task.name: {
                    "Cpu": {"CpuShares": task.cpu, "ReservedCores": None},
                    "Devices": None,
                    "Memory": {"MemoryMB": task.memory, "MemoryMaxMB": 0},
                    "Networks": None,
                }
                for task in self.group.tasks
            },
        }

    def _total(self, version: str) -> JSON:
        """Return the resources of all tasks together, as older fields show them."""
        memory = sum(task.memory for task in self.group.tasks)
        total: JSON = {
            "CPU": sum(task.cpu for task in self.group.tasks), "Cores": 0, "Devices": None, "DiskMB": 300,
            "IOPS": 0, "MemoryMB": memory, "MemoryMaxMB": memory, "Networks": None,
        }  # fmt: skip
        return total if version == "1.3.1" else {**total, "NUMA": None, "SecretsMB": 0}

    def _metrics(self, version: str) -> JSON:
        score = {
            "binpack": 0.5,
            "job-anti-affinity": -0.1,
            "node-affinity": 0.0,
            "node-reschedule-penalty": 0.0,
        }
        metrics: JSON = {
            "AllocationTime": 114279,
            "ClassExhausted": None,
            "ClassFiltered": None,
            "CoalescedFailures": 0,
            "ConstraintFiltered": None,
            "DimensionExhausted": None,
            "NodesAvailable": {"dc1": 1},
            "NodesEvaluated": 1,
            "NodesExhausted": 0,
            "NodesFiltered": 0,
            "QuotaExhausted": None,
            "ResourcesExhausted": None,
            "ScoreMetaData": [{"NodeID": self.node.id, "NormScore": 0.2, "Scores": score}],
            "Scores": None,
        }
        return metrics if version == "1.3.1" else {**metrics, "NodePool": "default", "NodesInPool": 1}


def _lifecycle(task: Task) -> JSON | None:
    return {"Hook": "poststart", "Sidecar": True} if task.sidecar else None


_SIMPLE_FIELDS: dict[str, Any] = {
    "ClientDescription": lambda a: a.client_description,
    "ClientStatus": lambda a: a.client_status,
    "CreateIndex": lambda a: a.create_index,
    "CreateTime": lambda a: a.create_time,
    "DeploymentID": lambda a: a.deployment_id,
    "DesiredDescription": lambda a: a.desired_description,
    "DesiredStatus": lambda a: a.desired_status,
    "EvalID": lambda a: a.eval_id,
    "FollowupEvalID": lambda a: a.followup_eval,
    "ID": lambda a: a.id,
    "JobID": lambda a: a.job.id,
    "JobType": lambda a: a.job.kind,
    "JobVersion": lambda a: a.job.version,
    "ModifyIndex": lambda a: a.modify_index,
    "ModifyTime": lambda a: a.modify_time,
    "Name": lambda a: a.name,
    "Namespace": lambda a: a.job.namespace,
    "NextAllocation": lambda a: a.next,
    "NodeID": lambda a: a.node.id,
    "NodeName": lambda a: a.node.name,
    "PreemptedByAllocation": lambda a: "",
    "PreviousAllocation": lambda a: a.previous,
    "TaskGroup": lambda a: a.group.name,
}
SIMPLE_FIELDS = frozenset(_SIMPLE_FIELDS) - {"JobVersion", "JobType"}
"""Fields that `Alloc.field` can read and that a filter may name."""
