"""Columns of Arrow become arrays of pandas with the declared dtype."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from allocframe.tables.table import Column, Kind

STORED: dict[Kind, pa.DataType] = {
    "text": pa.dictionary(pa.int32(), pa.large_string()),
    "int": pa.int64(),
    "uint": pa.uint64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
}
VALUES: dict[Kind, Any] = {"text": "a", "int": -1, "uint": 2**64 - 1, "float": 0.5, "bool": True}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("count", [0, 3, 200_000])
def test_a_column_without_values_is_as_one_whose_values_were_taken_away(kind: Kind, count: int) -> None:
    column = Column("c", "c", kind, "")
    empty = pd.Series(column.array(pa.chunked_array([pa.nulls(count, STORED[kind])])))
    value: Any = pa.array([VALUES[kind]], column.arrow)
    with_value = pa.chunked_array([pa.nulls(count, column.arrow), value])
    expected = pd.Series(column.array(with_value))[:-1]
    pd.testing.assert_series_equal(empty, expected)
    assert empty.isna().all()
    both = pd.concat([empty, expected, pd.Series(column.array(pa.chunked_array([value])))])
    assert both.tolist()[-1] == VALUES[kind]
    assert len(both) == 2 * count + 1


def test_values_can_be_written_into_a_column_without_any() -> None:
    for kind in STORED:
        array = pa.chunked_array([pa.nulls(100_000, STORED[kind])])
        one, other = (pd.Series(Column("c", "c", kind, "").array(array)) for _ in range(2))
        one.loc[70_000] = VALUES[kind]
        assert one[70_000] == VALUES[kind]
        assert one.isna().sum() == 99_999
        assert other.isna().all()


def test_texts_of_a_column_without_any_take_no_memory() -> None:
    column, stored = Column("c", "c", "text", ""), pa.chunked_array([pa.nulls(1_000_000, STORED["text"])])
    column.array(stored)
    before = pa.total_allocated_bytes()
    array = column.array(stored)
    assert len(array) == 1_000_000
    assert pa.total_allocated_bytes() - before < 100_000
