"""The stored tables: those of a snapshot, with columns for when and by whom a row was seen.

Delta Lake has no nanoseconds, unsigned integers or durations. A time is stored as microseconds under its own
name, and the remaining 0 to 999 nanoseconds under the name with the suffix ``_ns``. A duration is stored as
nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..tables import HISTORY, TABLES
from ..tables.table import Column, Kind, Table

VERSION = 2
"""Version of this schema, stored in the metadata of every table. Version 1 had no tables of changes."""

START = 0
"""The key "before" the first event of a task."""

_STORED_TYPES: dict[Kind, tuple[pa.DataType, str]] = {
    "text": (pa.string(), "VARCHAR"),
    "category": (pa.string(), "VARCHAR"),
    "int": (pa.int64(), "BIGINT"),
    "uint": (pa.int64(), "BIGINT"),
    "float": (pa.float64(), "DOUBLE"),
    "bool": (pa.bool_(), "BOOLEAN"),
    "time": (pa.timestamp("us", tz="UTC"), "TIMESTAMPTZ"),
    "duration": (pa.int64(), "BIGINT"),
}
_READ_EXPRESSIONS: dict[Kind, str] = {
    "time": 'make_timestamp_ns(epoch_us("{0}") * 1000 + "{0}_ns")',
    "uint": 'CAST("{0}" AS UBIGINT)',
}

SEEN_AT = Column("seen_at", "seen_at", "time", "time of the observation, by the recorder's clock", "UTC")
BATCH = Column("batch", "batch", "text", "the append that wrote the row; it counts once `snapshots` has it")
_MODIFY_INDEX = Column("modify_index", "modify_index", "uint", "ModifyIndex of the allocation's version")

OBSERVATIONS = Table(
    name="snapshots",
    key=("batch", "position"),
    doc="One row per change that a recorder wrote. It is written last, and makes its batch count.",
    source="snapshots",
    columns=(
        Column("position", "position", "int", "position of the change in its batch, from 0"),
        Column("recorder", "recorder", "category", "name of the recorder"),
        Column("source", "source", "category", "list, stream or blocking"),
        Column("whole", "whole", "bool", "every allocation was compared, so removals are known up to here"),
        Column("index_from", "index_from", "int", "Raft index of this recorder's previous observation"),
        Column("index_to", "index_to", "int", "Raft index that the cluster had reached"),
        Column("new", "new", "int", "allocations seen for the first time"),
        Column("changed", "changed", "int", "changed allocations"),
        Column("gone", "gone", "int", "removed allocations"),
        Column("events", "events", "int", "new task events"),
        Column("gap_since", "gap_since", "time", "start of a gap in which nobody watched", "UTC"),
        Column("gap_until", "gap_until", "time", "end of the gap", "UTC"),
        Column("gap_reason", "gap_reason", "text", "why nobody watched"),
        Column("schema_version", "schema_version", "int", "schema version of the writer"),
        Column(
            "history_at", "history_at", "time", "up to when jobs and nodes were known; NA if not seen", "UTC"
        ),
        Column(
            "history_gap_since", "history_gap_since", "time", "since when they were not, before it", "UTC"
        ),
        Column("history_notes", "history_notes", "text", "what of them could not be read, as JSON"),
    ),
)


@dataclass(frozen=True)
class Stored:
    """A stored table: the columns of a snapshot's table, and `more` columns of the archive."""

    table: Table
    more: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.table.columns, *self.more)

    def fields(self) -> list[pa.Field[Any]]:
        """Return the stored columns, without `day`."""
        fields = []
        for column in self.columns:
            fields.append(pa.field(column.name, _STORED_TYPES[column.kind][0]))
            if column.kind == "time":
                fields.append(pa.field(f"{column.name}_ns", pa.int16()))
        return fields

    def schema(self) -> pa.Schema:
        """Return the stored columns and `day`, by which tables are partitioned."""
        return pa.schema([*self.fields(), pa.field("day", pa.date32())])

    def select_list(self) -> str:
        """Return the SQL expressions that convert the stored columns back to their own types."""
        return ", ".join(f'{_read_expression(column)} AS "{column.name}"' for column in self.columns)

    def sql_types(self) -> list[tuple[str, str]]:
        """Return the name and the DuckDB type of each stored column."""
        types = []
        for column in self.columns:
            types.append((column.name, _STORED_TYPES[column.kind][1]))
            if column.kind == "time":
                types.append((f"{column.name}_ns", "SMALLINT"))
        return types

    def encode(self, frame: pd.DataFrame, **constant: Any) -> pa.Table:
        """Return rows to store. `constant` has a value for each column that `frame` lacks."""
        arrays: list[Any] = []
        for column in self.columns:
            if column.name in constant:
                arrays += _repeat(constant[column.name], column, len(frame))
            else:
                arrays += _encode_column(frame[column.name], column)
        day = pa.array([constant["day"]], pa.date32()).take(np.zeros(len(frame), dtype=np.int64))
        return pa.Table.from_arrays([*arrays, day], schema=self.schema())


def _read_expression(column: Column) -> str:
    # Quoted, because a name such as `at` is a word of SQL.
    expression = _READ_EXPRESSIONS.get(column.kind, '"{0}"').format(column.name)
    # Rows that were written before this column existed have NULL there.
    return f"coalesce({expression}, {column.derived})" if column.derived else expression


def _stored_table(name: str, *more: Column) -> Stored:
    return Stored(TABLES[name], (*more, SEEN_AT, BATCH))


_GONE = Column("gone", "gone", "bool", "it was removed; the row is its last version")

STORED: dict[str, Stored] = {
    "allocations": _stored_table("allocations", _GONE),
    "task_states": _stored_table("task_states", _MODIFY_INDEX),
    "events": _stored_table(
        "events",
        _MODIFY_INDEX,
        Column("event_key", "event_key", "int", "identifies the event within its task"),
        Column("prev_key", "prev_key", "int", "key of the event before it; 0 for the first, NA if unknown"),
    ),
    "reschedules": _stored_table("reschedules", _MODIFY_INDEX),
    **{
        name: Stored(table, (*((_GONE,) if name == "nodes" else ()), SEEN_AT, BATCH))
        for name, table in HISTORY.items()
    },
    "snapshots": Stored(OBSERVATIONS, (SEEN_AT, BATCH)),
}
"""The stored tables in the order of writing. `snapshots` is last, because its row makes the others count."""


def _encode_column(values: pd.Series[Any], column: Column) -> Iterable[Any]:
    """Return a column as the one or two arrays that are stored."""
    arrow_type = _STORED_TYPES[column.kind][0]
    if column.kind in ("time", "duration"):
        missing = values.isna().to_numpy()
        ns = values.astype("int64").to_numpy()
        if column.kind == "duration":
            return [pa.array(ns, arrow_type, mask=missing)]
        us = np.floor_divide(ns, 1000)
        rest = (ns - us * 1000).astype(np.int16)
        return [pa.array(us, mask=missing).cast(arrow_type), pa.array(rest, pa.int16(), mask=missing)]
    array: Any = pa.array(values, from_pandas=True)
    if column.kind == "uint" and pa.types.is_uint64(array.type):
        # Delta Lake's integers are signed. No cluster counts that far, so such a value is garbage.
        array = pc.if_else(pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())), None, array)
    return [array.cast(arrow_type)]


def _repeat(value: Any, column: Column, count: int) -> Iterable[Any]:
    if column.kind == "time":
        single = _encode_column(pd.Series([value], dtype="datetime64[ns, UTC]"), column)
    else:
        single = [pa.array([value], _STORED_TYPES[column.kind][0])]
    return [array.take(np.zeros(count, dtype=np.int64)) for array in single]
