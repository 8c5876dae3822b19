"""A snapshot of any size goes into an archive part by part; what is read back is what a change gives."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from crashing import crash
from tables import alloc, snapshot, started

import allocframe as af
from allocframe.archive import append

TABLES = ("allocations", "task_states", "events", "reschedules")


@pytest.fixture
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "PART", 17)


@pytest.mark.usefixtures("_small_parts")
def test_parts_of_a_snapshot_give_the_same_tables_as_one_change(
    snap: af.Snapshot, archive: af.Archive, tmp_path: Path
) -> None:
    made = af.Archive(tmp_path / "made")
    made.append(snap)
    with made.snapshot() as found, archive.snapshot() as wanted:
        for name in TABLES:
            pd.testing.assert_frame_equal(getattr(found, name), getattr(wanted, name))
        assert found.info["complete"] is True
    assert (
        made.coverage()
        .drop(columns=["first_seen_at", "last_seen_at"])
        .equals(archive.coverage().drop(columns=["first_seen_at", "last_seen_at"]))
    )
    assert made.info["tables"]["snapshots"]["rows"] == -(-len(snap) // 17)


@pytest.mark.usefixtures("_small_parts")
def test_a_second_snapshot_adds_only_what_changed_and_tells_what_is_gone(tmp_path: Path) -> None:
    archive = af.Archive(tmp_path / "archive")
    with (
        af.sim.Cluster("calm", allocations=60, seed=4) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        archive.append(client.snapshot(namespace="*"))
        before = {name: archive.info["tables"][name]["rows"] for name in TABLES}
        crash(cluster)
        gone = next(i for i, a in cluster.state.allocs.items() if a.client_status != "running")
        del cluster.state.allocs[gone]
        cluster.state.commit("allocs")
        last = client.snapshot(namespace="*")
        archive.append(last)
        with archive.snapshot() as found:
            pd.testing.assert_frame_equal(found.allocations, last.allocations)
    added = {name: archive.info["tables"][name]["rows"] - before[name] for name in TABLES}
    assert added["allocations"] == 2
    assert added["events"] <= 10
    [row] = archive.allocations(alloc_id=gone).to_dict("records")
    assert row["gone_at"] == pd.Timestamp(last.info["started_at"])
    reasons = [gap["reason"] for gap in archive.info["gaps"]]
    assert "no recorder ran" in reasons


@pytest.mark.usefixtures("_small_parts")
def test_a_part_of_a_cluster_makes_nothing_gone(client: af.Client, snap: af.Snapshot, tmp_path: Path) -> None:
    archive = af.Archive(tmp_path / "archive")
    archive.append(snap)
    archive.append(snap.filter(client_status="failed"))
    archive.append(client.snapshot(namespace="*", filter='ClientStatus == "failed"'))
    archive.append(client.snapshot(namespace="platform"))
    assert archive.allocations()["gone_at"].isna().all()
    assert archive.info["tables"]["allocations"]["rows"] == len(snap)


def test_a_snapshot_that_cannot_be_kept_says_why_and_nothing_is_written(
    client: af.Client, tmp_path: Path
) -> None:
    archive = af.Archive(tmp_path / "archive")
    with pytest.raises(ValueError, match="needs task events"):
        archive.append(client.snapshot(namespace="*", task_states=False))
    files = tmp_path / "files"
    files.mkdir()
    with pytest.raises(ValueError, match="needs the time of a snapshot"):
        archive.append(snapshot(files, alloc("a", started(1))))
    assert not (tmp_path / "archive").exists()
