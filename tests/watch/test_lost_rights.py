"""Absence is not removal: a policy that shrinks hides running allocations, and nothing is marked as gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import allocframe as af
from allocframe.archive import recorder
from allocframe.archive.recorder import Recorder
from allocframe.watch import reflector

BOTH = frozenset({"default", "platform"})


@pytest.fixture
def cluster() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("crash_loop", allocations=40, seed=3) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FLOOR", 0.05)
    monkeypatch.setattr(reflector, "RECHECK", 0.1)
    monkeypatch.setattr(recorder, "RESYNC_INTERVAL", 0.3)
    monkeypatch.setattr(recorder, "HEARTBEAT_INTERVAL", 0.3)


def allow(cluster: af.sim.Cluster, token: str, *namespaces: str) -> None:
    grants = cluster._access.grants
    grants[token] = replace(grants[token], readable=frozenset(namespaces))


def of(cluster: af.sim.Cluster, namespace: str) -> set[str]:
    return {each.id for each in cluster.state.allocs.values() if each.namespace == namespace}


def wait_for(reached: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("stream", [True, False])
def test_a_watch_keeps_what_the_token_may_no_longer_read_says_so_and_continues_when_it_may_again(
    cluster: af.sim.Cluster, stream: bool
) -> None:
    token, hidden = cluster.add_token(BOTH), of(cluster, "platform")
    assert hidden
    with (
        af.Client(cluster.address, token=token) as client,
        client.watch(namespace="*", stream=stream, resync_interval=0.3, wait=0.2) as watch,
    ):
        first = next(watch)
        assert first.full
        allow(cluster, token, "default")
        while watch.last_error is None or "platform" not in watch.last_error:
            change = watch.poll(20)
            assert change is None or change.removed.empty
        told = change if change is not None and change.gap else watch.poll(20)
        assert told is not None
        assert told.gap is not None
        assert told.gap.reason == "the token can no longer read namespace platform"
        assert told.gap.since is not None
        assert told.gap.since <= first.at
        assert not told.full
        assert hidden <= set(watch.snapshot.allocations["alloc_id"])
        removed = next(iter(sorted(hidden)))
        cluster.engine._remove(cluster.state.allocs[removed])
        allow(cluster, token, *BOTH)
        gone: set[str] = set()
        end = time.monotonic() + 60
        while watch.last_error is not None or not gone:
            assert time.monotonic() < end
            change = watch.poll(0.5)
            gone |= set(change.removed["alloc_id"]) if change is not None else set()
        assert gone == {removed}, "what was really removed meanwhile is reported once it can be known"


def test_a_namespace_whose_allocations_were_all_removed_is_not_a_lost_right(cluster: af.sim.Cluster) -> None:
    token = cluster.add_token(BOTH)
    with (
        af.Client(cluster.address, token=token) as client,
        client.watch(namespace="*", resync_interval=0.3) as watch,
    ):
        next(watch)
        purged = of(cluster, "platform")
        for identity in purged:
            cluster.engine._remove(cluster.state.allocs[identity])
        change = next(watch)
        while change.removed.empty:
            change = next(watch)
        assert set(change.removed["alloc_id"]) == purged
        assert change.full
        assert watch.last_error is None


def test_a_recorder_marks_nothing_as_gone_in_a_namespace_it_may_no_longer_read(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    token, hidden = cluster.add_token(BOTH), of(cluster, "platform")
    archive, said, stop = af.Archive(tmp_path / "archive"), [], threading.Event()
    with af.Client(cluster.address, token=token) as client:
        recording = Recorder(client, archive, interval=0.1, on_message=said.append)
        thread = threading.Thread(target=recording.run, args=(stop,))
        thread.start()
        try:
            wait_for(lambda: recording.counts.commits > 0)
            allow(cluster, token, "default")
            wait_for(lambda: any("platform" in line for line in said))
            commits = recording.counts.commits
            wait_for(lambda: recording.counts.commits > commits + 1)
            seen = archive.allocations()
            assert seen["gone_at"].isna().all()
            assert hidden <= set(seen["alloc_id"])
            past = archive.snapshot()
            assert past.info["complete"] is False
            assert "namespace platform" in repr(past)
            assert any("namespace platform" in gap["reason"] for gap in archive.info["gaps"])
            allow(cluster, token, *BOTH)
            wait_for(lambda: recording.status == "recording")
            commits = recording.counts.commits
            wait_for(lambda: recording.counts.commits > commits)
        finally:
            stop.set()
            thread.join()
    assert archive.allocations()["gone_at"].isna().all()


def test_a_recorder_that_starts_after_the_policy_shrank_marks_nothing_as_gone(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    token, archive, said = cluster.add_token(BOTH), af.Archive(tmp_path / "archive"), []
    with af.Client(cluster.address, token=token) as client:
        Recorder(client, archive).once()
        allow(cluster, token, "default")
        change = Recorder(client, archive, on_message=said.append).once()
        assert change.removed == 0
        assert archive.allocations()["gone_at"].isna().all()
        assert "platform" in said[0]


def test_a_snapshot_of_all_namespaces_removes_nothing_of_one_that_it_does_not_have(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    token, archive = cluster.add_token(BOTH), af.Archive(tmp_path / "archive")
    with af.Client(cluster.address, token=token) as client:
        archive.append(client.snapshot(namespace="*"))
        allow(cluster, token, "default")
        removed = min(of(cluster, "default"))
        cluster.engine._remove(cluster.state.allocs[removed])
        archive.append(client.snapshot(namespace="*"))
    seen = archive.allocations()
    assert set(seen["alloc_id"][seen["gone_at"].notna()]) == {removed}
    assert any("nothing of platform could be read" in gap["reason"] for gap in archive.info["gaps"])
