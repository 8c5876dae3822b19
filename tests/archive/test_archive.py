"""An archive gives back what was seen: the same tables as live, as they were at a time, and what is gone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from tables import alloc
from watched import Versions, history, moment

import allocframe as af
from allocframe.archive import maintenance
from allocframe.watch.change import Change, Gap


@pytest.fixture
def archive(tmp_path: Path) -> af.Archive:
    return af.Archive(tmp_path / "an archive é 'x")


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    pages = tmp_path / "pages"
    pages.mkdir()
    lost = {"Namespace": "other", "JobID": "other", "ClientStatus": "lost"}
    return Versions(
        pages,
        {
            ("a", 1): {"events": history(1), "ClientStatus": "pending"},
            ("a", 2): {"events": history(4)},
            ("a", 9): {"events": history(8)},
            ("b", 3): {"events": history(2), "state": "dead", "ClientStatus": "complete"},
            ("c", 4): {"events": history(2), **lost},
        },
    )


@pytest.fixture
def week(archive: af.Archive, versions: Versions) -> af.Archive:
    """Allocation a from 10 on, changed at 20; b from 10 to 30; nobody watched from 40 to 50; c since."""
    archive.append(versions.seen(10, added=[("a", 1), ("b", 3)]))
    archive.append(versions.seen(20, changed=[("a", 2)], before=[("a", 1)], full=False))
    archive.append(versions.seen(25))
    archive.append(versions.seen(30, removed=[("b", 3)]))
    archive.append(versions.seen(40))
    archive.append(versions.seen(50, added=[("c", 4)], gap=Gap(moment(40), moment(50), "stopped")))
    return archive


def status(snap: af.Snapshot) -> dict[str, str]:
    frame = snap.allocations
    return dict(zip(frame["alloc_id"], frame["client_status"], strict=True))


def same(left: pd.DataFrame, right: pd.DataFrame) -> None:
    key = left.attrs["key"]
    pd.testing.assert_frame_equal(
        left.sort_values(key).reset_index(drop=True), right.sort_values(key).reset_index(drop=True)
    )


@pytest.mark.parametrize("table", ["allocations", "task_states", "events", "reschedules", "resources"])
def test_the_tables_are_those_of_the_live_snapshot(
    snap: af.Snapshot, archive: af.Archive, change: Change, table: str
) -> None:
    archive.append(change)
    with archive.snapshot() as back:
        if table == "resources":
            assert back.resources.empty
            assert (
                back.resources.dtypes.astype("str").tolist() == snap.resources.dtypes.astype("str").tolist()
            )
            return
        same(getattr(snap, table), getattr(back, table))


def test_statistics_findings_plots_and_sql_take_it(
    snap: af.Snapshot, archive: af.Archive, change: Change
) -> None:
    archive.append(change)
    with archive.snapshot() as back:
        by_job = af.stats.restarts(back, by="job_id")
        live = af.stats.restarts(snap, by="job_id")
        assert by_job["count"].tolist() == live["count"].tolist()
        assert [one.code for one in af.findings(back)] == [one.code for one in af.findings(snap)]
        assert af.plots.timeline(back).has_data()
        assert back.sql("SELECT count(*) AS n FROM events")["n"].tolist() == [len(snap.events)]
        failed = back.filter(client_status="failed")
        assert (
            failed.allocations["alloc_id"].tolist()
            == snap.filter(client_status="failed").allocations["alloc_id"].tolist()
        )
        same(failed.events, snap.filter(client_status="failed").events)
        with pytest.raises(ValueError, match="one SELECT"):
            back.sql("DROP TABLE events")


def test_a_snapshot_is_as_it_was_seen_at_that_time(week: af.Archive) -> None:
    assert status(week.snapshot(at=moment(10))) == {"a": "pending", "b": "complete"}
    assert status(week.snapshot(at=moment(19.999999999))) == {"a": "pending", "b": "complete"}
    assert status(week.snapshot(at=moment(20))) == {"a": "running", "b": "complete"}
    assert status(week.snapshot(at=moment(30))) == {"a": "running"}
    assert status(week.snapshot()) == {"a": "running", "c": "lost"}
    assert len(week.snapshot(at=moment(10)).events) == 1 + 2
    assert len(week.snapshot(at=moment(20)).events) == 4 + 2
    assert week.snapshot(at=moment(10)).task_states["event_count"].tolist() == [1, 2]


def test_a_snapshot_since_a_time_has_what_went_after_it_too(week: af.Archive) -> None:
    assert status(week.snapshot(since=moment(25))) == {"a": "running", "b": "complete", "c": "lost"}
    assert status(week.snapshot(since=moment(26))) == {"a": "running", "c": "lost"}
    assert len(week.snapshot(since=moment(25)).events) == 4 + 2 + 2


def test_a_snapshot_says_where_it_comes_from_and_what_it_lacks(week: af.Archive) -> None:
    info = week.snapshot().info
    assert (info["source"], info["complete"], info["at"]) == ("archive", True, moment(50).isoformat())
    assert info["gaps"] == [
        {"since": moment(40).isoformat(), "until": moment(50).isoformat(), "reason": "stopped"}
    ]
    unseen = week.snapshot(at=moment(45))
    assert unseen.info["complete"] is False
    assert unseen.info["finished_at"] == moment(40).isoformat()
    assert "nobody watched" in repr(unseen)
    assert week.snapshot(at=moment(35)).info["gaps"] == []


def test_while_another_recorder_watched_there_is_no_gap(week: af.Archive, versions: Versions) -> None:
    week.append(versions.seen(45), recorder="another")
    assert week.snapshot().info["gaps"] == []
    assert week.snapshot(at=moment(47)).info["complete"] is True


def test_before_the_first_observation_there_is_nothing(week: af.Archive) -> None:
    with pytest.raises(ValueError, match=f"begins at {moment(10).isoformat()}".replace("+", r"\+")):
        week.snapshot(at=moment(9))


def test_what_is_gone_stays_with_when_it_was_last_there(week: af.Archive) -> None:
    kept = week.allocations().set_index("alloc_id")
    assert kept.loc["b", "last_seen_at"] == moment(25)
    assert kept.loc["b", "gone_at"] == moment(30)
    assert kept.loc["a", "first_seen_at"] == moment(10)
    assert kept.loc["a", "last_seen_at"] == moment(50)
    assert kept["gone_at"].isna().tolist() == [True, False, True]
    assert week.allocations(job_id="other")["alloc_id"].tolist() == ["c"]


def test_events_of_a_time_are_numbered_as_in_the_whole_history(week: af.Archive) -> None:
    found = week.events(since=moment(2), until=moment(3), alloc_id="a")
    assert found["seq"].tolist() == [2]
    assert week.events(namespace="other")["alloc_id"].unique().tolist() == ["c"]
    assert week.events(type=["Received", "Started"])["type"].nunique() == 2
    assert week.events(since="2200-01-01").dtypes.astype("str").equals(found.dtypes.astype("str"))
    with pytest.raises(ValueError, match="no column 'nonsense'"):
        week.events(nonsense=1)


def test_all_of_it_in_sql(week: af.Archive) -> None:
    found = week.sql(
        "SELECT a.alloc_id, count(e.seq) AS n FROM allocations a JOIN events e USING (alloc_id) "
        "GROUP BY ALL ORDER BY 1"
    )
    assert found["n"].tolist() == [4, 2, 2]
    assert week.sql("SELECT sum(new) AS new, max(gap_reason) AS why FROM snapshots").iloc[0].tolist() == [
        3,
        "stopped",
    ]
    with pytest.raises(ValueError, match="one SELECT"):
        week.sql("SELECT 1; SELECT 2")


def test_the_state_is_what_the_archive_saw_last(week: af.Archive) -> None:
    state = week.state()
    assert (state.at, state.index) == (moment(50), 4)
    assert state.live["alloc_id"].tolist() == ["a", "c"]
    assert state.live["modify_index"].tolist() == [2, 4]


def test_an_empty_archive_has_no_state_and_no_snapshot(archive: af.Archive, tmp_path: Path) -> None:
    assert archive.state().at is None
    assert archive.state().live.empty
    with pytest.raises(FileNotFoundError, match="no archive"):
        archive.snapshot()
    assert list(tmp_path.iterdir()) == []


def test_values_are_kept_exactly(archive: af.Archive, tmp_path: Path) -> None:
    at = 1_790_000_000_123_456_789
    exited = {"Type": "Terminated", "Time": at, "Details": {"exit_code": "3"}}
    odd = {"Type": "", "Time": 0, "Details": None}
    killing = {"Type": "Killing", "Time": -1, "KillTimeout": 5_000_000_001, "Details": {}}
    rows = [
        alloc("x", exited, ModifyIndex=2**63 - 1),
        alloc("y", exited, odd, CreateTime=0, CreateIndex=2**64 - 1),
        alloc("<b>\u202e\x1b", killing, task="=1+1", CreateTime=at),
    ]
    for row in rows:
        moved = {"RescheduleTime": at, "PrevAllocID": "p", "Delay": 30_000_000_001}
        row["RescheduleTracker"] = {"Events": [moved]}
    file = tmp_path / "odd.json"
    file.write_text(json.dumps(rows))
    with af.read_json(file) as live:
        none = live.allocations.iloc[:0]
        change = Change(
            moment(1), 5, "stream", False, live.allocations, none, none, live.task_states, live.events,
            live.reschedules, live.events,
        )  # fmt: skip
        archive.append(change)
        with archive.snapshot() as back:
            for name in ("events", "reschedules", "task_states"):
                same(getattr(live, name), getattr(back, name))
            huge = (live.allocations["alloc_id"] == "y").to_numpy()  # more than Delta Lake's numbers can hold
            create_index = live.allocations["create_index"].mask(huge)
            left, right = live.allocations.assign(create_index=create_index), back.allocations
            pd.testing.assert_frame_equal(
                left.set_index("alloc_id").sort_index(), right.set_index("alloc_id").sort_index()
            )


def test_a_folder_that_delta_rs_cannot_open_is_refused_by_name() -> None:
    with pytest.raises(af.ConfigError, match="%"):
        af.Archive("an%20archive")


def test_what_was_seen_again_and_again_takes_no_room_after_a_compaction(
    archive: af.Archive, versions: Versions
) -> None:
    change = versions.seen(10, added=[("a", 2), ("c", 4)])
    for day in range(3):
        for n in range(2):
            archive.append(replace(change, at=moment(day * 86_400 + n)))
    before = archive.events(), archive.coverage()
    archive.compact()
    assert archive.info["tables"]["events"]["rows"] == 4 + 2
    assert archive.info["tables"]["allocations"]["rows"] == 2 * 3  # one for each day
    pd.testing.assert_frame_equal(before[0], archive.events())
    pd.testing.assert_frame_equal(before[1], archive.coverage())


def test_a_long_day_is_compacted_in_parts_with_the_same_result(
    archive: af.Archive, versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [
        versions.seen(10, added=[("a", 1), ("b", 3), ("c", 4)]),
        versions.seen(20, changed=[("a", 9)], before=[("a", 1)]),
    ]
    for change in [*changes, *changes]:
        archive.append(change)
    before = archive.events(), archive.allocations()
    monkeypatch.setattr(maintenance, "_MOST_ROWS", 3)
    archive.compact()
    assert archive.info["tables"]["events"] | {"bytes": 0, "first_day": None, "last_day": None} == {
        "days": 1, "first_day": None, "last_day": None, "files": 1, "rows": len(before[0]), "bytes": 0,
    }  # fmt: skip
    pd.testing.assert_frame_equal(before[0], archive.events())
    pd.testing.assert_frame_equal(before[1], archive.allocations())


def test_retention_keeps_what_is_still_there(archive: af.Archive, versions: Versions) -> None:
    day = 86_400
    archive.append(versions.seen(10, added=[("a", 9), ("b", 3)]))
    archive.append(versions.seen(day, removed=[("b", 3)]))
    archive.append(versions.seen(9 * day, added=[("c", 4)]))
    before = archive.snapshot()
    archive.retain(5)
    after = archive.snapshot()
    for name in ("allocations", "events", "task_states"):
        same(getattr(before, name), getattr(after, name))
    assert archive.allocations()["alloc_id"].tolist() == ["a", "c"]
    assert set(archive.events()["alloc_id"]) == {"a", "c"}
    assert archive.info["tables"]["snapshots"]["rows"] == 2
    with pytest.raises(ValueError, match="must be 1 or more"):
        archive.retain(0)


def test_a_snapshot_of_an_archive_is_saved_and_opened_with_the_same_tables(
    week: af.Archive, tmp_path: Path
) -> None:
    with week.snapshot(since=moment(0)) as snap:
        with af.load(snap.save(tmp_path / "x.allocframe")) as again:
            assert again.info == snap.info
            for name in ("allocations", "task_states", "events", "reschedules", "resources", "issues"):
                pd.testing.assert_frame_equal(getattr(again, name), getattr(snap, name))
        with af.load(snap.filter(job_id="other").save(tmp_path / "y.allocframe")) as narrowed:
            assert narrowed.allocations["alloc_id"].tolist() == ["c"]
        parquet = snap.to_parquet(tmp_path / "p") / "events.parquet"
        assert pd.read_parquet(parquet)["alloc_id"].tolist() == ["a"] * 4 + ["b"] * 2 + ["c"] * 2


def test_saved_tables_that_are_others_are_refused(week: af.Archive, tmp_path: Path) -> None:
    whole = week.snapshot().save(tmp_path / "x.allocframe")
    for old, new in (
        ('"path": "events"', '"path": "events AS SELECT 1"'),
        ('"path": "events"', '"path": "issues"'),
    ):
        damaged = tmp_path / "y.allocframe"
        with zipfile.ZipFile(whole) as given, zipfile.ZipFile(damaged, "w") as made:
            for name in given.namelist():
                body = given.read(name)
                made.writestr(
                    name, body.replace(old.encode(), new.encode()) if name == "manifest.json" else body
                )
        with pytest.raises(af.DecodeError, match="not those of a snapshot"):
            af.load(damaged)


def test_what_a_later_watch_found_gone_keeps_its_last_row(archive: af.Archive, versions: Versions) -> None:
    """Such a watch knows no more of it than its identity and index."""
    archive.append(versions.seen(10, added=[("a", 1), ("b", 3)]))
    found = versions.seen(30, removed=[("b", 3)])
    known = ["alloc_id", "modify_index"]
    archive.append(
        replace(
            found,
            removed=found.removed[known].reindex(columns=found.removed.columns).astype(found.removed.dtypes),
        )
    )
    row = archive.allocations(job_id="web").set_index("alloc_id").loc["b"]
    assert (row["client_status"], row["last_seen_at"], row["gone_at"]) == ("complete", moment(10), moment(30))
    assert not pd.isna(row["created_at"])
    assert sorted(status(archive.snapshot(since=moment(5)))) == ["a", "b"]
    assert archive.coverage().set_index("alloc_id").loc["b", "complete"]


def test_a_task_whose_end_was_not_seen_does_not_run_on(archive: af.Archive, versions: Versions) -> None:
    archive.append(versions.seen(10, added=[("a", 2)]))
    archive.append(versions.seen(4000, removed=[("a", 2)]))
    with archive.snapshot(since=moment(0)) as snap:
        assert snap.task_states["state"].isna().tolist() == [True]
        assert snap.task_states["finished_at"].tolist() == [moment(10)]
        ran = af.stats.runs(snap)
        assert ran["ended_at"].max() <= moment(10)
        assert any(
            "1 allocations were removed before their end was seen" in note for note in snap.info["notes"]
        )


def test_rows_are_found_by_true_and_false(tmp_path: Path) -> None:
    rows = [alloc("a", DeploymentStatus={"Canary": True}), alloc("b", DeploymentStatus={"Canary": False})]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with af.read_json(tmp_path / "rows.json") as snap:
        assert snap.filter(canary=True).allocations["alloc_id"].tolist() == ["a"]
        assert snap.filter(canary=[False]).allocations["alloc_id"].tolist() == ["b"]


def test_an_object_store_is_read_through_delta_rs(week: af.Archive, versions: Versions) -> None:
    tables = week._tables
    away = af.Archive("unused")
    away._tables.location, away._tables.folder = (
        f"file://{tables.folder}".replace("%", "%25").replace(" ", "%20"),
        None,
    )
    away.append(versions.seen(60, changed=[("a", 9)]))
    assert status(away.snapshot(at=moment(20))) == {"a": "running", "b": "complete"}
    away.compact()
    assert len(away.events(alloc_id="a")) == len(week.events(alloc_id="a")) == 8
    assert away.info["tables"]["events"]["files"] == 1


def test_times_without_a_watcher_are_listed_for_the_whole_cluster(
    week: af.Archive, versions: Versions
) -> None:
    week.append(versions.seen(50 + 7200))
    gaps = week.missing()
    gaps = gaps[gaps["alloc_id"].isna()]
    assert gaps["task"].isna().all()
    assert gaps[["since", "until", "reason"]].to_numpy().tolist() == [
        [moment(40), moment(50), "nobody watched: stopped"],
        [moment(50), moment(7250), "nobody watched: nothing was observed"],
    ]
    last = week.coverage().iloc[-1]
    assert pd.isna(last["alloc_id"])
    assert (last["complete"], last["missing"], last["missing_since"]) == (False, 2, moment(40))
    assert week.coverage()["alloc_id"].isna().sum() == 1


def test_without_delta_rs_the_error_names_the_extra() -> None:
    script = (
        "import sys, importlib, allocframe as af\nsys.modules['deltalake'] = None\n"
        "for get in (lambda: af.Archive, lambda: importlib.import_module('allocframe.archive.recorder')):\n"
        "    try:\n        get()\n    except af.MissingExtra as error:\n        print(error)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.count("deltalake: pip install 'allocframe[archive]'") == 2


def test_the_archive_has_no_job_specification() -> None:
    from allocframe.archive.schema import STORED

    columns = {name for stored in STORED.values() for name in stored.schema().names}
    assert not columns & {"job", "env", "meta", "templates", "config"}
