"""The stored tables in DuckDB: only what counts, each event once, each allocation as it was last seen."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import duckdb
import pandas as pd
from deltalake import DeltaTable

from ..errors import DecodeError
from ..store.sql import quote
from ..store.table_store import connect
from ..tables import ALLOCATIONS, EVENTS, RESCHEDULES, TASK_STATES
from ..tables.table import Table
from .delta import DeltaTables
from .schema import START, STORED, Stored

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

_TRIES = 3
_END_OF_TIME = "make_timestamp_ns(9223372036854775806)"


# Times in which no recorder watched: one that starts does not know of others.
_GAPS = """
    SELECT gap_since AS since, gap_until AS until, gap_reason AS reason FROM stored.observations g
    WHERE gap_since IS NOT NULL AND NOT EXISTS (SELECT 1 FROM stored.observations o
      WHERE o.seen_at > g.gap_since AND o.seen_at < g.gap_until AND o.recorder <> g.recorder)
    ORDER BY gap_until"""

# What is made of the stored rows, in this order. `chosen` are the allocations that are asked for.
_ALLOCATIONS = {
    "whole_observations": "SELECT recorder, seen_at FROM stored.snapshots WHERE whole",
    "recorders": "SELECT batch, any_value(recorder) AS recorder FROM stored.snapshots GROUP BY batch",
    # Few columns first: an archive of months has many rows of each allocation. The row that says that it is gone may say
    # nothing else, where a watch that began later found it gone.
    "newest": """
        WITH keyed AS (SELECT alloc_id, seen_at, gone, batch, (seen_at, coalesce(modify_index, 0), gone, batch) AS key
          FROM stored.allocations)
        SELECT alloc_id, min(seen_at) AS first_seen_at, max(seen_at) FILTER (NOT gone) AS row_seen_at,
          coalesce(max(key) FILTER (NOT gone), max(key)) AS row_key,
          arg_max(gone, key) AS is_gone, arg_max(seen_at, key) AS told_at, arg_max(batch, key) AS told_in
        FROM keyed GROUP BY alloc_id""",
    # An allocation that has not changed since was still there whenever all of them were compared.
    "allocations": f"""
        SELECT {ALLOCATIONS.listed("a")}, a.first_seen_at,
          greatest(coalesce(a.row_seen_at, w.seen_at), coalesce(w.seen_at, a.row_seen_at)) AS last_seen_at,
          CASE WHEN a.is_gone THEN a.told_at END AS gone_at
        FROM (SELECT s.*, n.* EXCLUDE (alloc_id), r.recorder, CASE WHEN is_gone THEN told_at ELSE {_END_OF_TIME} END AS before
            FROM stored.allocations s JOIN seen.newest n USING (alloc_id) LEFT JOIN seen.recorders r ON r.batch = n.told_in
            WHERE (seen_at, coalesce(modify_index, 0), gone, s.batch) = row_key
            QUALIFY row_number() OVER (PARTITION BY s.alloc_id) = 1) a
        ASOF LEFT JOIN seen.whole_observations w ON w.recorder = a.recorder AND a.before > w.seen_at""",
}
_TASKS = {
    "recorded_events": "SELECT * FROM stored.events WHERE alloc_id IN (SELECT alloc_id FROM seen.chosen)",
    # Each event once, in narrow rows. The first ring in which an event was seen puts it into order, whatever the
    # node's clock said: a later event is never seen in an older version of the allocation.
    "once": """
        SELECT rowid AS recorded, hash(alloc_id, task) AS of_task, alloc_id, task, type, time, seq, event_key, modify_index, seen_at,
          max(prev_key) OVER same AS prev_key
        FROM seen.recorded_events WINDOW same AS (PARTITION BY hash(alloc_id, task), event_key)
        QUALIFY row_number() OVER (same ORDER BY modify_index NULLS LAST, seq, seen_at) = 1""",
    "links": """
        SELECT * EXCLUDE (seq), row_number() OVER task - 1 AS seq, lag(event_key) OVER task AS key_before,
          lag(time) OVER task AS time_before, lag(seen_at) OVER task AS seen_before
        FROM seen.once WINDOW task AS (PARTITION BY of_task ORDER BY modify_index NULLS LAST, seq, seen_at)""",
    "events": f"""SELECT {EVENTS.listed("e").replace("e.seq", "l.seq")}
        FROM seen.recorded_events e JOIN seen.links l ON l.recorded = e.rowid""",
    "task_rows": f"""
        SELECT {TASK_STATES.listed("t")} FROM stored.task_states t
        JOIN seen.allocations a ON a.alloc_id = t.alloc_id AND a.modify_index IS NOT DISTINCT FROM t.modify_index
        WHERE t.alloc_id IN (SELECT alloc_id FROM seen.chosen)
        QUALIFY row_number() OVER (PARTITION BY t.alloc_id, t.task ORDER BY t.seen_at DESC) = 1""",
    # Events whose predecessor is not there.
    "untied": f"""
        SELECT * FROM seen.links e WHERE e.prev_key IS DISTINCT FROM coalesce(e.key_before, {START})
          AND e.prev_key IS DISTINCT FROM {START} AND NOT EXISTS
          (SELECT 1 FROM seen.once o WHERE o.of_task = e.of_task AND o.event_key = e.prev_key)""",
    # These, and those that claim to be the first of their task where other events came before. Where the servers were
    # restored, so that their index went back, the first may stand after others; they are all tied to it then.
    "breaks": f"""
        SELECT e.*, a.created_at, coalesce(e.seen_before, a.created_at) AS known_at
        FROM (FROM seen.untied UNION ALL FROM seen.links s WHERE s.prev_key = {START} AND s.seq > 0 AND (
            s.of_task IN (SELECT of_task FROM seen.untied) OR EXISTS (SELECT 1 FROM seen.links o
              WHERE o.of_task = s.of_task AND o.prev_key = {START} AND o.seq < s.seq))) e
        JOIN seen.allocations a ON a.alloc_id = e.alloc_id""",
    "counts": """
        SELECT t.alloc_id, t.task, count(e.event_key) AS events, count(*) FILTER (e.type = 'Restarting') AS restarts
        FROM seen.task_rows t LEFT JOIN seen.links e ON e.alloc_id = t.alloc_id AND e.task = t.task
        GROUP BY t.alloc_id, t.task""",
    # What is not known of a task: the time between two events of which the second is not tied to the first, and why.
    "missing": f"""
        WITH began AS (SELECT min(seen_at) AS at FROM stored.observations),
        unseen AS (SELECT until, any_value(reason) AS reason FROM stored.gaps GROUP BY until)
        SELECT b.alloc_id, b.task, coalesce(b.time_before, b.created_at) AS since, b.time AS until,
          CASE WHEN b.prev_key = {START} THEN '{NEW_RING}' WHEN b.prev_key IS NOT NULL THEN '{NOT_KEPT}'
            WHEN b.key_before IS NULL AND b.created_at < began.at THEN '{BEFORE}'
            WHEN u.until > b.known_at THEN '{UNWATCHED}' || coalesce(': ' || nullif(u.reason, '{UNWATCHED}'), '')
            ELSE '{OVERFLOW}' END AS reason
        FROM seen.breaks b CROSS JOIN began ASOF LEFT JOIN unseen u ON b.seen_at >= u.until
        UNION ALL
        SELECT t.alloc_id, t.task, a.last_seen_at, a.gone_at, '{NO_END}'
        FROM seen.task_rows t JOIN seen.allocations a ON a.alloc_id = t.alloc_id
        WHERE a.gone_at IS NOT NULL AND t.state IS DISTINCT FROM 'dead'
        UNION ALL
        SELECT t.alloc_id, t.task, NULL, t.last_restart_at, '{UNCOUNTED}'
        FROM seen.task_rows t JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task
        WHERE NOT EXISTS (SELECT 1 FROM seen.breaks b WHERE b.alloc_id = t.alloc_id AND b.task = t.task)
          AND (c.restarts < coalesce(t.restarts, 0) OR (c.events = 0 AND t.event_count > 0))""",
    "task_states": f"""
        SELECT {TASK_STATES.listed("t", "event_count", "events_truncated")}, c.events AS event_count,
          EXISTS (SELECT 1 FROM seen.missing m WHERE m.alloc_id = t.alloc_id AND m.task = t.task) AS events_truncated
        FROM seen.task_rows t JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task""",
    "reschedules": f"""
        SELECT {RESCHEDULES.listed("r")} FROM stored.reschedules r
        JOIN seen.allocations a ON a.alloc_id = r.alloc_id AND a.modify_index IS NOT DISTINCT FROM r.modify_index
        WHERE r.alloc_id IN (SELECT alloc_id FROM seen.chosen)
        QUALIFY row_number() OVER (PARTITION BY r.alloc_id, r.seq ORDER BY r.seen_at DESC) = 1""",
}


def reading(tables: DeltaTables, at: pd.Timestamp | None, work: Callable[[Connection], _T]) -> _T:
    """Return what `work` makes of the archive as seen up to `at`."""
    return again(lambda: _read(tables, at, work))


def again(work: Callable[[], _T]) -> _T:
    """Do `work`, which reads files that a compaction may take away meanwhile; then what took their place is read.

    Raises
    ------
    OSError
        A file cannot be read, or there is no archive.
    """
    for _ in range(_TRIES):
        try:
            return work()
        except (duckdb.IOException, FileNotFoundError) as error:
            last = error
    raise last if isinstance(last, OSError) else OSError(_said(last))


def _said(error: duckdb.Error) -> str:
    """Return what DuckDB says, without the query that it shows below."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


@contextlib.contextmanager
def _undamaged() -> Iterator[None]:
    """Raise DecodeError where a file of the archive is there, but holds something else than was written."""
    try:
        yield
    except duckdb.IOException:
        raise
    except duckdb.Error as error:
        said = "a file of the archive is damaged, or was not written by allocframe"
        raise DecodeError(f"{said}; put it back from a copy: {_said(error)}") from None


def _read(tables: DeltaTables, at: pd.Timestamp | None, work: Callable[[Connection], _T]) -> _T:
    with tempfile.TemporaryDirectory(prefix="allocframe-") as spill, connect(spill) as connection:
        attach(connection, tables, at)
        return work(connection)


@_undamaged()
def attach(connection: Connection, tables: DeltaTables, at: pd.Timestamp | None) -> None:
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
    connection.execute(f"CREATE TABLE stored.gaps AS {_GAPS}")


@_undamaged()
def derive(connection: Connection, condition: str = "true", *, tasks: bool = True) -> None:
    """Make the tables that people ask for, in the schema `seen`.

    `condition` is SQL over `seen.allocations`, which has all of them, and says whose tasks, events and reschedules are wanted.
    """
    connection.execute("CREATE SCHEMA seen")
    for name, body in _ALLOCATIONS.items():
        connection.execute(f"CREATE TABLE seen.{name} AS {body}")
    connection.execute(f"CREATE TABLE seen.chosen AS SELECT alloc_id FROM seen.allocations WHERE {condition}")
    connection.execute("CREATE VIEW seen.snapshots AS SELECT * FROM stored.snapshots")
    for name, body in _TASKS.items() if tasks else ():
        connection.execute(f"CREATE {'VIEW' if name == 'events' else 'TABLE'} seen.{name} AS {body}")


def source(
    connection: Connection, tables: DeltaTables, name: str, days: Any = None, table: DeltaTable | None = None
) -> str:
    """Return the SQL that reads a table as it is stored, or only `days`, a partition filter of delta-rs."""
    files = tables.sources(table or tables.open(name), days)
    if not isinstance(files, list):
        known_as = f"files_{secrets.token_hex(4)}"
        connection.register(known_as, files)
        return f"SELECT * FROM {known_as}"
    if not files:
        return empty(STORED[name])
    listed = ", ".join(quote(file) for file in files)
    return f"SELECT * FROM read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"


def _until(at: pd.Timestamp | None) -> Any:
    return None if at is None else [("day", "<=", str(at.date()))]


def empty(stored: Stored) -> str:
    """Return the SQL of no rows with every column, so that what an older version did not write is missing."""
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in stored.sql_types())} WHERE false"


@_undamaged()
def frame(connection: Connection, table: Table, rest: str) -> pd.DataFrame:
    """Return the columns of `table` of what follows SELECT."""
    columns = ", ".join(column.name for column in table.columns)
    data = connection.sql(f"SELECT {columns} {rest}").to_arrow_table()
    return table.frame(dict(zip(data.column_names, data.columns, strict=True)))


def check(table: Table, columns: Mapping[str, Any]) -> None:
    """Raise ValueError if `table` lacks one of `columns`."""
    known = {column.name for column in table.columns}
    for name in columns:
        if name not in known:
            raise ValueError(f"{table.name} has no column {name!r}; it has: {', '.join(sorted(known))}")


def plain_gaps(gaps: pd.DataFrame) -> list[dict[str, Any]]:
    """Return gaps of observation as plain JSON: since, until, reason."""
    told = {name: gaps[name].map(pd.Timestamp.isoformat).tolist() for name in ("since", "until")}
    return [
        {"since": since, "until": until, "reason": None if pd.isna(reason) else str(reason)}
        for since, until, reason in zip(*told.values(), gaps["reason"].tolist(), strict=True)
    ]
