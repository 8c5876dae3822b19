"""Compaction and retention: days of an archive written anew, with each row once, or with only what is still needed."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..store.sql import quote, select
from ..store.table_store import connect
from ..tables.task_states import MAX_EVENTS
from .checkpoint import state
from .delta import DeltaTables, Overtaken
from .schema import STORED, VERSION, Stored
from .views import Connection, again, derive, empty, plain_gaps, reading, source

_LATEST = 100
_TRIES = 5
_ABANDONED_S = 3600
"""Rows of an append that never came to its end are cleared away when they are this old; twice what an append may take."""

# Rows of one job lie together, because they repeat each other's text.
_SEEN = "seen_at, seen_at_ns"
_ONCE = {
    # Of rows that say the same, the first stays.
    "allocations": f"""SELECT * FROM told QUALIFY (modify_index, modified_at, gone) IS DISTINCT FROM
        lag((modify_index, modified_at, gone)) OVER (PARTITION BY alloc_id ORDER BY {_SEEN})
        ORDER BY job_id, alloc_id, {_SEEN}""",
    "task_states": f"""SELECT * FROM told QUALIFY row_number() OVER
        (PARTITION BY alloc_id, task, modify_index ORDER BY {_SEEN}) = 1 ORDER BY alloc_id, task, {_SEEN}""",
    "events": f"""SELECT * REPLACE (max(prev_key) OVER same AS prev_key, first(seen_at) OVER (same ORDER BY {_SEEN}) AS seen_at,
          first(seen_at_ns) OVER (same ORDER BY {_SEEN}) AS seen_at_ns)
        FROM told WHERE NOT EXISTS (SELECT 1 FROM earlier e WHERE e.alloc_id = told.alloc_id AND e.task = told.task
          AND e.event_key = told.event_key AND (e.prev_key IS NOT NULL OR told.prev_key IS NULL))
        WINDOW same AS (PARTITION BY alloc_id, task, event_key)
        QUALIFY row_number() OVER (same ORDER BY modify_index NULLS LAST, seq, {_SEEN}) = 1
        ORDER BY job_id, alloc_id, task, modify_index, seq""",
    "reschedules": f"""SELECT * FROM told QUALIFY row_number() OVER
        (PARTITION BY alloc_id, seq, modify_index ORDER BY {_SEEN}) = 1 ORDER BY alloc_id, seq, {_SEEN}""",
    "snapshots": f"SELECT * FROM told ORDER BY {_SEEN}, position",
}
_OF_LIVE = """SELECT t.* FROM told t JOIN live l ON l.alloc_id = t.alloc_id
    WHERE l.modify_index IS NOT DISTINCT FROM t.modify_index"""
_NEEDED = {
    "allocations": f"{_OF_LIVE} AND l.row_seen_us = epoch_us(t.seen_at) ORDER BY alloc_id",
    "task_states": f"{_OF_LIVE} ORDER BY alloc_id, task",
    "events": """SELECT t.* FROM told t SEMI JOIN rings r
        ON r.alloc_id = t.alloc_id AND r.task = t.task AND r.event_key = t.event_key ORDER BY alloc_id, task, modify_index, seq""",
    "reschedules": f"{_OF_LIVE} ORDER BY alloc_id, seq",
    "snapshots": "SELECT t.* FROM told t SEMI JOIN needed n ON n.batch = t.batch",
}


def compact(tables: DeltaTables) -> None:
    """Write each day that has several files anew, with each row once; readers and recorders may go on meanwhile."""
    with tempfile.TemporaryDirectory(prefix="allocframe-") as spill:
        for name in STORED:
            for day, files in days(tables, name).items():
                if files > 1:
                    _anew(tables, name, day, spill, _ONCE[name])
    tables.clear()


def retain(tables: DeltaTables, keep_days: int) -> None:
    """Remove the days before the last `keep_days`, but for what allocations that are still there need."""
    with tempfile.TemporaryDirectory(prefix="allocframe-") as spill:
        last = reading(tables, None, lambda connection: _remember(connection, spill))
        if last is None:
            return
        before = str((pd.Timestamp(last) - pd.Timedelta(days=keep_days - 1)).date())
        for name in STORED:
            if name == "snapshots":
                _needed_batches(tables, before, spill)
            for day in days(tables, name):
                if day < before:
                    _anew(tables, name, day, spill, _NEEDED[name])
    tables.clear()


def days(tables: DeltaTables, name: str) -> dict[str, int]:
    """Return how many files each day of a table has, oldest first."""
    actions = pa.table(tables.open(name).get_add_actions(flatten=True))
    return dict(sorted(Counter(str(day) for day in actions["partition.day"].to_pylist()).items()))


def info(tables: DeltaTables) -> dict[str, Any]:
    """Return what there is, as plain JSON."""
    known, gaps = reading(
        tables, None, lambda connection: (state(connection), select(connection, "FROM stored.gaps"))
    )
    sizes = {}
    for name in STORED:
        actions = pa.table(tables.open(name).get_add_actions(flatten=True))
        listed = sorted(str(day) for day in actions["partition.day"].to_pylist())
        sizes[name] = {
            "days": len(set(listed)), "first_day": listed[0] if listed else None, "last_day": listed[-1] if listed else None,
            "files": len(listed), "rows": pc.sum(actions["num_records"]).as_py() or 0, "bytes": pc.sum(actions["size_bytes"]).as_py() or 0,
        }  # fmt: skip
    recorders = known.recorders
    return {
        "archive": tables.where,
        "schema_version": VERSION,
        "last_seen_at": known.at.isoformat() if known.at is not None else None,
        "index": known.index,
        "live": len(known.live),
        "recorders": dict(
            zip(
                recorders["recorder"].astype("str"),
                recorders["seen_at"].map(pd.Timestamp.isoformat),
                strict=True,
            )
        ),
        "gaps": plain_gaps(gaps.tail(_LATEST)),
        "tables": sizes,
    }


def _remember(connection: Connection, spill: str) -> Any:
    """Note what allocations that are still there need, their last rows and as many events as Nomad keeps; return the last day."""
    derive(connection)
    connection.execute(
        f"""COPY (SELECT alloc_id, modify_index, epoch_us(n.row_seen_at) AS row_seen_us FROM seen.allocations
        JOIN seen.newest n USING (alloc_id) WHERE gone_at IS NULL) TO {quote(spill + "/live.parquet")}"""
    )
    connection.execute(
        f"""COPY (SELECT alloc_id, task, event_key FROM seen.links
        SEMI JOIN (SELECT alloc_id FROM seen.allocations WHERE gone_at IS NULL) USING (alloc_id)
        QUALIFY row_number() OVER (PARTITION BY alloc_id, task ORDER BY seq DESC) <= {MAX_EVENTS}) TO {quote(spill + "/rings.parquet")}"""
    )
    return connection.sql("SELECT max(seen_at)::DATE FROM stored.observations").fetchall()[0][0]


def _needed_batches(tables: DeltaTables, before: str, spill: str) -> None:
    """Note which appends wrote the rows that stay in the days that go."""
    with connect(spill) as connection:
        old = [("day", "<", before)]
        parts = [
            f"SELECT batch FROM ({source(connection, tables, name, old)})"
            for name in STORED
            if name != "snapshots"
        ]
        connection.execute(f"COPY ({' UNION '.join(parts)}) TO {quote(spill + '/needed.parquet')}")


def _anew(tables: DeltaTables, name: str, day: str, spill: str, query: str) -> None:
    """Write a day anew; when recorders keep writing to it, it stays as it is until the next time."""

    def work() -> None:
        with connect(spill) as connection:
            _rewrite(connection, tables, name, day, spill, query)

    for _ in range(_TRIES):
        with contextlib.suppress(Overtaken):
            again(work)
            return


def _rewrite(
    connection: Connection, tables: DeltaTables, name: str, day: str, spill: str, query: str
) -> None:
    table, stored = tables.open(name), STORED[name]
    # What counts is read after the table is opened: every row in it that ever will count, or may, is known to.
    told = source(connection, tables, "snapshots")
    connection.execute(f"CREATE TABLE committed AS SELECT DISTINCT batch FROM ({told})")
    views = {"rows": [("day", "=", day)]} | ({"earlier": [("day", "<", day)]} if name == "events" else {})
    for view, chosen in views.items():
        read = source(connection, tables, name, chosen, table)
        connection.execute(f"CREATE VIEW {view} AS SELECT * FROM ({empty(stored)} UNION ALL BY NAME {read})")
    connection.execute("CREATE VIEW told AS SELECT * FROM rows WHERE batch IN (FROM committed)")
    for noted in Path(spill).glob("*.parquet"):
        connection.execute(f"CREATE VIEW {noted.stem} AS SELECT * FROM read_parquet({quote(str(noted))})")
    fresh = f"{time.time_ns() - _ABANDONED_S * 10**9:016x}"
    waiting = f"SELECT * FROM rows WHERE batch NOT IN (FROM committed) AND batch > {quote(fresh)}"
    kept = connection.sql(f"(SELECT * FROM ({query})) UNION ALL BY NAME ({waiting})")
    tables.replace(table, day, _typed(kept, stored, day))


def _typed(rows: Any, stored: Stored, day: str) -> pa.RecordBatchReader:
    """Return rows as they came from the files, batch by batch, as they are to be stored."""
    schema = stored.schema()
    dated = pd.Timestamp(day).date()

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in rows.to_arrow_reader(100_000):
            data = pa.Table.from_batches([batch]).select(schema.names[:-1])
            data = data.append_column("day", pa.array([dated] * len(data), pa.date32())).cast(schema)
            yield from data.to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
