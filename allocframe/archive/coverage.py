"""Which history of each allocation and task an archive holds, and which it lacks."""

from __future__ import annotations

from ..tables import ALLOCATIONS
from ..tables.table import Column, Table
from .views import MAX_PAUSE, UNWATCHED

_SEEN = (
    Column("first_seen_at", "first_seen_at", "time", "first observation, by the recorder's clock", "UTC"),
    Column("last_seen_at", "last_seen_at", "time", "last time at which it certainly existed", "UTC"),
    Column("gone_at", "gone_at", "time", "when it was found to be removed; missing while it exists", "UTC"),
)
ALLOCATIONS_SEEN = Table(
    "allocations", ALLOCATIONS.key, ALLOCATIONS.doc, "allocations", (*ALLOCATIONS.columns, *_SEEN)
)

_TASK = (
    Column("alloc_id", "alloc_id", "text", "the allocation; missing if nobody watched any"),
    Column("task", "task", "category", "the task; missing if nobody watched any"),
)

MISSING = Table(
    name="missing",
    key=("alloc_id", "task", "until"),
    doc="One row per period in which events of a task are missing, or in which nobody watched the cluster.",
    source="missing",
    columns=(
        *_TASK,
        Column(
            "since", "since", "time", "the last known event before it, or the allocation's creation", "UTC"
        ),
        Column("until", "until", "time", "the first known event after it", "UTC"),
        Column("reason", "reason", "category", "why the events are missing"),
    ),
)

COVERAGE = Table(
    name="coverage",
    key=("alloc_id", "task"),
    doc="One row per task that was ever seen, with the period, and whether all of its events are known; and "
    "one without a task, if nobody watched at times.",
    source="coverage",
    columns=(
        *_TASK,
        Column("namespace", "namespace", "category", "namespace of its job"),
        Column("job_id", "job_id", "category", "the job"),
        *_SEEN,
        Column("events", "events", "int", "events known"),
        Column("complete", "complete", "bool", "every event up to last_seen_at is known"),
        Column("missing", "missing", "int", "number of periods without events; `Archive.missing` lists them"),
        Column("missing_since", "missing_since", "time", "start of the first period", "UTC"),
        Column("missing_until", "missing_until", "time", "end of the last period", "UTC"),
        Column("reason", "reason", "text", "the reasons, each once"),
    ),
)

# Of allocations that began and ended meanwhile nothing is known, not even that there were some.
UNWATCHED_QUERY = f"""
    SELECT NULL AS alloc_id, NULL AS task, since, until,
      '{UNWATCHED}' || coalesce(': ' || nullif(reason, '{UNWATCHED}'), '') AS reason
    FROM (FROM stored.gaps UNION ALL (
      SELECT since, until, 'nothing was observed' FROM (
        SELECT lag(seen_at) OVER (ORDER BY seen_at) AS since, seen_at AS until
        FROM (SELECT DISTINCT seen_at FROM stored.observations)) p
      WHERE epoch_ns(until) - epoch_ns(since) > {MAX_PAUSE.value}
        AND NOT EXISTS (SELECT 1 FROM stored.gaps g WHERE g.since < p.until AND g.until > p.since)))"""

MISSING_QUERY = f"FROM seen.missing UNION ALL ({UNWATCHED_QUERY})"

QUERY = f"""
    SELECT t.alloc_id, t.task, a.namespace, a.job_id, a.first_seen_at, a.last_seen_at, a.gone_at, c.events,
      m.missing IS NULL AS complete, coalesce(m.missing, 0) AS missing,
      m.missing_since, m.missing_until, m.reason
    FROM seen.task_rows t
    JOIN seen.allocations a ON a.alloc_id = t.alloc_id
    JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task
    LEFT JOIN (SELECT alloc_id, task, count(*) AS missing, min(since) AS missing_since,
        max(until) AS missing_until, string_agg(DISTINCT reason, '; ' ORDER BY reason) AS reason
      FROM seen.missing GROUP BY alloc_id, task) m ON m.alloc_id = t.alloc_id AND m.task = t.task
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, false, count(*), min(since), max(until),
      string_agg(DISTINCT reason, '; ' ORDER BY reason)
    FROM ({UNWATCHED_QUERY}) HAVING count(*) > 0"""
