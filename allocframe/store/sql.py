"""SQL of people and programs over a database of tables: one SELECT and its answer, and conditions as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa


def answer(cursor: duckdb.DuckDBPyConnection, query: str, schema: str = "main") -> pd.DataFrame:
    """Answer one SELECT over the tables in `schema`.

    Raises
    ------
    ValueError
        It is not one SELECT.
    """
    statements = cursor.extract_statements(query)
    if len(statements) != 1 or statements[0].type not in _READS:
        raise ValueError("give one SELECT statement: the tables of a snapshot can be read, not changed")
    cursor.execute(f"SET search_path = '{schema},main'")
    data = _in_utc(cursor.sql(statements[0]).to_arrow_table())
    found: pd.DataFrame = data.to_pandas(types_mapper=_TYPES.get)
    return found


def streamed(connection: duckdb.DuckDBPyConnection, name: str, schema: str) -> pa.RecordBatchReader:
    """Return a table, some rows at a time, from a cursor of its own."""
    rows: pa.RecordBatchReader = connection.cursor().sql(f"FROM {schema}.{name}").to_arrow_reader()
    return rows


def among(
    cursor: duckdb.DuckDBPyConnection, only: pa.Table | None, named: Mapping[str, str] | None = None
) -> str:
    """Return the SQL that leaves only the rows whose keys are in a table; of none, nothing. `named` says what keys are made of."""
    if only is None:
        return ""
    # Under names of their own: what keys are made of is said in names that the rows have.
    cursor.register("wanted", only.rename_columns([f"wanted_{key}" for key in only.column_names]))
    pairs = (f"wanted_{key} = {named[key] if named else f't.{key}'}" for key in only.column_names)
    return f"SEMI JOIN wanted ON {' AND '.join(pairs)}"


def terms(conditions: Iterable[tuple[str, Any]]) -> str:
    """Return the SQL of conditions: a column and the value, or list of values, that it must have."""
    found = []
    for column, wanted in conditions:
        values = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        found.append(
            f"CAST({column} AS VARCHAR) IN ({', '.join(quoted(_as_text(value)) for value in values) or 'NULL'})"
        )
    return " AND ".join(found) or "true"


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_READS = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
_TYPES = {
    pa.string(): pd.StringDtype(storage="pyarrow", na_value=np.nan),
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def _in_utc(data: pa.Table) -> pa.Table:
    """Say of times that they are in UTC, as those of the tables are."""
    fields = [
        pa.field(field.name, pa.timestamp("ns", tz="UTC")) if field.type == pa.timestamp("ns") else field
        for field in data.schema
    ]
    return data.cast(pa.schema(fields))


def quoted(text: str) -> str:
    """Return text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
