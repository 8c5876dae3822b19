"""The task_states table: one row for each task of each allocation."""

from __future__ import annotations

from .table import Column, Table

MAX_EVENTS = 10
"""Nomad keeps this many events per task and drops the oldest (client/allocrunner/taskrunner)."""

TASK_STATES = Table(
    name="task_states",
    key=("alloc_id", "task"),
    doc="One row for each task of each allocation, as the node last reported it.",
    source="tasks",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation"),
        Column("task", "task", "category", "the task"),
        Column("state", "given(ts.State)", "category", "pending, running or dead"),
        Column("failed", "ts.Failed", "bool", "whether the task failed for good"),
        Column(
            "restarts",
            "ts.Restarts",
            "uint",
            "restarts so far; the node counts them even after their events are dropped",
        ),
        Column(
            "last_restart_at",
            "rfc3339(ts.LastRestart)",
            "time",
            "when it last restarted, by the node's clock",
            "UTC",
        ),
        Column(
            "started_at", "rfc3339(ts.StartedAt)", "time", "when it last started, by the node's clock", "UTC"
        ),
        Column(
            "finished_at",
            "rfc3339(ts.FinishedAt)",
            "time",
            "when it ended, by the node's clock; missing while it may restart",
            "UTC",
        ),
        Column("event_count", "coalesce(len(ts.Events), 0)", "int", "number of events"),
        Column(
            "events_truncated",
            f"coalesce(len(ts.Events) >= {MAX_EVENTS} "
            "AND ts.Events[1].Type IS DISTINCT FROM 'Received', false)",
            "bool",
            "whether Nomad dropped older events: there are 10, and the first is not Received",
        ),
    ),
)
