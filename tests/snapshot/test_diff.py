"""Two snapshots of one cluster: what is new, gone, changed, which events came, and what cannot be told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from crashing import crash, keys
from tables import alloc, at, ended, event, restarting, snapshot, started

import allocframe as af


@pytest.fixture
def both() -> Iterator[tuple[af.Snapshot, af.Snapshot, str, str]]:
    """A cluster before and after a task crashed twice and one allocation went."""
    with (
        af.sim.Cluster("calm", allocations=40, seed=4) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        before = client.snapshot(namespace="*")
        gone = next(i for i, a in cluster.state.allocs.items() if a.client_status != "running")
        crash(cluster, times=2)
        del cluster.state.allocs[gone]
        cluster.state.commit("allocs")
        after = client.snapshot(namespace="*")
        moved = before.sql("SELECT alloc_id, modify_index FROM allocations").merge(
            after.sql("SELECT alloc_id, modify_index FROM allocations"), on="alloc_id"
        )
        [changed] = moved.loc[moved["modify_index_x"] != moved["modify_index_y"], "alloc_id"]
        yield before, after, changed, gone


def test_what_changed_is_told_value_by_value_and_event_by_event(
    both: tuple[af.Snapshot, af.Snapshot, str, str],
) -> None:
    before, after, changed, gone = both
    found = before.diff(after)
    assert found.removed["alloc_id"].tolist() == [gone]
    assert found.added.empty
    assert set(found.changed["alloc_id"]) == {changed}
    restarts = found.changed.set_index("column").loc["restarts"]
    assert (restarts["before"], restarts["after"]) == ("0", "2")
    assert restarts["task"] in set(after.task_states["task"])
    assert not {"modify_index", "modified_at", "event_count"} & set(found.changed["column"])
    assert set(keys(found.new_events)) == set(keys(after.events)) - set(keys(before.events))
    assert found.missing.empty
    assert found.notes == []
    assert repr(found).startswith("<Diff: 0 added, 1 removed, 1 changed allocations,")
    assert "restarts 1" in repr(found)


def test_the_other_way_round_new_is_gone_and_a_note_says_that_the_second_is_older(
    both: tuple[af.Snapshot, af.Snapshot, str, str],
) -> None:
    before, after, _, gone = both
    found = after.diff(before)
    assert found.added["alloc_id"].tolist() == [gone]
    assert "older" in found.notes[0]


def test_loaded_and_archived_snapshots_compare_as_live_ones(
    both: tuple[af.Snapshot, af.Snapshot, str, str], tmp_path: Path
) -> None:
    before, after, *_ = both
    live = before.diff(after)
    archive = af.Archive(tmp_path / "archive")
    archive.append(before)
    pairs = {
        "loaded": (af.load(before.save(tmp_path / "a.allocframe")), after),
        "from an archive": (archive.snapshot(), after),
    }
    archive.append(after)
    pairs["to an archive"] = before, archive.snapshot()
    for how, (first, second) in pairs.items():
        found = first.diff(second)
        pd.testing.assert_frame_equal(found.changed, live.changed, obj=how)
        assert keys(found.new_events) == keys(live.new_events), how
        assert found.removed["alloc_id"].tolist() == live.removed["alloc_id"].tolist(), how


def test_a_snapshot_does_not_differ_from_itself(snap: af.Snapshot) -> None:
    found = snap.diff(snap)
    assert not any(
        len(part) for part in (found.added, found.removed, found.changed, found.new_events, found.missing)
    )
    assert found.notes == []
    assert list(found.changed) == [
        "namespace", "job_id", "task_group", "node_name", "alloc_id", "task", "column", "before", "after",
    ]  # fmt: skip


def ring(first: int, count: int) -> list[dict[str, object]]:
    return [restarting(n) for n in range(first, first + count)]


def test_events_that_the_ring_lost_between_the_two_are_told_by_task(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", *ring(0, 10)), alloc("b", *ring(0, 10)), alloc("c", *ring(0, 3)))
    after = snapshot(
        tmp_path,
        alloc("a", *ring(50, 10), ModifyIndex=3),
        alloc("b", *ring(8, 10), ModifyIndex=3),
        alloc("c", *ring(0, 4), ModifyIndex=3),
        alloc("d", *ring(70, 10), ModifyIndex=3),
        alloc("e", event("Received", 5), started(6), ModifyIndex=3),
    )
    found = before.diff(after)
    assert found.missing["alloc_id"].tolist() == ["a", "d"]
    assert found.missing["since"].tolist()[0] == at(9)
    assert pd.isna(found.missing["since"].tolist()[1])
    assert found.missing["until"].tolist() == [at(50), at(70)]
    assert found.new_events["alloc_id"].value_counts().to_dict() == {"a": 10, "b": 8, "d": 10, "e": 2, "c": 1}
    assert any("2 tasks lost events" in note for note in found.notes)


def test_events_that_only_the_longer_memory_of_an_archive_has_are_not_new(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", *ring(5, 10)))
    after = snapshot(tmp_path, alloc("a", *ring(0, 16), ModifyIndex=3))
    assert before.diff(after).new_events["time"].tolist() == [at(15)]


def test_equal_events_at_the_same_time_are_told_apart(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1), ended(2)))
    after = snapshot(tmp_path, alloc("a", started(1), ended(2), ended(2), ModifyIndex=3))
    assert before.diff(after).new_events["seq"].tolist() == [2]


def test_a_value_that_appears_or_goes_is_missing_on_the_other_side(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1), ClientDescription="", FollowupEvalID="e1"))
    after = snapshot(
        tmp_path, alloc("a", started(1), ClientDescription="x", FollowupEvalID="", ModifyIndex=3)
    )
    told = before.diff(after).changed.set_index("column")[["before", "after"]]
    assert told.loc["client_description"].isna().tolist() == [True, False]
    assert told.loc["followup_eval_id"].isna().tolist() == [False, True]
    assert len(told) == 2


def test_snapshots_of_different_queries_are_compared_with_a_note_of_each_reason(
    client: af.Client, snap: af.Snapshot
) -> None:
    def said(first: af.Snapshot, second: af.Snapshot) -> str:
        return " | ".join(first.diff(second).notes)

    assert "filter" in said(snap, client.snapshot(namespace="*", filter='ClientStatus == "failed"'))
    assert "namespace differs" in said(snap, client.snapshot(namespace="platform"))
    assert "chosen allocations" in said(snap, snap.filter(client_status="failed"))
    assert "chosen allocations" in said(snap, client.snapshot(namespace="*", newest=5))
    bare = snap.diff(client.snapshot(namespace="*", task_states=False))
    assert any("without task states" in note for note in bare.notes)
    assert bare.new_events.empty
    assert bare.changed.empty


def test_files_are_compared_with_a_note_that_they_may_lack_something(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1)))
    notes = before.diff(snapshot(tmp_path, alloc("a", started(1)), alloc("b", started(1)))).notes
    assert sum("not known to be complete" in note for note in notes) == 2


def test_no_name_of_the_cluster_becomes_markup_or_control(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1)))
    found = before.diff(snapshot(tmp_path, alloc("a", started(1), ClientStatus="<b>\x1b[31m", ModifyIndex=3)))
    assert found.changed["after"].tolist() == ["<b>\x1b[31m"]
    for view in (repr(found), found._repr_html_()):
        assert "\x1b" not in view
        assert "<b>" not in view
