"""The task_states table: one row for each task of each allocation."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from .rows import Rows, extra, flag, parent, repeated, rfc3339, text, unsigned, whole
from .table import Column, Table

MAX_EVENTS = 10
"""Nomad keeps this many events per task and drops the oldest (client/allocrunner/taskrunner)."""


def _is_truncated(rows: Rows) -> Any:
    is_full = rows.once("event_count", tuple).to_numpy() >= MAX_EVENTS
    return pa.array(is_full & ~rows.once("begins", tuple))


TASK_STATES = Table(
    name="task_states",
    key=("alloc_id", "task"),
    doc="One row for each task of each allocation, as the node last reported it.",
    source="tasks",
    columns=(
        Column("alloc_id", parent("ID", text("ID")), "text", "the allocation"),
        Column("task", extra("task"), "category", "the task"),
        Column("state", repeated("State"), "category", "pending, running or dead"),
        Column("failed", flag("Failed"), "bool", "whether the task failed for good"),
        Column(
            "restarts",
            unsigned("Restarts"),
            "uint",
            "restarts so far; the node counts them even after their events are dropped",
        ),
        Column(
            "last_restart_at",
            rfc3339("LastRestart"),
            "time",
            "when it last restarted, by the node's clock",
            "UTC",
        ),
        Column(
            "started_at", rfc3339("StartedAt"), "time", "when it last started, by the node's clock", "UTC"
        ),
        Column(
            "finished_at",
            rfc3339("FinishedAt"),
            "time",
            "when it ended, by the node's clock; missing while it may restart",
            "UTC",
        ),
        Column("event_count", extra("event_count"), "int", "number of events"),
        Column(
            "events_truncated",
            _is_truncated,
            "bool",
            "whether Nomad dropped older events: there are 10, and the first is not Received",
        ),
        Column(
            "paused",
            repeated("Paused"),
            "category",
            "how its schedule pauses it (since Nomad 1.8)",
            derived="NULL",
        ),
        Column(
            "handle_version",
            whole("TaskHandle.Version"),
            "int",
            "version of the handle that a remote driver keeps (until Nomad 1.9)",
            derived="NULL",
        ),
    ),
)
