"""Parts of a table hold whole allocations, and together all of its rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import allocframe as af
from allocframe.store.decode import ALLOC_ROW
from allocframe.store.parts import cut_at_allocations
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
            (allocations, made_at), *_ = store.parts("allocations", "main", COLUMNS[:1], 10**9)
            by_place = pd.Series(allocations["alloc_id"].astype("str").to_numpy(), index=made_at)
            assert by_place[np.concatenate(places)].tolist() == joined["alloc_id"].tolist()
        saved.close()


def test_counts_and_the_time_covered_are_those_of_sql_whatever_holds_the_tables(
    snap: af.Snapshot, archive: af.Archive
) -> None:
    filtered = snap.filter(client_status="failed")
    for snapshot in (snap, filtered, snap.filter(job_id="nobody"), archive.snapshot()):
        for name in ("allocations", "events", "task_states"):
            assert snapshot._counts[name] == snapshot.sql(f"SELECT count(*) AS n FROM {name}")["n"].iloc[0]
        truncated = snapshot.sql("SELECT count(*) AS n FROM task_states WHERE events_truncated")
        assert snapshot.info["tasks_truncated"] == truncated["n"].iloc[0]
        span = snapshot.sql("SELECT min(time) AS first, max(time) AS last FROM events").iloc[0]
        assert pd.Series(snapshot._span).equals(pd.Series([span["first"], span["last"]]))
    assert 0 < len(filtered) < len(snap)
