"""The tables of a snapshot without captured pages, such as one from an archive, in their own database."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._utils.interrupts import finalize
from .._utils.temporary import make_folder, remove_folder
from ..errors import DecodeError
from ..tables import SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Kind, Table
from .capture import Capture
from .decode import ALLOC_ROW
from .page_store import BATCH_ROWS, ISSUES
from .parts import cut_at_allocations
from .sql import lock_files, quote, select, select_with_files, semi_join, stream_table, where
from .store import Store

MEMORY_LIMIT = "1GB"
"""The memory that DuckDB may take before it spills."""

_ORDER = {"task_states": ", t.task", "events": ", t.task, t.seq", "reschedules": ", t.seq"}


class TableStore:
    """Tables in a database of their own."""

    declared: ClassVar[Mapping[str, Table]] = TABLES

    def __init__(self) -> None:
        spill = make_folder()
        self._remove = finalize(self, remove_folder, spill)
        self._con = connect(str(spill))
        self._schemas = itertools.count(1)
        self._is_locked = False

    @classmethod
    def load(cls, capture: Capture) -> TableStore:
        """Return the tables that `save` put into a capture.

        Raises
        ------
        DecodeError
            The capture holds something else.
        """
        store, files = cls(), {page.path: quote(str(capture.file(page))) for page in capture.pages}
        try:
            if set(files) != set(SNAPSHOT_TABLES):
                raise DecodeError("the saved tables are not those of a snapshot")
            for name in SNAPSHOT_TABLES:
                source = f"read_parquet({files[name]})"
                saved = set(store._con.sql(f"FROM {source}").columns)
                columns = ", ".join(_saved_or_derived(column, saved) for column in TABLES[name].columns)
                store._con.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM {source}")
        except (duckdb.Error, DecodeError) as error:
            store.close()
            capture.close()
            raise DecodeError(f"the saved tables cannot be read: {' '.join(str(error).split())}") from None
        return store

    @classmethod
    def copy_of(cls, other: Store, incomplete: Iterable[tuple[str, str]]) -> TableStore:
        """Return a copy of another store's tables; `incomplete` has the tasks of which events are missing."""
        store = cls()
        try:
            for name in SNAPSHOT_TABLES:
                store._con.register("batches", other.stream(name, "main"))
                store._con.execute(f"CREATE TABLE {name} AS SELECT * FROM batches")
                store._con.unregister("batches")
            tasks = list(incomplete)
            known = pa.table(
                {
                    "alloc_id": pa.array([alloc_id for alloc_id, _ in tasks], pa.string()),
                    "task": pa.array([task for _, task in tasks], pa.string()),
                }
            )
            store._con.register("incomplete", known)
            store._con.execute(
                "UPDATE task_states SET events_truncated = (alloc_id, task) IN "
                "(SELECT (alloc_id, task) FROM incomplete)"
            )
            store._con.unregister("incomplete")
        except BaseException:
            store.close()
            raise
        return store

    def save(self, capture: Capture) -> None:
        """Add each table to a capture, as a page."""
        for name in SNAPSHOT_TABLES:
            page = capture.add(b"", kind="table", path=name, params={})
            batches = self.stream(name)
            with pq.ParquetWriter(capture.file(page), batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            capture.update_size(page)

    def frame(
        self,
        name: str,
        schema: str = "main",
        columns: tuple[Column, ...] = (),
        only: pa.Table | None = None,
    ) -> pd.DataFrame:
        """Return a table as a DataFrame, in order of the allocations' creation; see `PageStore.frame`."""
        table = self.declared[name].with_columns(columns)
        with self._con.cursor() as cursor:
            selected = [
                f"{column.sql if columns else column.name} AS {column.name}" for column in table.columns
            ]
            batches = self._select(cursor, name, schema, selected, semi_join(cursor, only))
            return table.frame(table.collect(batches))

    def parts(
        self, name: str, schema: str, columns: tuple[Column, ...], rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray[Any, Any]]]:
        """Yield a table in parts of whole allocations, in order of their creation; see `PageStore.parts`."""
        table = self.declared[name].with_columns(columns)
        selected = [f"{column.sql} AS {column.name}" for column in table.columns]
        with self._con.cursor() as cursor:
            batches = self._select(cursor, name, schema, [*selected, f"made_at AS {ALLOC_ROW}"])
            for part in cut_at_allocations(batches, rows):
                arrays = table.collect(part)
                numbers = arrays.pop(ALLOC_ROW, pa.chunked_array([], pa.int64()))
                yield table.frame(arrays), numbers.to_numpy()

    def _select(
        self, cursor: duckdb.DuckDBPyConnection, name: str, schema: str, selected: list[str], only: str = ""
    ) -> pa.RecordBatchReader:
        """Return columns of a table in batches, in order of the allocations' creation."""
        key = self.declared["allocations"].key
        order = ", ".join([*key[:-1], "create_index", "alloc_id"])
        rows = cursor.sql(
            f"WITH a AS (SELECT {', '.join(key)}, row_number() OVER (ORDER BY {order}) - 1 AS made_at "
            f"FROM {schema}.allocations), "
            f"t AS (SELECT t.*, made_at FROM {schema}.{name} t JOIN a USING ({', '.join(key)})) "
            f"SELECT {', '.join(selected)} FROM t {only} ORDER BY made_at{_ORDER.get(name, '')}"
        )
        batches: pa.RecordBatchReader = rows.to_arrow_reader(BATCH_ROWS)
        return batches

    def stream(self, name: str, schema: str = "main") -> pa.RecordBatchReader:
        """Return a table in batches."""
        return stream_table(self._con, name, schema)

    def scan(self, name: str, schema: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of a table in batches, in no order."""
        with self._con.cursor() as cursor:
            yield from cursor.sql(f"SELECT {', '.join(columns)} FROM {schema}.{name}").to_arrow_reader()

    def query(self, query: str, schema: str = "main", *, allow_files: bool = False) -> pd.DataFrame:
        """Return the answer of one SELECT over the tables, or with `allow_files` over files, too."""
        if allow_files:
            return select_with_files({name: self.stream(name, schema) for name in SNAPSHOT_TABLES}, query)
        self._lock_files()
        with self._con.cursor() as cursor:
            return select(cursor, query, schema)

    def _lock_files(self) -> None:
        """Let no query reach a file from now on: by now, the tables are in the database."""
        if not self._is_locked:
            lock_files(self._con)
            self._is_locked = True

    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str:
        """Make a schema with only the allocations that meet `conditions`; return its name."""
        name = f"view_{next(self._schemas)}"
        self._con.execute(f"CREATE SCHEMA {name}")
        key = ", ".join(self.declared["allocations"].key)
        matching = f"SELECT {key} FROM {schema}.allocations WHERE {where(conditions)}"
        for table in SNAPSHOT_TABLES:
            self._con.execute(
                f"CREATE VIEW {name}.{table} AS SELECT * FROM {schema}.{table} WHERE ({key}) IN ({matching})"
            )
        return name

    def split(self, schema: str, size: int) -> Iterator[str]:
        """Yield the schema as it is: these tables come from an archive, and are never appended to one."""
        yield schema

    def issues(self) -> pd.DataFrame:
        """Return the `ISSUES` table without rows: recorded values had the right type or were left out."""
        return ISSUES.empty()

    def close(self) -> None:
        """Close the database and remove what it spilled."""
        self._con.close()
        self._remove()


def _saved_or_derived(column: Column, saved: set[str]) -> str:
    """Return the SQL of a column, which files of an older version may lack."""
    if not column.derived or column.name in saved:
        return column.name
    return f"CAST({column.derived} AS {_SQL_TYPES[column.kind]}) AS {column.name}"


_SQL_TYPES: dict[Kind, str] = {
    "text": "VARCHAR", "category": "VARCHAR", "int": "BIGINT", "uint": "UBIGINT", "float": "DOUBLE",
    "bool": "BOOLEAN", "time": "TIMESTAMP_NS", "duration": "BIGINT",
}  # fmt: skip


def connect(spill: str) -> duckdb.DuckDBPyConnection:
    """Return an empty database that spills to a folder."""
    connection = duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    # DuckDB would write it between the lines of a command.
    connection.execute("SET enable_progress_bar = false")
    return connection
