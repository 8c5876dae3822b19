"""The archive in DuckDB: committed rows, with each event once and each allocation's last version."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import duckdb
import pandas as pd
from deltalake import DeltaTable

from .._utils.temporary import temporary_folder
from .._utils.threads import aborted_by
from ..errors import DecodeError
from ..store.sql import quote
from ..store.table_store import connect
from ..tables import ALLOCATIONS, EVENTS, RESCHEDULES, TASK_STATES
from ..tables.table import Table
from .delta import DeltaTables
from .schema import START, STORED, Stored

Connection = duckdb.DuckDBPyConnection
_T = TypeVar("_T")

_OPENING_ORDER = ("snapshots", "events", "reschedules", "task_states", "allocations")
"""`snapshots` first: a batch that is committed there has its rows in every table that is opened later."""

BEFORE = "it began before the archive"
OVERFLOW = "more events came between two observations than Nomad keeps"
UNWATCHED = "nobody watched"
NEW_RING = "its node began a new list of events"
NOT_KEPT = "removed by retention"
NO_END = "it was gone before its end was seen"
UNCOUNTED = "its restart counter is higher than the restarts seen"

MAX_PAUSE = pd.Timedelta("1h")
"""A longer time between two observations is a gap, because servers may have removed what ended meanwhile.

A recorder writes at least once a minute.
"""

_MAX_ATTEMPTS = 3
_END_OF_TIME = "make_timestamp_ns(9223372036854775806)"


# Periods in which no recorder watched. A recorder's gap does not count if another one watched meanwhile.
_GAPS = """
    SELECT gap_since AS since, gap_until AS until, gap_reason AS reason FROM stored.observations g
    WHERE gap_since IS NOT NULL AND NOT EXISTS (SELECT 1 FROM stored.observations o
      WHERE o.seen_at > g.gap_since AND o.seen_at < g.gap_until AND o.recorder <> g.recorder)
    ORDER BY gap_until"""

# The tables that are derived from the stored rows, in this order. `chosen` are the requested allocations.
_ALLOCATION_TABLES = {
    "whole_observations": "SELECT recorder, seen_at FROM stored.snapshots WHERE whole",
    "recorders": "SELECT batch, any_value(recorder) AS recorder FROM stored.snapshots GROUP BY batch",
    # Few columns first, because an archive of months has many rows per allocation. The row that marks a
    # removal may have no other columns, if a watch that began later noticed the removal.
    "newest": """
        WITH keyed AS (SELECT alloc_id, seen_at, gone, batch,
            (seen_at, coalesce(modify_index, 0), gone, batch) AS key
          FROM stored.allocations)
        SELECT alloc_id, min(seen_at) AS first_seen_at, max(seen_at) FILTER (NOT gone) AS row_seen_at,
          coalesce(max(key) FILTER (NOT gone), max(key)) AS row_key,
          arg_max(gone, key) AS is_gone, arg_max(seen_at, key) AS newest_at,
          arg_max(batch, key) AS newest_batch
        FROM keyed GROUP BY alloc_id""",
    # An unchanged allocation existed at each later observation that compared all of them.
    "allocations": f"""
        SELECT {ALLOCATIONS.list_columns("a")}, a.first_seen_at,
          greatest(coalesce(a.row_seen_at, w.seen_at), coalesce(w.seen_at, a.row_seen_at)) AS last_seen_at,
          CASE WHEN a.is_gone THEN a.newest_at END AS gone_at
        FROM (SELECT s.*, n.* EXCLUDE (alloc_id), r.recorder,
              CASE WHEN is_gone THEN newest_at ELSE {_END_OF_TIME} END AS before
            FROM stored.allocations s JOIN seen.newest n USING (alloc_id)
            LEFT JOIN seen.recorders r ON r.batch = n.newest_batch
            WHERE (seen_at, coalesce(modify_index, 0), gone, s.batch) = row_key
            QUALIFY row_number() OVER (PARTITION BY s.alloc_id) = 1) a
        ASOF LEFT JOIN seen.whole_observations w ON w.recorder = a.recorder AND a.before > w.seen_at""",
}
_TASK_TABLES = {
    "recorded_events": "SELECT * FROM stored.events WHERE alloc_id IN (SELECT alloc_id FROM seen.chosen)",
    # Each event once, in narrow rows. Events are ordered by the first version of the allocation that had
    # them, not by the node's clock, which may jump: a later event is never in an older version.
    "unique_events": """
        SELECT rowid AS recorded, hash(alloc_id, task) AS of_task, alloc_id, task, type, time, seq, event_key,
          modify_index, seen_at, max(prev_key) OVER same AS prev_key
        FROM seen.recorded_events WINDOW same AS (PARTITION BY hash(alloc_id, task), event_key)
        QUALIFY row_number() OVER (same ORDER BY modify_index NULLS LAST, seq, seen_at) = 1""",
    "links": """
        SELECT * EXCLUDE (seq), row_number() OVER task - 1 AS seq, lag(event_key) OVER task AS key_before,
          lag(time) OVER task AS time_before, lag(seen_at) OVER task AS seen_before
        FROM seen.unique_events
        WINDOW task AS (PARTITION BY of_task ORDER BY modify_index NULLS LAST, seq, seen_at)""",
    "events": f"""SELECT {EVENTS.list_columns("e").replace("e.seq", "l.seq")}
        FROM seen.recorded_events e JOIN seen.links l ON l.recorded = e.rowid""",
    "task_rows": f"""
        SELECT {TASK_STATES.list_columns("t")} FROM stored.task_states t
        JOIN seen.allocations a ON a.alloc_id = t.alloc_id
          AND a.modify_index IS NOT DISTINCT FROM t.modify_index
        WHERE t.alloc_id IN (SELECT alloc_id FROM seen.chosen)
        QUALIFY row_number() OVER (PARTITION BY t.alloc_id, t.task ORDER BY t.seen_at DESC) = 1""",
    # Events whose predecessor is missing.
    "untied": f"""
        SELECT * FROM seen.links e WHERE e.prev_key IS DISTINCT FROM coalesce(e.key_before, {START})
          AND e.prev_key IS DISTINCT FROM {START} AND NOT EXISTS
          (SELECT 1 FROM seen.unique_events o WHERE o.of_task = e.of_task AND o.event_key = e.prev_key)""",
    # Those, and events that claim to be the first of their task although others came before. After a restore
    # of the servers the index goes back, and the true first event may sort after others. Then all of them
    # link to it, and nothing is missing.
    "breaks": f"""
        SELECT e.*, a.created_at, coalesce(e.seen_before, a.created_at) AS known_at
        FROM (FROM seen.untied UNION ALL FROM seen.links s WHERE s.prev_key = {START} AND s.seq > 0 AND (
            s.of_task IN (SELECT of_task FROM seen.untied) OR EXISTS (SELECT 1 FROM seen.links o
              WHERE o.of_task = s.of_task AND o.prev_key = {START} AND o.seq < s.seq))) e
        JOIN seen.allocations a ON a.alloc_id = e.alloc_id""",
    "counts": """
        SELECT t.alloc_id, t.task, count(e.event_key) AS events,
          count(*) FILTER (e.type = 'Restarting') AS restarts
        FROM seen.task_rows t LEFT JOIN seen.links e ON e.alloc_id = t.alloc_id AND e.task = t.task
        GROUP BY t.alloc_id, t.task""",
    # The periods of which events are missing: between two events that are not linked, with the reason.
    "missing": f"""
        WITH began AS (SELECT min(seen_at) AS at FROM stored.observations),
        unseen AS (SELECT until, any_value(reason) AS reason FROM stored.gaps GROUP BY until)
        SELECT b.alloc_id, b.task, coalesce(b.time_before, b.created_at) AS since, b.time AS until,
          CASE WHEN b.prev_key = {START} THEN '{NEW_RING}' WHEN b.prev_key IS NOT NULL THEN '{NOT_KEPT}'
            WHEN b.key_before IS NULL AND b.created_at < began.at THEN '{BEFORE}'
            WHEN u.until > b.known_at THEN
              '{UNWATCHED}' || coalesce(': ' || nullif(u.reason, '{UNWATCHED}'), '')
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
        SELECT {TASK_STATES.list_columns("t", "event_count", "events_truncated")}, c.events AS event_count,
          EXISTS (SELECT 1 FROM seen.missing m
            WHERE m.alloc_id = t.alloc_id AND m.task = t.task) AS events_truncated
        FROM seen.task_rows t JOIN seen.counts c ON c.alloc_id = t.alloc_id AND c.task = t.task""",
    "reschedules": f"""
        SELECT {RESCHEDULES.list_columns("r")} FROM stored.reschedules r
        JOIN seen.allocations a ON a.alloc_id = r.alloc_id
          AND a.modify_index IS NOT DISTINCT FROM r.modify_index
        WHERE r.alloc_id IN (SELECT alloc_id FROM seen.chosen)
        QUALIFY row_number() OVER (PARTITION BY r.alloc_id, r.seq ORDER BY r.seen_at DESC) = 1""",
}


def read_archive(
    tables: DeltaTables, query: Callable[[Connection], _T], stop: threading.Event | None = None
) -> _T:
    """Return the result of a function that queries the archive. It fails once `stop` is set."""

    def attach_and_query() -> _T:
        with (
            temporary_folder() as spill,
            connect(spill) as connection,
            interrupted_by(stop, connection),
        ):
            attach(connection, tables, None)
            return query(connection)

    return retry_reading(attach_and_query)


@contextlib.contextmanager
def interrupted_by(stop: threading.Event | None, connection: Connection) -> Iterator[None]:
    """Make the queries of a connection fail once `stop` is set: one may take minutes."""
    if stop is None:
        yield
        return
    with aborted_by(stop, connection.interrupt):
        yield


def retry_reading(read: Callable[[], _T]) -> _T:
    """Call `read` again if it fails, because a compaction may have replaced the files that it was reading.

    Raises
    ------
    OSError
        A file cannot be read, or there is no archive.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            return read()
        except (duckdb.IOException, FileNotFoundError) as error:
            last = error
    raise last if isinstance(last, OSError) else OSError(_message(last))


def _message(error: duckdb.Error) -> str:
    """Return DuckDB's message without the query that follows it."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


@contextlib.contextmanager
def _as_decode_error() -> Iterator[None]:
    """Turn DuckDB errors into DecodeError, except for files that cannot be opened, which may be retried."""
    try:
        yield
    except duckdb.IOException:
        raise
    except duckdb.Error as error:
        raise DecodeError(
            "a file of the archive is damaged, or was not written by allocframe. Restore it from a backup; "
            f"after a power loss, try Archive.repair() first: {_message(error)}"
        ) from None


@_as_decode_error()
def attach(connection: Connection, tables: DeltaTables, at: pd.Timestamp | None) -> None:
    """Create views of the committed rows that were seen up to `at`, in the schema `stored`."""
    connection.execute("CREATE SCHEMA stored")
    for name in _OPENING_ORDER:
        stored = STORED[name]
        rows = source(connection, tables, name, _days_until(at) if name != "snapshots" else None)
        if name == "snapshots":
            _load_observations(connection, rows, at)
            continue
        seen = f"epoch_us(seen_at) * 1000 + seen_at_ns <= {at.value}" if at is not None else "true"
        committed = "batch IN (SELECT batch FROM stored.committed)"
        connection.execute(
            f"CREATE VIEW stored.{name} AS SELECT {stored.select_list()} "
            f"FROM ({empty_select(stored)} UNION ALL BY NAME {rows}) WHERE {seen} AND {committed}"
        )


def _load_observations(connection: Connection, rows: str, at: pd.Timestamp | None) -> None:
    """Load the observations into a table.

    So the committed batches stay the same while the other tables are opened.
    """
    stored = STORED["snapshots"]
    connection.execute(
        f"CREATE TABLE stored.observations AS SELECT {stored.select_list()} "
        f"FROM ({empty_select(stored)} UNION ALL BY NAME {rows})"
    )
    seen = f"epoch_ns(seen_at) <= {at.value}" if at is not None else "true"
    connection.execute(f"CREATE VIEW stored.snapshots AS SELECT * FROM stored.observations WHERE {seen}")
    connection.execute("CREATE TABLE stored.committed AS SELECT DISTINCT batch FROM stored.observations")
    connection.execute(f"CREATE TABLE stored.gaps AS {_GAPS}")


@_as_decode_error()
def derive(connection: Connection, condition: str = "true", *, until: str = "reschedules") -> None:
    """Create the tables that users query, in the schema `seen`.

    Parameters
    ----------
    connection : Connection
    condition : str
        SQL over `seen.allocations` that chooses whose tasks, events and reschedules are derived.
    until : str
        The last table that is needed: those that come after it in the order above are left out.
    """
    connection.execute("CREATE SCHEMA seen")
    for name, body in _ALLOCATION_TABLES.items():
        connection.execute(f"CREATE TABLE seen.{name} AS {body}")
    connection.execute(f"CREATE TABLE seen.chosen AS SELECT alloc_id FROM seen.allocations WHERE {condition}")
    connection.execute("CREATE VIEW seen.snapshots AS SELECT * FROM stored.snapshots")
    names = ["allocations", *_TASK_TABLES]
    for name in names[1 : names.index(until) + 1]:
        kind = "VIEW" if name == "events" else "TABLE"
        connection.execute(f"CREATE {kind} seen.{name} AS {_TASK_TABLES[name]}")


def source(
    connection: Connection, tables: DeltaTables, name: str, days: Any = None, table: DeltaTable | None = None
) -> str:
    """Return the SQL that reads a stored table. `days` is a partition filter of delta-rs."""
    files = tables.sources(table or tables.open(name), days)
    if not isinstance(files, list):
        view = f"files_{secrets.token_hex(4)}"
        connection.register(view, files)
        return f"SELECT * FROM {view}"
    if not files:
        return empty_select(STORED[name])
    listed = ", ".join(quote(file) for file in files)
    return f"SELECT * FROM read_parquet([{listed}], union_by_name=true, hive_partitioning=false)"


def _days_until(at: pd.Timestamp | None) -> Any:
    return None if at is None else [("day", "<=", str(at.date()))]


def empty_select(stored: Stored) -> str:
    """Return SQL for no rows with every column.

    In a union, it adds the columns that older versions did not write.
    """
    columns = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in stored.sql_types())
    return f"SELECT {columns} WHERE false"


@_as_decode_error()
def read_frame(connection: Connection, table: Table, rest: str) -> pd.DataFrame:
    """Return the columns of `table` as a frame. `rest` is the SQL after the column list."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    data = connection.sql(f"SELECT {columns} {rest}").to_arrow_table()
    return table.frame(dict(zip(data.column_names, data.columns, strict=True)))


def check_columns(table: Table, columns: Mapping[str, Any]) -> None:
    """Raise ValueError if `table` lacks one of `columns`."""
    names = {column.name for column in table.columns}
    for name in columns:
        if name not in names:
            raise ValueError(f"{table.name} has no column {name!r}. It has: {', '.join(sorted(names))}")


def gaps_to_json(gaps: pd.DataFrame) -> list[dict[str, Any]]:
    """Return gaps as plain JSON: since, until, reason."""
    times = {name: gaps[name].map(pd.Timestamp.isoformat).tolist() for name in ("since", "until")}
    return [
        {"since": since, "until": until, "reason": None if pd.isna(reason) else str(reason)}
        for since, until, reason in zip(*times.values(), gaps["reason"].tolist(), strict=True)
    ]
