"""Tables that do not fit in memory move to files, and stay the same tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flatten
import pandas as pd
import pyarrow.dataset as ds
import pytest

import allocframe as af
from allocframe.store import page_store, segments
from allocframe.tables import SNAPSHOT_TABLES, TABLES


@pytest.fixture
def pages(tmp_path: Path) -> list[Path]:
    rows = flatten.recorded_rows("1.3.1", "list-resources")
    files = []
    for page in range(8):
        file = tmp_path / f"page-{page}.json"
        file.write_text(
            json.dumps(
                [json.loads(json.dumps(row).replace(row["ID"], f"{page:04x}{row['ID'][4:]}")) for row in rows]
            )
        )
        files.append(file)
    return files


@pytest.fixture
def in_memory(pages: list[Path]) -> Any:
    with af.read_json(pages) as snap:
        yield snap


@pytest.fixture
def _no_memory(monkeypatch: pytest.MonkeyPatch, in_memory: af.Snapshot) -> None:
    for name in SNAPSHOT_TABLES:
        getattr(in_memory, name)
    monkeypatch.setattr(segments, "LIMIT", 0)
    monkeypatch.setattr(page_store, "BATCH", 1)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True))


@pytest.mark.usefixtures("_no_memory")
def test_tables_on_disk_equal_tables_in_memory_in_frames_sql_filters_and_parts(
    pages: list[Path], in_memory: af.Snapshot
) -> None:
    with af.read_json(pages) as snap:
        assert snap._store.size() == 0
        assert len(list(snap._capture.folder.glob("tables/*.events.arrow"))) == len(pages)
        for name in SNAPSHOT_TABLES:
            same(getattr(snap, name), getattr(in_memory, name))
        query = "SELECT * FROM events ORDER BY alloc_id, task, seq"
        same(snap.sql(query), in_memory.sql(query))
        jobs = in_memory.allocations["job_id"].unique()[:2].tolist()
        same(snap.filter(job_id=jobs).events, in_memory.filter(job_id=jobs).events)
        assert snap.filter(job_id="nothing").events.empty
        parts = list(snap._iter_parts(("allocations", "events"), 7))
        assert {len(part["allocations"]) for part in parts[:-1]} == {7}
        events = pd.concat([part["events"].astype("str") for part in parts])
        assert sorted(events["alloc_id"]) == sorted(in_memory.events["alloc_id"].astype("str"))


@pytest.mark.usefixtures("_no_memory")
def test_statistics_read_one_file_at_a_time_and_all_rows(
    pages: list[Path], in_memory: af.Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    dataset = ds.dataset
    monkeypatch.setattr(
        ds, "dataset", lambda files, **more: read.append(len(files)) or dataset(files, **more)
    )
    columns = tuple(column for column in TABLES["events"].columns if column.name in ("alloc_id", "seq"))
    with af.read_json(pages) as snap:
        parts = [part for part, _ in snap._select_parts("events", columns, 50)]
    assert read == [1] * len(pages)
    assert all(len(part) < 100 for part in parts)
    rows = pd.concat([part.astype("str") for part in parts])
    expected = in_memory.events[["alloc_id", "seq"]].astype("str")
    assert sorted(rows.itertuples(index=False, name=None)) == sorted(
        expected.itertuples(index=False, name=None)
    )


@pytest.mark.usefixtures("_no_memory")
@pytest.mark.parametrize("name", ["allocations", "task_states", "events"])
def test_the_rows_of_some_allocations_are_the_same_on_disk_and_in_memory(
    name: str, pages: list[Path], in_memory: af.Snapshot
) -> None:
    ids = in_memory.allocations["alloc_id"].iloc[::5].astype("str").tolist()
    with af.read_json(pages) as snap:
        rows = snap._rows_by_id(name, [*ids, "none"])
        assert snap._rows_by_id(name, ["none"]).empty
    everything = getattr(in_memory, name)
    expected = everything[everything["alloc_id"].isin(ids)]
    assert len(expected) >= len(ids)
    same(rows, expected)


@pytest.mark.usefixtures("_no_memory")
def test_rows_on_disk_are_deleted_too(pages: list[Path], in_memory: af.Snapshot) -> None:
    with af.read_json([*pages, pages[0]]) as snap:
        assert len(snap) == len(in_memory)
        assert len(snap.sql("SELECT DISTINCT alloc_id FROM allocations")) == len(in_memory)
        same(snap.events, in_memory.events)


def test_a_part_of_a_store_reads_only_the_files_that_hold_it(
    pages: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "LIMIT", 0)
    monkeypatch.setattr(page_store, "BATCH", 1)
    with af.read_json(pages) as snap:
        read: list[Path] = []
        read_file = segments._read_file
        monkeypatch.setattr(
            segments, "_read_file", lambda path, columns: (read.append(path), read_file(path, columns))[1]
        )
        size = len(snap) // len(pages)
        schemas = snap._store.split("main", size)
        next(schemas)
        schema = next(schemas)
        read.clear()
        assert snap._store.frame("events", schema)["alloc_id"].nunique() > 0
        assert len({path for path in read if path.name.endswith(".events.arrow")}) == 1
