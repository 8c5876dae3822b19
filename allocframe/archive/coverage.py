"""What the archive knows of each allocation and task, and what it does not."""

from __future__ import annotations

from ..tables import ALLOCATIONS
from ..tables.table import Column, Table

_SEEN = (
    Column(
        "first_seen_at", "first_seen_at", "time", "when it was first seen, by the recorder's clock", "UTC"
    ),
    Column("last_seen_at", "last_seen_at", "time", "when it was last known to be there", "UTC"),
    Column(
        "gone_at", "gone_at", "time", "when it was first known to be gone; missing while it is there", "UTC"
    ),
)
KEPT = Table("allocations", ALLOCATIONS.key, ALLOCATIONS.doc, "allocations", (*ALLOCATIONS.columns, *_SEEN))

_TASK = (
    Column("alloc_id", "alloc_id", "text", "the allocation"),
    Column("task", "task", "category", "the task"),
)

MISSING = Table(
    name="missing",
    key=("alloc_id", "task", "until"),
    doc="One row for each time of a task of which events are missing.",
    source="missing",
    columns=(
        *_TASK,
        Column("since", "since", "time", "the last event known before, or the allocation's creation", "UTC"),
        Column("until", "until", "time", "the first event known after", "UTC"),
        Column("reason", "reason", "category", "why"),
    ),
)

COVERAGE = Table(
    name="coverage",
    key=("alloc_id", "task"),
    doc="One row for each task that was ever seen: from when to when, and whether all of its events are known.",
    source="coverage",
    columns=(
        *_TASK,
        Column("namespace", "namespace", "category", "namespace of its job"),
        Column("job_id", "job_id", "category", "the job"),
        *_SEEN,
        Column("events", "events", "int", "events known"),
        Column("complete", "complete", "bool", "every event from the first on, up to last_seen_at, is known"),
        Column("missing", "missing", "int", "times of which events are missing; `Archive.missing` has each"),
        Column("missing_since", "missing_since", "time", "start of the first of them", "UTC"),
        Column("missing_until", "missing_until", "time", "end of the last of them", "UTC"),
        Column("reason", "reason", "text", "why, each reason once"),
    ),
)

QUERY = """
    SELECT t.alloc_id, t.task, a.namespace, a.job_id, a.first_seen_at, a.last_seen_at, a.gone_at, c.events,
      m.missing IS NULL AS complete, coalesce(m.missing, 0) AS missing, m.missing_since, m.missing_until, m.reason
    FROM seen.task_rows t
    JOIN seen.allocations a ON a.alloc_id = t.alloc_id
    JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task
    LEFT JOIN (SELECT alloc_id, task, count(*) AS missing, min(since) AS missing_since, max(until) AS missing_until,
        string_agg(DISTINCT reason, '; ' ORDER BY reason) AS reason
      FROM seen.missing GROUP BY alloc_id, task) m ON m.alloc_id = t.alloc_id AND m.task = t.task"""
