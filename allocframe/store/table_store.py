"""The tables of a snapshot that has no answers as sent: they are kept as they are, in a database of their own."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import duckdb
import pandas as pd
import pyarrow as pa

from ..errors import DecodeError
from ..tables import SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Table
from .capture import Capture
from .page_store import BATCH_ROWS, ISSUES
from .sql import among, answer, quoted, streamed, terms

MEMORY_LIMIT = "1GB"
"""What DuckDB may hold before it spills."""

_ORDER = {"task_states": ", t.task", "events": ", t.task, t.seq", "reschedules": ", t.seq"}


class TableStore:
    """Tables in a database of their own; stands in for a capture's decoder."""

    declared: ClassVar[Mapping[str, Table]] = TABLES

    def __init__(self) -> None:
        spill = tempfile.mkdtemp(prefix="allocframe-")
        self._remove = weakref.finalize(self, shutil.rmtree, spill, ignore_errors=True)
        self._con = connect(spill)
        self._schemas = itertools.count(1)

    @classmethod
    def of(cls, capture: Capture) -> TableStore:
        """Return the tables that `save` put into a capture.

        Raises
        ------
        DecodeError
            They are not these tables.
        """
        made, files = cls(), {page.path: quoted(str(capture.file(page))) for page in capture.pages}
        try:
            if set(files) != set(SNAPSHOT_TABLES):
                raise DecodeError("the saved tables are not those of a snapshot")
            for name in SNAPSHOT_TABLES:
                source = f"read_parquet({files[name]})"
                saved = set(made._con.sql(f"FROM {source}").columns)
                columns = ", ".join(_saved_or_derived(column, saved) for column in TABLES[name].columns)
                made._con.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM {source}")
        except (duckdb.Error, DecodeError) as error:
            made.close()
            capture.close()
            raise DecodeError(f"the saved tables cannot be read: {' '.join(str(error).split())}") from None
        return made

    def save(self, capture: Capture) -> None:
        """Put the tables into a capture, each as a page."""
        for name in SNAPSHOT_TABLES:
            page = capture.add(b"", kind="table", path=name, params={})
            with self._con.cursor() as cursor:
                cursor.execute(f"COPY main.{name} TO {quoted(str(capture.file(page)))} (FORMAT parquet)")
            capture.measure(page)

    def frame(
        self,
        name: str,
        schema: str = "main",
        columns: tuple[Column, ...] = (),
        only: pa.Table | None = None,
    ) -> pd.DataFrame:
        """Return a table as a DataFrame, in the order in which the allocations were created; see `PageStore.frame`."""
        table, key = self.declared[name].narrowed(columns), self.declared["allocations"].key
        made = ", ".join(
            f"{column.sql if columns else column.name} AS {column.name}" for column in table.columns
        )
        order = ", ".join([*(f"t.{part}" for part in key[:-1]), "made_at", "t.alloc_id"])
        with self._con.cursor() as cursor:
            rows = cursor.sql(
                f"WITH t AS (SELECT t.*, a.create_index AS made_at FROM {schema}.{name} t "
                f"JOIN {schema}.allocations a USING ({', '.join(key)})) "
                f"SELECT {made} FROM t {among(cursor, only)} ORDER BY {order}{_ORDER.get(name, '')}"
            )
            return table.frame(table.taken(rows.to_arrow_reader(BATCH_ROWS)))

    def stream(self, name: str, schema: str = "main") -> pa.RecordBatchReader:
        """Return a table as SQL sees it, some rows at a time."""
        return streamed(self._con, name, schema)

    def query(self, query: str, schema: str = "main") -> pd.DataFrame:
        """Answer one SELECT over the tables."""
        with self._con.cursor() as cursor:
            return answer(cursor, query, schema)

    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str:
        """Make a schema in which every table holds only the allocations that meet `conditions`; return its name."""
        name = f"view_{next(self._schemas)}"
        self._con.execute(f"CREATE SCHEMA {name}")
        key = ", ".join(self.declared["allocations"].key)
        chosen = f"SELECT {key} FROM {schema}.allocations WHERE {terms(conditions)}"
        for table in SNAPSHOT_TABLES:
            self._con.execute(
                f"CREATE VIEW {name}.{table} AS SELECT * FROM {schema}.{table} WHERE ({key}) IN ({chosen})"
            )
        return name

    def split(self, schema: str, size: int) -> Iterator[str]:
        """Yield the schema as it is: what was kept is of what an archive has, and goes into none as a whole."""
        yield schema

    def issues(self) -> pd.DataFrame:
        """Return the `ISSUES` table without rows: what did not fit was noted when it was recorded."""
        return ISSUES.empty()

    def close(self) -> None:
        """Let go of the database."""
        self._con.close()
        self._remove()


def _saved_or_derived(column: Column, saved: set[str]) -> str:
    """Return the SQL of a column, which files of an older version may lack."""
    return (
        f"{column.derived} AS {column.name}" if column.derived and column.name not in saved else column.name
    )


def connect(spill: str) -> duckdb.DuckDBPyConnection:
    """Return an empty database that spills into a folder."""
    return duckdb.connect(
        config={
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": spill,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
