"""The declaration of every field that is read from Nomad's answers, with its type.

Two things are derived from it: the structs that pages are decoded to, and the lenient reader for records that
do not fit them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Scalar:
    """A JSON text, number or boolean."""

    name: str


@dataclass(frozen=True)
class ListOf:
    item: WireType


@dataclass(frozen=True)
class MapOf:
    value: WireType


@dataclass(frozen=True)
class Struct:
    fields: Mapping[str, WireType]


WireType: TypeAlias = Scalar | ListOf | MapOf | Struct

TEXT = Scalar("text")
INT64 = Scalar("whole number of 64 bits")
UINT64 = Scalar("whole number of 64 bits, not negative")
BOOL = Scalar("boolean")
FLOAT = Scalar("number")
ANY_TEXT = Scalar("any value, as text")
TIME = Scalar("time")

INT_RANGE = {INT64: (-(2**63), 2**63 - 1), UINT64: (0, 2**64 - 1)}


def _struct(**fields: WireType) -> Struct:
    return Struct(fields)


def _texts(*names: str) -> dict[str, WireType]:
    return dict.fromkeys(names, TEXT)


DETAILS = MapOf(ANY_TEXT)
EVENT = Struct(
    {
        "Type": TEXT,
        "Time": INT64,
        "Details": DETAILS,
        "ExitCode": INT64,
        "Signal": INT64,
        "FailsTask": BOOL,
        "StartDelay": INT64,
        "KillTimeout": INT64,
        "DiskLimit": INT64,
        **_texts("Message", "DisplayMessage", "RestartReason", "KillReason", "KillError", "FailedSibling"),
        **_texts(
            "DriverError", "DriverMessage", "SetupError", "DownloadError", "ValidationError", "VaultError"
        ),
        **_texts("TaskSignal", "TaskSignalReason", "GenericSource"),
    }
)

DETAIL_NUMBERS = ("exit_code", "start_delay", "disk_limit")
DETAIL_FLAGS = ("oom_killed", "fails_task")
"""The entries of `Details`, a map of texts, that are read as numbers and as booleans."""

TASK_STATE = Struct(
    {
        "State": TEXT,
        **dict.fromkeys(("LastRestart", "StartedAt", "FinishedAt"), TIME),
        "Failed": BOOL,
        "Restarts": UINT64,
        "Paused": TEXT,
        "TaskHandle": _struct(Version=INT64),
        "Events": ListOf(EVENT),
    }
)

_PORT = _struct(Label=TEXT, Value=INT64, To=INT64, HostIP=TEXT)
_NETWORK = _struct(IP=TEXT, ReservedPorts=ListOf(_PORT), DynamicPorts=ListOf(_PORT))
_TASK_RESOURCES = _struct(
    Cpu=_struct(CpuShares=INT64),
    Memory=_struct(MemoryMB=INT64, MemoryMaxMB=INT64),
    Networks=ListOf(_NETWORK),
)
_RESOURCES = _struct(
    Tasks=MapOf(_TASK_RESOURCES),
    Shared=_struct(DiskMB=INT64, Networks=ListOf(_NETWORK), Ports=ListOf(_PORT)),
)

_METRICS = _struct(
    NodesEvaluated=INT64,
    NodesFiltered=INT64,
    NodesExhausted=INT64,
    NodesInPool=INT64,
    NodePool=TEXT,
    CoalescedFailures=INT64,
    AllocationTime=INT64,
    ConstraintFiltered=MapOf(INT64),
    DimensionExhausted=MapOf(INT64),
    ClassFiltered=MapOf(INT64),
    ScoreMetaData=ListOf(_struct(NodeID=TEXT, NormScore=FLOAT, Scores=MapOf(FLOAT))),
)

_RESCHEDULE = _struct(PrevAllocID=TEXT, PrevNodeID=TEXT, RescheduleTime=INT64, Delay=INT64)

ALLOCATION = Struct(
    {
        **_texts("ID", "Namespace", "Name", "JobID", "JobType", "TaskGroup", "NodeID", "NodeName", "EvalID"),
        **_texts(
            "FollowupEvalID", "ClientStatus", "ClientDescription", "DesiredStatus", "DesiredDescription"
        ),
        **_texts("PreviousAllocation", "NextAllocation", "PreemptedByAllocation"),
        "JobVersion": UINT64,
        "CreateIndex": UINT64,
        "ModifyIndex": UINT64,
        "CreateTime": INT64,
        "ModifyTime": INT64,
        "DeploymentStatus": _struct(Healthy=BOOL, Canary=BOOL, Timestamp=TIME, ModifyIndex=UINT64),
        "DesiredTransition": _struct(Migrate=BOOL, Reschedule=BOOL, ForceReschedule=BOOL),
        "PreemptedAllocations": ListOf(TEXT),
        "RescheduleTracker": _struct(Events=ListOf(_RESCHEDULE)),
        "TaskStates": MapOf(TASK_STATE),
        "AllocatedResources": _RESOURCES,
        "Job": _struct(Type=TEXT, Version=UINT64, ParentID=TEXT),
        "Metrics": _METRICS,
    }
)
"""An allocation, as in lists and full reads. Fields that are not declared are only in the captured page."""
