"""Frames of plain arrays, on which the rules are computed for pandas: the part of narwhals that they use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ._expressions import Expr
from ._source import Array, find_texts
from ._values import NEVER, Column, Groups, Reduced, Values, as_labels, numbers, put, reduce_groups


class Arrays:
    """A frame of pandas for the rules: a column becomes an array when it is first computed with.

    Parameters
    ----------
    columns : dict
        `Column`, or an array of pandas that nobody has computed with, for each column.
    rows : int
    """

    def __init__(self, columns: dict[str, Any], rows: int) -> None:
        self.columns = columns
        self.rows = rows
        self._read: dict[str, Column] = {}
        self._groups: dict[Any, Groups] = {}

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Arrays:
        """Return a frame of pandas as arrays."""
        return cls({str(name): column.array for name, column in frame.items()}, len(frame))

    def to_pandas(self) -> pd.DataFrame:
        """Return a frame of pandas, numbered from 0; columns that were not computed are as they were."""
        columns = {
            name: _to_array(column) if isinstance(column, Column) else column
            for name, column in self.columns.items()
        }
        return pd.DataFrame(columns, index=pd.RangeIndex(self.rows), copy=False)

    # What the rules call, as on a frame of narwhals.

    def collect_schema(self) -> Arrays:
        return self

    def names(self) -> list[str]:
        return list(self.columns)

    def with_columns(self, *values: Expr, **named: Expr) -> Arrays:
        made = {one.name: one.column() for one in (value.make(self) for value in values)}
        made |= {name: value.make(self).column() for name, value in named.items()}
        changed = Arrays({**self.columns, **made}, self.rows)
        changed._groups = self._groups
        changed._read = {name: column for name, column in self._read.items() if name not in made}
        return changed

    def select(self, *names: str, **named: Expr) -> Arrays:
        columns = {name: self.columns[name] for name in names}
        made = {name: value.make(self).column() for name, value in named.items()}
        return Arrays({**columns, **made}, self.rows)

    def drop(self, *names: str, **_: Any) -> Arrays:
        return self.select(*(name for name in self.columns if name not in names))

    def filter(self, condition: Expr) -> Arrays:
        chosen = condition.make(self).full()
        return self.take(np.flatnonzero(chosen.data & ~chosen.missing))

    def unique(self, subset: list[str]) -> Arrays:
        return self.take(self.groups(tuple(subset), None).first)

    def group_by(self, *keys: str) -> _Grouped:
        return _Grouped(self, keys)

    def join(self, other: Arrays, on: list[str] | str, how: str) -> Arrays:
        """Return each row with the columns of the row of `other` that has its keys."""
        keys = [on] if isinstance(on, str) else on
        found = _find([(self.col(key).full(), other.col(key).full()) for key in keys])
        return Arrays({**self.columns, **other.drop(*keys).take(found).columns}, self.rows)

    def take(self, rows: Array) -> Arrays:
        """Return these rows; -1 is one without any value."""
        if len(rows) == self.rows and np.array_equal(rows, np.arange(len(rows))):
            return self
        columns = {
            name: column.take(rows) if isinstance(column, Column) else _take(column, rows)
            for name, column in self.columns.items()
        }
        return Arrays(columns, len(rows))

    # What expressions are made of, as by the functions of narwhals.

    def col(self, name: str) -> Values:
        column = self.columns[name]
        if not isinstance(column, Column):
            if name not in self._read:
                self._read[name] = _read(pd.Series(column, copy=False))
            column = self._read[name]
        return Values(self, *column)

    def lit(self, value: Any) -> Values:
        if isinstance(value, str):
            return Values(self, np.zeros(1, dtype=np.int32), labels=as_labels([value]))
        return Values(self, np.array([value]))

    def when(self, condition: Values) -> Values:
        return condition

    def coalesce(self, *values: Values | str) -> Values:
        found, *others = (self.col(value) if isinstance(value, str) else value for value in values)
        for other in others:
            found = put(found, found.missing, other)
        return found

    def max_horizontal(self, *names: str) -> Values:
        """Return the largest value of each row that is not missing."""
        found, *others = map(self.col, names)
        for other in others:
            found = put(found, ~other.missing & (found.missing | (other.data > found.data)), other)
        return found

    def len(self) -> Reduced:
        return Reduced(Values(self, np.ones(1, dtype=np.int64)), "sum")

    def groups(self, keys: tuple[str, ...], order_by: str | None) -> Groups:
        """Return the rows by these keys; computed once for frames that are made of each other."""
        if (keys, order_by) not in self._groups:
            order = self.col(order_by).full().data if order_by else None
            self._groups[keys, order_by] = Groups([self.col(key).full().data for key in keys], order)
        return self._groups[keys, order_by]


class _Grouped:
    """Rows by keys, of which `agg` makes one row for each group."""

    def __init__(self, frame: Arrays, keys: tuple[str, ...]) -> None:
        self.frame = frame
        self.keys = keys

    def agg(self, *values: Expr) -> Arrays:
        groups = self.frame.groups(self.keys, None)
        result = self.frame.select(*self.keys).take(groups.first)
        columns = dict(result.columns)
        for value in values:
            reduced: Reduced = value.make(self.frame)
            of = reduced.values.full()
            data, missing = reduce_groups(groups.sort(of.data), groups.sort(of.missing), groups, reduced.how)
            never = reduced.values.missing is NEVER
            columns[reduced.name] = Column(data, NEVER if never else missing, None)
        return Arrays(columns, result.rows)


def _take(column: Any, rows: Array) -> Any:
    if not np.any(rows < 0):
        return column.take(rows)
    if isinstance(column, pd.arrays.NumpyExtensionArray):  # which cannot hold a missing number
        return pd.Series(column).reindex(rows).array
    return column.take(rows, allow_fill=True)


_KINDS = {"boolean": "b", "integer": "i", "floating": "f", "mixed-integer-float": "f"}


def _read(column: pd.Series[Any]) -> Column:
    """Return a column of pandas as arrays."""
    dtype: Any = column.dtype
    # by the dtype, so that the dtypes of results do not depend on the data
    missing = NEVER if isinstance(dtype, np.dtype) and dtype.kind in "biu" else column.isna().to_numpy()
    if isinstance(dtype, pd.CategoricalDtype):
        # columns that share their categories share them here, too
        return Column(column.cat.codes.to_numpy(), missing, dtype.categories)
    kind = dtype.kind
    if kind == "O":  # text, or numbers of a frame that has missing ones
        kind = _KINDS.get(pd.api.types.infer_dtype(column), "O")
    if kind in "biu":
        wanted: Any = np.bool_ if kind == "b" else np.int64
        return Column(column.to_numpy(dtype=wanted, na_value=0), missing, None)
    if kind == "f":
        return Column(column.to_numpy(dtype=np.float64, na_value=0.0), missing, None)
    encoded: Any = pa.array(column, from_pandas=True).cast(pa.large_string()).dictionary_encode()
    one: Any = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = one.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Column(codes, missing, as_labels(one.dictionary.to_pylist()))


def _to_array(column: Column) -> Any:
    """Return a column as an array of pandas, of a dtype that keeps whole numbers whole."""
    data, missing, nullable = column.data, column.missing, column.missing is not NEVER
    if column.labels is not None:
        used, codes = np.unique(np.where(missing, -1, data), return_inverse=True)
        labels = pd.Index(column.labels[used[used >= 0]], dtype="str")
        rank = np.append(np.argsort(np.argsort(labels)), -1)
        codes = rank[codes - int(used[:1].min(initial=0) < 0)]
        return pd.Categorical.from_codes(codes, categories=labels.sort_values())
    if data.dtype.kind == "f":
        return np.where(missing, np.nan, data)
    if not nullable:
        return np.array(data)
    make: Any = pd.arrays.BooleanArray if data.dtype.kind == "b" else pd.arrays.IntegerArray
    return make(np.array(data), np.array(missing))


def _find(keys: list[tuple[Values, Values]]) -> Array:
    """Return for each row the row with the same keys among others; -1 if there is none."""
    rows: Any = np.zeros(1, dtype=np.int64)
    among: Any = np.zeros(1, dtype=np.int64)
    for one, other in keys:
        if one.labels is other.labels:  # numbers, or texts with the same numbers
            mine, its = one.data, other.data
        elif one.labels is None or other.labels is None:
            mine, its = numbers(one), numbers(other)
        else:
            mine = find_texts(one.labels, other.labels)[np.where(one.missing, -1, one.data)]
            its = other.data
        mine, its = np.where(one.missing, -1, mine), np.where(other.missing, -1, its)
        size = int(its.max(initial=0)) + 1
        rows = np.where((rows < 0) | (mine < 0) | (mine >= size), -1, rows * size + mine)
        among = np.where((among < 0) | (its < 0), -1, among * size + its)
    if np.array_equal(among, np.arange(len(among))):
        return np.where(rows < len(among), rows, -1)
    order = np.argsort(among, kind="stable")
    ordered = among[order]
    at = np.minimum(np.searchsorted(ordered, rows), len(ordered) - 1)
    return np.where((ordered[at] == rows) & (rows >= 0), order[at], -1)
