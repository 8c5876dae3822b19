"""The events table: one row for each task event."""

from __future__ import annotations

from .table import Column, Table

KNOWN_TYPES = (
    "Setup Failure", "Driver Failure", "Received", "Failed Validation", "Started", "Terminated", "Killing",
    "Killed", "Restarting", "Not Restarting", "Restart Signaled", "Signaling", "Downloading Artifacts",
    "Failed Artifact Download", "Building Task Directory", "Task Setup", "Disk Resources Exceeded",
    "Sibling Task Failed", "Driver", "Leader Task Dead", "Main Tasks Dead", "Task hook failed",
    "Failed Restoring Task", "Alloc Unhealthy", "Plugin became unhealthy", "Plugin became healthy",
    "Reconnected", "Pausing", "Running", "Task hook message", "Waiting for shutdown delay",
    "Skipping shutdown delay",
)  # fmt: skip
"""The event types of Nomad up to 2.0."""


def _detail(key: str) -> str:
    return f"given(e.Details['{key}'])"


def _text(key: str, flat: str) -> str:
    """Return the SQL of a detail; older servers have only the deprecated flat field."""
    return f"coalesce({_detail(key)}, given(e.{flat}))"


def _for_types(types: tuple[str, ...], value: str, otherwise: str) -> str:
    """Return the SQL of a value that only events of these types have; `otherwise` is for types unknown to us.

    The flat fields of all other events hold zeros that mean nothing.
    """
    names, known = (", ".join(f"'{name}'" for name in group) for group in (types, KNOWN_TYPES))
    return f"CASE WHEN e.Type IN ({names}) THEN {value} WHEN e.Type NOT IN ({known}) THEN {otherwise} END"


def _number(types: tuple[str, ...], key: str, flat: str) -> str:
    detail = f"to_integer({_detail(key)})"
    return _for_types(types, f"coalesce({detail}, e.{flat})", detail)


def _flag(types: tuple[str, ...], key: str, flat: str = "NULL::BOOLEAN") -> str:
    detail = f"to_boolean({_detail(key)})"
    return _for_types(types, f"coalesce({detail}, {flat})", detail)


_EXITED = ("Terminated",)
_CAN_FAIL_TASK = (
    "Setup Failure", "Driver Failure", "Failed Validation", "Failed Artifact Download", "Killing", "Killed",
    "Not Restarting", "Sibling Task Failed", "Task hook failed", "Disk Resources Exceeded",
)  # fmt: skip

EVENTS = Table(
    name="events",
    key=("alloc_id", "task", "seq"),
    doc="One row for each task event; Nomad keeps the last 10 per task.",
    source="task_events",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation"),
        Column("task", "task", "category", "the task"),
        Column("seq", "seq", "int", "position among the events of its task, from 0"),
        Column("time", "at_ns(e.Time)", "time", "when it happened, by the node's clock", "UTC"),
        Column("type", "given(e.Type)", "category", "Nomad's type of the event"),
        Column(
            "message",
            "coalesce(given(e.DisplayMessage), given(e.Message))",
            "text",
            "Nomad's sentence about it; the wording differs between versions",
        ),
        Column(
            "exit_code", _number(_EXITED, "exit_code", "ExitCode"), "int", "exit code, if a process exited"
        ),
        Column(
            "signal", _number(_EXITED, "signal", "Signal"), "int", "signal that ended the process, 0 for none"
        ),
        Column(
            "oom_killed",
            _flag(_EXITED, "oom_killed"),
            "bool",
            "whether the kernel killed it for memory; missing if the driver cannot tell",
        ),
        Column(
            "restart_reason",
            _text("restart_reason", "RestartReason"),
            "category",
            "why the task restarts, or does not",
        ),
        Column(
            "start_delay",
            _number(("Restarting",), "start_delay", "StartDelay"),
            "duration",
            "delay before the restart",
            "ns",
        ),
        Column("kill_reason", _text("kill_reason", "KillReason"), "text", "why it was killed"),
        Column(
            "kill_timeout",
            "CASE WHEN e.Type = 'Killing' THEN "
            f"coalesce(nullif(e.KillTimeout, 0), go_duration({_detail('kill_timeout')})) END",
            "duration",
            "time that the task has to exit by itself",
            "ns",
        ),
        Column("kill_error", _text("kill_error", "KillError"), "text", "error while killing it"),
        Column(
            "failed_sibling",
            _text("failed_sibling", "FailedSibling"),
            "category",
            "the task of its group that failed",
        ),
        Column("driver_error", _text("driver_error", "DriverError"), "text", "the driver's error"),
        Column(
            "driver_message",
            _text("driver_message", "DriverMessage"),
            "text",
            "the driver's progress message",
        ),
        Column("setup_error", _text("setup_error", "SetupError"), "text", "why the setup failed"),
        Column(
            "download_error",
            _text("download_error", "DownloadError"),
            "text",
            "why an artifact could not be downloaded",
        ),
        Column(
            "validation_error",
            _text("validation_error", "ValidationError"),
            "text",
            "what is invalid in the task",
        ),
        Column(
            "vault_error",
            f"coalesce({_detail('vault_renewal_error')}, {_detail('vault_error')}, given(e.VaultError))",
            "text",
            "why its Vault token could not be renewed",
        ),
        Column(
            "task_signal",
            f"coalesce({_detail('task_signal')}, "
            f"CASE WHEN e.Type = 'Signaling' THEN {_detail('signal')} END, given(e.TaskSignal))",
            "category",
            "signal that an operator or Nomad sent",
        ),
        Column(
            "task_signal_reason",
            _text("task_signal_reason", "TaskSignalReason"),
            "text",
            "why that signal was sent",
        ),
        Column(
            "disk_limit",
            _number(("Disk Resources Exceeded",), "disk_limit", "DiskLimit"),
            "int",
            "disk limit that was exceeded",
            "bytes",
        ),
        Column(
            "fails_task",
            _flag(_CAN_FAIL_TASK, "fails_task", "e.FailsTask"),
            "bool",
            "whether this event fails the task",
        ),
        Column(
            "details",
            # Sorted, because servers send the keys in a different order each time.
            "CASE WHEN cardinality(e.Details) > 0 THEN "
            "CAST(to_json(map_from_entries(list_sort(map_entries(e.Details)))) AS VARCHAR) END",
            "text",
            "all details, as JSON, sorted by name",
        ),
        Column("namespace", "given(Namespace)", "category", "namespace of its allocation"),
        Column("job_id", "given(JobID)", "category", "job of its allocation"),
        Column("job_version", "job_version", "uint", "version of that job"),
        Column("task_group", "given(TaskGroup)", "category", "task group of its allocation"),
        Column("node_name", "given(NodeName)", "category", "node of its allocation"),
    ),
)
