"""Two snapshots of one cluster: what was added, removed, changed, which events came, and which were lost."""

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
    """A cluster before and after a task crashed twice and one allocation was removed."""
    with (
        af.sim.Cluster("calm", allocations=40, seed=4) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        before = client.snapshot(namespace="*")
        removed = next(i for i, a in cluster.state.allocs.items() if a.client_status != "running")
        crash(cluster, times=2)
        del cluster.state.allocs[removed]
        cluster.state.commit("allocs")
        after = client.snapshot(namespace="*")
        moved = before.sql("SELECT alloc_id, modify_index FROM allocations").merge(
            after.sql("SELECT alloc_id, modify_index FROM allocations"), on="alloc_id"
        )
        [changed] = moved.loc[moved["modify_index_x"] != moved["modify_index_y"], "alloc_id"]
        yield before, after, changed, removed


def test_every_changed_value_and_new_event_is_listed(
    both: tuple[af.Snapshot, af.Snapshot, str, str],
) -> None:
    before, after, changed, removed = both
    difference = before.diff(after)
    assert difference.removed["alloc_id"].tolist() == [removed]
    assert difference.added.empty
    assert set(difference.changed["alloc_id"]) == {changed}
    restarts = difference.changed.set_index("column").loc["restarts"]
    assert (restarts["before"], restarts["after"]) == ("0", "2")
    assert restarts["task"] in set(after.task_states["task"])
    assert not {"modify_index", "modified_at", "event_count"} & set(difference.changed["column"])
    assert set(keys(difference.new_events)) == set(keys(after.events)) - set(keys(before.events))
    assert difference.missing.empty
    assert difference.notes == []
    assert repr(difference).startswith("<Diff: 0 added, 1 removed, 1 changed allocations,")
    assert "restarts 1" in repr(difference)


def test_a_note_says_if_the_second_snapshot_is_older(
    both: tuple[af.Snapshot, af.Snapshot, str, str],
) -> None:
    before, after, _, removed = both
    difference = after.diff(before)
    assert difference.added["alloc_id"].tolist() == [removed]
    assert "older" in difference.notes[0]


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
    for case, (first, second) in pairs.items():
        difference = first.diff(second)
        pd.testing.assert_frame_equal(difference.changed, live.changed, obj=case)
        assert keys(difference.new_events) == keys(live.new_events), case
        assert difference.removed["alloc_id"].tolist() == live.removed["alloc_id"].tolist(), case


def test_a_snapshot_does_not_differ_from_itself(snap: af.Snapshot) -> None:
    difference = snap.diff(snap)
    assert not any(
        len(part)
        for part in (
            difference.added,
            difference.removed,
            difference.changed,
            difference.new_events,
            difference.missing,
        )
    )
    assert difference.notes == []
    assert list(difference.changed) == [
        "namespace", "job_id", "task_group", "node_name", "alloc_id", "task", "column", "before", "after",
    ]  # fmt: skip


def ring(first: int, count: int) -> list[dict[str, object]]:
    return [restarting(n) for n in range(first, first + count)]


def test_tasks_that_lost_events_between_the_two_are_listed(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", *ring(0, 10)), alloc("b", *ring(0, 10)), alloc("c", *ring(0, 3)))
    after = snapshot(
        tmp_path,
        alloc("a", *ring(50, 10), ModifyIndex=3),
        alloc("b", *ring(8, 10), ModifyIndex=3),
        alloc("c", *ring(0, 4), ModifyIndex=3),
        alloc("d", *ring(70, 10), ModifyIndex=3),
        alloc("e", event("Received", 5), started(6), ModifyIndex=3),
    )
    difference = before.diff(after)
    assert difference.missing["alloc_id"].tolist() == ["a", "d"]
    assert difference.missing["since"].tolist()[0] == at(9)
    assert pd.isna(difference.missing["since"].tolist()[1])
    assert difference.missing["until"].tolist() == [at(50), at(70)]
    assert difference.new_events["alloc_id"].value_counts().to_dict() == {
        "a": 10,
        "b": 8,
        "d": 10,
        "e": 2,
        "c": 1,
    }
    assert any("2 tasks lost events" in note for note in difference.notes)


def test_events_that_only_the_longer_memory_of_an_archive_has_are_not_new(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", *ring(5, 10)))
    after = snapshot(tmp_path, alloc("a", *ring(0, 16), ModifyIndex=3))
    assert before.diff(after).new_events["time"].tolist() == [at(15)]


def test_equal_events_at_the_same_time_are_different_events(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1), ended(2)))
    after = snapshot(tmp_path, alloc("a", started(1), ended(2), ended(2), ModifyIndex=3))
    assert before.diff(after).new_events["seq"].tolist() == [2]


def test_a_value_that_appears_or_goes_is_missing_on_the_other_side(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1), ClientDescription="", FollowupEvalID="e1"))
    after = snapshot(
        tmp_path, alloc("a", started(1), ClientDescription="x", FollowupEvalID="", ModifyIndex=3)
    )
    changes = before.diff(after).changed.set_index("column")[["before", "after"]]
    assert changes.loc["client_description"].isna().tolist() == [True, False]
    assert changes.loc["followup_eval_id"].isna().tolist() == [False, True]
    assert len(changes) == 2


def test_snapshots_of_different_queries_are_compared_with_a_note_of_each_reason(
    client: af.Client, snap: af.Snapshot
) -> None:
    def join_notes(first: af.Snapshot, second: af.Snapshot) -> str:
        return " | ".join(first.diff(second).notes)

    assert "filter" in join_notes(snap, client.snapshot(namespace="*", filter='ClientStatus == "failed"'))
    assert "namespace differs" in join_notes(snap, client.snapshot(namespace="platform"))
    assert "chosen allocations" in join_notes(snap, snap.filter(client_status="failed"))
    assert "chosen allocations" in join_notes(snap, client.snapshot(namespace="*", newest=5))
    bare = snap.diff(client.snapshot(namespace="*", task_states=False))
    assert any("without task states" in note for note in bare.notes)
    assert bare.new_events.empty
    assert bare.changed.empty


def test_files_are_compared_with_a_note_that_they_may_lack_something(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1)))
    notes = before.diff(snapshot(tmp_path, alloc("a", started(1)), alloc("b", started(1)))).notes
    assert sum("may be incomplete" in note for note in notes) == 2


def test_no_name_of_the_cluster_becomes_markup_or_control(tmp_path: Path) -> None:
    before = snapshot(tmp_path, alloc("a", started(1)))
    difference = before.diff(
        snapshot(tmp_path, alloc("a", started(1), ClientStatus="<b>\x1b[31m", ModifyIndex=3))
    )
    assert difference.changed["after"].tolist() == ["<b>\x1b[31m"]
    for view in (repr(difference), difference._repr_html_()):
        assert "\x1b" not in view
        assert "<b>" not in view
