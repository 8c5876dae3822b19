"""The declaration of every field that is read from Nomad's answers, with its type.

Three things are derived from it: the column types that DuckDB reads with, the check for values of another
type, and the lenient reader for pages that fail this check.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Scalar:
    """A JSON text, number or boolean. `sql` is its DuckDB type.

    `name` distinguishes types that are the same to DuckDB.
    """

    sql: str
    name: str = ""


@dataclass(frozen=True)
class ListOf:
    item: WireType

    @property
    def sql(self) -> str:
        return f"{self.item.sql}[]"


@dataclass(frozen=True)
class MapOf:
    value: WireType

    @property
    def sql(self) -> str:
        return f"MAP(VARCHAR, {self.value.sql})"


@dataclass(frozen=True)
class Struct:
    fields: Mapping[str, WireType]

    @property
    def sql(self) -> str:
        fields = ", ".join(f'"{name}" {kind.sql}' for name, kind in self.fields.items())
        return f"STRUCT({fields})"


WireType: TypeAlias = Scalar | ListOf | MapOf | Struct

TEXT = Scalar("VARCHAR")
INT64 = Scalar("BIGINT")
UINT64 = Scalar("UBIGINT")
BOOL = Scalar("BOOLEAN")
FLOAT = Scalar("DOUBLE")
ANY_TEXT = Scalar("VARCHAR", name="any value, as text")
TIME = Scalar("VARCHAR", name="time")

INT_RANGE = {INT64: (-(2**63), 2**63 - 1), UINT64: (0, 2**64 - 1)}


def _struct(**fields: WireType) -> Struct:
    return Struct(fields)


def _texts(*names: str) -> dict[str, WireType]:
    return dict.fromkeys(names, TEXT)


EVENT = Struct(
    {
        "Type": TEXT,
        "Time": INT64,
        "Details": MapOf(ANY_TEXT),
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
        **_texts("TaskSignal", "TaskSignalReason"),
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
        "DeploymentStatus": _struct(Healthy=BOOL, Canary=BOOL),
        "RescheduleTracker": _struct(Events=ListOf(_RESCHEDULE)),
        "TaskStates": MapOf(TASK_STATE),
        "AllocatedResources": _RESOURCES,
        "Job": _struct(Type=TEXT, Version=UINT64, ParentID=TEXT),
        "Metrics": _METRICS,
    }
)
"""An allocation, as in lists and full reads. Fields that are not declared are only in the captured page."""


def duckdb_columns() -> str:
    """Return the ``columns`` argument of DuckDB's ``read_json`` for allocations."""
    pairs = (f"'{name}': '{kind.sql}'" for name, kind in ALLOCATION.fields.items())
    return "{" + ", ".join(pairs) + "}"


def _scalars(kind: WireType) -> Iterator[tuple[str, Scalar]]:
    """Yield the name and type of each scalar field at any depth, except the entries of maps and lists."""
    if isinstance(kind, Struct):
        for name, field in kind.fields.items():
            if isinstance(field, Scalar):
                yield name, field
            else:
                yield from _scalars(field)
    elif isinstance(kind, ListOf):
        yield from _scalars(kind.item)
    elif isinstance(kind, MapOf):
        yield from _scalars(kind.value)


def suspect_pattern() -> str:
    """Return a regular expression (RE2) that matches any scalar that may not be of its declared type.

    DuckDB's JSON reader casts without an error (1.5 becomes 2, true becomes 1). Pages that this pattern
    matches go to the lenient reader instead. A false match, such as inside a text, only costs time.
    """
    names: dict[Scalar, set[str]] = {}
    for name, kind in _scalars(ALLOCATION):
        names.setdefault(kind, set()).add(name)

    def keys(*kinds: Scalar) -> str:
        return "|".join(sorted(set().union(*(names[kind] for kind in kinds))))

    return "|".join(
        [
            r'": ?-?(?:\d+[.eE]|[Nn]a|[iI]n|\+)',
            rf'"(?:{keys(INT64, UINT64)})": ?[^-0-9n ]',
            rf'"(?:{keys(BOOL)})": ?[^tfn ]',
            rf'"(?:{keys(TEXT)})": ?[^"n ]',
            rf'"(?:{keys(TIME)})": ?(?:[^"n ]|"[^012])',
            rf'"(?:{"|".join(DETAIL_NUMBERS)})": ?"-?[0-9]*[^-0-9"]',
            rf'"(?:{"|".join(DETAIL_FLAGS)})": ?"[^tf"]',
            r"[\[,] ?null",
        ]
    )
