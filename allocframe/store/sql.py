"""SQL over a database of tables: one SELECT and its answer, and conditions as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_DTYPES = {
    pa.string(): pd.StringDtype(storage="pyarrow", na_value=np.nan),
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
"""The dtypes of the tables, so that an answer's columns have the same."""


def select(cursor: duckdb.DuckDBPyConnection, query: str, schema: str = "main") -> pd.DataFrame:
    """Return the answer of one SELECT over the tables in `schema`.

    Raises
    ------
    ValueError
        The query is not one SELECT.
    """
    statements = cursor.extract_statements(query)
    if len(statements) != 1 or statements[0].type not in _READS:
        raise ValueError("sql must be one SELECT statement: a snapshot's tables can be read, not changed")
    cursor.execute(f"SET search_path = '{schema},main'")
    data = _in_utc(cursor.sql(statements[0]).to_arrow_table())
    frame: pd.DataFrame = data.to_pandas(types_mapper=_DTYPES.get)
    return frame


def stream_table(connection: duckdb.DuckDBPyConnection, name: str, schema: str) -> pa.RecordBatchReader:
    """Return a table in batches, from a cursor of its own."""
    batches: pa.RecordBatchReader = connection.cursor().sql(f"FROM {schema}.{name}").to_arrow_reader()
    return batches


def semi_join(
    cursor: duckdb.DuckDBPyConnection, keys: pa.Table | None, expressions: Mapping[str, str] | None = None
) -> str:
    """Return the SQL that keeps only the rows with these `keys`; nothing if `keys` is None.

    `expressions` gives the SQL that makes each key; by default it is the column of that name of ``t``.
    """
    if keys is None:
        return ""
    # The expressions may name columns as the keys do, so the keys get names of their own.
    cursor.register("wanted", keys.rename_columns([f"wanted_{key}" for key in keys.column_names]))
    pairs = (f"wanted_{key} = {expressions[key] if expressions else f't.{key}'}" for key in keys.column_names)
    return f"SEMI JOIN wanted ON {' AND '.join(pairs)}"


def where(conditions: Iterable[tuple[str, Any]]) -> str:
    """Return the SQL of conditions: each a column and the value, or list of values, that it must have."""
    clauses = []
    for column, value in conditions:
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        literals = ", ".join(quote(_to_text(item)) for item in values)
        clauses.append(f"CAST({column} AS VARCHAR) IN ({literals or 'NULL'})")
    return " AND ".join(clauses) or "true"


def quote(text: str) -> str:
    """Return text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _to_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _in_utc(data: pa.Table) -> pa.Table:
    """Mark times as UTC: all are, but DuckDB has no type with both nanoseconds and a time zone."""
    fields = [
        pa.field(field.name, pa.timestamp("ns", tz="UTC")) if field.type == pa.timestamp("ns") else field
        for field in data.schema
    ]
    return data.cast(pa.schema(fields))
