"""Parts of a snapshot's tables, for programs: of a large cluster nobody makes a whole table who needs a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa

from ._utils.memory import LARGE
from .snapshot.summary import COUNTS
from .store.capture import Capture
from .tables import TABLES
from .tables.table import Column, Table, Tables


class Parts:
    """What a snapshot's methods and statistics ask of its tables."""

    _capture: Capture
    _conditions: tuple[tuple[str, Any], ...]
    _declared: ClassVar[Mapping[str, Table]] = TABLES

    def __init__(self, store: Tables, schema: str) -> None:
        self._store = store
        self._schema = schema

    if TYPE_CHECKING:

        @property
        def events(self) -> pd.DataFrame: ...

    def _frame(self, name: str) -> pd.DataFrame:
        return self._described(self._store.frame(name, self._schema), self._declared[name])

    def _described(self, frame: pd.DataFrame, table: Table) -> pd.DataFrame:
        frame.attrs = {
            "table": table.name,
            "key": list(table.key),
            "filtered": [[column, value] for column, value in self._conditions],
            "from": self._capture.info,
        }
        return frame

    @cached_property
    def _counts(self) -> dict[str, int]:
        """How many rows there are; counted, because the tables of a large cluster take far longer to make."""
        found = self._store.query(COUNTS, self._schema)
        return {str(name): int(found[name].iloc[0]) for name in found}

    def _narrowed(self, name: str, columns: tuple[Column, ...]) -> pd.DataFrame:
        """Return what SQL makes of a table's columns, row by row: for statistics, which need far less than all of it."""
        return self._store.frame(name, self._schema, columns)

    def _events_at(self, places: np.ndarray[Any, Any], keys: pd.DataFrame) -> pd.DataFrame:
        """Return the events at these places of the table, which have these keys; of a large table it makes no other rows."""
        if "events" in self.__dict__ or self._counts["events"] <= LARGE:
            return self.events.iloc[places].reset_index(drop=True)
        wanted = pd.DataFrame({name: keys[name].astype("str") for name in keys}).astype({"seq": "int64"})
        found = self._store.frame(
            "events", self._schema, only=pa.Table.from_pandas(wanted, preserve_index=False)
        )
        order = pd.MultiIndex.from_frame(found[list(wanted)].astype("str")).get_indexer(
            pd.MultiIndex.from_frame(wanted.astype("str"))
        )
        return self._described(found.iloc[order].reset_index(drop=True), self._declared["events"])

    def _indexes(self) -> pd.Series[Any]:
        """Return the ModifyIndex of each allocation, by its ID."""
        found = self._store.query(
            "SELECT alloc_id, modify_index FROM allocations WHERE alloc_id IS NOT NULL", self._schema
        )
        return found.drop_duplicates("alloc_id").set_index("alloc_id")["modify_index"]

    def _rows_of(self, name: str, ids: Iterable[str]) -> pd.DataFrame:
        """Return the rows of a table that belong to these allocations."""
        wanted = pa.table({"alloc_id": pa.array(ids, pa.string())})
        return self._described(self._store.frame(name, self._schema, only=wanted), self._declared[name])

    def _in_parts(self, names: Iterable[str], size: int) -> Iterator[dict[str, pd.DataFrame]]:
        """Yield these tables for so many allocations at a time."""
        for schema in self._store.split(self._schema, size):
            yield {name: self._store.frame(name, schema) for name in names}
