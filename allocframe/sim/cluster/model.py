"""Nodes, task states, evaluations and deployments of a simulated cluster, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

SECOND = 1_000_000_000
RING = 10
"""Events that a node keeps for each task."""

JSON = dict[str, Any]
Event = tuple[str, int, dict[str, str] | None]
"""Type, time in nanoseconds, and details."""

Emitted = tuple[str, str, str, int]
"""Allocation, task, type and time of one event."""

_FLAT_TEXT = [
    "DownloadError",
    "DriverError",
    "DriverMessage",
    "FailedSibling",
    "GenericSource",
    "KillError",
    "KillReason",
    "Message",
    "RestartReason",
    "SetupError",
    "TaskSignal",
    "TaskSignalReason",
    "ValidationError",
    "VaultError",
]
_FROM_DETAILS = {
    "RestartReason": "restart_reason",
    "DriverError": "driver_error",
    "DriverMessage": "driver_message",
    "DownloadError": "download_error",
    "SetupError": "setup_error",
    "FailedSibling": "failed_sibling",
    "KillReason": "kill_reason",
    "Message": "message",
}


def rfc3339(ns: int) -> str | None:
    """Return a time as Go prints it, or None for zero."""
    if not ns:
        return None
    seconds = datetime.fromtimestamp(ns // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{ns % SECOND:09d}".rstrip("0")
    return f"{seconds}.{fraction}Z" if fraction else f"{seconds}Z"


def go_duration(ns: int) -> str:
    """Return a duration below an hour as Go prints it."""
    minutes, rest = divmod(ns, 60 * SECOND)
    seconds = f"{rest // SECOND}.{rest % SECOND:09d}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _display_message(kind: str, details: dict[str, str]) -> str:
    reason = details.get("restart_reason", "")
    if kind == "Terminated":
        message = f"Exit Code: {details['exit_code']}"
        if details["signal"] != "0":
            message += f", Signal: {details['signal']}"
        if details.get("exit_message"):
            message += f', Exit Message: "{details["exit_message"]}"'
        return message
    if kind == "Restarting":
        pause = f"Task restarting in {go_duration(int(details['start_delay']))}"
        return pause if reason in ("", "Restart within policy") else f"{reason} - {pause}"
    fixed = {
        "Received": "Task received by client",
        "Started": "Task started by client",
        "Killed": "Task successfully killed",
        "Downloading Artifacts": "Client is downloading artifacts",
        "Signaling": "Task being sent a signal",
        "Leader Task Dead": "Leader Task in Group dead",
    }
    if kind in fixed:
        return fixed[kind]
    if kind == "Killing":
        return f"Sent interrupt. Waiting {details['kill_timeout']} before force killing"
    if kind == "Sibling Task Failed":
        return f'Task\'s sibling "{details["failed_sibling"]}" failed'
    return reason or next((details[key] for key in _FROM_DETAILS.values() if details.get(key)), "")


def render_event(event: Event) -> JSON:
    """Return the JSON of a task event, with the deprecated flat fields."""
    kind, time, details = event
    details = dict(details or {})
    display = details.pop("display", "")
    flat: JSON = {name: details.get(_FROM_DETAILS.get(name, ""), "") for name in _FLAT_TEXT}
    flat["Message"] = details.get("message", details.get("exit_message", ""))
    return {
        **flat,
        "Details": details,
        "DiskLimit": 0,
        "DisplayMessage": display or _display_message(kind, details),
        "ExitCode": int(details["exit_code"]) if kind == "Terminated" else 0,
        "FailsTask": details.get("fails_task") == "true",
        "KillTimeout": 5 * SECOND if kind == "Killing" else 0,
        "Signal": int(details["signal"]) if kind == "Terminated" else 0,
        "StartDelay": int(details.get("start_delay", 0)),
        "Time": time,
        "Type": kind,
    }


@dataclass(slots=True)
class TaskState:
    """The state of one task, as its node reports it. Only the newest `RING` events are kept."""

    state: str = "pending"
    failed: bool = False
    restarts: int = 0
    last_restart: int = 0
    started_at: int = 0
    finished_at: int = 0
    emitted: int = 0
    events: list[Event] = field(default_factory=list)
    journal: list[Emitted] | None = None
    owner: tuple[str, str] = ("", "")

    def emit(self, kind: str, time: int, **details: str) -> None:
        """Add an event, and drop the oldest one if there are too many."""
        self.emitted += 1
        if self.journal is not None:
            self.journal.append((*self.owner, kind, time))
        self.events.append((kind, time, details or None))
        # Nomad keeps a ring: the oldest event makes room.
        if len(self.events) > RING:
            del self.events[0]

    def render(self, version: str) -> JSON:
        """Return the JSON of the task state."""
        answer = {
            "Events": [render_event(event) for event in self.events],
            "Failed": self.failed,
            "FinishedAt": rfc3339(self.finished_at),
            "LastRestart": rfc3339(self.last_restart),
            "Restarts": self.restarts,
            "StartedAt": rfc3339(self.started_at),
            "State": self.state,
        }
        return {**answer, "TaskHandle": None} if version == "1.3.1" else {**answer, "Paused": ""}


@dataclass(slots=True)
class Node:
    id: str
    name: str
    node_class: str
    create_index: int
    modify_index: int
    skew: int
    status: str = "ready"
    eligibility: str = "eligible"
    draining: bool = False
    namespace: None = None
    status_updated_at: int = 0
    drained_at: int = 0
    events: list[JSON] = field(default_factory=list)

    def add_event(self, subsystem: str, message: str, time: int, index: int) -> None:
        """Add an event, and drop the oldest one if there are too many."""
        event = {"CreateIndex": index, "Details": None, "Message": message, "Subsystem": subsystem}
        self.events.append({**event, "Timestamp": rfc3339(time)})
        del self.events[:-RING]

    def stub(self, version: str) -> JSON:
        answer: JSON = {
            "Address": "10.0.0.1",
            "CreateIndex": self.create_index,
            "Datacenter": "dc1",
            "Drain": self.draining,
            "Drivers": {"docker": _driver("docker"), "exec": _driver("exec")},
            "HostVolumes": None if version == "1.3.1" else {},
            "ID": self.id,
            "LastDrain": self._last_drain(),
            "ModifyIndex": self.modify_index,
            "Name": self.name,
            "NodeClass": self.node_class,
            "SchedulingEligibility": self.eligibility,
            "Status": self.status,
            "StatusDescription": "",
            "Version": version,
        }
        return answer if version == "1.3.1" else {**answer, "NodePool": "default"}

    def _last_drain(self) -> JSON | None:
        if not self.drained_at:
            return None
        at = rfc3339(self.drained_at)
        return {"AccessorID": "", "Meta": None, "StartedAt": at, "Status": "complete", "UpdatedAt": at}

    def full(self, version: str) -> JSON:
        """Return the node as a read of it shows it."""
        old = version == "1.3.1"
        answer = {
            key: value for key, value in self.stub(version).items() if key not in ("Address", "Version")
        }
        more: JSON = {
            "Reserved": _old_resources(0, 0, 0), "Resources": _old_resources(16_000, NODE_MEMORY_MB, 200_000),
        } if old else {
            "GCVolumesOnNodeGC": False, "IdentitySigningKeyID": "", "LastAllocUpdateIndex": self.modify_index,
            "LastMissedHeartbeatIndex": 0, "NodeMaxAllocs": 0,
        }  # fmt: skip
        empty: JSON | None = None if old else {}
        return {
            **answer,
            **more,
            "Attributes": {"nomad.version": version, "unique.hostname": self.name},
            "CSIControllerPlugins": empty,
            "CSINodePlugins": empty,
            "CgroupParent": "/nomad" if old else "nomad.slice",
            "ComputedClass": f"v1:{self.create_index}",
            "DrainStrategy": None,
            "Events": list(self.events),
            "HTTPAddr": "10.0.0.1:4646",
            "HostNetworks": None,
            "Links": empty,
            "Meta": {},
            "NodeResources": {
                "Cpu": {"CpuShares": 16_000, "ReservableCpuCores": list(range(8)), "TotalCpuCores": 8},
                "Devices": None,
                "Disk": {"DiskMB": 200_000},
                "MaxDynamicPort": 32_000,
                "Memory": {"MemoryMB": NODE_MEMORY_MB},
                "MinDynamicPort": 20_000,
                "Networks": [],
                "NodeNetworks": [],
            },
            "ReservedResources": {
                "Cpu": {"CpuShares": 0, "ReservedCpuCores": None},
                "Disk": {"DiskMB": 0},
                "Memory": {"MemoryMB": 0},
                "Networks": {"ReservedHostPorts": ""},
            },
            "SecretID": "",
            "StatusUpdatedAt": self.status_updated_at // SECOND,
            "TLSEnabled": False,
        }

    struct = full


def _old_resources(cpu: int, memory: int, disk: int) -> JSON:
    return {
        "CPU": cpu, "Cores": 0, "Devices": None, "DiskMB": disk, "IOPS": 0, "MemoryMB": memory,
        "MemoryMaxMB": 0, "Networks": None,
    }  # fmt: skip


NODE_MEMORY_MB = 32_768
"""Memory of every simulated node."""


def _driver(name: str) -> JSON:
    return {
        "Attributes": {f"driver.{name}": "true"},
        "Detected": True,
        "HealthDescription": "Healthy",
        "Healthy": True,
        "UpdateTime": "2026-01-01T00:00:00Z",
    }


_PLANNED = ("Canary", "DestructiveUpdate", "Disconnect", "Ignore", "InPlaceUpdate", "Migrate", "Place",
            "Preemptions", "Reconnect", "RescheduleLater", "RescheduleNow", "Stop")  # fmt: skip


@dataclass(slots=True)
class Evaluation:
    id: str
    namespace: str
    job_id: str
    kind: str
    triggered_by: str
    create_index: int
    modify_index: int
    time: int
    groups: list[str]
    status: str = "complete"
    deployment_id: str = ""

    def stub(self, version: str) -> JSON:
        answer: JSON = {
            "CreateIndex": self.create_index,
            "CreateTime": self.time,
            "ID": self.id,
            "JobID": self.job_id,
            "ModifyIndex": self.modify_index,
            "ModifyTime": self.time,
            "Namespace": self.namespace,
            "Priority": 50,
            "QueuedAllocations": dict.fromkeys(self.groups, 0),
            "SnapshotIndex": self.create_index,
            "Status": self.status,
            "TriggeredBy": self.triggered_by,
            "Type": self.kind,
        }
        if self.triggered_by in ("job-register", "alloc-stop"):
            answer["JobModifyIndex"] = self.create_index
        if self.deployment_id:
            answer["DeploymentID"] = self.deployment_id
        if version != "1.3.1":
            updates = {group: dict.fromkeys(_PLANNED, 0) for group in self.groups}
            answer["PlanAnnotations"] = {"DesiredTGUpdates": updates, "PreemptedAllocs": None}
        return answer

    full = stub
    struct = stub


@dataclass(slots=True)
class Deployment:
    id: str
    namespace: str
    job_id: str
    job_version: int
    create_index: int
    modify_index: int
    time: int
    groups: dict[str, JSON]
    status: str = "running"
    description: str = "Deployment is running"
    ended_at: int = 0

    def stub(self, version: str) -> JSON:
        answer: JSON = {
            "CreateIndex": self.create_index,
            "EvalPriority": 50,
            "ID": self.id,
            "IsMultiregion": False,
            "JobCreateIndex": self.create_index,
            "JobID": self.job_id,
            "JobModifyIndex": self.create_index,
            "JobSpecModifyIndex": self.create_index,
            "JobVersion": self.job_version,
            "ModifyIndex": self.modify_index,
            "Namespace": self.namespace,
            "Status": self.status,
            "StatusDescription": self.description,
            "TaskGroups": self.groups,
        }
        times = {"CreateTime": self.time, "ModifyTime": self.ended_at or self.time}
        return answer if version == "1.3.1" else {**answer, **times}

    full = stub
    struct = stub
