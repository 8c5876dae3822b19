"""Runs of dispatched and periodic jobs in archives, and in files saved before their columns existed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from watched import Versions, history

import allocframe as af
from allocframe.archive import schema
from allocframe.store.capture import load_capture
from allocframe.tables import TABLES

CHILD = "ocr/dispatch-1700000000-abcdef12"
ADDED = {"parent_job_id", "run"}


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    pages = tmp_path / "pages"
    pages.mkdir()
    return Versions(
        pages, {("a", 9): {"JobID": CHILD}, ("b", 9): {"JobID": "web"}, ("c", 9): {"JobID": CHILD}}
    )


def children(snapshot: af.Snapshot) -> dict[str, list[str]]:
    named = snapshot.allocations.dropna(subset="parent_job_id")
    return {row.alloc_id: [row.parent_job_id, row.run] for row in named.itertuples()}


def test_an_archive_keeps_parents_and_runs_and_finds_allocations_by_them(
    tmp_path: Path, versions: Versions
) -> None:
    archive = af.Archive(tmp_path / "archive")
    archive.append(versions.seen(0, added=[("a", 9), ("b", 9)]))
    assert children(archive.snapshot()) == {"a": ["ocr", CHILD.removeprefix("ocr/")]}
    assert archive.allocations(parent_job_id="ocr")["alloc_id"].tolist() == ["a"]


def test_an_archive_written_before_the_columns_existed_has_them_derived(
    tmp_path: Path, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = schema.STORED["allocations"]
    columns = tuple(column for column in stored.table.columns if column.name not in ADDED)
    archive = af.Archive(tmp_path / "archive")
    with monkeypatch.context() as old:
        old.setitem(
            schema.STORED, "allocations", replace(stored, table=replace(stored.table, columns=columns))
        )
        archive.append(versions.seen(0, added=[("a", 9), ("b", 9)]))
    run = ["ocr", CHILD.removeprefix("ocr/")]
    assert children(archive.snapshot()) == {"a": run}
    archive.append(versions.seen(60, added=[("c", 9)]))
    archive.compact()
    assert children(archive.snapshot()) == {"a": run, "c": run}
    assert archive.allocations(parent_job_id="ocr")["alloc_id"].tolist() == ["a", "c"]


def test_tables_saved_before_the_columns_existed_have_them_derived(
    tmp_path: Path, versions: Versions
) -> None:
    archive = af.Archive(tmp_path / "archive")
    archive.append(versions.seen(0, added=[("a", 9), ("b", 9)]))
    capture = load_capture(archive.snapshot().save(tmp_path / "new.allocframe"))
    page = next(page for page in capture.pages if page.path == "allocations")
    file = capture.file(page)
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(sorted(ADDED)), file)
    capture.update_size(page)
    assert children(af.load(capture.save(tmp_path / "old.allocframe"))) == {
        "a": ["ocr", CHILD.removeprefix("ocr/")]
    }


def test_tables_and_archives_from_before_a_column_existed_have_na_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = {
        name: [column.name for column in TABLES[name].columns if column.derived == "NULL"]
        for name in ("allocations", "task_states", "events")
    }
    assert all(added.values())
    (tmp_path / "more").mkdir()
    versions = Versions(tmp_path / "more", {("a", 9): {"events": history(9)}})
    archive = af.Archive(tmp_path / "archive")
    with monkeypatch.context() as old:
        for name, columns in added.items():
            stored = schema.STORED[name]
            kept = tuple(column for column in stored.table.columns if column.name not in columns)
            old.setitem(schema.STORED, name, replace(stored, table=replace(stored.table, columns=kept)))
        archive.append(versions.seen(0, added=[("a", 9)]))
    capture = load_capture(archive.snapshot().save(tmp_path / "new.allocframe"))
    for page in capture.pages:
        if page.path in added:
            file = capture.file(page)
            pq.write_table(pq.read_table(file).drop_columns(added[page.path]), file)
            capture.update_size(page)
    for snap in (archive.snapshot(), af.load(capture.save(tmp_path / "old.allocframe"))):
        for name, columns in added.items():
            rows = getattr(snap, name)
            assert len(rows)
            assert rows[columns].isna().all(axis=None)
