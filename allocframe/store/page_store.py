"""Pages of JSON to typed columns: DuckDB reads each page as it arrives, and SQL flattens them into the tables."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .._utils.memory import MANY_ROWS, release_memory
from ..errors import DecodeError
from ..tables import TABLES, wire_schema
from ..tables.sql_views import MACROS, VIEWS
from ..tables.table import Column, Table
from . import lenient_json
from .capture import Capture, Page
from .sql import quote, select, semi_join, stream_table, where

MEMORY_LIMIT = "500MB"
"""What DuckDB may hold before it spills to the capture's folder."""

BATCH = 8 << 20
"""Bytes of small pages that are typed together."""

BATCH_ROWS = 100_000
"""Rows that are taken out of the database at a time."""

_NO_ROWS = pa.chunked_array([], pa.int64())

UNSTORED = (OSError, duckdb.Error)
"""What is raised where this machine has no room, or lets nobody write."""

_UNFIT = (duckdb.InvalidInputException, UnicodeDecodeError)
"""What DuckDB raises for a page that does not fit; the second where its message cuts a character of the page in two."""

_SUSPECT = wire_schema.suspect_pattern()
_COLUMNS = wire_schema.duckdb_columns()

ISSUES = Table(
    name="issues",
    key=("file", "record", "field"),
    doc="One row for each value that did not fit; the table holds NA in its place, the captured page what was sent.",
    source="noted",
    columns=(
        Column("file", "file", "category", "the page or file"),
        Column("record", "record", "int", "position of the record in it, from 0"),
        Column("alloc_id", "alloc_id", "text", "the allocation, where its ID could be read"),
        Column("field", "field", "text", "path of the field, in Nomad's names"),
        Column("problem", "problem", "category", "what was expected, or what was done"),
        Column("value", "value", "text", "the value, cut at 200 characters"),
    ),
)


@dataclass(frozen=True)
class PageRows:
    """What a page holds: the allocation IDs in its order."""

    ids: list[str]


class PageStore:
    """The typed columns of a capture's pages, in a database of their own that spills to the capture's folder."""

    def __init__(self, capture: Capture, *, threads: int | None = None) -> None:
        self.capture = capture
        self._con = duckdb.connect(
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": str(capture.folder / "spill"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                **({"threads": threads} if threads else {}),
            }
        )
        self._lock = threading.Lock()
        self._schemas = itertools.count(1)
        self._notes: list[tuple[Page, lenient_json.Issue]] = []
        self._waiting: list[tuple[Page, bytes]] = []
        self._broken: list[Page] = []
        self._prepared: set[str] = set()
        for macro in MACROS:
            self._con.execute(macro)
        self._con.execute(
            f"CREATE TABLE pages AS SELECT *, 0::BIGINT AS page FROM {_reader(Path(os.devnull), 0)} LIMIT 0"
        )
        self._views("main", "true")

    def read(self, page: Page, body: bytes | None = None) -> PageRows:
        """Type one page, whose text need not be read again where it is at hand; safe to call from several threads.

        Raises
        ------
        DecodeError
            The page is not whole JSON.
        """
        file = self.capture.file(page)
        if body is None:
            body = file.read_bytes()
        if body.startswith(b"[") and not _is_suspect(body):
            try:
                return self._insert(page, file, len(body))
            except _UNFIT:
                pass  # the careful reader finds out whether the page is broken or only unusual
        plain, issues = lenient_json.read(body, page.source or page.file_name)
        careful = file.with_suffix(".careful")
        careful.write_bytes(plain)
        try:
            rows = self._insert(page, careful, len(plain))
        finally:
            careful.unlink()
        with self._lock:
            self._notes += [(page, issue) for issue in issues]
        return rows

    def defer(self, page: Page, body: bytes) -> None:
        """Type one page together with others, which costs far less for small ones; `flush` ends it."""
        with self._lock:
            self._waiting.append((page, body))
            if sum(waiting.size for waiting, _ in self._waiting) < BATCH:
                return
            batch, self._waiting = self._waiting, []
        self._read_together(batch)

    def flush(self) -> list[Page]:
        """Type what was deferred; return the pages that turned out not to be whole."""
        with self._lock:
            batch, self._waiting = self._waiting, []
        if batch:
            self._read_together(batch)
        with self._lock:
            broken, self._broken = self._broken, []
        return broken

    def _read_together(self, batch: list[tuple[Page, bytes]]) -> None:
        """Type several pages as one array, because DuckDB takes milliseconds to open a file."""
        if all(body.startswith(b"[") and body.rstrip().endswith(b"]") for _, body in batch):
            parts = (body.strip()[1:-1].strip() for _, body in batch)
            rows = b"[" + b",\n".join(part for part in parts if part) + b"]"
            together = self.capture.folder / f"{batch[0][0].number:06d}.batch"
            if not _is_suspect(rows):
                together.write_bytes(rows)
                try:
                    self._insert(batch[0][0], together, len(rows))
                    return
                except _UNFIT:
                    pass  # one of them is broken or unusual: find out which
                finally:
                    together.unlink()
        for page, _ in batch:
            try:
                self.read(page)
            except DecodeError:
                with self._lock:
                    self._broken.append(page)

    def _insert(self, page: Page, file: Path, size: int) -> PageRows:
        query = f"INSERT INTO pages SELECT *, {page.number} FROM {_reader(file, size)} RETURNING ID"
        with self._con.cursor() as cursor:
            return PageRows([row[0] for row in cursor.execute(query).fetchall()])

    def drop_duplicates(self) -> int:
        """Keep only the row with the highest ModifyIndex of each allocation; return the number of dropped rows."""
        twice = self._con.execute(
            """DELETE FROM pages WHERE rowid IN (SELECT row FROM (SELECT rowid AS row, row_number() OVER (
               PARTITION BY Namespace, ID ORDER BY ModifyIndex DESC NULLS LAST, page DESC) AS place
               FROM pages WHERE ID IS NOT NULL) WHERE place > 1)"""
        ).fetchone()
        self._reclaim()
        return int(twice[0]) if twice else 0

    def _views(self, schema: str, where: str) -> None:
        self._con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        for name, body in VIEWS.items():
            self._con.execute(f"CREATE VIEW {schema}.{name} AS {body.format(s=schema, where=where)}")
        for table in TABLES.values():
            self._con.execute(f"CREATE VIEW {schema}.{table.name} AS {table.select(schema)}")

    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str:
        """Make a schema in which every table holds only the allocations that meet `conditions`; return its name.

        A condition is a column of `allocations` and the value, or list of values, that it must have.
        """
        name = f"view_{next(self._schemas)}"
        self._views(name, f"ID IN (SELECT alloc_id FROM {schema}.allocations WHERE {where(conditions)})")
        return name

    def split(self, schema: str, size: int) -> Iterator[str]:
        """Make schemas in turn that hold so many allocations each, in the order in which they came; yield their names."""
        found = self._con.execute("SELECT coalesce(max(rowid), -1) FROM pages").fetchone()
        for start in range(0, (found[0] if found else -1) + 1, size):
            name = f"view_{next(self._schemas)}"
            within = f"rowid BETWEEN {start} AND {start + size - 1}"
            self._views(
                name,
                within
                if schema == "main"
                else f"{within} AND rowid IN (SELECT alloc_row FROM {schema}.listed)",
            )
            yield name
            self._con.execute(f"DROP SCHEMA {name} CASCADE")

    def frame(
        self,
        name: str,
        schema: str = "main",
        columns: tuple[Column, ...] = (),
        only: pa.Table | None = None,
    ) -> pd.DataFrame:
        """Return a table as a DataFrame, in the order in which the allocations were created.

        `columns` are others, made of those of the table; `only` holds the keys of the rows that are wanted.
        """
        table = TABLES[name].with_columns(columns)
        made = ", ".join(f"{column.sql} AS {column.name}" for column in columns) or "* EXCLUDE (alloc_row)"
        with self._con.cursor() as cursor:
            keys = {column.name: column.sql for column in TABLES[name].columns}
            rows_of = f"{TABLES[name].select(schema, 'alloc_row')} {semi_join(cursor, only, keys)}"
            rows = cursor.sql(f"SELECT {made}, alloc_row FROM ({rows_of})")
            arrays = table.collect(rows.to_arrow_reader(BATCH_ROWS))
            order = cursor.sql(
                f"SELECT alloc_row FROM {schema}.listed ORDER BY CreateIndex, ID, alloc_row"
            ).fetchnumpy()
        created = order["alloc_row"]
        rank = np.zeros(int(created.max()) + 1 if len(created) else 1, dtype=np.int32)
        rank[created] = np.arange(len(created))
        places = rank[arrays.pop("alloc_row", _NO_ROWS).to_numpy()]
        sorted_already = bool(np.all(places[:-1] <= places[1:]))
        found = table.frame(arrays, None if sorted_already else np.argsort(places, kind="stable"))
        if len(found) >= MANY_ROWS:
            release_memory()
        return found

    def stream(self, name: str, schema: str = "main") -> pa.RecordBatchReader:
        """Return a table as SQL sees it, some rows at a time."""
        return stream_table(self._con, name, schema)

    def quick_frame(self, name: str) -> pd.DataFrame:
        """Return `frame` of a small store whose rows came in order of creation; the query is planned only once."""
        table = TABLES[name]
        if name not in self._prepared:
            self._con.execute(f"PREPARE quick_{name} AS {table.select('main')}")
            self._prepared.add(name)
        data = self._con.sql(f"EXECUTE quick_{name}").to_arrow_table()
        return table.frame(dict(zip(data.column_names, data.columns, strict=True)))

    def rows(self, ids: Iterable[str] | None = None) -> pa.Table:
        """Return rows as they are stored, for `put`: of the allocations named, or all."""
        which = "" if ids is None else f" WHERE {_among(ids)}"
        with self._con.cursor() as cursor:
            found: pa.Table = cursor.sql(f"FROM pages{which}").to_arrow_table()
            return found

    def put(self, rows: pa.Table) -> None:
        """Take in rows of another store; what was there of their allocations is `drop`ped before."""
        with self._con.cursor() as cursor:
            cursor.register("more", rows)
            cursor.execute("INSERT INTO pages SELECT * FROM more")
            cursor.unregister("more")

    def drop(self, ids: Iterable[str]) -> None:
        """Let go of allocations and their memory."""
        self._con.execute(f"DELETE FROM pages WHERE {_among(ids)}")
        self._reclaim()

    def clear(self) -> None:
        """Let go of every row and its memory, and of what was noted about them."""
        self._con.execute("TRUNCATE pages")
        self._reclaim()
        self._notes.clear()

    def _reclaim(self) -> None:
        """Compress the rows and free those that were deleted, which DuckDB keeps until a checkpoint."""
        self._con.execute("CHECKPOINT")

    def modify_indexes(self) -> dict[str, int]:
        """Return the ModifyIndex of each allocation."""
        found = self._con.execute(
            "SELECT ID, coalesce(ModifyIndex, 0) FROM pages WHERE ID IS NOT NULL"
        ).fetchall()
        return dict(found)

    def write_page(self) -> None:
        """Write every row into the capture as one page: the declared fields, as Nomad names them."""
        file = self.capture.folder / "rows.json"
        self._con.execute(
            f"COPY (SELECT * EXCLUDE (page) FROM pages) TO {quote(str(file))} (FORMAT json, ARRAY true)"
        )
        self.capture.add(file.read_bytes(), path="", params={})
        file.unlink()

    def query(self, query: str, schema: str = "main") -> pd.DataFrame:
        """Answer one SELECT over the tables."""
        with self._con.cursor() as cursor:
            return select(cursor, query, schema)

    def issues(self) -> pd.DataFrame:
        """Return what did not fit, as the `ISSUES` table."""
        noted = [
            {"file": page.source or page.file_name, "record": issue.record, "alloc_id": issue.alloc_id}
            | {"field": issue.field, "problem": issue.problem, "value": issue.value}
            for page, issue in sorted(self._notes, key=lambda note: (note[0].number, note[1].record))
        ]
        data = pa.Table.from_pylist(noted, schema=ISSUES.schema())
        return ISSUES.frame(dict(zip(data.column_names, data.columns, strict=True)))

    def close(self) -> None:
        """Let go of the database."""
        self._con.close()


def _among(ids: Iterable[str]) -> str:
    return f"ID IN ({', '.join(map(quote, ids)) or 'NULL'})"


def _is_suspect(body: bytes) -> bool:
    found = pc.match_substring_regex(pa.array([body], pa.large_binary()), pattern=_SUSPECT)
    return bool(found[0].as_py())


def _reader(file: Path, size: int) -> str:
    name, limit = quote(str(file)), max(size + 1, 1 << 20)
    return f"read_json({name}, format='array', columns={_COLUMNS}, maximum_object_size={limit})"
