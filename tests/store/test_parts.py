"""Parts of a table hold whole allocations, and together all of its rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import allocframe as af
from allocframe.store.decode import ALLOC_ROW
from allocframe.store.parts import cut_at_allocations, number_allocations
from allocframe.store.table_store import TableStore
from allocframe.tables import TABLES

COLUMNS = tuple(column for column in TABLES["events"].columns if column.name in ("alloc_id", "task", "seq"))


def batches(*rows: list[int]) -> list[pa.RecordBatch]:
    return [pa.RecordBatch.from_pydict({ALLOC_ROW: pa.array(part, pa.int64())}) for part in rows]


def cut(rows: int, *parts: list[int]) -> list[list[int]]:
    return [
        [number for batch in part for number in batch.column(ALLOC_ROW).to_pylist()]
        for part in cut_at_allocations(batches(*parts), rows)
    ]


def test_an_allocation_is_never_split_even_between_batches() -> None:
    assert cut(2, [1, 1, 1, 2], [2, 2, 3, 4]) == [[1, 1, 1], [2, 2, 2], [3, 4]]
    assert cut(100, [1, 2], [3]) == [[1, 2, 3]]
    assert cut(1, [7, 7], [7]) == [[7, 7, 7]]
    assert cut(5) == [[]]


def test_allocations_are_numbered_by_all_columns_of_their_key_across_batches() -> None:
    keys = {"cluster": ["a", "a", "b"], "id": ["x", "x", "x"], "seq": [0, 1, 0]}
    more = {"cluster": ["b", "b"], "id": ["x", None], "seq": [1, 0]}
    parts = [
        pa.RecordBatch.from_pydict({"seq": rows["seq"], "cluster": rows["cluster"], "id": rows["id"]})
        for rows in (keys, more)
    ]
    numbered = pa.Table.from_batches(number_allocations(parts, 2))
    assert numbered.column_names == ["seq", ALLOC_ROW]
    assert numbered[ALLOC_ROW].to_pylist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("rows", [1, 100, 10**6])
def test_the_parts_of_a_fetch_and_of_saved_tables_hold_the_rows_of_the_whole_table(
    client: af.Client, rows: int
) -> None:
    with client.snapshot(namespace="*") as fetched:
        saved = TableStore.copy_of(fetched._store, [])
        for store in (fetched._store, saved):
            whole = store.frame("events", "main", COLUMNS)
            frames, places = zip(*store.parts("events", "main", COLUMNS, rows), strict=True)
            assert all(len(frame) for frame in frames)
            assert (len(frames) > 1) is (rows < len(whole))
            joined = pd.concat([frame.astype({"alloc_id": "str", "task": "str"}) for frame in frames])
            by_creation = np.argsort(np.concatenate(places), kind="stable")
            sorted_rows = joined.iloc[by_creation].reset_index(drop=True)
            expected = whole.astype({"alloc_id": "str", "task": "str"})
            pd.testing.assert_frame_equal(sorted_rows, expected)
        saved.close()
