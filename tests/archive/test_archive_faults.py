"""What goes wrong with an archive, and what holds; the rows are those of docs/faults.md."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from watched import Versions, history, ring

import allocframe as af
from allocframe.archive import append, delta, schema
from allocframe.tables.table import Column

APPENDER = Path(__file__).parent / "appender.py"
GOLDEN = Path(__file__).parent.parent / "data" / "archive-1"


@pytest.fixture
def archive(tmp_path: Path) -> af.Archive:
    return af.Archive(tmp_path / "archive")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """One task after each of its 60 events."""
    events = history(60)
    pages = tmp_path / "pages"
    pages.mkdir()
    return Versions(pages, {("a", cut): {"events": ring(events, cut), "restarts": 0} for cut in range(1, 61)})


def step(versions: Versions, cut: int) -> Any:
    return versions.seen(cut, changed=[("a", cut)], before=[("a", cut - 1)])


def started(folder: Path, recorder: str, first: int, last: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(APPENDER), str(folder), recorder, str(first), str(last)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    return child


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin
    child.stdin.write("go\n")
    child.stdin.flush()


def ended(child: subprocess.Popen[str]) -> list[int]:
    """Wait for the end of an appender; return what it said it had kept."""
    assert child.stdout
    assert child.stdin
    said = [int(line) for line in child.stdout]
    child.wait(timeout=60)
    child.stdout.close()
    child.stdin.close()
    return said


def is_whole(archive: af.Archive, count: int) -> bool:
    """Return whether the archive has the first `count` events, each once, and calls that complete."""
    events = archive.events()
    assert events["seq"].tolist() == list(range(count))
    assert events["time"].is_monotonic_increasing
    assert events["time"].is_unique
    return bool(archive.coverage()["complete"].all())


def test_an_appender_killed_at_any_instant_loses_at_most_its_last_step(tmp_path: Path) -> None:
    folder, rng, kept = tmp_path / "archive", Random(3), 0
    for _ in range(2):
        child = started(folder, "one", kept + 1, kept + 40)
        go(child)
        time.sleep(rng.uniform(0.02, 0.7))  # the instant of the kill: any will do
        child.kill()
        said = ended(child)
        if not (folder / "snapshots").exists():
            assert said == []
            continue
        archive = af.Archive(folder)
        count = len(archive.events()) if said or kept else 0
        assert max([kept, *said]) <= count <= max([kept, *said]) + 1
        kept = count
        assert kept == 0 or is_whole(archive, kept)
    child = started(folder, "one", kept + 1, kept + 3)
    go(child)
    assert ended(child) == [kept + 1, kept + 2, kept + 3]
    archive = af.Archive(folder)
    archive.compact()
    assert is_whole(archive, kept + 3)


@pytest.mark.parametrize("table", ["allocations", "task_states", "events", "snapshots"])
def test_what_was_written_before_a_crash_does_not_count(
    archive: af.Archive, versions: Versions, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.append(versions.seen(5, added=[("a", 5)]))
    append = delta.DeltaTables.append

    def crash(tables: delta.DeltaTables, name: str, rows: Any) -> None:
        if name == table:
            raise KeyboardInterrupt
        append(tables, name, rows)

    with monkeypatch.context() as patched:
        patched.setattr(delta.DeltaTables, "append", crash)
        with pytest.raises(KeyboardInterrupt):
            archive.append([step(versions, 6), versions.seen(7, removed=[("a", 6)])])
    assert len(archive.events()) == 5
    assert archive.allocations()["gone_at"].isna().all()
    archive.compact()
    assert len(archive.events()) == 5
    archive.append(step(versions, 6))
    assert is_whole(archive, 6)


def test_rows_of_an_append_that_never_ended_are_cleared_away(
    archive: af.Archive, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.append(versions.seen(5, added=[("a", 5)]))
    with monkeypatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: 1_700_000_000 * 10**9)
        patched.setattr(archive._tables, "append", _only(archive._tables, "events"))
        archive.append(versions.seen(9, changed=[("a", 9)]))
    assert archive.info["tables"]["events"]["rows"] == 5 + 9
    archive.compact()
    assert archive.info["tables"]["events"]["rows"] == 5


def _only(tables: delta.DeltaTables, table: str) -> Any:
    append = tables.append
    return lambda name, rows: append(name, rows) if name == table else None


def test_a_full_disk_is_an_error_that_leaves_the_archive_as_it_was(
    tmp_path: Path, versions: Versions
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.geteuid() == 0
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("a small file system can only be mounted by root")
    try:
        archive, kept = af.Archive(disk / "archive"), 0

        def fill() -> None:
            nonlocal kept
            for cut in range(1, 61):
                archive.append(step(versions, cut))
                kept = cut

        with pytest.raises(OSError, match="No space left on device") as caught:
            fill()
        assert caught.value.errno == errno.ENOSPC
        assert "\n" not in str(caught.value)
        assert kept >= 1
        assert is_whole(archive, kept)
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        for cut in range(kept + 1, kept + 4):
            archive.append(step(versions, cut))
        assert is_whole(archive, kept + 3)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_two_recorders_of_one_archive_keep_each_event_once(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    children = [started(folder, "one", 1, 6), started(folder, "two", 3, 9)]
    for child in children:
        go(child)
    assert [len(ended(child)) for child in children] == [6, 7]
    archive = af.Archive(folder)
    assert is_whole(archive, 9)
    assert sorted(archive.state().recorders["recorder"]) == ["one", "two"]
    archive.compact()
    assert is_whole(archive, 9)
    assert archive.info["tables"]["events"]["rows"] == 9


def test_an_archive_of_schema_version_1_is_read_and_appended_to(tmp_path: Path, versions: Versions) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "archive")
    archive = af.Archive(folder)
    snap = archive.snapshot()
    assert snap.info["at"] == "2026-09-21T14:15:20+00:00"
    assert snap.allocations["alloc_id"].tolist() == ["web-1", "web-2"]
    assert snap.task_states["events_truncated"].tolist() == [False, True]
    assert archive.events(alloc_id="web-1")["type"].value_counts().to_dict() == {
        "Received": 1, "Started": 8, "Terminated": 8, "Restarting": 8,
    }  # fmt: skip
    assert archive.allocations()["gone_at"].notna().tolist() == [False, False, True]
    assert af.stats.restarts(snap)["count"].tolist() == [8 + 4]
    archive.append(versions.seen(30, added=[("a", 9)]))
    assert len(archive.events(alloc_id="a")) == 9


def test_a_column_added_later_is_missing_in_what_was_written_before(
    tmp_path: Path, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "archive")
    old = schema.STORED["events"]
    table = replace(old.table, columns=(*old.table.columns, Column("colour", "colour", "category", "")))
    monkeypatch.setitem(schema.STORED, "events", replace(old, table=table))
    archive = af.Archive(folder)
    rows = "SELECT e.colour FROM stored.events e WHERE alloc_id = "
    assert _stored(archive, f"{rows} 'web-1' LIMIT 1") == [(None,)]
    change = step(versions, 1)
    archive.append(replace(change, events=change.events.assign(colour="red"), new_events=change.events))
    assert _stored(archive, f"{rows} 'a'") == [("red",)]
    archive.compact()
    assert _stored(archive, f"{rows} 'web-1' LIMIT 1") == [(None,)]
    assert _stored(archive, f"{rows} 'a'") == [("red",)]


def _stored(archive: af.Archive, query: str) -> list[Any]:
    from allocframe.archive.views import read_archive

    return read_archive(archive._tables, lambda connection: connection.sql(query).fetchall())


def test_an_archive_of_a_newer_version_is_refused(
    tmp_path: Path, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "archive")
    monkeypatch.setattr(delta, "VERSION", 0)
    for work in (af.Archive(folder).snapshot, lambda: af.Archive(folder).append(step(versions, 1))):
        with pytest.raises(af.DecodeError, match="newer allocframe"):
            work()


def test_an_archive_is_read_while_it_is_written_and_compacted(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    child = started(folder, "one", 1, 12)
    archive = af.Archive(folder)
    done = threading.Event()
    failed: list[BaseException] = []

    def compacting() -> None:
        while not done.is_set():
            try:
                archive.compact()
            except FileNotFoundError:
                continue  # the first append has not come yet
            except BaseException as error:  # noqa: BLE001 - reported below
                failed.append(error)

    go(child)
    helper = threading.Thread(target=compacting)
    helper.start()
    seen = [0]
    try:
        while child.poll() is None:
            try:
                events = af.Archive(folder).events()
            except FileNotFoundError:
                continue
            assert events["seq"].tolist() == list(range(len(events)))
            seen.append(len(events))
    finally:
        done.set()
        helper.join()
        said = ended(child)
    assert failed == []
    assert said == list(range(1, 13))
    assert seen == sorted(seen)
    assert is_whole(af.Archive(folder), 12)


def test_files_are_readable_by_their_owner_only(
    archive: af.Archive, versions: Versions, tmp_path: Path
) -> None:
    for cut in (1, 2):
        archive.append(step(versions, cut))
    archive.compact()
    paths = list((tmp_path / "archive").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}


def test_an_append_that_took_so_long_that_its_rows_may_be_gone_does_not_count(
    archive: af.Archive, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.append(step(versions, 1))
    with monkeypatch.context() as patched:
        patched.setattr(append, "_LIMIT_S", 0)
        with pytest.raises(OSError, match="Append it again"):
            archive.append(step(versions, 2))
    assert len(archive.events()) == 1
    archive.append(step(versions, 2))
    assert is_whole(archive, 2)


def test_every_commit_is_synced_before_the_batch_counts(
    tmp_path: Path, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, synced, counted = af.Archive(tmp_path / "archive"), set[Path](), []
    archive.append(step(versions, 0))
    sync, append = os.fsync, delta.DeltaTables.append
    before = set(archive._tables.folder.rglob("*"))

    def record(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").readlink())
        sync(handle)

    def append_and_check(tables: delta.DeltaTables, name: str, rows: Any) -> None:
        if name == "snapshots":
            written = {path for path in tables.folder.rglob("*") if path.is_file()} - before
            counted.append(written <= synced and bool(written))
        append(tables, name, rows)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(delta.DeltaTables, "append", append_and_check)
    archive.append(step(versions, 1))
    assert counted == [True]
    files = {path for path in archive._tables.folder.rglob("*") if path.is_file()} - before
    assert files <= synced
    assert archive._tables.folder / "snapshots" / "_delta_log" in synced


@pytest.mark.parametrize("name", ["a[1]", "a]", "a|b", "a^b", "a\\b", "a\tb", "a\nb", "a%20b"])
def test_a_path_that_delta_rs_cannot_take_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(af.ConfigError, match="an archive's path must not contain"):
        af.Archive(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("events", b""), ("allocations", b"\0" * 100), ("snapshots", b'{"add":{"path":"x'), ("snapshots", b"")],
)
def test_a_commit_that_a_power_loss_cut_is_an_error_and_is_repaired_to_the_last_whole_step(
    tmp_path: Path, versions: Versions, name: str, content: bytes
) -> None:
    folder = tmp_path / "archive"
    archive = af.Archive(folder)
    archive.append(step(versions, 0))
    before = len(archive.events())
    whole = shutil.copytree(folder, tmp_path / "before")
    archive.append(step(versions, 1))
    # The power went while this table was written: those that are written after it have not changed.
    order = [stored for stored in schema.STORED if (folder / stored).exists()]
    for later in order[order.index(name) + 1 :]:
        shutil.rmtree(folder / later)
        shutil.copytree(whole / later, folder / later)
    torn = max((folder / name / "_delta_log").glob("*.json"))
    torn.write_bytes(content)
    for read in (af.Archive(folder).events, af.Archive(folder).allocations, af.Archive(folder).snapshot):
        with pytest.raises(af.DecodeError, match=r"is truncated.*Archive.repair"):
            read()
    assert af.Archive(folder).repair() == [str(torn)]
    assert len(af.Archive(folder).events()) == before
    af.Archive(folder).append(step(versions, 1))
    assert len(af.Archive(folder).events()) > before
