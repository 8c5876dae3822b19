"""Decode pages of JSON: DuckDB reads each page as it arrives, and SQL views flatten the rows into tables."""

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
"""The memory that DuckDB may take before it spills to the capture's folder."""

BATCH = 8 << 20
"""Bytes of small pages that are decoded as one batch."""

BATCH_ROWS = 100_000
"""Rows that are read from the database at a time."""

_NO_ROWS = pa.chunked_array([], pa.int64())

STORAGE_ERRORS = (OSError, duckdb.Error)
"""Errors raised if the disk or memory is full, or the folder cannot be written."""

_MISFIT_ERRORS = (duckdb.InvalidInputException, UnicodeDecodeError)
"""Errors raised for a page that does not fit the declared types.

The second comes if DuckDB's message quotes the page and cuts a character in two.
"""

_SUSPECT = wire_schema.suspect_pattern()
_COLUMNS = wire_schema.duckdb_columns()

ISSUES = Table(
    name="issues",
    key=("file", "record", "field"),
    doc="One row per value that did not fit. The table holds NA instead; the captured page holds the value.",
    source="issues",
    columns=(
        Column("file", "file", "category", "the page or file"),
        Column("record", "record", "int", "position of the record in the file, from 0"),
        Column("alloc_id", "alloc_id", "text", "the allocation, if its ID could be read"),
        Column("field", "field", "text", "path of the field, in Nomad's names"),
        Column("problem", "problem", "category", "what was expected, or what was done instead"),
        Column("value", "value", "text", "the value, cut at 200 characters"),
    ),
)


@dataclass(frozen=True)
class PageRows:
    """The allocation IDs of a page, in its order."""

    ids: list[str]


class PageStore:
    """The decoded pages of a capture, in their own database, which spills to the capture's folder."""

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
        self._issues: list[tuple[Page, lenient_json.Issue]] = []
        self._deferred: list[tuple[Page, bytes]] = []
        self._incomplete: list[Page] = []
        self._prepared: set[str] = set()
        for macro in MACROS:
            self._con.execute(macro)
        self._con.execute(
            f"CREATE TABLE pages AS SELECT *, 0::BIGINT AS page FROM {_reader(Path(os.devnull), 0)} LIMIT 0"
        )
        self._create_views("main", "true")

    def read(self, page: Page, body: bytes | None = None) -> PageRows:
        """Decode one page into the table. Pass `body` if it is already in memory. Thread-safe.

        Raises
        ------
        DecodeError
            The page is not complete JSON.
        """
        file = self.capture.file(page)
        if body is None:
            body = file.read_bytes()
        if body.startswith(b"[") and not _is_suspect(body):
            try:
                return self._insert(page, file, len(body))
            except _MISFIT_ERRORS:
                pass  # the lenient reader finds out whether the page is broken or only unusual
        plain, issues = lenient_json.read(body, page.source or page.file_name)
        lenient_file = file.with_suffix(".lenient")
        lenient_file.write_bytes(plain)
        try:
            rows = self._insert(page, lenient_file, len(plain))
        finally:
            lenient_file.unlink()
        with self._lock:
            self._issues += [(page, issue) for issue in issues]
        return rows

    def defer(self, page: Page, body: bytes) -> None:
        """Decode one page later, in a batch: far cheaper for small pages. `flush` decodes the rest."""
        with self._lock:
            self._deferred.append((page, body))
            if sum(deferred.size for deferred, _ in self._deferred) < BATCH:
                return
            batch, self._deferred = self._deferred, []
        self._read_batch(batch)

    def flush(self) -> list[Page]:
        """Decode the deferred pages; return those that are not complete JSON."""
        with self._lock:
            batch, self._deferred = self._deferred, []
        if batch:
            self._read_batch(batch)
        with self._lock:
            incomplete, self._incomplete = self._incomplete, []
        return incomplete

    def _read_batch(self, batch: list[tuple[Page, bytes]]) -> None:
        """Decode several pages as one array, because DuckDB takes milliseconds to open a file."""
        if all(body.startswith(b"[") and body.rstrip().endswith(b"]") for _, body in batch):
            parts = (body.strip()[1:-1].strip() for _, body in batch)
            rows = b"[" + b",\n".join(part for part in parts if part) + b"]"
            batch_file = self.capture.folder / f"{batch[0][0].number:06d}.batch"
            if not _is_suspect(rows):
                batch_file.write_bytes(rows)
                try:
                    self._insert(batch[0][0], batch_file, len(rows))
                    return
                except _MISFIT_ERRORS:
                    pass  # one page is broken or unusual: read each alone to find out which
                finally:
                    batch_file.unlink()
        for page, _ in batch:
            try:
                self.read(page)
            except DecodeError:
                with self._lock:
                    self._incomplete.append(page)

    def _insert(self, page: Page, file: Path, size: int) -> PageRows:
        query = f"INSERT INTO pages SELECT *, {page.number} FROM {_reader(file, size)} RETURNING ID"
        with self._con.cursor() as cursor:
            return PageRows([row[0] for row in cursor.execute(query).fetchall()])

    def drop_duplicates(self) -> int:
        """Keep each allocation's row with the highest ModifyIndex; return the number of deleted rows."""
        deleted = self._con.execute(
            """DELETE FROM pages WHERE rowid IN (SELECT row FROM (SELECT rowid AS row, row_number() OVER (
               PARTITION BY Namespace, ID ORDER BY ModifyIndex DESC NULLS LAST, page DESC) AS place
               FROM pages WHERE ID IS NOT NULL) WHERE place > 1)"""
        ).fetchone()
        self._reclaim()
        return int(deleted[0]) if deleted else 0

    def _create_views(self, schema: str, condition: str) -> None:
        """Create a schema whose tables hold the rows of `pages` that meet an SQL condition."""
        self._con.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        for name, body in VIEWS.items():
            self._con.execute(f"CREATE VIEW {schema}.{name} AS {body.format(s=schema, condition=condition)}")
        for table in TABLES.values():
            self._con.execute(f"CREATE VIEW {schema}.{table.name} AS {table.select(schema)}")

    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str:
        """Create a schema whose tables hold only the allocations that meet `conditions`; return its name.

        A condition is a column of `allocations` and the value, or list of values, that it must have.
        """
        name = f"view_{next(self._schemas)}"
        self._create_views(
            name, f"ID IN (SELECT alloc_id FROM {schema}.allocations WHERE {where(conditions)})"
        )
        return name

    def split(self, schema: str, size: int) -> Iterator[str]:
        """Yield the names of temporary schemas with `size` allocations each, in order of arrival."""
        last_row = self._con.execute("SELECT coalesce(max(rowid), -1) FROM pages").fetchone()
        for start in range(0, (last_row[0] if last_row else -1) + 1, size):
            name = f"view_{next(self._schemas)}"
            condition = f"rowid BETWEEN {start} AND {start + size - 1}"
            if schema != "main":
                condition += f" AND rowid IN (SELECT alloc_row FROM {schema}.listed)"
            self._create_views(name, condition)
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

        `columns` replace the table's own and are computed from them. `only` holds the keys of rows to return.
        """
        table = TABLES[name].with_columns(columns)
        select_list = (
            ", ".join(f"{column.sql} AS {column.name}" for column in columns) or "* EXCLUDE (alloc_row)"
        )
        with self._con.cursor() as cursor:
            keys = {column.name: column.sql for column in TABLES[name].columns}
            table_query = f"{TABLES[name].select(schema, 'alloc_row')} {semi_join(cursor, only, keys)}"
            rows = cursor.sql(f"SELECT {select_list}, alloc_row FROM ({table_query})")
            arrays = table.collect(rows.to_arrow_reader(BATCH_ROWS))
            order = cursor.sql(
                f"SELECT alloc_row FROM {schema}.listed ORDER BY CreateIndex, ID, alloc_row"
            ).fetchnumpy()
        # Sort by the rank of each row's allocation, and only if the rows are not already in that order.
        created = order["alloc_row"]
        rank = np.zeros(int(created.max()) + 1 if len(created) else 1, dtype=np.int32)
        rank[created] = np.arange(len(created))
        places = rank[arrays.pop("alloc_row", _NO_ROWS).to_numpy()]
        sorted_already = bool(np.all(places[:-1] <= places[1:]))
        frame = table.frame(arrays, None if sorted_already else np.argsort(places, kind="stable"))
        if len(frame) >= MANY_ROWS:
            release_memory()
        return frame

    def stream(self, name: str, schema: str = "main") -> pa.RecordBatchReader:
        """Return a table in batches, as SQL sees it."""
        return stream_table(self._con, name, schema)

    def quick_frame(self, name: str) -> pd.DataFrame:
        """Return a table of a small store whose rows arrived in order of creation; plans the query once."""
        table = TABLES[name]
        if name not in self._prepared:
            self._con.execute(f"PREPARE quick_{name} AS {table.select('main')}")
            self._prepared.add(name)
        data = self._con.sql(f"EXECUTE quick_{name}").to_arrow_table()
        return table.frame(dict(zip(data.column_names, data.columns, strict=True)))

    def rows(self, ids: Iterable[str] | None = None) -> pa.Table:
        """Return rows as they are stored, for `put`: those of `ids`, or all."""
        condition = "" if ids is None else f" WHERE {_id_condition(ids)}"
        with self._con.cursor() as cursor:
            rows: pa.Table = cursor.sql(f"FROM pages{condition}").to_arrow_table()
            return rows

    def put(self, rows: pa.Table) -> None:
        """Insert rows from another store. Call `drop` for their allocations first."""
        with self._con.cursor() as cursor:
            cursor.register("new_rows", rows)
            cursor.execute("INSERT INTO pages SELECT * FROM new_rows")
            cursor.unregister("new_rows")

    def drop(self, ids: Iterable[str]) -> None:
        """Delete allocations and free their memory."""
        self._con.execute(f"DELETE FROM pages WHERE {_id_condition(ids)}")
        self._reclaim()

    def clear(self) -> None:
        """Delete every row and every issue, and free their memory."""
        self._con.execute("TRUNCATE pages")
        self._reclaim()
        self._issues.clear()

    def _reclaim(self) -> None:
        """Compress the rows and free the deleted ones, which DuckDB keeps until a checkpoint."""
        self._con.execute("CHECKPOINT")

    def modify_indexes(self) -> dict[str, int]:
        """Return the ModifyIndex of each allocation."""
        rows = self._con.execute(
            "SELECT ID, coalesce(ModifyIndex, 0) FROM pages WHERE ID IS NOT NULL"
        ).fetchall()
        return dict(rows)

    def write_page(self) -> None:
        """Add one page with every row to the capture: the declared fields, with Nomad's names."""
        file = self.capture.folder / "rows.json"
        self._con.execute(
            f"COPY (SELECT * EXCLUDE (page) FROM pages) TO {quote(str(file))} (FORMAT json, ARRAY true)"
        )
        self.capture.add(file.read_bytes(), path="", params={})
        file.unlink()

    def query(self, query: str, schema: str = "main") -> pd.DataFrame:
        """Return the result of one SELECT over the tables."""
        with self._con.cursor() as cursor:
            return select(cursor, query, schema)

    def issues(self) -> pd.DataFrame:
        """Return the values that did not fit, as the `ISSUES` table."""
        rows = [
            {"file": page.source or page.file_name, "record": issue.record, "alloc_id": issue.alloc_id}
            | {"field": issue.field, "problem": issue.problem, "value": issue.value}
            for page, issue in sorted(self._issues, key=lambda item: (item[0].number, item[1].record))
        ]
        data = pa.Table.from_pylist(rows, schema=ISSUES.schema())
        return ISSUES.frame(dict(zip(data.column_names, data.columns, strict=True)))

    def close(self) -> None:
        """Close the database."""
        self._con.close()


def _id_condition(ids: Iterable[str]) -> str:
    """Return the SQL condition that selects these allocations."""
    return f"ID IN ({', '.join(map(quote, ids)) or 'NULL'})"


def _is_suspect(body: bytes) -> bool:
    """Return whether a page may hold values that DuckDB would cast quietly."""
    matches = pc.match_substring_regex(pa.array([body], pa.large_binary()), pattern=_SUSPECT)
    return bool(matches[0].as_py())


def _reader(file: Path, size: int) -> str:
    """Return the SQL that reads a page of `size` bytes, an array of allocations."""
    name, limit = quote(str(file)), max(size + 1, 1 << 20)
    return f"read_json({name}, format='array', columns={_COLUMNS}, maximum_object_size={limit})"
