"""Tables made of Nomad's JSON, row by row: small lists for which a database would be too much.

The `sql` of their columns is a path of JSON keys, such as ``LastDrain.StartedAt``, or the name of a value
that the caller computes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .rows import parse_rfc3339
from .table import Kind, Table

if TYPE_CHECKING:
    import pandas as pd


def frame_of_rows(table: Table, rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a table of JSON objects. Values of the wrong type are missing."""
    answer = list(rows)
    columns: dict[str, Any] = {}
    for column in table.columns:
        path = column.sql.split(".")
        values = [_to_value(_follow(row, path), column.kind) for row in answer]
        columns[column.name] = pa.chunked_array([pa.array(values, column.arrow)])
    return table.frame(columns)


def read_time(value: Any) -> int | None:
    """Return a time of Nomad, whole nanoseconds or RFC 3339, as nanoseconds; None if it is missing.

    Examples
    --------
    >>> from allocframe.tables.json_rows import read_time
    >>> read_time("1970-01-01T00:00:01.5Z"), read_time(0), read_time("0001-01-01T00:00:00Z")
    (1500000000, None, None)
    """
    if isinstance(value, str):
        value = parse_rfc3339(value)
    return _positive(value)


def _positive(value: Any) -> int | None:
    """Return a number of nanoseconds. A time of 0 is missing."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 1 <= value < 2**63 else None


def _follow(row: Any, path: list[str]) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row


def _to_value(value: Any, kind: Kind) -> Any:
    """Return a value of JSON as one that a column of this kind can hold, else None."""
    match kind:
        case "time":
            return read_time(value)
        case "uint" | "int" | "duration":
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            least = 0 if kind == "uint" else -(2**63)
            return value if is_whole and least <= value < 2**63 else None
        case "bool":
            return value if isinstance(value, bool) else None
        case "float":
            return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":")) if value else None
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None
