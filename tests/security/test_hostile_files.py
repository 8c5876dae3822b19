"""Made-up files: saved snapshots and archives are opened as if an attacker had sent them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import allocframe as af
from allocframe.store import capture

ARCHIVE = Path(__file__).parents[1] / "data" / "archive-1"


@pytest.fixture
def saved(snap: af.Snapshot, tmp_path: Path) -> Path:
    return snap.save(tmp_path / "x.allocframe")


def rewritten(saved: Path, change: Callable[[dict[str, Any]], object], **members: bytes) -> Path:
    """Change the manifest of a saved snapshot, and add members to it."""
    target = saved.with_name("hostile.allocframe")
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(target, "w") as made:
        manifest = json.loads(source.read("manifest.json"))
        change(manifest)
        made.writestr("manifest.json", json.dumps(manifest))
        for name in source.namelist():
            if name != "manifest.json" and name not in members:
                made.writestr(name, source.read(name))
        for name, data in members.items():
            made.writestr(name, data)
    return target


def page(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["pages"][0].update(fields)


def info(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["info"].update(fields)


@pytest.mark.parametrize(
    "change",
    [
        page(number="../../outside"), page(number=-1), page(number=True), page(number=10**9), page(size=-1),
        page(size="1"), page(kind="x"), page(params=[]), page(path=5), page(unknown=1), page(size=10**18),
        lambda manifest: manifest["pages"].append(manifest["pages"][0]),
        lambda manifest: manifest.update(pages={"a": 1}), lambda manifest: manifest.update(info=[1]),
        lambda manifest: manifest.update(format="x"), lambda manifest: manifest.update(format=99),
        info(filters=5), info(filters=[5]), info(filters=[["job_id; DROP TABLE pages", "x"]]),
        info(filters=[[5, "x"]]), info(notes="x"), info(notes=[5]),
        info(gaps=[{"since": "never", "until": None}]), info(finished_at="yesterday"), info(finished_at=5),
    ],
)  # fmt: skip
def test_a_manifest_that_nobody_saved_is_refused_and_touches_nothing_else(
    saved: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    target = rewritten(saved, change)
    before = sorted(saved.parent.parent.rglob("*"))
    with pytest.raises(af.DecodeError, match=r"hostile\.allocframe"):
        af.load(target)
    assert sorted(saved.parent.parent.rglob("*")) == before


def test_a_manifest_nested_without_end_is_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved, "w") as made:
        made.writestr("manifest.json", "[" * 100_000)
    with pytest.raises(af.DecodeError, match=r"x\.allocframe"):
        af.load(saved)


def test_a_manifest_that_unpacks_without_end_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_LONGEST_MANIFEST", 1 << 20)
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("manifest.json", b" " * (16 << 20))
    with pytest.raises(af.DecodeError, match="longer than 1,048,576 bytes"):
        af.load(saved)


def test_a_page_that_unpacks_to_more_than_it_says_is_given_up_at_once(saved: Path) -> None:
    bomb = pa.compress(b" " * (64 << 20), "zstd", asbytes=True)
    target = rewritten(saved, page(size=1000), **{"pages/000000.json.zst": bomb})
    with pytest.raises(af.DecodeError, match="longer than the 1,000 bytes"):
        af.load(target)


def test_saving_follows_no_link_that_somebody_put_there_and_names_only_what_is_on_the_disk(
    snap: af.Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mine := tmp_path / "mine").write_bytes(b"mine")
    monkeypatch.setattr(capture.secrets, "token_hex", lambda size: "known")
    part = tmp_path / f".x.{os.getpid()}-known.part"
    part.symlink_to(mine)
    with pytest.raises(FileExistsError):
        snap.save(tmp_path / "x")
    assert mine.read_bytes() == b"mine"
    part.unlink(missing_ok=True)
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: steps.append("sync") or sync(handle))
    monkeypatch.setattr(Path, "replace", lambda *given: steps.append("name") or replace(*given))
    snap.save(tmp_path / "x")
    assert steps == ["sync", "name", "sync"]


def test_a_file_that_needs_more_than_there_is_is_refused_before_the_disk_is_full(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(saved.parent)
    monkeypatch.setattr(capture.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(af.DecodeError, match="has only 10 free"):
        af.load(saved)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_INFO = (
    "notes",
    "filters",
    "gaps",
    "complete",
    "finished_at",
    "server",
    "version",
    "region",
    "at",
    "since",
    "missing",
)


@settings(max_examples=40, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(told=st.dictionaries(st.sampled_from(_INFO), _json, max_size=3))
def test_whatever_a_file_tells_of_its_source_it_is_shown_or_refused(
    saved: Path, told: dict[str, Any]
) -> None:
    target = rewritten(saved, info(**told))
    try:
        snap = af.load(target)
    except af.DecodeError:
        return
    with snap:
        assert "\x1b" not in repr(snap) + snap._repr_html_()
        assert len(snap.allocations) > 0


# Archives


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ARCHIVE, tmp_path / "archive"))


def logged(folder: Path, change: Callable[[dict[str, Any]], object], table: str = "events") -> None:
    """Change every action in the log of a table."""
    for log in (folder / table / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            change(action)
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))


CALLS: dict[str, Callable[[af.Archive], object]] = {
    "snapshot": lambda archive: archive.snapshot(),
    "events": lambda archive: archive.events(),
    "allocations": lambda archive: archive.allocations(),
    "sql": lambda archive: archive.sql("SELECT count(*) FROM events"),
    "coverage": lambda archive: archive.coverage(),
    "info": lambda archive: archive.info,
    "state": lambda archive: archive.state(),
}


def data_file(folder: Path, table: str = "events") -> Path:
    return sorted((folder / table).rglob("*.parquet"))[0]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"junk" * 500], ids=["empty", "short", "junk"])
def test_a_torn_data_file_is_an_error_that_names_it_and_never_a_short_table(
    folder: Path, call: Callable[[af.Archive], object], content: bytes
) -> None:
    data_file(folder).write_bytes(content)
    with pytest.raises(af.DecodeError, match=r"damaged.*part-"):
        call(af.Archive(folder))


def test_a_data_file_cut_anywhere_is_never_read_as_a_shorter_one(folder: Path) -> None:
    file, whole = data_file(folder), af.Archive(folder).events()
    data = file.read_bytes()
    for cut in range(0, len(data), max(len(data) // 20, 1)):
        file.write_bytes(data[:cut])
        with pytest.raises((af.DecodeError, OSError)):
            af.Archive(folder).events()
    file.write_bytes(data)
    pd.testing.assert_frame_equal(af.Archive(folder).events(), whole)


def test_a_data_file_that_is_gone_is_an_error_that_names_it(folder: Path) -> None:
    data_file(folder).unlink()
    with pytest.raises(OSError, match="part-"):
        af.Archive(folder).events()


@pytest.mark.parametrize(
    "path", ["../../outside.parquet", "day=x/../../../outside.parquet", "*/*.parquet", "%2E%2E/x.parquet"]
)
def test_a_table_that_names_files_outside_of_the_archive_is_refused(folder: Path, path: str) -> None:
    shutil.copy(data_file(folder), folder.parent / "outside.parquet")
    logged(folder, lambda action: action.get("add", {}).update(path=path))
    with pytest.raises((af.DecodeError, OSError)):
        af.Archive(folder).events()


@pytest.mark.parametrize("which", ["the file", "its folder"])
def test_a_link_out_of_the_archive_is_not_followed(folder: Path, which: str) -> None:
    file = data_file(folder)
    moved = file if which == "the file" else file.parent
    moved.rename(folder.parent / "elsewhere")
    moved.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(af.DecodeError, match="outside"):
        af.Archive(folder).events()


@pytest.mark.parametrize(
    "place", ["http://127.0.0.1:9/x.parquet", "s3://x/y.parquet", "file:///etc/passwd", "/etc/passwd"]
)
def test_a_table_that_names_a_place_elsewhere_reaches_nothing(folder: Path, place: str) -> None:
    logged(folder, lambda action: action.get("add", {}).update(path=place))
    with pytest.raises((af.DecodeError, OSError)) as caught:
        af.Archive(folder).events()
    assert "root:" not in str(caught.value)


def test_clearing_up_a_hostile_archive_removes_nothing_outside_of_it(folder: Path) -> None:
    outside = folder.parent / "outside.parquet"
    outside.write_bytes(b"mine")
    log = max((folder / "events" / "_delta_log").glob("*.json"))
    for path in ("../../outside.parquet", str(outside), f"file://{outside}"):
        removed = {
            "path": path,
            "deletionTimestamp": 1,
            "dataChange": True,
            "partitionValues": {"day": "2026-09-21"},
        }
        log.write_text(log.read_text().rstrip("\n") + "\n" + json.dumps({"remove": removed}) + "\n")
    af.Archive(folder).compact()
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("version", ["x", "-1", "1.5", "9" * 40, ""])
def test_a_version_that_is_none_is_refused(folder: Path, version: str) -> None:
    def change(action: dict[str, Any]) -> None:
        if "metaData" in action:
            action["metaData"]["configuration"]["allocframe.schemaVersion"] = version

    logged(folder, change)
    if version:
        with pytest.raises(af.DecodeError, match="version"):
            af.Archive(folder).events()
    else:
        assert len(af.Archive(folder).events()) > 0


def test_columns_of_other_types_are_refused(folder: Path) -> None:
    file = str(data_file(folder))
    duckdb.sql(f"COPY (SELECT 1 AS alloc_id, 'x' AS seen_at, 5 AS batch) TO '{file}' (FORMAT parquet)")
    with pytest.raises(af.DecodeError, match="not written by allocframe"):
        af.Archive(folder).events()


def test_a_mistake_in_ones_own_sql_is_not_called_damage(folder: Path) -> None:
    with pytest.raises(duckdb.Error):
        af.Archive(folder).sql("SELECT nothing FROM events")


@settings(max_examples=10, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_in_the_files_of_an_archive_it_is_read_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = Path(shutil.copytree(ARCHIVE, tmp_path_factory.mktemp("any") / "archive"))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    file = data.draw(st.sampled_from(files))
    held = file.read_bytes()
    at = data.draw(st.integers(0, len(held)))
    new = data.draw(
        st.one_of(st.binary(max_size=8), st.sampled_from([b"null", b'"', b"{", b"-1", b"\n", b"../"]))
    )
    file.write_bytes(held[:at] + new + held[at + data.draw(st.sampled_from([0, len(new), 100])) :])
    for call in ("events", "allocations", "coverage"):
        with contextlib.suppress(af.DecodeError, OSError):
            CALLS[call](af.Archive(folder))
