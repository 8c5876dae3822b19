"""The events table: one row for each task event."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .allocations import ALLOCATIONS
from .rows import (
    TEXT,
    Reader,
    Rows,
    encode,
    extra,
    first_of,
    nanoseconds,
    numbers,
    once_each,
    parent,
    repeated,
)
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


def _detail(key: str) -> Reader:
    return lambda rows: rows.details.text(key)


def _text(key: str, flat: str) -> Reader:
    """Read a detail; older servers have only the deprecated flat field."""
    return once_each(first_of(_detail(key), repeated(flat)))


def _message(rows: Rows) -> Any:
    shown = rows.field("DisplayMessage")
    if not all(shown):
        shown = [first or second for first, second in zip(shown, rows.field("Message"), strict=True)]
    return encode(pa.array([text or None for text in shown], TEXT)) if any(shown) else None


def _signal_sent(rows: Rows) -> Any:
    """Read the detail `signal` of events that sent one. In others it is the signal that ended a process."""
    signals = rows.details.text("signal")
    if signals is None or not (sent := rows.is_type(("Signaling",))).any():
        return None
    return pc.if_else(pa.array(sent), signals.cast(TEXT), None).dictionary_encode()


def _of_types(types: tuple[str, ...], key: str, flat: str, kind: pa.DataType) -> Reader:
    """Read a value that only events of these types have; of types unknown to us, the detail alone counts.

    The flat fields of all other events hold zeros that mean nothing.
    """

    def read(rows: Rows) -> Any:
        parsed = rows.details.integers(key) if kind == pa.int64() else rows.details.flags(key)
        wanted = rows.is_type(types)
        if parsed is None:
            values, there = np.zeros(len(rows), kind.to_pandas_dtype()), np.zeros(len(rows), dtype=bool)
        else:
            values, there = parsed[0], parsed[1] & (wanted | rows.has_unknown_type(KNOWN_TYPES))
        if flat:
            places = np.flatnonzero(wanted & ~there)
            known = numbers(rows.pick(flat, places), kind) if len(places) else None
            if known is not None:
                valid = np.asarray(known.is_valid())
                values, there = values.copy(), there.copy()
                values[places[valid]] = known.drop_null().to_numpy(zero_copy_only=False)
                there[places[valid]] = True
        return pa.array(values, kind, mask=~there) if there.any() else None

    return once_each(read)


def _number(types: tuple[str, ...], key: str, flat: str) -> Reader:
    return _of_types(types, key, flat, pa.int64())


def _flag(types: tuple[str, ...], key: str, flat: str = "") -> Reader:
    return _of_types(types, key, flat, pa.bool_())


def _kill_timeout(rows: Rows) -> Any:
    """Read the timeout of a kill: the flat field, or else the detail, which is a duration as Go writes it."""
    places = np.flatnonzero(rows.is_type(("Killing",)))
    if not len(places):
        return None
    values = np.zeros(len(rows), dtype=np.int64)
    known = numbers(rows.pick("KillTimeout", places), pa.int64())
    if known is not None:
        values[places] = known.fill_null(0).to_numpy()
    there = values != 0
    if (detail := rows.details.durations("kill_timeout")) is not None:
        late = np.zeros(len(rows), dtype=bool)
        late[places] = True
        late &= ~there & detail[1]
        values[late], there = detail[0][late], there | late
    return pa.array(values, mask=~there) if there.any() else None


_EXITED = ("Terminated",)
_CAN_FAIL_TASK = (
    "Setup Failure", "Driver Failure", "Failed Validation", "Failed Artifact Download", "Killing", "Killed",
    "Not Restarting", "Sibling Task Failed", "Task hook failed", "Disk Resources Exceeded",
)  # fmt: skip


def _of_allocation(name: str) -> Reader:
    reader: Any = next(column.source for column in ALLOCATIONS.columns if column.name == name)
    return parent(name, reader)


EVENTS = Table(
    name="events",
    key=("alloc_id", "task", "seq"),
    doc="One row for each task event; Nomad keeps the last 10 per task.",
    source="events",
    columns=(
        Column("alloc_id", _of_allocation("alloc_id"), "text", "the allocation"),
        Column("task", extra("task"), "category", "the task"),
        Column("seq", extra("seq"), "int", "position among the events of its task, from 0"),
        Column("time", nanoseconds("Time"), "time", "when it happened, by the node's clock", "UTC"),
        Column("type", once_each(repeated("Type")), "category", "Nomad's type of the event"),
        Column(
            "message",
            once_each(_message),
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
            once_each(_kill_timeout),
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
            once_each(
                first_of(_detail("vault_renewal_error"), _detail("vault_error"), repeated("VaultError"))
            ),
            "text",
            "why its Vault token could not be renewed",
        ),
        Column(
            "task_signal",
            once_each(first_of(_detail("task_signal"), _signal_sent, repeated("TaskSignal"))),
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
            _flag(_CAN_FAIL_TASK, "fails_task", "FailsTask"),
            "bool",
            "whether this event fails the task",
        ),
        Column(
            "details",
            once_each(lambda rows: rows.details.as_json()),
            "text",
            "all details, as JSON, sorted by name",
        ),
        Column("namespace", _of_allocation("namespace"), "category", "namespace of its allocation"),
        Column("job_id", _of_allocation("job_id"), "category", "job of its allocation"),
        Column("job_version", _of_allocation("job_version"), "uint", "version of that job"),
        Column("task_group", _of_allocation("task_group"), "category", "task group of its allocation"),
        Column("node_name", _of_allocation("node_name"), "category", "node of its allocation"),
        Column(
            "generic_source",
            once_each(repeated("GenericSource")),
            "category",
            "what reported it, if it has no type of its own",
            derived="NULL",
        ),
    ),
)
