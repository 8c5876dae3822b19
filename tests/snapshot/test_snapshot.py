"""Snapshots: SQL, filters, files and views."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import flatten
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import allocframe as af
from allocframe.snapshot.summary import list_remarks
from allocframe.tables import SNAPSHOT_TABLES


@pytest.fixture
def snap(client: af.Client) -> af.Snapshot:
    return client.snapshot(namespace="*", resources=True)


def test_frames_are_made_once_and_say_where_they_come_from(snap: af.Snapshot) -> None:
    assert snap.events is snap.events
    assert snap.events.attrs["table"] == "events"
    assert snap.events.attrs["from"]["complete"] is True
    json.dumps(snap.events.attrs)


def test_sql_sees_the_same_tables(snap: af.Snapshot) -> None:
    counted = snap.sql("SELECT type, count(*) AS n FROM events GROUP BY ALL ORDER BY type").set_index("type")[
        "n"
    ]
    assert counted.to_dict() == snap.events["type"].value_counts().to_dict()
    last = snap.sql("SELECT max(time) AS last FROM events")["last"][0]
    assert last == snap.events["time"].max()


def test_sql_tells_which_tables_there_are(snap: af.Snapshot) -> None:
    names = snap.sql("SHOW TABLES")["name"].tolist()
    assert {"allocations", "task_states", "events", "reschedules", "resources", "placement"} <= set(names)


@pytest.mark.parametrize("query", ["DROP VIEW events", "DELETE FROM pages", "SELECT 1; SELECT 2", ""])
def test_sql_reads_and_never_changes(snap: af.Snapshot, query: str) -> None:
    with pytest.raises(ValueError, match="one SELECT"):
        snap.sql(query)


def test_a_closed_snapshot_is_an_error_and_not_an_empty_one(snap: af.Snapshot, tmp_path: Path) -> None:
    closed = af.load(snap.save(tmp_path / "saved.allocframe"))
    known = closed.allocations
    closed.close()
    assert closed.allocations is known
    for use in (lambda: closed.events, lambda: len(closed), lambda: closed.sql("SELECT 1 FROM events")):
        with pytest.raises(af.AllocframeError, match="this snapshot is closed"):
            use()


def test_filter_narrows_every_table(snap: af.Snapshot) -> None:
    some = snap.filter(client_status=["failed", "lost"])
    ids = set(snap.allocations.query("client_status in ['failed', 'lost']")["alloc_id"])
    assert ids
    for name in SNAPSHOT_TABLES:
        assert set(getattr(some, name)["alloc_id"]) <= ids
    assert set(some.allocations["alloc_id"]) == ids
    job = some.allocations["job_id"].iloc[0]
    assert set(some.filter(job_id=job).allocations["job_id"]) == {job}
    assert some.sql("SELECT count(*) AS n FROM allocations")["n"][0] == len(ids)


def test_filter_by_a_hostile_value_finds_nothing_and_by_an_unknown_column_says_which_there_are(
    snap: af.Snapshot,
) -> None:
    assert len(snap.filter(job_id="'; DROP TABLE pages; --")) == 0
    assert len(snap.filter(job_id=[])) == 0
    with pytest.raises(ValueError, match="job_id"):
        snap.filter(job="web")
    with pytest.raises(ValueError, match="created_at must be a time"):
        snap.filter(created_at="noon or so")


def test_filter_takes_values_as_pandas_and_numpy_have_them(snap: af.Snapshot, tmp_path: Path) -> None:
    table = snap.allocations
    jobs, versions = table["job_id"].unique()[:2], table["job_version"].unique()[:2]
    some = table["job_id"].isin(jobs).sum()
    assert 0 < some < len(table)
    for several in (jobs, np.array(jobs), pd.Series(jobs), list(jobs), set(jobs), (job for job in jobs)):
        assert len(snap.filter(job_id=several)) == some
    assert len(snap.filter(job_version=np.int64(versions[0]))) == (table["job_version"] == versions[0]).sum()
    assert len(snap.filter(job_version=versions)) == table["job_version"].isin(versions).sum()
    created = table["created_at"].iloc[0]
    for one in (created, created.to_datetime64(), created.tz_convert("Asia/Tokyo"), created.isoformat()):
        assert len(snap.filter(created_at=one)) == (table["created_at"] == created).sum()
    missing = table["next_alloc_id"].isna()
    assert 0 < missing.sum() < len(table)
    for nothing in (None, pd.NA, np.nan):
        assert len(snap.filter(next_alloc_id=nothing)) == missing.sum()
    later = table["next_alloc_id"].dropna().iloc[0]
    with_one = snap.filter(next_alloc_id=[None, later])
    assert len(with_one) == (missing | (table["next_alloc_id"] == later)).sum()
    assert len(af.load(with_one.save(tmp_path / "some.allocframe"))) == len(with_one)


def test_a_filter_by_a_time_has_its_nanoseconds(tmp_path: Path) -> None:
    times = [1_790_000_000_000_000_000, 1_790_000_000_500_000_000, 1_790_000_000_000_000_100]
    file = tmp_path / "list.json"
    file.write_text(json.dumps([{"ID": f"a{n}", "CreateTime": time} for n, time in enumerate(times)]))
    snap = af.read_json(file)
    for n, created in enumerate(snap.allocations["created_at"]):
        assert snap.filter(created_at=created).allocations["alloc_id"].tolist() == [f"a{n}"]


def test_runs_of_a_job_are_filtered_by_their_parent_and_a_filter_by_the_job_itself_points_there(
    tmp_path: Path,
) -> None:
    jobs = [
        "ocr/dispatch-1700000000-abcdef12",
        "ocr/dispatch-1700000060-abcdef13",
        "web",
        "backup/periodic-1700000000",
    ]
    file = tmp_path / "list.json"
    file.write_text(
        json.dumps([{"ID": f"a{n}", "Namespace": "default", "JobID": job} for n, job in enumerate(jobs)])
    )
    snap = af.read_json(file)
    assert snap.filter(parent_job_id="ocr").allocations["job_id"].tolist() == jobs[:2]
    assert "2 allocations in runs of that job: use filter(parent_job_id='ocr')" in repr(
        snap.filter(job_id="ocr")
    )
    assert "runs of that job" not in repr(snap.filter(job_id="web"))
    assert "runs of that job" not in repr(snap.filter(job_id="nowhere"))
    assert "runs of that job" not in repr(snap.filter(job_id="ocr", namespace="other"))
    two = af.combine({"eu": snap, "us": af.read_json(file)})
    assert two.filter(parent_job_id="ocr", cluster="us").allocations["run"].tolist() == [
        job.removeprefix("ocr/") for job in jobs[:2]
    ]
    assert "2 allocations in runs of that job" in repr(two.filter(job_id="ocr", cluster="us"))


def test_a_saved_snapshot_gives_the_same_tables_again_and_is_for_its_owner_only(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    file = snap.save(tmp_path / "outage.allocframe")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = af.load(file)
    for name in SNAPSHOT_TABLES:
        pd.testing.assert_frame_equal(getattr(again, name), getattr(snap, name))
    assert again.info["server"] == snap.info["server"]
    assert [path.name for path in tmp_path.iterdir()] == ["outage.allocframe"]


def test_a_filtered_snapshot_is_loaded_filtered(snap: af.Snapshot, tmp_path: Path) -> None:
    some = snap.filter(namespace="platform")
    assert len(af.load(some.save(tmp_path / "x.allocframe"))) == len(some) < len(snap)


def test_a_damaged_file_is_an_error_that_names_it(snap: af.Snapshot, tmp_path: Path) -> None:
    file = snap.save(tmp_path / "x.allocframe")
    data = file.read_bytes()
    for broken in (b"", b"not a zip", data[: len(data) // 2], data[:60] + bytes(200) + data[260:]):
        file.write_bytes(broken)
        with pytest.raises(af.DecodeError, match=r"x\.allocframe"):
            af.load(file)
    with pytest.raises(FileNotFoundError):
        af.load(tmp_path / "nowhere.allocframe")


def test_what_curl_or_nomad_printed_is_read_in_every_form(tmp_path: Path) -> None:
    rows = flatten.recorded_rows("2.0.5")
    body = json.dumps(rows).encode()
    forms = {
        "array.json": body,
        "pretty.json": json.dumps(rows, indent=2).encode(),
        "lines.ndjson": b"\n".join(json.dumps(row).encode() for row in rows),
        "packed.json.gz": gzip.compress(body),
        "packed.json.zst": pa.compress(body, "zstd", asbytes=True),
    }
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        assert len(af.read_json(tmp_path / name)) == len(rows), name
    (tmp_path / "one.json").write_text(json.dumps(rows[0]))
    assert len(af.read_json(tmp_path / "one.json")) == 1
    snap = af.read_json(str(tmp_path / "*.*"))
    assert len(snap) == len(rows)
    assert snap.info["complete"] is None
    with pytest.raises(FileNotFoundError, match="nothing"):
        af.read_json(str(tmp_path / "nothing*"))


def test_parquet_keeps_dtypes_and_the_source(snap: af.Snapshot, tmp_path: Path) -> None:
    folder = snap.to_parquet(tmp_path / "tables")
    events = pd.read_parquet(folder / "events.parquet")
    assert events["time"].equals(snap.events["time"])
    assert events.attrs["table"] == "events"
    assert json.loads((folder / "info.json").read_text())["allocations"] == len(snap)


HOSTILE = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\t=1",
    " =1",
    "＝1",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
]


def hostile(tmp_path: Path) -> af.Snapshot:
    rows = [
        {"ID": str(n), "JobID": name, "ClientStatus": name, "Name": name} for n, name in enumerate(HOSTILE)
    ]
    (tmp_path / "hostile.json").write_text(json.dumps(rows))
    return af.read_json(tmp_path / "hostile.json")


def test_csv_holds_no_formula_and_parquet_holds_the_names_as_they_are(tmp_path: Path) -> None:
    snap = hostile(tmp_path)
    written = pd.read_csv(snap.to_csv(tmp_path / "csv") / "allocations.csv", keep_default_na=False)
    for text in written["name"]:
        assert text.lstrip()[:1] not in "=+-@＝\t", text
    raw = pd.read_csv(snap.to_csv(tmp_path / "raw", safe=False) / "allocations.csv", keep_default_na=False)
    assert raw["name"].tolist() == HOSTILE
    parquet = pd.read_parquet(snap.to_parquet(tmp_path / "parquet") / "allocations.parquet")
    assert parquet["name"].tolist() == HOSTILE


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_no_name_of_the_cluster_becomes_markup(tmp_path: Path) -> None:
    snap = hostile(tmp_path).filter(client_status=HOSTILE)
    tags = Tags()
    tags.feed(snap._repr_html_())
    assert tags.seen <= {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"}
    assert tags.attributes <= {"style"}
    assert "&lt;script&gt;" in snap._repr_html_()
    assert re.findall(r"<th[^>]*>([^<]*)</th>", snap._repr_html_()) == ["client status", "allocations"]


def test_control_and_bidi_characters_are_shown_not_obeyed(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps([{"ID": "1", "ClientStatus": "\x1b[31m‮x"}]))
    snap = af.read_json(tmp_path / "x.json")
    for view in (snap._repr_html_(), repr(snap.filter(client_status="\x1b[31m‮x"))):
        assert "\x1b" not in view
        assert "‮" not in view


def test_the_repr_says_what_is_missing_and_why(snap: af.Snapshot, tmp_path: Path) -> None:
    assert "complete" in repr(snap)
    assert "tasks have lost older events (Nomad keeps the last 10 per task)" in repr(snap)
    (tmp_path / "x.json").write_text('[{"ID": "1", "CreateIndex": "x"}]')
    assert "1 value of the wrong type" in repr(af.read_json(tmp_path / "x.json"))
    known = {"tasks_truncated": 0, "issues": 0, "tasks": 1}
    for info, said in (
        ({"complete": False}, "NOT complete"),
        ({"complete": True}, "complete: all allocations visible to this token were fetched"),
        ({"complete": True, "source": "reads"}, "complete: all requested allocations were fetched"),
        ({"complete": None}, "read from files, which may not hold every allocation"),
    ):
        remarks = list_remarks({**known, **info, "notes": ["eu \x1b[31m is missing"]}, pd.NaT, pd.NaT, [])
        assert remarks == [said, "eu \\x1b[31m is missing"]


def test_an_empty_cluster_is_a_snapshot_like_any_other(client: af.Client, tmp_path: Path) -> None:
    snap = client.snapshot(namespace="nobody")
    assert len(snap) == 0
    assert snap.info["truncated_share"] is None
    assert "0 allocations" in repr(snap)
    snap._repr_html_()
    snap.to_csv(tmp_path / "csv")
    assert len(af.load(snap.save(tmp_path / "x.allocframe"))) == 0


def test_a_snapshot_says_how_to_pass_it_on_where_it_cannot_be_pickled(snap: af.Snapshot) -> None:
    for work in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"Save it with snap.save"):
            work(snap)
    assert pickle.loads(pickle.dumps(snap.allocations)).equals(snap.allocations)


def test_exported_evidence_is_for_its_owner_only_unless_its_folder_is_open(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    for export in (snap.to_csv, snap.to_parquet):
        folder = export(tmp_path / "new" / export.__name__)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
        shared = tmp_path / f"shared-{export.__name__}"
        shared.mkdir(mode=0o755)
        shared.chmod(0o755)
        assert stat.S_IMODE((export(shared) / "info.json").stat().st_mode) != 0o600
