"""An archive keeps what had changed in a cluster, and gives it back as it was known at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import changed
import pandas as pd
import pytest
from watched import moment

import allocframe as af
from allocframe.tables import HISTORY, TABLES
from allocframe.watch.change import Change, HistoryChange

GOLDEN = Path(__file__).parents[1] / "data" / "archive-1"
SEEN = "2026-11-26T12:00:00+00:00"


@pytest.fixture(scope="module", params=changed.VERSIONS)
def fetched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> af.Snapshot:
    """A snapshot with history, as a real agent sent it."""
    version = request.param
    file = tmp_path_factory.mktemp("fetched") / "list.json"
    file.write_text(json.dumps(changed.answers(version, "changes-allocations")[0]))
    snap = af.read_json(file)
    snap._capture.describe(started_at=SEEN)
    snap.history = af.History.from_json(
        jobs=changed.jobs(version),
        deployments=changed.answers(version, "changes-deployments")[0],
        nodes=[changed.node(version)],
        evaluations=changed.answers(version, "changes-evaluations")[0],
        allocations=snap.allocations,
        events=snap.events,
        notes=["evaluations of one namespace could not be read"],
    )
    return snap


@pytest.fixture(scope="module")
def archive(fetched: af.Snapshot, tmp_path_factory: pytest.TempPathFactory) -> af.Archive:
    made = af.Archive(tmp_path_factory.mktemp("history") / "archive")
    made.append(fetched)
    return made


def same(left: af.History, right: af.History) -> None:
    for name, table in HISTORY.items():
        rows = [
            getattr(history, name).sort_values(list(table.key), ignore_index=True).astype("str")
            for history in (left, right)
        ]
        pd.testing.assert_frame_equal(*rows)


def copy_of(archive: af.Archive, tmp_path: Path) -> af.Archive:
    return af.Archive(shutil.copytree(archive._tables.folder or "", tmp_path / "copy"))


def rows(archive: af.Archive) -> dict[str, int]:
    return {name: table["rows"] for name, table in archive.info["tables"].items() if name in HISTORY}


def test_the_history_of_a_snapshot_comes_back_as_it_was(fetched: af.Snapshot, archive: af.Archive) -> None:
    assert fetched.history is not None
    back = archive.history()
    same(fetched.history, back)
    assert back.notes[-1] == "evaluations of one namespace could not be read"


def test_a_snapshot_of_the_archive_has_the_history_and_diagnose_uses_it(
    fetched: af.Snapshot, archive: af.Archive
) -> None:
    with archive.snapshot() as snap:
        assert snap.history is not None
        same(archive.history(), snap.history)
        assert _changes_of_incidents(snap) == _changes_of_incidents(fetched) != []


def _changes_of_incidents(snap: af.Snapshot) -> list[tuple[str, list[str]]]:
    found = af.diagnose(snap).incidents
    return sorted((one.title, [change["kind"] for change in one.changes]) for one in found)


def test_what_is_known_is_not_written_again(
    fetched: af.Snapshot, archive: af.Archive, tmp_path: Path
) -> None:
    again = copy_of(archive, tmp_path)
    before = rows(again)
    again.append(fetched)
    assert rows(again) == before
    assert before["evaluations"] > 50


def test_compaction_and_retention_keep_what_jobs_and_nodes_are_like(
    fetched: af.Snapshot, archive: af.Archive, tmp_path: Path
) -> None:
    kept = copy_of(archive, tmp_path)
    twice = HistoryChange(
        pd.Timestamp(SEEN) + pd.Timedelta("3D"), {name: getattr(fetched.history, name) for name in HISTORY}
    )
    later = _nothing(twice.at)
    kept.append(later, history=twice)
    kept.append(later, history=twice)
    kept.compact()
    same(archive.history(), kept.history())
    kept.append(_nothing(twice.at + pd.Timedelta("9D")))
    kept.retain(5)
    newest = archive.history().job_versions.groupby("job_id", observed=True)["version"].max()
    versions = kept.history().job_versions
    assert dict(zip(versions["job_id"], versions["version"], strict=True)) == newest.to_dict()
    assert len(kept.history().nodes) == 1
    assert kept.history().evaluations.empty


def _nothing(at: pd.Timestamp) -> Change:
    none = {name: TABLES[name].empty() for name in ("task_states", "events", "reschedules")}
    empty = TABLES["allocations"].empty()
    return Change(at, 9, "stream", False, empty, empty, empty, new_events=none["events"], **none)


def test_no_secret_is_in_any_file_of_the_archive(archive: af.Archive) -> None:
    text = "".join(
        table.to_pandas().to_json(date_format="iso")
        for name in rows(archive)
        for table in [archive._tables.open(name).to_pyarrow_table()]
    )
    assert "DB_PASSWORD" in text
    assert "made-up-2" not in text
    assert "db-1.internal" not in text


def test_the_past_has_what_had_happened_by_then_also_if_it_was_seen_later(archive: af.Archive) -> None:
    changes = archive.history().changes
    middle = changes["at"].iloc[len(changes) // 2]
    before = archive.history(at=middle)
    assert before.changes["at"].max() <= middle
    assert len(before.changes) == (changes["at"] <= middle).sum()
    after = archive.history(since=middle)
    assert after.changes["at"].min() >= middle


def test_an_archive_of_the_first_version_has_no_history_until_it_is_recorded(
    fetched: af.Snapshot, tmp_path: Path
) -> None:
    archive = af.Archive(shutil.copytree(GOLDEN, tmp_path / "archive"))
    with archive.snapshot() as snap:
        assert snap.history is None
    assert archive.history().notes == ["no change of jobs and nodes was recorded"]
    before = len(archive.events())
    archive.append(fetched)
    assert fetched.history is not None
    same(fetched.history, archive.history())
    assert len(archive.events()) == before + len(fetched.events)
    assert archive.info["schema_version"] == 2


def _job(version: int, index: int, memory: int) -> dict[str, Any]:
    return {
        "ID": "web", "Namespace": "default", "Version": version, "JobModifyIndex": index,
        "SubmitTime": moment(index).value, "TaskGroups": [{"Name": "app", "Count": memory}],
    }  # fmt: skip


def test_the_versions_of_a_job_that_was_purged_and_made_again_are_kept_apart(tmp_path: Path) -> None:
    archive = af.Archive(tmp_path / "archive")
    for start in (10, 20):
        history = af.History.from_json(jobs=[[_job(0, start, start), _job(1, start + 1, start + 1)]])
        frames = {name: getattr(history, name) for name in HISTORY}
        archive.append(_nothing(moment(start)), history=HistoryChange(moment(start), frames))
    changes = archive.history().changes
    assert changes["kind"].tolist() == ["job version", "scale"] * 2
    assert [json.loads(detail)["counts"] for detail in changes["detail"].iloc[[1, 3]]] == [
        {"app": ["10", "11"]}, {"app": ["20", "21"]},
    ]  # fmt: skip


def test_a_deployment_is_as_it_was_seen_at_the_time(tmp_path: Path) -> None:
    archive = af.Archive(tmp_path / "archive")
    for at, status in ((10, "running"), (20, "failed")):
        row = {"ID": "d", "Namespace": "default", "JobID": "web", "Status": status}
        row |= {"started_at": moment(5).value} | ({"ended_at": moment(19).value} if at > 10 else {})
        history = af.History.from_json(deployments=[row])
        frames = {"deployments": history.deployments}
        archive.append(_nothing(moment(at)), history=HistoryChange(moment(at), frames))
    statuses = {at: archive.history(at=moment(at)).deployments["status"].tolist() for at in (4, 8, 15, 25)}
    assert statuses == {4: [], 8: ["running"], 15: ["running"], 25: ["failed"]}
    assert archive.history().deployments["ended_at"].tolist() == [moment(19)]
    assert archive.history(at=moment(15)).deployments["ended_at"].isna().all()


def test_a_time_in_which_nobody_watched_jobs_and_nodes_is_in_the_notes(tmp_path: Path) -> None:
    archive = af.Archive(tmp_path / "archive")
    archive.append(_nothing(moment(0)), history=HistoryChange(moment(0), {}))
    gap = HistoryChange(moment(600), {}, gap_since=moment(60), notes=["nodes could not be read: denied"])
    archive.append(_nothing(moment(600)), history=gap)
    job = af.History.from_json(jobs=[[_job(0, 1, 1)]])
    frames = {name: getattr(job, name) for name in HISTORY}
    archive.append(_nothing(moment(700)), history=HistoryChange(moment(700), frames))
    notes = archive.history(at=moment(650)).notes
    assert notes[1].startswith("nobody watched jobs and nodes from ")
    assert notes[2] == "nodes could not be read: denied"
    assert len(archive.history(at=moment(30)).notes) == 1
