"""The stored tables in DuckDB: only what counts, each event once, each allocation as it was last seen."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

import duckdb
import pandas as pd
from deltalake import DeltaTable

from .._table import Table
from ..decode import quoted
from ..frames import ALLOCATIONS, EVENTS, RESCHEDULES, TASK_STATES
from ._delta import Tables
from ._schema import START, STORED, Stored

MEMORY_LIMIT = "1GB"
"""What DuckDB may hold before it spills."""

Connection = duckdb.DuckDBPyConnection
_T = TypeVar("_T")

_ORDER = ("snapshots", "events", "reschedules", "task_states", "allocations")
"""Of opening: first what makes batches count, then what they brought, so that whatever counts is there."""

BEFORE = "it began before the archive"
OVERFLOW = "more events came between two observations than Nomad keeps"
UNWATCHED = "nobody watched"
NEW_RING = "its node began a new list of events"
NOT_KEPT = "removed by retention"
NO_END = "it was gone before its end was seen"
UNCOUNTED = "its restart counter tells of more"

_END_OF_TIME = "make_timestamp_ns(9223372036854775806)"


_CHEAP = {"events", "snapshots"}
"""Never copied: they only leave columns out."""


def _names(columns: Any, alias: str, *without: str) -> str:
    return ", ".join(f"{alias}.{column.name}" for column in columns if column.name not in without)


# What is made of the stored rows, in this order. `chosen` are the allocations that are asked for.
_ALLOCATIONS = {
    "whole_observations": "SELECT recorder, seen_at FROM stored.snapshots WHERE whole",
    "recorders": "SELECT batch, any_value(recorder) AS recorder FROM stored.snapshots GROUP BY batch",
    # Few columns first: an archive of months has many rows of each allocation.
    "newest": """
        SELECT alloc_id, min(seen_at) AS first_seen_at, max(seen_at) FILTER (NOT gone) AS row_seen_at,
          max((seen_at, coalesce(modify_index, 0), gone, batch)) AS row_key
        FROM stored.allocations GROUP BY alloc_id""",
    # An allocation that has not changed since was still there whenever all of them were compared.
    "allocations": f"""
        SELECT {_names(ALLOCATIONS.columns, "a")}, a.first_seen_at,
          greatest(coalesce(a.row_seen_at, w.seen_at), coalesce(w.seen_at, a.row_seen_at)) AS last_seen_at,
          CASE WHEN a.gone THEN a.seen_at END AS gone_at
        FROM (SELECT *, CASE WHEN gone THEN seen_at ELSE {_END_OF_TIME} END AS before
            FROM stored.allocations JOIN seen.newest USING (alloc_id) LEFT JOIN seen.recorders USING (batch)
            WHERE (seen_at, coalesce(modify_index, 0), gone, batch) = row_key
            QUALIFY row_number() OVER (PARTITION BY alloc_id) = 1) a
        ASOF LEFT JOIN seen.whole_observations w ON w.recorder = a.recorder AND a.before > w.seen_at""",
}
_OTHERS = {
    # The first ring in which an event was seen puts it into order, whatever the node's clock said: a later event is
    # never seen in an older version of the allocation.
    "tied_events": f"""
        SELECT {_names(EVENTS.columns, "e", "seq")}, row_number() OVER task - 1 AS seq, e.seen_at, e.modify_index, e.event_key,
          e.known_prev AS prev_key, lag(e.event_key) OVER task AS key_before, lag(e.time) OVER task AS time_before,
          lag(e.seen_at) OVER task AS seen_before
        FROM (SELECT *, max(prev_key) OVER same AS known_prev FROM stored.events
          WHERE alloc_id IN (SELECT alloc_id FROM seen.chosen)
          WINDOW same AS (PARTITION BY alloc_id, task, event_key)
          QUALIFY row_number() OVER (same ORDER BY modify_index NULLS LAST, seq, seen_at) = 1) e
        WINDOW task AS (PARTITION BY e.alloc_id, e.task ORDER BY e.modify_index NULLS LAST, e.seq, e.seen_at)""",
    "events": f"SELECT {_names(EVENTS.columns, 'e')} FROM seen.tied_events e",
    "task_rows": f"""
        SELECT {_names(TASK_STATES.columns, "t")} FROM stored.task_states t
        JOIN seen.allocations a ON a.alloc_id = t.alloc_id AND a.modify_index IS NOT DISTINCT FROM t.modify_index
        WHERE t.alloc_id IN (SELECT alloc_id FROM seen.chosen)
        QUALIFY row_number() OVER (PARTITION BY t.alloc_id, t.task ORDER BY t.seen_at DESC) = 1""",
    "counts": f"""
        SELECT t.alloc_id, t.task, count(e.event_key) AS events, count(*) FILTER (e.type = 'Restarting') AS restarts,
          count(e.event_key) FILTER (e.prev_key IS DISTINCT FROM coalesce(e.key_before, {START})) AS breaks
        FROM seen.task_rows t LEFT JOIN seen.tied_events e ON e.alloc_id = t.alloc_id AND e.task = t.task
        GROUP BY t.alloc_id, t.task""",
    # What is not known of a task: the time between two events of which the second is not tied to the first, and why.
    "missing": f"""
        WITH began AS (SELECT min(seen_at) AS at FROM stored.observations),
        unseen AS (SELECT gap_until, any_value(gap_reason) AS gap_reason FROM stored.snapshots
          WHERE gap_until IS NOT NULL AND gap_since IS NOT NULL GROUP BY gap_until),
        breaks AS (SELECT e.*, a.created_at, coalesce(e.seen_before, a.created_at) AS known_at
          FROM seen.tied_events e JOIN seen.allocations a ON a.alloc_id = e.alloc_id
          WHERE e.prev_key IS DISTINCT FROM coalesce(e.key_before, {START}))
        SELECT b.alloc_id, b.task, coalesce(b.time_before, b.created_at) AS since, b.time AS until,
          CASE WHEN b.prev_key = {START} THEN '{NEW_RING}' WHEN b.prev_key IS NOT NULL THEN '{NOT_KEPT}'
            WHEN b.key_before IS NULL AND b.created_at < began.at THEN '{BEFORE}'
            WHEN u.gap_until > b.known_at THEN '{UNWATCHED}: ' || coalesce(u.gap_reason, 'unknown')
            ELSE '{OVERFLOW}' END AS reason
        FROM breaks b CROSS JOIN began ASOF LEFT JOIN unseen u ON b.seen_at >= u.gap_until
        UNION ALL
        SELECT t.alloc_id, t.task, a.last_seen_at, a.gone_at, '{NO_END}'
        FROM seen.task_rows t JOIN seen.allocations a ON a.alloc_id = t.alloc_id
        WHERE a.gone_at IS NOT NULL AND t.state IS DISTINCT FROM 'dead'
        UNION ALL
        SELECT t.alloc_id, t.task, NULL, t.last_restart_at, '{UNCOUNTED}'
        FROM seen.task_rows t JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task
        WHERE c.breaks = 0 AND (c.restarts < coalesce(t.restarts, 0) OR (c.events = 0 AND t.event_count > 0))""",
    "task_states": f"""
        SELECT {_names(TASK_STATES.columns, "t", "event_count", "events_truncated")}, c.events AS event_count,
          EXISTS (SELECT 1 FROM seen.missing m WHERE m.alloc_id = t.alloc_id AND m.task = t.task) AS events_truncated
        FROM seen.task_rows t JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task""",
    "reschedules": f"""
        SELECT {_names(RESCHEDULES.columns, "r")} FROM stored.reschedules r
        JOIN seen.allocations a ON a.alloc_id = r.alloc_id AND a.modify_index IS NOT DISTINCT FROM r.modify_index
        WHERE r.alloc_id IN (SELECT alloc_id FROM seen.chosen)
        QUALIFY row_number() OVER (PARTITION BY r.alloc_id, r.seq ORDER BY r.seen_at DESC) = 1""",
    "snapshots": "SELECT * FROM stored.snapshots",
}


def reading(tables: Tables, at: pd.Timestamp | None, work: Callable[[Connection], _T]) -> _T:
    """Return what `work` makes of the archive as seen up to `at`; once more if a file was compacted away meanwhile."""
    try:
        return _read(tables, at, work)
    except (duckdb.IOException, OSError):
        return _read(tables, at, work)


def _read(tables: Tables, at: pd.Timestamp | None, work: Callable[[Connection], _T]) -> _T:
    with tempfile.TemporaryDirectory(prefix="allocframe-") as spill, connect(spill) as connection:
        attach(connection, tables, at)
        return work(connection)


def connect(spill: str) -> Connection:
    """Return an empty database that spills into a folder."""
    return duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def attach(connection: Connection, tables: Tables, at: pd.Timestamp | None) -> None:
    """Make views of the archive as it now lies there, with nothing that was seen after `at`."""
    connection.execute("CREATE SCHEMA stored")
    for name in _ORDER:
        stored = STORED[name]
        read = source(connection, tables, name, _until(at) if name != "snapshots" else None)
        if name == "snapshots":
            _observations(connection, read, at)
            continue
        seen = f"epoch_us(seen_at) * 1000 + seen_at_ns <= {at.value}" if at is not None else "true"
        counts = "batch IN (SELECT batch FROM stored.committed)"
        connection.execute(
            f"CREATE VIEW stored.{name} AS SELECT {stored.reading()} "
            f"FROM ({empty(stored)} UNION ALL BY NAME {read}) WHERE {seen} AND {counts}"
        )


def _observations(connection: Connection, read: str, at: pd.Timestamp | None) -> None:
    """Read what was observed, at once: which batches count must not change while the other tables are opened."""
    stored = STORED["snapshots"]
    connection.execute(
        f"CREATE TABLE stored.observations AS SELECT {stored.reading()} FROM ({empty(stored)} UNION ALL BY NAME {read})"
    )
    seen = f"epoch_ns(seen_at) <= {at.value}" if at is not None else "true"
    connection.execute(f"CREATE VIEW stored.snapshots AS SELECT * FROM stored.observations WHERE {seen}")
    connection.execute("CREATE TABLE stored.committed AS SELECT DISTINCT batch FROM stored.observations")


def derive(connection: Connection, condition: str | None = None) -> None:
    """Make the tables that people ask for, in the schema `seen`: views of all, or tables of chosen allocations.

    `condition` is SQL over `seen.allocations`, which has all of them.
    """
    kind = "VIEW" if condition is None else "TABLE"
    connection.execute("CREATE SCHEMA seen")
    for name, body in _ALLOCATIONS.items():
        connection.execute(f"CREATE {kind} seen.{name} AS {body}")
    chosen = f"SELECT alloc_id FROM seen.allocations WHERE {condition or 'true'}"
    connection.execute(f"CREATE {kind} seen.chosen AS {chosen}")
    for name, body in _OTHERS.items():
        connection.execute(
            f"CREATE VIEW seen.{name} AS {body}" if name in _CHEAP else f"CREATE {kind} seen.{name} AS {body}"
        )


def source(
    connection: Connection, tables: Tables, name: str, days: Any = None, table: DeltaTable | None = None
) -> str:
    """Return the SQL that reads a table as it is stored, or only `days`, a partition filter of delta-rs."""
    files = tables.sources(table or tables.open(name), days)
    if not isinstance(files, list):
        known_as = f"files_{secrets.token_hex(4)}"
        connection.register(known_as, files)
        return f"SELECT * FROM {known_as}"
    if not files:
        return empty(STORED[name])
    listed = ", ".join(quoted(file) for file in files)
    return f"SELECT * FROM read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"


def _until(at: pd.Timestamp | None) -> Any:
    return None if at is None else [("day", "<=", str(at.date()))]


def empty(stored: Stored) -> str:
    """Return the SQL of no rows with every column, so that what an older version did not write is missing."""
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in stored.sql_types())} WHERE false"


def frame(connection: Connection, table: Table, rest: str) -> pd.DataFrame:
    """Return the columns of `table` of what follows SELECT."""
    columns = ", ".join(column.name for column in table.columns)
    data = connection.sql(f"SELECT {columns} {rest}").to_arrow_table()
    return table.frame(dict(zip(data.column_names, data.columns, strict=True)))
