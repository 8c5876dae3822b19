"""What a table is: its columns, each declared once, and the DataFrames that follow from them.

pandas is imported when there is a DataFrame to make: processes that only decode start in a third of the time
without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from .rows import Reader, Rows

if TYPE_CHECKING:
    import pandas as pd

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

_STORED: dict[Kind, pa.DataType] = {
    "category": pa.dictionary(pa.int32(), pa.large_string()),
    # DuckDB has no type with both nanoseconds and a time zone, and its intervals have no nanoseconds.
    "time": pa.timestamp("ns"),
    "duration": pa.int64(),
}
"""The types in which a snapshot holds its columns, where they are not those of `_ARROW`."""


@dataclass(frozen=True)
class Column:
    """One column: its name, what it is read from, its type, meaning and unit.

    The source is a reader of Nomad's records (`rows`), an SQL expression over a table's columns, or a field.
    """

    name: str
    source: Reader | str
    kind: Kind
    doc: str
    unit: str = ""
    derived: str = ""
    """SQL over the table's other columns: the value in rows that were saved before this column existed.

    It is NULL if they do not tell. Without it, a file that lacks the column is damaged.
    """

    @property
    def sql(self) -> str:
        """The source, if it is SQL; else the column's name, which reads it from its table."""
        return self.source if isinstance(self.source, str) else self.name

    @property
    def arrow(self) -> pa.DataType:
        return _ARROW[self.kind]

    def array(self, values: pa.ChunkedArray[Any]) -> Any:
        """Return `values` as a pandas array of this column's dtype."""
        from .as_pandas import pandas_array

        return pandas_array(values, self.kind, self.arrow)


@dataclass(frozen=True)
class Table:
    """One table: what a row is, which of Nomad's records it is read from, its key and columns."""

    name: str
    key: tuple[str, ...]
    doc: str
    source: str
    columns: tuple[Column, ...]

    @property
    def is_child(self) -> bool:
        """Whether an allocation may have several rows: then texts repeat, and are stored as a dictionary."""
        return len(self.key) > 1

    def stored_type(self, column: Column) -> pa.DataType:
        """Return the type in which a snapshot holds a column."""
        if column.kind == "text" and self.is_child:
            return _STORED["category"]
        return _STORED.get(column.kind, column.arrow)

    def stored_schema(self) -> pa.Schema:
        """Return the schema of the table as a snapshot holds it."""
        return pa.schema([(column.name, self.stored_type(column)) for column in self.columns])

    def read(self, rows: Rows) -> pa.RecordBatch:
        """Return the table of decoded records, as a snapshot holds it."""
        schema = self.stored_schema()
        arrays = []
        for column, field in zip(self.columns, schema, strict=True):
            values = None if isinstance(column.source, str) else column.source(rows)
            if values is None:
                values = missing(field.type, len(rows))
            elif values.type != field.type:
                values = cast_column(values, field.type)
            arrays.append(values)
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

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
        import pandas as pd

        arrays = {}
        for column in self.columns:
            values = columns.pop(column.name)
            if order is None or values.null_count == len(values):
                arrays[column.name] = column.array(values)
            elif column.kind == "text" and pa.types.is_dictionary(values.type):
                arrays[column.name] = column.array(_take_texts(values, order))
            else:
                arrays[column.name] = column.array(values).take(order)
        return pd.DataFrame(arrays, copy=False)

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


def _take_texts(values: pa.ChunkedArray[Any], order: np.ndarray[Any, Any]) -> pa.ChunkedArray[Any]:
    """Return the texts at `order`. Their numbers are sorted first, so that each text is moved only once."""
    start, codes = 0, []
    chunks: list[Any] = values.chunks
    for chunk in chunks:
        code = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        codes.append(np.where(code < 0, -1, code + start))
        start += len(chunk.dictionary)
    ordered = np.concatenate(codes)[order]
    labels = pa.concat_arrays([chunk.dictionary for chunk in chunks])
    return pa.chunked_array(
        [pa.DictionaryArray.from_arrays(pa.array(ordered, pa.int32(), mask=ordered < 0), labels)]
    )


_missing: dict[pa.DataType, Any] = {}


def missing(kind: Any, count: int) -> Any:
    """Return a column without any value. All of one type share their memory."""
    if kind not in _missing or len(_missing[kind]) < count:
        size = max(count, 1024)
        if pa.types.is_dictionary(kind):
            codes = pa.nulls(size, kind.index_type)
            _missing[kind] = pa.DictionaryArray.from_arrays(codes, pa.array([], kind.value_type))
        else:
            _missing[kind] = pa.nulls(size, kind)
    return _missing[kind].slice(0, count)


def cast_column(values: Any, kind: pa.DataType) -> Any:
    """Return values as another type; text may become a dictionary or stop being one."""
    if values.type == kind:
        return values
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(values.type):
        return values.cast(kind.value_type).dictionary_encode()
    return values.cast(kind)
