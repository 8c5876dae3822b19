"""What is stored: the tables of a snapshot as Delta Lake can hold them, and columns that say when and by whom a row was seen.

Delta Lake knows neither nanoseconds nor unsigned numbers nor durations. A time is kept as whole microseconds under its
own name and the rest, 0 to 999 ns, under the name with ``_ns`` at its end; a duration as nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..tables import TABLES
from ..tables.table import Column, Kind, Table

VERSION = 1
"""Version of this schema, kept in every table's metadata."""

START = 0
"""What stands for the key of the event before a task's first."""

_TYPES: dict[Kind, tuple[pa.DataType, str]] = {
    "text": (pa.string(), "VARCHAR"),
    "category": (pa.string(), "VARCHAR"),
    "int": (pa.int64(), "BIGINT"),
    "uint": (pa.int64(), "BIGINT"),
    "float": (pa.float64(), "DOUBLE"),
    "bool": (pa.bool_(), "BOOLEAN"),
    "time": (pa.timestamp("us", tz="UTC"), "TIMESTAMPTZ"),
    "duration": (pa.int64(), "BIGINT"),
}
_READ: dict[Kind, str] = {
    "time": "make_timestamp_ns(epoch_us({0}) * 1000 + {0}_ns)",
    "uint": "CAST({0} AS UBIGINT)",
}

SEEN_AT = Column("seen_at", "seen_at", "time", "when this was seen, by the recorder's clock", "UTC")
BATCH = Column("batch", "batch", "text", "the append that wrote it; it counts once `snapshots` names it")
_VERSION_OF = Column("modify_index", "modify_index", "uint", "ModifyIndex of the allocation that said so")

OBSERVATIONS = Table(
    name="snapshots",
    key=("batch", "position"),
    doc="One row for each change that a recorder wrote: what was seen when. Written last, it makes its batch count.",
    source="snapshots",
    columns=(
        Column("position", "position", "int", "position of the change in its batch, from 0"),
        Column("recorder", "recorder", "category", "who saw it"),
        Column("source", "source", "category", "list, stream or blocking"),
        Column(
            "whole", "whole", "bool", "every allocation was compared, so what is gone is known up to here"
        ),
        Column("index_from", "index_from", "int", "Raft index of this recorder's observation before"),
        Column("index_to", "index_to", "int", "Raft index that the cluster had reached"),
        Column("new", "new", "int", "allocations seen for the first time"),
        Column("changed", "changed", "int", "allocations that had changed"),
        Column("gone", "gone", "int", "allocations that were no longer there"),
        Column("events", "events", "int", "task events that were new"),
        Column("gap_since", "gap_since", "time", "nobody watched from here, where this ends a gap", "UTC"),
        Column("gap_until", "gap_until", "time", "to here", "UTC"),
        Column("gap_reason", "gap_reason", "text", "why nobody watched"),
        Column("schema_version", "schema_version", "int", "version of the tables that wrote it"),
    ),
)


@dataclass(frozen=True)
class Stored:
    """A table as it lies in the archive: what a snapshot holds, and `more` columns of the archive's own."""

    table: Table
    more: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.table.columns, *self.more)

    def fields(self) -> list[pa.Field[Any]]:
        found = []
        for column in self.columns:
            found.append(pa.field(column.name, _TYPES[column.kind][0]))
            if column.kind == "time":
                found.append(pa.field(f"{column.name}_ns", pa.int16()))
        return found

    def schema(self) -> pa.Schema:
        return pa.schema([*self.fields(), pa.field("day", pa.date32())])

    def reading(self) -> str:
        """Return the SQL list of columns that gives times, durations and numbers their own types back."""
        return ", ".join(f"{_reading(column)} AS {column.name}" for column in self.columns)

    def sql_types(self) -> list[tuple[str, str]]:
        """Return each stored column's name and DuckDB's type of it."""
        found = []
        for column in self.columns:
            found.append((column.name, _TYPES[column.kind][1]))
            if column.kind == "time":
                found.append((f"{column.name}_ns", "SMALLINT"))
        return found

    def encode(self, frame: pd.DataFrame, **constant: Any) -> pa.Table:
        """Return rows as they are stored; `constant` gives one value to all rows of a column that `frame` lacks."""
        arrays: list[Any] = []
        for column in self.columns:
            if column.name in constant:
                arrays += _repeated(constant[column.name], column, len(frame))
            else:
                arrays += _stored(frame[column.name], column)
        day = pa.array([constant["day"]], pa.date32()).take(np.zeros(len(frame), dtype=np.int64))
        return pa.Table.from_arrays([*arrays, day], schema=self.schema())


def _reading(column: Column) -> str:
    own = _READ.get(column.kind, "{0}").format(column.name)
    # Rows that were written before this column existed have NULL there.
    return f"coalesce({own}, {column.derived})" if column.derived else own


def _with(name: str, *more: Column) -> Stored:
    return Stored(TABLES[name], (*more, SEEN_AT, BATCH))


STORED: dict[str, Stored] = {
    "allocations": _with(
        "allocations", Column("gone", "gone", "bool", "no longer there; the row is as it was last seen")
    ),
    "task_states": _with("task_states", _VERSION_OF),
    "events": _with(
        "events",
        _VERSION_OF,
        Column("event_key", "event_key", "int", "what tells this event from others of its task"),
        Column("prev_key", "prev_key", "int", "key of the event before it; 0 for the first, NA if unknown"),
    ),
    "reschedules": _with("reschedules", _VERSION_OF),
    "snapshots": Stored(OBSERVATIONS, (SEEN_AT, BATCH)),
}
"""In the order of writing: `snapshots` comes last, because its row makes the others count."""


def _stored(values: pd.Series[Any], column: Column) -> Iterable[Any]:
    """Return a column as the one or two arrays that hold it."""
    arrow = _TYPES[column.kind][0]
    if column.kind in ("time", "duration"):
        missing = values.isna().to_numpy()
        whole = values.astype("int64").to_numpy()
        if column.kind == "duration":
            return [pa.array(whole, arrow, mask=missing)]
        us = np.floor_divide(whole, 1000)
        rest = (whole - us * 1000).astype(np.int16)
        return [pa.array(us, mask=missing).cast(arrow), pa.array(rest, pa.int16(), mask=missing)]
    array: Any = pa.array(values, from_pandas=True)
    if column.kind == "uint" and pa.types.is_uint64(array.type):
        array = pc.if_else(pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())), None, array)
    return [array.cast(arrow)]


def _repeated(value: Any, column: Column, count: int) -> Iterable[Any]:
    if column.kind == "time":
        once = _stored(pd.Series([value], dtype="datetime64[ns, UTC]"), column)
    else:
        once = [pa.array([value], _TYPES[column.kind][0])]
    return [array.take(np.zeros(count, dtype=np.int64)) for array in once]
