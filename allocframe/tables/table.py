"""What a table is: its columns, each declared once, and the DataFrames that follow from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["text", "category", "int", "uint", "float", "bool", "time", "duration"]
"""The type of a column: `category` is repeated text; `time` (in UTC) and `duration` have nanoseconds."""

_ARROW: dict[Kind, pa.DataType] = {
    "text": pa.large_string(),
    "category": pa.large_string(),
    "int": pa.int64(),
    "uint": pa.uint64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("ns", tz="UTC"),
    "duration": pa.duration("ns"),
}

_TEXT_DTYPE = pd.StringDtype(storage="pyarrow", na_value=np.nan)
_FROM_ARROW: dict[Kind, Any] = {
    "text": _TEXT_DTYPE,
    "int": pd.Int64Dtype(),
    "uint": pd.UInt64Dtype(),
    "float": pd.Float64Dtype(),
    "bool": pd.BooleanDtype(),
}


@dataclass(frozen=True)
class Column:
    """One column: its name, the SQL expression that reads it, its type, meaning and unit."""

    name: str
    sql: str
    kind: Kind
    doc: str
    unit: str = ""
    derived: str = ""
    """SQL over the table's other columns: the value in rows that were saved before this column existed."""

    @property
    def arrow(self) -> pa.DataType:
        return _ARROW[self.kind]

    def series(self, values: pa.ChunkedArray[Any]) -> pd.Series[Any]:
        """Return `values` as a Series of this column's dtype."""
        if self.kind == "category":
            return _categorical(values)
        values = values.cast(self.arrow)
        if self.kind in ("time", "duration"):
            return values.to_pandas()
        return pd.Series(_FROM_ARROW[self.kind].__from_arrow__(values))


@dataclass(frozen=True)
class Table:
    """One table: what a row is, the view that it is read from, its key and columns."""

    name: str
    key: tuple[str, ...]
    doc: str
    source: str
    columns: tuple[Column, ...]

    def select(self, schema: str, *more: str) -> str:
        """Return the SQL query for this table, and `more` columns, from the views in `schema`."""
        columns = [f"{c.sql} AS {c.name}" for c in self.columns]
        return f"SELECT {', '.join([*columns, *more])} FROM {schema}.{self.source}"

    def list_columns(self, relation: str, *without: str) -> str:
        """Return the SQL list of this table's columns in `relation`, except those named."""
        return ", ".join(f"{relation}.{column.name}" for column in self.columns if column.name not in without)

    def collect(self, batches: Iterable[pa.RecordBatch]) -> dict[str, pa.ChunkedArray[Any]]:
        """Return the columns of a query's answer, with repeated text already encoded as numbers."""
        repeated = {column.name for column in self.columns if column.kind == "category"}
        chunks: dict[str, list[Any]] = {}
        for batch in batches:
            for name, array in zip(batch.schema.names, batch.columns, strict=True):
                # Copied, because a batch keeps all of its memory until its last column is freed.
                chunk: Any = (
                    array.dictionary_encode() if name in repeated else pa.concat_arrays([array, array[:0]])
                )
                chunks.setdefault(name, []).append(chunk)
        columns = {name: pa.chunked_array(arrays) for name, arrays in chunks.items()}
        empty = self.schema().empty_table()
        return columns or dict(zip(empty.column_names, empty.columns, strict=True))

    def frame(
        self, columns: dict[str, pa.ChunkedArray[Any]], order: np.ndarray[Any, Any] | None = None
    ) -> pd.DataFrame:
        """Return `columns`, as `select` yields them, as a DataFrame with the declared dtypes.

        `order` sorts the rows. The columns are removed from `columns` one by one, so that only one of them is
        in memory twice.
        """
        series = {}
        for column in self.columns:
            values = column.series(columns.pop(column.name))
            series[column.name] = values if order is None else values.take(order).reset_index(drop=True)
        return pd.DataFrame(series, copy=False)

    def with_columns(self, columns: tuple[Column, ...]) -> Table:
        """Return a table of the same rows with `columns`, made of this table's; without any, this table."""
        return replace(self, columns=columns) if columns else self

    def empty(self) -> pd.DataFrame:
        """Return a DataFrame without rows, with this table's columns and dtypes."""
        empty = self.schema().empty_table()
        return self.frame(dict(zip(empty.column_names, empty.columns, strict=True)))

    def schema(self) -> pa.Schema:
        """Return the Arrow schema of this table."""
        return pa.schema([(c.name, c.arrow) for c in self.columns])


def _categorical(values: pa.ChunkedArray[Any]) -> pd.Series[Any]:
    """Return repeated text as categories in alphabetical order, so that equal data give equal DataFrames."""
    encoded: Any = pc.dictionary_encode(values).unify_dictionaries()
    chunks = encoded.chunks
    labels = np.array(chunks[0].dictionary.to_pylist() if chunks else [], dtype=np.object_)
    codes = [chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks]
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[order] = np.arange(len(order))
    rank[-1] = -1  # the code of NA is -1, which is the last place
    dtype = pd.CategoricalDtype(pd.Index(labels[order], dtype=_TEXT_DTYPE))
    sorted_codes = rank[np.concatenate(codes)] if codes else np.empty(0, dtype=np.int32)
    return pd.Series(pd.Categorical.from_codes(sorted_codes, dtype=dtype, validate=False))
