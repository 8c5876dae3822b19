"""SQL over a database of tables: one SELECT and its answer, and conditions as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa

_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest"})
"""The functions in FROM that read nothing but their arguments."""

_FORBIDDEN_FUNCTIONS = frozenset(
    {"getenv", "getvariable", "current_setting", "nextval", "currval", "write_log"}
)
_DTYPES = {
    pa.string(): pd.StringDtype(storage="pyarrow", na_value=np.nan),
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
"""The dtypes of the tables, so that an answer's columns have the same."""


def lock_files(connection: duckdb.DuckDBPyConnection, folders: Iterable[str] = ()) -> None:
    """Let the SQL of a database reach no file except below `folders`, for good. It may still spill.

    No setting can be changed afterwards but the schemas that are searched. This stands behind the check of
    each query: a function or syntax that the check does not know fails here.
    """
    spill = connection.execute("SELECT current_setting('temp_directory')").fetchall()[0][0]
    listed = ", ".join(map(quote, [*folders, *([str(spill)] if spill else [])]))
    connection.execute(f"SET allowed_directories = [{listed}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def select_with_files(tables: Mapping[str, pa.RecordBatchReader], query: str) -> pd.DataFrame:
    """Return the answer of one SELECT over these tables and whatever files it names."""
    with duckdb.connect() as connection:
        for name, batches in tables.items():
            connection.register("batches", batches)
            connection.execute(f"CREATE TABLE {name} AS FROM batches")
            connection.unregister("batches")
        return select(connection, query, allow_files=True)


def select(
    cursor: duckdb.DuckDBPyConnection, query: str, schema: str = "main", *, allow_files: bool = False
) -> pd.DataFrame:
    """Return the answer of one SELECT over the tables in `schema`; with `allow_files`, also over files.

    Raises
    ------
    ValueError
        The query is not one SELECT, or reads something else than the tables.
    """
    statement = _only_select(cursor, query) if allow_files else _check_select(cursor, query)
    cursor.execute(f"SET search_path = '{schema},main'")
    data = _in_utc(cursor.sql(statement).to_arrow_table())
    frame: pd.DataFrame = data.to_pandas(types_mapper=_DTYPES.get)
    return frame


def _only_select(cursor: duckdb.DuckDBPyConnection, query: str) -> duckdb.Statement:
    """Return the statement of a query that is one SELECT."""
    statements = cursor.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise ValueError("sql must be one SELECT statement: a snapshot's tables can be read, not changed")
    return statements[0]


def _check_select(cursor: duckdb.DuckDBPyConnection, query: str) -> duckdb.Statement:
    """Return the statement of a query that only reads tables of the database.

    DuckDB can read and write any file from SQL, and a file such as /proc/self/environ holds the token. So the
    parsed query is checked: whatever it names must be a table here, or a function that reads no file.
    """
    statement = _only_select(cursor, query)
    parsed = cursor.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    tree = json.loads(parsed[0]) if parsed else {"error": True}
    if tree["error"]:
        raise ValueError("sql must be one SELECT statement: a snapshot's tables can be read, not changed")
    nodes = list(_walk(tree["statements"]))
    listed = cursor.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT internal "
        "UNION ALL SELECT view_name FROM duckdb_views() WHERE NOT internal"
    ).fetchall()
    tables = {str(name) for (name,) in listed}
    # Outside of its WITH, DuckDB would take such a name for a file, so it must be a plain one.
    names = {entry["key"] for node in nodes for entry in (node.get("cte_map") or {}).get("map", [])}
    tables |= {name for name in names if re.fullmatch(r"[A-Za-z_]\w*", name)}
    known = {name.lower() for name in tables}
    for node in nodes:
        kind = str(node.get("type"))
        if kind.endswith("_QUERY_NODE"):  # a DELETE, INSERT, UPDATE or MERGE within WITH
            raise ValueError("sql must be one SELECT statement: a snapshot's tables can be read, not changed")
        if kind == "BASE_TABLE" and str(node["table_name"]).lower() not in known:
            name = node["table_name"]
            raise ValueError(f"sql can read only the tables here, and there is none named {name!r}")
        if kind == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in _TABLE_FUNCTIONS:
                raise ValueError(f"sql can read only the tables here, not {name}()")
        if node.get("class") == "FUNCTION" and str(node.get("function_name")).lower() in _FORBIDDEN_FUNCTIONS:
            raise ValueError(f"sql can read only the tables here: {node['function_name']}() is not allowed")
    return statement


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in JSON."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


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
    """Return the SQL of conditions: each a column and the value, or list of values, that it must have.

    None is what is missing.
    """
    clauses = []
    for column, value in conditions:
        values = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
        literals = ", ".join(quote(_to_text(item)) for item in values if item is not None)
        clause = f"CAST({column} AS VARCHAR) IN ({literals or 'NULL'})"
        clauses.append(f"({clause} OR {column} IS NULL)" if None in values else clause)
    return " AND ".join(clauses) or "true"


def quote(text: str) -> str:
    """Return text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def in_sql(time: pd.Timestamp) -> str:
    """Return a time in UTC as DuckDB casts it to text: the fraction has no zeros at its end."""
    fraction = f"{time.microsecond * 1000 + time.nanosecond:09d}".rstrip("0")
    return f"{time:%Y-%m-%d %H:%M:%S}" + (f".{fraction}" if fraction else "")


def _to_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _in_utc(data: pa.Table) -> pa.Table:
    """Mark times as UTC: all are, but DuckDB has no type with both nanoseconds and a time zone."""
    fields = [
        pa.field(field.name, pa.timestamp("ns", tz="UTC")) if field.type == pa.timestamp("ns") else field
        for field in data.schema
    ]
    return data.cast(pa.schema(fields))
