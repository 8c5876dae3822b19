"""The events table: one row for each task event in the answer."""

from __future__ import annotations

from .table import Column, Table

KNOWN_TYPES = (
    "Setup Failure", "Driver Failure", "Received", "Failed Validation", "Started", "Terminated", "Killing", "Killed", "Restarting",
    "Not Restarting", "Restart Signaled", "Signaling", "Downloading Artifacts", "Failed Artifact Download", "Building Task Directory",
    "Task Setup", "Disk Resources Exceeded", "Sibling Task Failed", "Driver", "Leader Task Dead", "Main Tasks Dead", "Task hook failed",
    "Failed Restoring Task", "Alloc Unhealthy", "Plugin became unhealthy", "Plugin became healthy", "Reconnected", "Pausing", "Running",
    "Task hook message", "Waiting for shutdown delay", "Skipping shutdown delay",
)  # fmt: skip
"""The event types that Nomad has."""


def _detail(key: str) -> str:
    return f"given(e.Details['{key}'])"


def _text(key: str, flat: str) -> str:
    """Return the text of a detail, or of the deprecated flat field where the detail is missing."""
    return f"coalesce({_detail(key)}, given(e.{flat}))"


def _meant(types: tuple[str, ...], value: str, otherwise: str) -> str:
    """Return `value` for the event types it belongs to; for others only what `Details` says of it."""
    names, known = (", ".join(f"'{name}'" for name in some) for some in (types, KNOWN_TYPES))
    return f"CASE WHEN e.Type IN ({names}) THEN {value} WHEN e.Type NOT IN ({known}) THEN {otherwise} END"


def _number(types: tuple[str, ...], key: str, flat: str) -> str:
    detail = f"whole({_detail(key)})"
    return _meant(types, f"coalesce({detail}, e.{flat})", detail)


def _flag(types: tuple[str, ...], key: str, flat: str = "NULL::BOOLEAN") -> str:
    detail = f"flag({_detail(key)})"
    return _meant(types, f"coalesce({detail}, {flat})", detail)


_EXITED = ("Terminated",)
_CAN_FAIL_TASK = (
    "Setup Failure", "Driver Failure", "Failed Validation", "Failed Artifact Download", "Killing", "Killed",
    "Not Restarting", "Sibling Task Failed", "Task hook failed", "Disk Resources Exceeded",
)  # fmt: skip

EVENTS = Table(
    name="events",
    key=("alloc_id", "task", "seq"),
    doc="One row for each task event in the answer; Nomad keeps the last ten of each task.",
    source="task_events",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation"),
        Column("task", "task", "category", "the task"),
        Column("seq", "seq", "int", "position among the events of its task, from 0"),
        Column("time", "at_ns(e.Time)", "time", "when, by the node's clock", "UTC"),
        Column("type", "given(e.Type)", "category", "what happened, in Nomad's words"),
        Column(
            "message",
            "coalesce(given(e.DisplayMessage), given(e.Message))",
            "text",
            "a sentence for people; its wording differs between versions",
        ),
        Column(
            "exit_code", _number(_EXITED, "exit_code", "ExitCode"), "int", "exit code, where something exited"
        ),
        Column(
            "signal", _number(_EXITED, "signal", "Signal"), "int", "signal that ended the process, 0 for none"
        ),
        Column(
            "oom_killed",
            _flag(_EXITED, "oom_killed"),
            "bool",
            "the driver says the kernel killed it for memory; missing where it cannot tell",
        ),
        Column(
            "restart_reason",
            _text("restart_reason", "RestartReason"),
            "category",
            "why it restarts, or does not",
        ),
        Column(
            "start_delay",
            _number(("Restarting",), "start_delay", "StartDelay"),
            "duration",
            "pause before the restart",
            "ns",
        ),
        Column("kill_reason", _text("kill_reason", "KillReason"), "text", "why it was killed"),
        Column(
            "kill_timeout",
            f"CASE WHEN e.Type = 'Killing' THEN coalesce(nullif(e.KillTimeout, 0), go_duration({_detail('kill_timeout')})) END",
            "duration",
            "time the task has to end by itself",
            "ns",
        ),
        Column("kill_error", _text("kill_error", "KillError"), "text", "what went wrong while killing it"),
        Column(
            "failed_sibling",
            _text("failed_sibling", "FailedSibling"),
            "category",
            "the task of its group that failed",
        ),
        Column("driver_error", _text("driver_error", "DriverError"), "text", "the driver's error"),
        Column("driver_message", _text("driver_message", "DriverMessage"), "text", "the driver's progress"),
        Column("setup_error", _text("setup_error", "SetupError"), "text", "why the task could not be set up"),
        Column(
            "download_error",
            _text("download_error", "DownloadError"),
            "text",
            "why an artifact could not be fetched",
        ),
        Column(
            "validation_error",
            _text("validation_error", "ValidationError"),
            "text",
            "what is invalid about the task",
        ),
        Column(
            "vault_error",
            f"coalesce({_detail('vault_renewal_error')}, {_detail('vault_error')}, given(e.VaultError))",
            "text",
            "why its Vault token could not be renewed",
        ),
        Column(
            "task_signal",
            f"coalesce({_detail('task_signal')}, CASE WHEN e.Type = 'Signaling' THEN {_detail('signal')} END, given(e.TaskSignal))",
            "category",
            "signal sent to the task on request",
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
            "this event makes the task fail",
        ),
        Column(
            "details",
            # Servers send the keys in another order each time.
            "CASE WHEN cardinality(e.Details) > 0 THEN "
            "CAST(to_json(map_from_entries(list_sort(map_entries(e.Details)))) AS VARCHAR) END",
            "text",
            "everything in Details, as JSON, in the order of its names",
        ),
        Column("namespace", "given(Namespace)", "category", "namespace of its allocation"),
        Column("job_id", "given(JobID)", "category", "job of its allocation"),
        Column("job_version", "job_version", "uint", "version of that job"),
        Column("task_group", "given(TaskGroup)", "category", "task group of its allocation"),
        Column("node_name", "given(NodeName)", "category", "node of its allocation"),
    ),
)
