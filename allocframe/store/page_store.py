"""The decoded pages of a capture: Arrow columns in memory, on disk if they are many, and SQL over them."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .._utils.memory import MANY_ROWS, release_memory
from ..errors import AllocframeError
from ..tables import SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Table, cast_column
from . import lenient_json
from .capture import Capture, Page, read_file
from .decode import ALLOC_ROW, BATCH, ROW_BITS, Records, build_tables, decode_list, decode_parts
from .json_files import extract_allocations
from .parts import cut_at_allocations
from .segments import Segments
from .sql import lock_files, select, select_with_files, semi_join, where
from .worker_pool import WorkerPool, count_processes

MEMORY_LIMIT = "500MB"
"""The memory that DuckDB may take for a query before it spills to the capture's folder."""

HUGE_BYTES = 2 << 30
"""Of this much JSON, memory counts for more than the second that giving it back and taking it again costs."""

BATCH_ROWS = 100_000
"""Rows that are read from the database at a time."""

STORAGE_ERRORS = (OSError, duckdb.Error)
"""Errors raised if the disk or memory is full, or the folder cannot be written."""

_NO_ROWS = pa.chunked_array([], pa.int64())

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


class PageStore:
    """The decoded pages of a capture.

    Tables are appended in batches. SQL reads them where they are, so nothing is copied into a database.
    """

    def __init__(self, capture: Capture, *, threads: int | None = None) -> None:
        self.capture = capture
        self._threads = threads
        self._is_closed = False
        self._lock = threading.RLock()
        self._turn = threading.Lock()
        """Held by the thread that decodes: taking turns by Python's own lock takes a tenth longer."""
        self._names = itertools.count(1)
        self._next_page = 1 << 30
        """The number of the next page without a file: rows of `put` come after those of pages."""
        self._pending: list[Records] = []
        self._pool: WorkerPool | None = None
        self._segments = Segments(capture.folder / "tables")
        self._issues: list[tuple[str, int, lenient_json.Issue]] = []
        self._selected: dict[str, pa.Array[Any] | None] = {"main": None}
        self._order: tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None

    @cached_property
    def _con(self) -> duckdb.DuckDBPyConnection:
        """The database that answers SQL, made when there is some: a small page is read in less time."""
        connection = duckdb.connect(
            config={
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": str(self.capture.folder / "spill"),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                **({"threads": self._threads} if self._threads else {}),
            }
        )
        connection.execute("SET enable_progress_bar = false")
        lock_files(connection)  # its tables come from Arrow
        return connection

    def read(self, page: Page, body: bytes | None = None) -> list[str]:
        """Decode one page; return its allocation IDs. Pass `body` if it is in memory. Thread-safe.

        Raises
        ------
        DecodeError
            The page is not complete JSON.
        """
        if self._pool is not None and (decoded := self._pool.read(page)) is not None:
            return decoded
        return self._read_here(page, body)

    def read_file(self, page: Page) -> str | None:
        """Capture and decode the file that a page was made for; return a note if some of it was left out.

        Of a file that holds more than a list, the page keeps the allocations. Thread-safe.

        Raises
        ------
        DecodeError
            The file is not complete JSON, or holds something else.
        """
        if self._pool is not None and self._pool.read(page, is_file=True) is not None:
            self.capture.update_size(page)
            return None
        with self._turn:
            body, note = read_file(Path(page.source)), None
            parts = decode_list(body, page.number, page.source)
            if parts is None:
                body, note = extract_allocations(body, page.source)
                parts = decode_parts(body, page.number, page.source)
            self.capture.rewrite(page, body)
            for records in parts:
                self._defer(records)
        return note

    def _read_here(self, page: Page, body: bytes | None = None) -> list[str]:
        if body is None:
            body = self.capture.file(page).read_bytes()
        ids: list[str] = []
        with self._turn:
            for records in decode_parts(body, page.number, page.source or page.file_name):
                ids += records.ids
                self._defer(records)
        return ids

    def use_processes(self) -> None:
        """Decode in other processes too, until the tables are used; in none if the system starts none."""
        with self._lock, contextlib.suppress(OSError):
            if self._pool is None and (count := count_processes()):
                folder = self.capture.folder / "tables"
                self._pool = WorkerPool(self.capture, folder, self._adopt, self._read_here, count)

    def _adopt(self, files: dict[str, Path], issues: list[Any]) -> None:
        with self._lock:
            self._segments.adopt(files)
            self._issues += [(source, page, lenient_json.Issue(*issue)) for source, page, issue in issues]

    def _defer(self, records: Records) -> None:
        """Build the columns of small pages together."""
        with self._lock:
            self._pending.append(records)
            if sum(pending.size for pending in self._pending) < BATCH:
                return
            batch, self._pending = self._pending, []
        self._append(batch)

    def _append(self, batch: Sequence[Records]) -> None:
        tables = build_tables(batch)
        with self._lock:
            self._segments.append(tables)
            self._issues += [(page.source, page.page, issue) for page in batch for issue in page.issues]

    def _flush(self) -> None:
        """Build what `_defer` left.

        Raises
        ------
        AllocframeError
            The store is closed: its tables would read as empty.
        """
        if self._is_closed:
            raise AllocframeError("this snapshot is closed: only tables that were used before are left")
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.finish(self._append_pending)
            self._append_pending()
            if pool is not None and sum(page.size for page in self.capture.pages) > HUGE_BYTES:
                self._segments.spill()  # a rest in memory would keep Arrow from returning what is free
                release_memory()  # what pages took would come on top of all that is made of their tables

    def _append_pending(self) -> None:
        batch, self._pending = self._pending, []
        if batch:
            self._append(batch)

    def drop_duplicates(self) -> int:
        """Keep each allocation's row with the highest ModifyIndex; return the number of deleted rows."""
        self._flush()
        rows = self._columns("allocations", "namespace", "alloc_id", "modify_index", ALLOC_ROW)
        ids = rows["alloc_id"]
        if pc.count_distinct(ids, mode="all").as_py() == len(ids):
            return 0
        frame = pd.DataFrame(
            {
                "namespace": cast_column(rows["namespace"], pa.large_string()).to_pandas(),
                "alloc_id": ids.to_pandas(),
                # Of two equal ones the page that was fetched last wins.
                "index": pd.array(rows["modify_index"].to_pylist(), "UInt64"),
                "row": rows[ALLOC_ROW].to_numpy(),
            }
        )
        frame = frame[frame["alloc_id"].notna()]
        newest_first = frame.sort_values(["index", "row"], ascending=False, na_position="last", kind="stable")
        older = newest_first[newest_first.duplicated(["namespace", "alloc_id"])]
        self._segments.delete(older["row"].tolist())
        return len(older)

    def keep_newest(self, count: int) -> None:
        """Keep the `count` allocations that were created last."""
        rows = self._columns("allocations", "create_index", "alloc_id", ALLOC_ROW)
        order = pc.sort_indices(rows, [("create_index", "descending"), ("alloc_id", "descending")])
        self._segments.delete(rows[ALLOC_ROW].take(order[count:]).to_numpy().tolist())

    def _columns(self, name: str, *columns: str) -> pa.Table:
        """Return some columns of a table, of all rows."""
        self._flush()
        return pa.concat_tables(self._segments.scan(name, columns))

    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str:
        """Create a schema whose tables hold only the allocations that meet `conditions`; return its name.

        A condition is a column of `allocations` and the value, or list of values, that it must have.
        """
        name = f"view_{next(self._names)}"
        with self._cursor(schema, ("allocations",)) as cursor:
            rows = cursor.sql(f"SELECT {ALLOC_ROW} FROM stored_allocations WHERE {where(conditions)}")
            chosen = rows.to_arrow_table()[ALLOC_ROW].combine_chunks()
        within = self._selected[schema]
        self._selected[name] = chosen if within is None else chosen.filter(pc.is_in(chosen, within))
        return name

    def split(self, schema: str, size: int) -> Iterator[str]:
        """Yield the names of temporary schemas with `size` allocations each, in order of arrival."""
        rows = self._selected[schema]
        if rows is None:
            rows = self._columns("allocations", ALLOC_ROW)[ALLOC_ROW].combine_chunks()
        rows = rows.sort()
        for start in range(0, len(rows), size):
            name = f"view_{next(self._names)}"
            self._selected[name] = rows.slice(start, size)
            yield name
            del self._selected[name]

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
        self._flush()
        table = TABLES[name].with_columns(columns)
        if only is None and (not columns or self._needs_no_sql(columns)):
            arrays = self._stored(name, schema, [*(column.name for column in table.columns), ALLOC_ROW])
        else:
            arrays = self._computed(table, name, schema, only)
        order = self._creation_order(arrays.pop(ALLOC_ROW, _NO_ROWS).to_numpy())
        frame = table.frame(arrays, order)
        if len(frame) >= MANY_ROWS:
            release_memory()
        return frame

    def parts(
        self, name: str, schema: str, columns: tuple[Column, ...], rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray[Any, Any]]]:
        """Yield `columns` of a table, about `rows` rows at a time, without splitting an allocation.

        Rows come in order of arrival, which needs no sorting of the whole table. Each part comes with the
        place of each row's allocation by creation.
        """
        table = TABLES[name].with_columns(columns)
        by_number, rank = self._ranks()
        for batches in cut_at_allocations(self._batches(table, name, schema), rows):
            arrays = table.collect(batches)
            numbers = arrays.pop(ALLOC_ROW, _NO_ROWS).to_numpy()
            places = rank[np.searchsorted(by_number, numbers)] if len(numbers) else numbers
            yield table.frame(arrays), places

    def _batches(
        self, table: Table, name: str, schema: str, only: pa.Table | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns that SQL computes of a stored table; with `only`, of the rows with these keys.

        They come from one file after the other: read at once, they take most of a gigabyte.
        """
        self._flush()
        if only is None and self._needs_no_sql(table.columns):
            for part in self.scan(name, schema, [*(column.name for column in table.columns), ALLOC_ROW]):
                yield from part.to_batches()
            return
        parts = self._segments
        found = parts.relations(name, apart=True) if only is None else parts.of_allocations(name, only)
        for relation in found:
            with self._cursor(schema, (name,), relation) as cursor:
                yield from _select(cursor, table, name, semi_join(cursor, only))

    def _needs_no_sql(self, columns: tuple[Column, ...]) -> bool:
        """Return whether columns are read as they are stored.

        SQL costs a small table more than it reads; of files it reads only the texts that rows have.
        """
        return not self._segments.has_files and all(column.sql == column.name for column in columns)

    def _computed(
        self, table: Table, name: str, schema: str, only: pa.Table | None
    ) -> dict[str, pa.ChunkedArray[Any]]:
        """Return columns that SQL computes of a stored table."""
        return table.collect(self._batches(table, name, schema, only))

    def _stored(
        self, name: str, schema: str, columns: Sequence[str] | None
    ) -> dict[str, pa.ChunkedArray[Any]]:
        """Return the columns of a stored table: these, or all."""
        rows = pa.concat_tables(self.scan(name, schema, columns))
        return dict(zip(rows.column_names, rows.columns, strict=True))

    def scan(self, name: str, schema: str, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        """Yield a stored table in parts, in no order: these columns, or all."""
        self._flush()
        return self._segments.scan(name, columns, self._selected[schema])

    def _creation_order(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """Return the order of rows by the creation of their allocations; None if they have it already."""
        by_number, rank = self._ranks()
        places = rank[np.searchsorted(by_number, rows)] if len(rows) else rows
        return None if np.all(places[:-1] <= places[1:]) else np.argsort(places, kind="stable")

    def _ranks(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return the numbers of all rows, ascending, and the place of each by creation."""
        if self._order is None or self._order[0] != self._segments.version:
            created = self._columns("allocations", "create_index", "alloc_id", ALLOC_ROW)
            order = pc.sort_indices(
                created, [(name, "ascending") for name in ("create_index", "alloc_id", ALLOC_ROW)]
            )
            numbers = created[ALLOC_ROW].to_numpy()
            places = np.empty(len(order), dtype=np.int64)
            places[order.to_numpy()] = np.arange(len(order))
            by_number = np.argsort(numbers, kind="stable")
            self._order = self._segments.version, numbers[by_number], places[by_number]
        return self._order[1], self._order[2]

    def stream(self, name: str, schema: str = "main") -> pa.RecordBatchReader:
        """Return a table in batches, as SQL sees it."""
        self._flush()
        stored = TABLES[name].stored_schema()
        tables = self._segments.scan(name, stored.names, self._selected[schema])
        batches = (batch for table in tables for batch in table.cast(stored).to_batches())
        return pa.RecordBatchReader.from_batches(stored, batches)

    def rows(self, ids: Iterable[str] | None = None) -> dict[str, pa.Table]:
        """Return rows as they are stored, for `put`: those of `ids`, or all."""
        self._flush()
        selected = None if ids is None else self._rows_of(ids)
        return {name: pa.concat_tables(self._segments.scan(name, selected=selected)) for name in TABLES}

    def put(self, rows: dict[str, pa.Table]) -> None:
        """Insert rows from another store. Call `drop` for their allocations first."""
        numbers = rows["allocations"][ALLOC_ROW].to_numpy()
        with self._lock:
            page, self._next_page = self._next_page, self._next_page + 1
            by_number = np.sort(numbers)
            self._segments.append(
                {
                    name: table.set_column(
                        table.column_names.index(ALLOC_ROW),
                        ALLOC_ROW,
                        pa.array(
                            (page << ROW_BITS) + np.searchsorted(by_number, table[ALLOC_ROW].to_numpy())
                        ),
                    )
                    for name, table in rows.items()
                }
            )

    def drop(self, ids: Iterable[str]) -> None:
        """Delete allocations and free their memory."""
        self._flush()
        self._segments.delete(self._rows_of(ids).to_numpy().tolist())

    def _rows_of(self, ids: Iterable[str]) -> pa.Array[Any]:
        """Return the numbers of these allocations' rows."""
        rows = self._columns("allocations", "alloc_id", ALLOC_ROW)
        wanted = pa.array(list(ids), pa.large_string())
        return rows.filter(pc.is_in(rows["alloc_id"], wanted))[ALLOC_ROW].combine_chunks()

    def clear(self) -> None:
        """Delete every row and every issue."""
        with self._lock:
            self._pending.clear()
            self._segments.clear()
            self._issues.clear()

    def size(self) -> int:
        """Return the bytes of the tables in memory."""
        return self._segments.size

    def namespaces(self) -> set[str | None]:
        """Return the namespaces that have allocations."""
        return set(pc.unique(self._columns("allocations", "namespace")["namespace"]).to_pylist())

    def modify_indexes(self) -> dict[str, int]:
        """Return the ModifyIndex of each allocation."""
        rows = self._columns("allocations", "alloc_id", "modify_index")
        pairs = zip(rows["alloc_id"].to_pylist(), rows["modify_index"].to_pylist(), strict=True)
        return {alloc_id: index or 0 for alloc_id, index in pairs if alloc_id is not None}

    def save(self, capture: Capture) -> None:
        """Add each table to a capture, as a page, for `TableStore.load`."""
        self._flush()
        for name in SNAPSHOT_TABLES:
            page = capture.add(b"", kind="table", path=name, params={})
            stored = TABLES[name].stored_schema()
            with pq.ParquetWriter(capture.file(page), stored) as writer:
                for table in self._segments.scan(name, stored.names):
                    writer.write_table(table.cast(stored))
            capture.update_size(page)

    def query(self, query: str, schema: str = "main", *, allow_files: bool = False) -> pd.DataFrame:
        """Return the result of one SELECT over the tables, or with `allow_files` over files, too."""
        if allow_files:
            return select_with_files({name: self.stream(name, schema) for name in TABLES}, query)
        # a view costs more than a query of a small table; a query that names none may ask which there are
        named = [name for name in TABLES if name in query.lower()] or list(TABLES)
        with self._cursor(schema, named) as cursor:
            for name in named:
                cursor.execute(
                    f"CREATE TEMP VIEW {name} AS SELECT * EXCLUDE ({ALLOC_ROW}) FROM stored_{name}"
                )
            return select(cursor, query)

    @contextlib.contextmanager
    def _cursor(
        self, schema: str, names: Iterable[str], relation: Any = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection that sees the stored tables of a schema, as ``stored_`` and the name.

        With a `relation` of `Segments.relations`, it sees only that part of a table.
        """
        self._flush()
        selected = self._selected[schema]
        with self._con.cursor() as cursor:
            if selected is not None:
                cursor.register("selected", pa.table({ALLOC_ROW: selected}))
            for name in names:
                parts = []
                relations = self._segments.relations(name) if relation is None else [relation]
                for number, part in enumerate(relations):
                    cursor.register(f"part_{number}_{name}", part)
                    parts.append(f"FROM part_{number}_{name}")
                only = "" if selected is None else f"SEMI JOIN selected USING ({ALLOC_ROW})"
                cursor.execute(f"CREATE TEMP VIEW stored_{name} AS FROM ({' UNION ALL '.join(parts)}) {only}")
            yield cursor

    def issues(self) -> pd.DataFrame:
        """Return the values that did not fit, as the `ISSUES` table."""
        self._flush()
        rows = [
            {"file": source, "record": issue.record, "alloc_id": issue.alloc_id}
            | {"field": issue.field, "problem": issue.problem, "value": issue.value}
            for source, _, issue in sorted(self._issues, key=lambda item: (item[1], item[2].record))
        ]
        data = pa.Table.from_pylist(rows, schema=ISSUES.schema())
        return ISSUES.frame(dict(zip(data.column_names, data.columns, strict=True)))

    def close(self) -> None:
        """Close the database, and forget the tables."""
        self._is_closed = True
        if "_con" in self.__dict__:
            self._con.close()
        if self._pool is not None:
            self._pool.close()
        self._segments.clear()


def _select(
    cursor: duckdb.DuckDBPyConnection, table: Table, name: str, only: str = ""
) -> pa.RecordBatchReader:
    """Return the columns of a table, which SQL computes of the stored one, in batches."""
    selected = ", ".join(f"{column.sql} AS {column.name}" for column in table.columns)
    rows = cursor.sql(f"SELECT {selected}, {ALLOC_ROW} FROM stored_{name} AS t {only}")
    batches: pa.RecordBatchReader = rows.to_arrow_reader(BATCH_ROWS)
    return batches
