"""What a file is read as: a list, a stream, a state, pages in a row, UTF-16; anything else is an error."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import allocframe as af
from allocframe.store import decode, lenient_json

DATA = Path(__file__).parents[1] / "data"
FILES = DATA / "files"
ID = "6513270e-269e-4d37-b2a7-4de452e6b438"


def read_text(tmp_path: Path, text: str | bytes) -> af.Snapshot:
    file = tmp_path / "file.json"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return af.read_json(file)


@pytest.mark.parametrize(
    "name",
    [
        *("wrapped.json", "two-arrays.json", "event-stream.ndjson", "bundle.json", "snapshot-state.json"),
        *("powershell-utf16.json", "jackson.json"),
    ],
)
def test_what_has_the_shape_of_something_known_is_read_as_that(name: str, tmp_path: Path) -> None:
    with af.read_json(FILES / name) as snap:
        rows = snap.allocations
        assert len(rows) == (1 if name == "bundle.json" else 3)
        assert ID in set(rows["alloc_id"])
        assert rows["client_status"].notna().all()
        assert len(snap.task_states) == len(rows)
        assert snap.issues.empty or name == "jackson.json"
        again = af.load(snap.save(tmp_path / "saved.allocframe"))
        assert again.allocations.equals(rows)


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_a_recorded_stream_of_all_topics_gives_the_newest_version_of_each_allocation(version: str) -> None:
    file = DATA / f"changes-{version}" / "event-stream-all-topics.ndjson.gz"
    newest: dict[str, int] = {}
    for line in gzip.decompress(file.read_bytes()).splitlines():
        for event in json.loads(line).get("Events") or []:
            row = (event.get("Payload") or {}).get("Allocation")
            if row:
                newest[row["ID"]] = max(newest.get(row["ID"], 0), row["ModifyIndex"])
    with af.read_json(file) as snap:
        rows = snap.allocations
        assert dict(zip(rows["alloc_id"], rows["modify_index"], strict=True)) == newest
        assert len(newest) > 10
        assert "only the newest version of each allocation is here" in repr(snap)


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
@pytest.mark.parametrize("name", ["raft-state", "snapshot-state"])
def test_a_recorded_state_gives_its_allocations(version: str, name: str) -> None:
    file = DATA / f"changes-{version}" / f"{name}.json.gz"
    wanted = {row["ID"] for row in json.loads(gzip.decompress(file.read_bytes()))["Allocs"]}
    with af.read_json(file) as snap:
        assert set(snap.allocations["alloc_id"]) == wanted
        assert wanted


@pytest.mark.parametrize(
    ("name", "looks_like"),
    [
        ("login.json", "login page"),
        ("curl-i.json", "curl without -i"),
        ("denied.json", "NOMAD_TOKEN"),
        ("jobs.json", "a list of jobs"),
    ],
)
def test_what_is_something_else_is_an_error_that_shows_how_it_begins(name: str, looks_like: str) -> None:
    with pytest.raises(af.DecodeError, match=looks_like) as error:
        af.read_json(FILES / name)
    assert (FILES / name).read_text()[:12] in str(error.value)
    assert name in error.value.file


@pytest.mark.parametrize(
    ("name", "looks_like"),
    [
        ("nodes", "a list of nodes"),
        ("deployments", "a list of deployments"),
        ("evaluations", "a list of evaluations"),
        ("job", "a list of jobs"),
        ("raft-logs", "a Raft log"),
    ],
)
@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_recorded_lists_of_other_things_are_never_rows(
    version: str, name: str, looks_like: str, tmp_path: Path
) -> None:
    stem = name if name.startswith("raft") else f"changes-{name}"
    [file] = (DATA / f"changes-{version}").glob(f"{stem}.*json*")
    text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    if not name.startswith("raft"):
        text = json.dumps(json.loads(text)[0]["json"]).encode()
    with pytest.raises(af.DecodeError, match=looks_like):
        read_text(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "Error querying",
        '{"errors": ["x"]}',
        "[1, 2]",
        '["a"]',
        '{"a": 1}',
        '[{"Name": "x"}]',
        "7",
        "{}",
        "[{}]",
    ],
)
def test_json_of_anything_else_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(af.DecodeError, match="It begins with"):
        read_text(tmp_path, text)


@pytest.mark.parametrize("text", ["[]", "null", '{"allocations": []}', '{"Allocs": null, "Jobs": null}'])
def test_an_empty_list_in_any_wrapping_has_no_rows(text: str, tmp_path: Path) -> None:
    assert len(read_text(tmp_path, text)) == 0


def test_an_empty_array_has_no_records_for_the_lenient_reader_either() -> None:
    for text in (b"[]", b" [ \n ] "):
        assert list(lenient_json.split_records(text, "file")) == []


def test_a_job_among_allocations_is_an_error_that_names_the_record(tmp_path: Path) -> None:
    with pytest.raises(af.DecodeError, match="record 1 looks like a list of jobs"):
        read_text(tmp_path, f'[{{"ID": "{ID}", "ClientStatus": "running"}}, {{"ID": "web", "ParentID": ""}}]')


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_files_of_windows_are_read(encoding: str, tmp_path: Path) -> None:
    text = json.dumps([{"ID": ID, "ClientStatus": "running", "Name": "wéb.g[0]"}], ensure_ascii=False)
    assert read_text(tmp_path, text.encode(encoding)).allocations["name"].tolist() == ["wéb.g[0]"]
    if encoding == "utf-16":
        with pytest.raises(af.DecodeError, match="damaged UTF-16"):
            read_text(tmp_path, text.encode(encoding)[:-1])


def test_a_large_file_is_read_in_parts_with_the_same_rows_and_issues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"ID": f"a{n}", "ClientStatus": "running", "JobVersion": "x" if n == 7 else n} for n in range(20)]
    whole = read_text(tmp_path, json.dumps(rows))
    frames = whole.allocations, whole.issues
    monkeypatch.setattr(decode, "PART", 200)
    parts = read_text(tmp_path, json.dumps(rows))
    assert len(frames[1]) == 1
    assert parts.allocations.equals(frames[0])
    assert parts.issues.equals(frames[1])


def page(*numbers: int) -> str:
    return json.dumps([{"ID": f"a{number}", "ClientStatus": "running"} for number in numbers])


@pytest.mark.parametrize("between", ["", "\n", " \r\n "])
def test_pages_in_a_row_are_all_read(between: str, tmp_path: Path) -> None:
    snap = read_text(tmp_path, between.join([page(1, 2), page(3), page(), page(4)]))
    assert snap.allocations["alloc_id"].tolist() == ["a1", "a2", "a3", "a4"]
    with pytest.raises(af.DecodeError, match="truncated"):
        read_text(tmp_path, between.join([page(1), page(2)[:-3]]))


@pytest.mark.parametrize("make", [Path, lambda path: f"{path}", lambda path: [path]])
def test_a_folder_is_an_error_and_not_an_empty_snapshot(make: Any, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(page(1))
    with pytest.raises(af.DecodeError, match=r"is a folder. Name its files"):
        af.read_json(make(tmp_path))
    (tmp_path / "inner" / "more").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no file matches"):
        af.read_json(tmp_path / "inner" / "*")


def test_blanks_before_a_colon_do_not_change_a_value(tmp_path: Path) -> None:
    text = f'[{{"ID" : "{ID}", "ClientStatus" : "running", "TaskStates" : {{"w" : {{"Restarts" : 1.5}}}}}}]'
    snap = read_text(tmp_path, text)
    assert snap.task_states["restarts"].isna().all()
    assert snap.issues["field"].tolist() == ["TaskStates.w.Restarts"]
