"""Compaction and retention: rewrite days without duplicate rows, or with only the rows still needed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from .._utils.progress import Progress, shown
from .._utils.temporary import temporary_folder
from ..store.sql import quote, select
from ..store.table_store import connect
from ..tables import HISTORY, TABLES
from ..tables.task_states import MAX_EVENTS
from .checkpoint import read_state
from .delta import CommitConflict, DeltaTables
from .schema import STORED, Stored
from .views import (
    Connection,
    derive,
    empty_select,
    gaps_to_json,
    interrupted_by,
    read_archive,
    retry_reading,
    source,
)

_MEMORY_LIMIT = "250MB"
"""The memory that DuckDB may take to rewrite a day. Writing the day takes as much again."""

_MOST_ROWS = 400_000
"""Rows of a day that are compared at once. A longer day is cut, by allocation."""

_MAX_GAPS = 100
_MAX_ATTEMPTS = 5
_ABANDONED_S = 3600
"""Age in seconds at which rows of an unfinished append are removed: twice what an append may take."""

_SEEN = "seen_at, seen_at_ns"


def _without_repeated(name: str) -> str:
    """Return the query for the rows of a history without those that say nothing new."""
    stored = STORED[name]
    # Hashes of secrets differ each time, so of changed fields only the key is compared.
    same = (
        [*stored.table.key, "version_before"]
        if name == "job_changes"
        else [field.name for field in stored.fields() if field.name not in ("seen_at", "seen_at_ns", "batch")]
    )
    columns = ", ".join(f'"{name}"' for name in same)  # `at` is a word of SQL
    return f"""SELECT * FROM committed_rows QUALIFY row_number() OVER
        (PARTITION BY {columns} ORDER BY {_SEEN}) = 1 ORDER BY {columns}, {_SEEN}"""


def _newest_of(key: str, order: str, but: str = "true") -> str:
    """Return the query for the newest rows of each key, if no later day has any."""
    keys = key.split(", ")
    is_same = " AND ".join(f"l.{name} IS NOT DISTINCT FROM t.{name}" for name in keys)
    return f"""SELECT t.* FROM committed_rows t
        WHERE {but} AND NOT EXISTS (SELECT 1 FROM later l WHERE {is_same})
        QUALIFY rank() OVER (PARTITION BY {key} ORDER BY {order}) = 1 ORDER BY {key}"""


# Compaction keeps the first of equal rows. It sorts rows by job, because they repeat each other's text.
_WITHOUT_DUPLICATES = {
    "allocations": f"""SELECT * FROM committed_rows QUALIFY (modify_index, modified_at, gone) IS DISTINCT FROM
        lag((modify_index, modified_at, gone)) OVER (PARTITION BY alloc_id ORDER BY {_SEEN})
        ORDER BY job_id, alloc_id, {_SEEN}""",
    "task_states": f"""SELECT * FROM committed_rows QUALIFY row_number() OVER
        (PARTITION BY alloc_id, task, modify_index ORDER BY {_SEEN}) = 1 ORDER BY alloc_id, task, {_SEEN}""",
    # An event that an earlier day holds is left out, unless only this day knows its predecessor.
    "events": f"""SELECT * REPLACE (max(prev_key) OVER same AS prev_key,
          first(seen_at) OVER (same ORDER BY {_SEEN}) AS seen_at,
          first(seen_at_ns) OVER (same ORDER BY {_SEEN}) AS seen_at_ns)
        FROM committed_rows c WHERE NOT EXISTS (SELECT 1 FROM earlier e
          WHERE e.alloc_id = c.alloc_id AND e.task = c.task AND e.event_key = c.event_key
            AND (e.prev_key IS NOT NULL OR c.prev_key IS NULL))
        WINDOW same AS (PARTITION BY alloc_id, task, event_key)
        QUALIFY row_number() OVER (same ORDER BY modify_index NULLS LAST, seq, {_SEEN}) = 1
        ORDER BY job_id, alloc_id, task, modify_index, seq""",
    "reschedules": f"""SELECT * FROM committed_rows QUALIFY row_number() OVER
        (PARTITION BY alloc_id, seq, modify_index ORDER BY {_SEEN}) = 1 ORDER BY alloc_id, seq, {_SEEN}""",
    "snapshots": f"SELECT * FROM committed_rows ORDER BY {_SEEN}, position",
    **{name: _without_repeated(name) for name in HISTORY},
}
_ROWS_OF_LIVE = """SELECT t.* FROM committed_rows t JOIN live l ON l.alloc_id = t.alloc_id
    WHERE l.modify_index IS NOT DISTINCT FROM t.modify_index"""
_NEEDED = {
    "allocations": f"{_ROWS_OF_LIVE} AND l.row_seen_us = epoch_us(t.seen_at) ORDER BY alloc_id",
    "task_states": f"{_ROWS_OF_LIVE} ORDER BY alloc_id, task",
    "events": """SELECT t.* FROM committed_rows t SEMI JOIN rings r
        ON r.alloc_id = t.alloc_id AND r.task = t.task AND r.event_key = t.event_key
        ORDER BY alloc_id, task, modify_index, seq""",
    "reschedules": f"{_ROWS_OF_LIVE} ORDER BY alloc_id, seq",
    "snapshots": "SELECT t.* FROM committed_rows t SEMI JOIN needed n ON n.batch = t.batch",
    **dict.fromkeys(HISTORY, "SELECT * FROM committed_rows WHERE false"),
    # What a job and a node are like now may have been seen long ago.
    "job_versions": _newest_of("namespace, job_id", "job_modify_index DESC"),
    "job_changes": _newest_of("namespace, job_id", "job_modify_index DESC"),
    "nodes": _newest_of("node_id", "seen_at DESC, seen_at_ns DESC", "NOT gone"),
}


def compact(tables: DeltaTables, stop: threading.Event | None = None, *, progress: Progress = False) -> None:
    """Rewrite each day that has several files, without duplicate rows.

    Readers and recorders can continue meanwhile. Once `stop` is set, it gives up, with some days left as they
    were.
    """
    try:
        with temporary_folder() as spill, shown(progress) as show:
            names = tables.names()
            for number, name in enumerate(names):
                for day, files in days(tables, name).items():
                    show(number, len(names), f"compacting {name}")
                    if files > 1:
                        _rewrite_day(tables, name, day, spill, _WITHOUT_DUPLICATES[name], stop)
                    if stop is not None and stop.is_set():
                        return
        tables.clear()
    except Exception:
        if stop is None or not stop.is_set():
            raise


def retain(tables: DeltaTables, keep_days: int) -> None:
    """Remove all but the last `keep_days` days, except for rows that live allocations need."""
    with temporary_folder() as spill:
        last = read_archive(tables, lambda connection: _save_needs_of_live(connection, spill))
        if last is None:
            return
        before = str((pd.Timestamp(last) - pd.Timedelta(days=keep_days - 1)).date())
        for name in tables.names():
            if name == "snapshots":
                _save_needed_batches(tables, before, spill)
            for day in days(tables, name):
                if day < before:
                    _rewrite_day(tables, name, day, spill, _NEEDED[name])
    tables.clear()


def days(tables: DeltaTables, name: str) -> dict[str, int]:
    """Return the number of files of each day of a table, oldest first."""
    actions = pa.table(tables.open(name).get_add_actions(flatten=True))
    return dict(sorted(Counter(str(day) for day in actions["partition.day"].to_pylist()).items()))


def info(tables: DeltaTables) -> dict[str, Any]:
    """Return a summary of the archive as plain JSON."""
    state, gaps = read_archive(
        tables, lambda connection: (read_state(connection), select(connection, "FROM stored.gaps"))
    )
    recorders = state.recorders
    return {
        "archive": tables.location,
        "schema_version": tables.schema_version(tables.open("snapshots")),
        "last_seen_at": state.at.isoformat() if state.at is not None else None,
        "index": state.index,
        "live": len(state.live),
        "recorders": dict(
            zip(
                recorders["recorder"].astype("str"),
                recorders["seen_at"].map(pd.Timestamp.isoformat),
                strict=True,
            )
        ),
        "gaps": gaps_to_json(gaps.tail(_MAX_GAPS)),
        "tables": sizes(tables),
    }


def sizes(tables: DeltaTables) -> dict[str, dict[str, Any]]:
    """Return the days, files, rows and bytes of each table."""
    found = {}
    for name in tables.names():
        actions = pa.table(tables.open(name).get_add_actions(flatten=True))
        file_days = sorted(str(day) for day in actions["partition.day"].to_pylist())
        found[name] = {
            "days": len(set(file_days)),
            "first_day": file_days[0] if file_days else None,
            "last_day": file_days[-1] if file_days else None,
            "files": len(file_days),
            "rows": pc.sum(actions["num_records"]).as_py() or 0,
            "bytes": pc.sum(actions["size_bytes"]).as_py() or 0,
        }
    return found


def _save_needs_of_live(connection: Connection, spill: str) -> Any:
    """Save which rows and events live allocations need, as files for `_rewrite`; return the last day.

    They need their last rows, and as many events as Nomad keeps.
    """
    derive(connection)
    connection.execute(
        f"""COPY (SELECT alloc_id, modify_index, epoch_us(n.row_seen_at) AS row_seen_us FROM seen.allocations
        JOIN seen.newest n USING (alloc_id) WHERE gone_at IS NULL) TO {quote(spill + "/live.parquet")}"""
    )
    connection.execute(
        f"""COPY (SELECT alloc_id, task, event_key FROM seen.links
        SEMI JOIN (SELECT alloc_id FROM seen.allocations WHERE gone_at IS NULL) USING (alloc_id)
        QUALIFY row_number() OVER (PARTITION BY alloc_id, task ORDER BY seq DESC) <= {MAX_EVENTS})
        TO {quote(spill + "/rings.parquet")}"""
    )
    return connection.sql("SELECT max(seen_at)::DATE FROM stored.observations").fetchall()[0][0]


def _save_needed_batches(tables: DeltaTables, before: str, spill: str) -> None:
    """Save which appends wrote the rows that stay in removed days.

    Without their observations, they would not count.
    """
    with connect(spill) as connection:
        old = [("day", "<", before)]
        parts = [
            f"SELECT batch FROM ({source(connection, tables, name, old)})"
            for name in tables.names()
            if name != "snapshots"
        ]
        connection.execute(f"COPY ({' UNION '.join(parts)}) TO {quote(spill + '/needed.parquet')}")


def _rewrite_day(
    tables: DeltaTables, name: str, day: str, spill: str, query: str, stop: threading.Event | None = None
) -> None:
    """Rewrite a day. If recorders keep writing to it, leave it to the next run."""

    def work() -> None:
        with connect(spill) as connection, interrupted_by(stop, connection):
            connection.execute(f"SET memory_limit = '{_MEMORY_LIMIT}'")
            _rewrite(connection, tables, name, day, spill, query)

    for _ in range(_MAX_ATTEMPTS):
        with contextlib.suppress(CommitConflict):
            retry_reading(work)
            return


def _rewrite(
    connection: Connection, tables: DeltaTables, name: str, day: str, spill: str, query: str
) -> None:
    table, stored = tables.open(name), STORED[name]
    # Read the committed batches after opening the table. The other way round, rows of a batch that is
    # committed in between would be taken for uncommitted ones.
    observations = source(connection, tables, "snapshots")
    connection.execute(f"CREATE TABLE committed AS SELECT DISTINCT batch FROM ({observations})")
    views = {"rows": [("day", "=", day)]}
    if name == "events":
        views["earlier"] = [("day", "<", day)]
    if name in HISTORY:
        views["later"] = [("day", ">", day)]
    parts = _count_parts(table, name, day)
    for view, partitions in views.items():
        rows = source(connection, tables, name, partitions, table)
        # The part is a variable, so that the views need not be made again for the next one.
        within = "" if parts == 1 else f"WHERE hash(alloc_id) % {parts} = getvariable('part')"
        connection.execute(
            f"CREATE VIEW {view} AS SELECT * FROM ({empty_select(stored)} UNION ALL BY NAME {rows}) {within}"
        )
    connection.execute("CREATE VIEW committed_rows AS SELECT * FROM rows WHERE batch IN (FROM committed)")
    for file in Path(spill).glob("*.parquet"):
        connection.execute(f"CREATE VIEW {file.stem} AS SELECT * FROM read_parquet({quote(str(file))})")
    # A batch begins with its time, so batches that may still be committed are the ones that sort after this.
    oldest_open = f"{time.time_ns() - _ABANDONED_S * 10**9:016x}"
    uncommitted = f"SELECT * FROM rows WHERE batch NOT IN (FROM committed) AND batch > {quote(oldest_open)}"

    def read_parts() -> Iterator[pa.RecordBatch]:
        for part in range(parts):
            connection.execute(f"SET VARIABLE part = {part}")
            result = connection.sql(f"(SELECT * FROM ({query})) UNION ALL BY NAME ({uncommitted})")
            yield from result.to_arrow_reader(100_000)

    tables.replace(name, table, day, _with_stored_types(read_parts(), stored, day))


def _count_parts(table: DeltaTable, name: str, day: str) -> int:
    """Return in how many parts a day is rewritten: memory must not grow with the cluster."""
    if name not in TABLES:
        return 1
    actions = pa.table(table.get_add_actions(flatten=True)).to_pylist()
    rows = sum(action["num_records"] or 0 for action in actions if str(action["partition.day"]) == day)
    return max(1, -(-rows // _MOST_ROWS))


def _with_stored_types(rows: Iterator[pa.RecordBatch], stored: Stored, day: str) -> pa.RecordBatchReader:
    """Return the rows of queries in the stored schema, batch by batch."""
    schema = stored.schema()
    date = pd.Timestamp(day).date()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            data = pa.Table.from_batches([batch]).select(schema.names[:-1])
            data = data.append_column("day", pa.array([date] * len(data), pa.date32())).cast(schema)
            yield from data.to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
