"""Decoding in several processes gives what one process gives, also if some of them are killed."""

from __future__ import annotations

import gzip
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import flatten
import pandas as pd
import pytest

import allocframe as af
from allocframe.snapshot import io
from allocframe.store import worker_pool
from allocframe.store.page_store import PageStore
from allocframe.store.worker_pool import WorkerPool
from allocframe.tables import SNAPSHOT_TABLES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = flatten.recorded_rows("2.0.5", "list-resources")[:3]
    for page in range(6):
        copies = [
            json.loads(json.dumps(row).replace(row["ID"], f"{page:04x}{row['ID'][4:]}")) for row in rows
        ]
        copies[0]["CreateIndex"] = "twelve"  # so that each page has a value that does not fit
        (tmp_path / f"page-{page}.json").write_text(json.dumps(copies))
    return tmp_path


@pytest.fixture
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every capture count as large."""
    monkeypatch.setattr(io, "MANY_BYTES", 0)
    monkeypatch.setattr(worker_pool, "_MOST", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)


def same_tables(one: af.Snapshot, other: af.Snapshot) -> None:
    for name in (*SNAPSHOT_TABLES, "issues"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


@pytest.mark.usefixtures("_many")
def test_processes_give_the_same_tables_and_issues_as_one_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    decoded: list[int] = []
    read = WorkerPool.read

    def note(pool: WorkerPool, page: worker_pool.Page, **options: bool) -> list[str] | None:
        asked.append(page.number)
        ids = read(pool, page, **options)
        if ids is not None:
            decoded.append(page.number)
        return ids

    monkeypatch.setattr(WorkerPool, "read", note)
    # Beside a notebook there may be anything: no process takes it for a module.
    monkeypatch.chdir(folder)
    for module in ("json", "types", "msgspec", "allocframe"):
        (folder / f"{module}.py").write_text("raise ImportError")
    with af.read_json(folder / "*.json", workers=1) as alone:
        assert asked == []
        with af.read_json(folder / "*.json") as together:
            assert sorted(asked) == [0, 1, 2, 3, 4, 5]
            assert decoded
            same_tables(together, alone)
            assert len(together.issues) == 6
            path = together.save(folder / "saved.allocframe")
        with af.load(path) as loaded:
            same_tables(loaded, alone)


@pytest.mark.usefixtures("_many")
def test_processes_capture_the_files_that_they_decode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = {file.name: file.read_bytes() for file in sorted(folder.glob("*.json"))}
    (folder / "page-1.json").unlink()
    (folder / "page-1.json.gz").write_bytes(gzip.compress(bodies["page-1.json"]))
    ndjson = b"\n".join(json.dumps(row).encode() for row in json.loads(bodies["page-2.json"]))
    (folder / "page-2.json").write_bytes(ndjson)
    monkeypatch.chdir(folder)
    with af.read_json("page-*") as together, af.read_json("page-*", workers=1) as alone:
        same_tables(together, alone)
        captures = [
            {page.path: (page.size, snap._capture.file(page).read_bytes()) for page in snap._capture.pages}
            for snap in (together, alone)
        ]
    assert captures[0] == captures[1]
    assert captures[0]["page-1.json.gz"] == (len(bodies["page-1.json"]), bodies["page-1.json"])
    assert captures[0]["page-2.json"] == (len(ndjson), ndjson)


@pytest.mark.usefixtures("_many")
def test_a_file_that_is_gone_meanwhile_is_an_error_naming_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def use_processes(store: PageStore) -> None:
        (folder / "page-4.json").unlink()
        start(store)

    start = PageStore.use_processes
    monkeypatch.setattr(PageStore, "use_processes", use_processes)
    with pytest.raises(FileNotFoundError, match=r"page-4\.json"):
        af.read_json(folder / "*.json")


@pytest.mark.usefixtures("_many")
def test_pages_of_a_process_that_was_killed_are_decoded_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, killed = WorkerPool.read, list[int]()

    def read_and_kill(pool: WorkerPool, page: worker_pool.Page, **options: bool) -> list[str] | None:
        ids = read(pool, page, **options)
        if ids is not None and len(killed) < 2:
            for process in pool._processes:
                if process._child.pid not in killed and process.unwritten:
                    killed.append(process._child.pid)
                    os.kill(process._child.pid, signal.SIGKILL)
        return ids

    monkeypatch.setattr(WorkerPool, "read", read_and_kill)
    with af.read_json(folder / "*.json") as together, af.read_json(folder / "*.json", workers=1) as alone:
        assert killed
        same_tables(together, alone)


@pytest.mark.usefixtures("_many")
def test_a_page_that_is_cut_is_an_error_naming_its_file_and_no_process_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools: list[WorkerPool] = []
    init = WorkerPool.__init__

    def note(pool: WorkerPool, *args: Any) -> None:
        pools.append(pool)
        init(pool, *args)

    monkeypatch.setattr(WorkerPool, "__init__", note)
    page = folder / "page-3.json"
    page.write_bytes(page.read_bytes()[:-20])
    with pytest.raises(af.DecodeError, match=r"page-3\.json"):
        af.read_json(folder / "*.json")
    assert pools
    assert all(process._child.poll() is not None for pool in pools for process in pool._processes)


def test_a_fetch_of_many_bytes_decodes_in_processes_and_workers_1_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from allocframe.fetch import listing

    monkeypatch.setattr(listing, "MANY_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(2), raising=False)
    pages: list[int] = []
    read = WorkerPool.read
    monkeypatch.setattr(
        WorkerPool, "read", lambda pool, page: (pages.append(page.number), read(pool, page))[1]
    )
    with (
        af.sim.Cluster("crash_loop", allocations=60, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token, namespace="*") as client,
    ):
        alone = client.snapshot(per_page=10, workers=1)
        assert pages == []
        together = client.snapshot(per_page=10)
        assert pages
        same_tables(together, alone)


@pytest.mark.usefixtures("_many")
def test_without_another_process_this_one_decodes_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "no-python"))
    with af.read_json(folder / "*.json") as together, af.read_json(folder / "*.json", workers=1) as alone:
        same_tables(together, alone)
