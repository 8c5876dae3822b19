"""A watch tells each change once, keeps its snapshot equal to the cluster, and says when nobody watched."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import flatten
import pandas as pd
import pytest
from crashing import Key, crash, keys
from streamserver import HOLD, StreamServer, batch, told
from tables import alloc, ended, restarting, started

import allocframe as af
from allocframe.store.capture import Capture
from allocframe.watch import reflector, update_queue, updates
from allocframe.watch import state as watch_state

TABLES = ("allocations", "task_states", "events", "reschedules")


def until(watch: af.Watch, reached: Callable[[af.Change], bool], seconds: float = 60.0) -> list[af.Change]:
    """Return the changes up to the first that is as wanted."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        change = watch.poll(0.5)
        if change is not None:
            found.append(change)
            if reached(change):
                return found
    raise AssertionError(f"it did not come: {found}, {watch.stats}, {watch.last_error}")


def any_row(change: af.Change) -> bool:
    return len(change.changed) + len(change.added) > 0


def same(watch: af.Watch, client: af.Client, **query: Any) -> None:
    with watch.snapshot as mine, client.snapshot(progress=False, **query) as real:
        for name in TABLES:
            left, right = getattr(mine, name), getattr(real, name)
            if name == "allocations" and right["next_alloc_id"].isna().all():  # lists of old servers lack it
                left, right = (frame.drop(columns="next_alloc_id") for frame in (left, right))
            pd.testing.assert_frame_equal(left, right, obj=name)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("allocframe")]


@pytest.fixture(params=["stream", "blocking"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def live(request: pytest.FixtureRequest) -> Iterator[af.sim.Cluster]:
    version = getattr(request, "param", "2.0.5")
    with af.sim.Cluster("crash_loop", allocations=40, seed=3, version=version) as cluster:
        yield cluster


@pytest.fixture
def viewer(live: af.sim.Cluster) -> Iterator[af.Client]:
    with af.Client(live.address, token=live.token) as client:
        yield client


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FLOOR", 0.05)


@pytest.mark.parametrize("live", flatten.VERSIONS, indirect=True)
def test_each_event_is_told_once_and_the_snapshot_is_the_cluster(
    live: af.sim.Cluster, viewer: af.Client, mode: str
) -> None:
    with viewer.watch(namespace="*", stream=mode == "stream", wait=1.0) as watch:
        first = next(watch)
        assert (first.source, first.full, first.index) == ("list", True, live.state.table_index("allocs"))
        assert len(first.added) == len(live.state.allocs)
        journal = live.engine.keep_journal()
        told_events: list[Key] = []
        for _ in range(6):
            crash(live)
            told_events += [
                k for c in until(watch, lambda c: c.index == live.state.index) for k in keys(c.new_events)
            ]
            same(watch, viewer, namespace="*")
        assert watch.mode == mode
    assert sorted(told_events) == sorted(journal)
    assert len(journal) > 12
    assert threads() == []


def test_a_watch_tells_new_changed_and_gone_allocations(
    live: af.sim.Cluster, viewer: af.Client, mode: str
) -> None:
    with viewer.watch(namespace="*", stream=mode == "stream", resync_interval=0.2, wait=0.2) as watch:
        first = next(watch)
        stopped = next(
            a for a in live.engine.live() if a.client_status == "running" and a.job.kind == "service"
        )
        viewer.stop(stopped.id)
        changes = until(watch, lambda c: len(c.added) > 0)
        assert stopped.id in set(pd.concat([c.changed for c in changes])["alloc_id"])
        assert not set(changes[-1].added["alloc_id"]) & set(first.added["alloc_id"])
        assert changes[-1].added["job_version"].tolist() == [stopped.job.version]
        live.engine.advance(2 * 3600)
        gone = until(watch, lambda c: stopped.id in set(c.removed["alloc_id"]))[-1]
        assert gone.full
        assert gone.removed.set_index("alloc_id").loc[stopped.id, "job_id"] == stopped.job.id
        until(watch, lambda c: c.index == live.state.index or c.full)
        same(watch, viewer, namespace="*")


def test_a_snapshot_of_a_watch_stays_as_it_is_and_can_be_saved_and_analysed(
    live: af.sim.Cluster, viewer: af.Client, tmp_path: Any
) -> None:
    with viewer.watch(namespace="*") as watch:
        next(watch)
        before = watch.snapshot
        crash(live, 2)
        until(watch, lambda c: c.index == live.state.index)
        after = watch.snapshot
    assert len(set(keys(after.events)) - set(keys(before.events))) > 0
    assert after.info["complete"]
    assert af.load(after.save(tmp_path / "now.allocframe")).events.equals(after.events)
    assert len(af.stats.restarts(after, by="job_id")) > 0
    assert af.findings(after) is not None
    assert len(watch.snapshot) == len(after), "it can still be asked for after the end"


def test_a_prefix_a_namespace_and_a_filter_select_what_is_watched(
    live: af.sim.Cluster, viewer: af.Client
) -> None:
    crash(live)
    first = next(a for a in live.engine.live() if a.client_status == "running" and a.job.kind == "service")
    queries: list[dict[str, str]] = [
        {"namespace": "*", "prefix": first.id[:2]},
        {"namespace": "platform"},
        {"namespace": "*", "filter": 'ClientStatus == "running"'},
    ]
    for query in queries:
        with viewer.watch(**query, wait=0.3) as watch:
            assert watch.mode == ("blocking" if "filter" in query else "stream")
            next(watch)
            for which in range(0, 24, 4):
                crash(live, 1, which)
            told_ids = [set(c.changed["alloc_id"]) | set(c.added["alloc_id"]) for c in until(watch, any_row)]
            if "prefix" in query:
                assert told_ids == [{first.id}]
            while watch.poll(0.4) is not None:
                pass
            same(watch, viewer, **query)


def test_what_is_known_from_before_is_not_told_again(
    live: af.sim.Cluster, viewer: af.Client, mode: str
) -> None:
    crash(live)
    with viewer.watch(namespace="*") as watch:
        first = next(watch)
    crash(live)
    known = dict(zip(first.added["alloc_id"], first.added["modify_index"].astype(int), strict=True))
    checkpoint = af.Checkpoint(first.index, first.at, {**known, "dead0000-0000-0000-0000-000000000000": 3})
    with viewer.watch(namespace="*", stream=mode == "stream", checkpoint=checkpoint) as watch:
        changes = until(watch, lambda c: c.full)
        assert sum(len(c.changed) for c in changes) == 1
        assert sum(len(c.added) for c in changes) == 0
        assert changes[-1].removed[["alloc_id", "modify_index"]].to_numpy().tolist() == [
            ["dead0000-0000-0000-0000-000000000000", 3]
        ]
        if mode == "stream":
            assert [c.gap for c in changes] == [None] * len(changes), (
                "the server had kept what came meanwhile"
            )
            assert watch.stats["resumed"] == 1
        else:
            gap = changes[0].gap
            assert gap is not None
            assert gap.reason == "nobody watched"
            assert first.at - pd.Timedelta(seconds=2) < gap.since < first.at
        same(watch, viewer, namespace="*")


def test_a_break_whose_events_the_server_has_kept_is_no_gap(live: af.sim.Cluster, viewer: af.Client) -> None:
    with viewer.watch(namespace="*") as watch:
        next(watch)
        journal = live.engine.keep_journal()
        crash(live)
        found = until(watch, lambda c: c.index == live.state.index)
        live.break_streams()
        crash(live, 8)  # more events of a task than its ring holds
        found += until(watch, lambda c: c.full)
        assert [c.gap for c in found] == [None] * len(found)
        assert (watch.stats["reconnects"], watch.stats["resumed"], watch.stats["gaps"]) == (1, 1, 0)
        assert watch.stats["replayed"] > 0
    assert sorted(k for c in found for k in keys(c.new_events)) == sorted(journal)


def test_a_restarted_server_has_kept_nothing_and_the_gap_is_told(
    live: af.sim.Cluster, viewer: af.Client
) -> None:
    with viewer.watch(namespace="*") as watch:
        next(watch)
        crash(live)
        last = until(watch, lambda c: c.index == live.state.index)[-1]
        live.restart_servers()
        crash(live, 2)
        found = until(watch, lambda c: c.full)
        gaps = [c.gap for c in found if c.gap is not None]
        assert len(gaps) == watch.stats["gaps"] == 1
        assert gaps[0].since is not None
        assert gaps[0].since <= last.at + pd.Timedelta(seconds=1)
        assert "broke" in gaps[0].reason
        same(watch, viewer, namespace="*")


def test_a_cluster_without_a_leader_is_waited_for(live: af.sim.Cluster, viewer: af.Client) -> None:
    with viewer.watch(namespace="*", stream=False, wait=0.2) as watch:
        next(watch)
        with live.without_leader():
            end = time.monotonic() + 60
            while watch.last_error is None and time.monotonic() < end:
                assert watch.poll(0.3) is None
            assert "No cluster leader" in (watch.last_error or "")
        crash(live)
        gap = until(watch, lambda c: c.full)[0].gap
        assert gap is not None
        assert "No cluster leader" in gap.reason
        assert watch.last_error is None
        same(watch, viewer, namespace="*")


def test_the_first_list_that_cannot_be_had_is_an_error() -> None:
    with af.Client("http://127.0.0.1:9", retries=0) as client, client.watch() as watch:
        with pytest.raises(af.ConnectionFailed):
            next(watch)
        with pytest.raises(af.ConnectionFailed):
            next(watch)


@pytest.mark.parametrize("stream", [True, False])
def test_a_long_list_comes_in_parts_of_which_only_the_last_is_full(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_state, "PART", 8)
    monkeypatch.setattr(watch_state, "_MAX_SELECTED", 4)
    with (
        af.sim.Cluster("calm", allocations=30, seed=3) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
        client.watch(namespace="*", stream=stream, wait=0.3) as watch,
    ):
        parts = list(watch._first_list())
        assert len(parts) == -(-len(cluster.state.allocs) // 8)
        assert [part.full for part in parts] == [False] * (len(parts) - 1) + [True]
        assert [part.index is None for part in parts] == [True] * (len(parts) - 1) + [False]
        ids = pd.concat([part.added["alloc_id"] for part in parts])
        assert sorted(ids) == sorted(cluster.state.allocs)
        assert all(set(part.events["alloc_id"]) <= set(part.added["alloc_id"]) for part in parts)
        with watch.snapshot as snap:
            assert sum(len(part.new_events) for part in parts) == len(snap.events)
        crash(cluster)
        assert len(until(watch, lambda change: len(change.changed) > 0)[-1].changed) == 1


def test_a_blocking_watch_reads_in_full_only_what_has_changed(
    live: af.sim.Cluster, viewer: af.Client
) -> None:
    with viewer.watch(namespace="*", stream=False, wait=1.0) as watch:
        next(watch)
        crash(live)
        until(watch, lambda c: len(c.changed) == 1)
        assert 1 <= watch.stats["reads"] <= 3
        assert watch.stats["relists"] == 0


def test_bad_parameters_are_refused(viewer: af.Client) -> None:
    for wrong in (
        {"resync_interval": 0},
        {"wait": -1},
        {"wait": float("nan")},
        {"prefix": "xyz"},
        {"resync_interval": True},
    ):
        with pytest.raises(af.ConfigError):
            viewer.watch(**wrong)  # type: ignore[arg-type]


def test_a_closed_watch_says_so_and_ends_its_iteration(viewer: af.Client) -> None:
    watch = viewer.watch(namespace="*")
    next(watch)
    watch.close()
    assert list(watch) == []
    with pytest.raises(af.AllocframeError, match="closed"):
        watch.poll(0)
    watch.close()
    assert threads() == []


def test_a_watch_that_is_closed_from_another_thread_ends_at_once(viewer: af.Client, mode: str) -> None:
    watch = viewer.watch(namespace="*", stream=mode == "stream")
    next(watch)
    timer = threading.Timer(0.3, watch.close)
    timer.start()
    before = time.monotonic()
    assert list(watch) == []
    assert time.monotonic() - before < 30
    timer.join()


def test_a_watch_that_is_forgotten_leaves_no_thread(viewer: af.Client) -> None:
    watch = viewer.watch(namespace="*")
    next(watch)
    assert threads() == ["allocframe-stream"]
    del watch
    assert threads() == []


# Recorded streams of real agents


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_the_recorded_stream_is_followed_to_its_end(version: str) -> None:
    """From the list recorded long before it: each event of both once, and the stream's last rows."""
    lines = [
        json.loads(line)
        for line in (flatten.DATA / f"nomad-{version}" / "event-stream.ndjson").read_text().splitlines()
    ]
    told_allocs = [
        event["Payload"]["Allocation"]
        for line in lines
        for event in line.get("Events", [])
        if event["Topic"] == "Allocation"
    ]
    rows = {row["ID"]: row for row in flatten.recorded_rows(version)}
    first = min(row["ModifyIndex"] for row in told_allocs)
    rows = {identity: row for identity, row in rows.items() if row["ModifyIndex"] < first}
    server = StreamServer(list(rows.values()), told(*lines, HOLD), index=first - 1)
    every: set[Key] = set()
    for row in [*rows.values(), *told_allocs]:
        for task, state in (row.get("TaskStates") or {}).items():
            every |= {(row["ID"], task, event["Type"], event["Time"]) for event in state["Events"] or []}
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            found = until(watch, lambda c: c.index == lines[-1]["Index"])
            found += [change for change in [watch.poll(0.3)] if change is not None]
            told_events = [key for change in found for key in keys(change.new_events)]
            snap = watch.snapshot
    finally:
        server.close()
    assert len(told_events) == len(set(told_events))
    assert set(told_events) == every
    newest = {row["ID"]: row for row in told_allocs}
    table = snap.allocations.set_index("alloc_id")
    for identity, row in newest.items():
        assert table.loc[identity, "modify_index"] == row["ModifyIndex"]
        assert table.loc[identity, "client_status"] == row["ClientStatus"]
    assert table.loc[list(rows), "job_version"].notna().all(), "payloads without a job take nothing away"
    assert snap.issues.empty


# Faults


def row(
    index: int, *events: dict[str, Any], identity: str = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
) -> dict[str, Any]:
    return alloc(identity, *events, ModifyIndex=index, JobVersion=4)


def test_an_index_that_goes_back_is_met_with_a_whole_list(live: af.sim.Cluster, viewer: af.Client) -> None:
    with viewer.watch(namespace="*", stream=False, wait=0.3) as watch:
        next(watch)
        live.restart_servers(restored=True)
        crash(live)
        change = until(watch, lambda c: c.full)[0]
        assert change.gap is not None
        assert watch.stats["resets"] == 1
        assert change.index == live.state.index
        same(watch, viewer, namespace="*")


@pytest.mark.parametrize("header", [None, "0", "abc", str(2**64), "-1"])
def test_without_an_index_that_can_be_read_it_polls_at_a_measured_pace(
    header: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "POLL", 0.2)
    server = StreamServer([row(5, started(0))], told())
    server.headers = {} if header is None else {"X_Nomad_Index": header}
    try:
        with af.Client(server.address) as client, client.watch(stream=False) as watch:
            assert len(next(watch).added) == 1
            before, since = watch.stats["requests"], time.monotonic()
            server.now(row(6, started(0), ended(1)), index=10)
            change = until(watch, lambda c: len(c.changed) == 1)[-1]
            assert len(change.new_events) == 1
            end = time.monotonic() + 0.6
            while time.monotonic() < end:
                watch.poll(0.2)
            polls = (time.monotonic() - since) / 0.2
            # the change and its list are requests of their own; without a pace there would be hundreds
            assert watch.stats["requests"] - before <= polls + 5
            assert watch.stats["resets"] == 0
    finally:
        server.close()


def test_queries_that_return_at_once_for_ever_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "FLOOR", 0.5)
    server = StreamServer([row(5, started(0))], told())
    try:
        with af.Client(server.address) as client, client.watch(stream=False) as watch:
            next(watch)
            before = server.count("/v1/allocations")
            assert watch.poll(2.2) is None
            assert 2 <= server.count("/v1/allocations") - before <= 6
    finally:
        server.close()


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_a_token_that_may_not_subscribe_is_recognised_by_one_probe(version: str) -> None:
    with (
        af.sim.Cluster("calm", allocations=20, seed=1, version=version) as cluster,
        af.Client(cluster.address, token="00000000-0000-0000-0000-000000000000") as client,
        client.watch() as watch,
    ):
        with pytest.raises(af.PermissionDenied):
            watch.poll(20)
        assert watch.stats["requests"] == 2, "one stream, one probe"
        assert watch.poll(0) is None, "what follows waits"
        assert watch.stats["requests"] == 2


@pytest.mark.parametrize("end", ["200 and nothing", "403", "404"])
def test_where_only_the_stream_is_refused_the_list_is_asked(end: str) -> None:
    def refuse(connection: Any) -> None:
        from faultserver import http

        if end == "200 and nothing":
            connection.sendall(http(b""))
        else:
            connection.sendall(http(b"Permission denied", f"{end} No", length=17, kind="text/plain"))

    server = StreamServer([row(5, started(0))], refuse)
    try:
        with af.Client(server.address) as client, client.watch(wait=0.3) as watch:
            assert len(next(watch).added) == 1
            assert watch.mode == "blocking"
            server.now(row(11, started(0), ended(1)), index=11)
            assert len(until(watch, lambda c: len(c.changed) == 1)[-1].new_events) == 1
            assert server.count("/v1/event/stream") == 1
    finally:
        server.close()


@pytest.mark.parametrize(
    "broken",
    [b'{"Index": 12, "Ev', b"event dropped from buffer\n", b'{"Events": []}\n', b""],
    ids=["half a line", "no JSON", "no index", "the end"],
)
def test_a_stream_that_breaks_is_opened_again_and_all_is_listed(broken: bytes) -> None:
    moved = threading.Event()
    server = StreamServer(
        [row(5, started(0))],
        told({}, batch(11, row(11, started(0), ended(1))), moved, broken),
        told({}, HOLD),
    )
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            found = until(watch, lambda c: len(c.changed) == 1)
            assert found[-1].index == 11
            server.now(row(12, started(0), ended(1), restarting(2)), index=12)
            moved.set()
            after = until(watch, lambda c: c.full and len(c.changed) == 1)
            assert [key[2] for c in after for key in keys(c.new_events)] == ["Restarting"]
            gap = next(c.gap for c in after if c.gap is not None)
            assert "stream broke" in gap.reason
            assert watch.stats["gaps"] == watch.stats["reconnects"] == 1
    finally:
        server.close()


def test_a_stream_that_falls_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_queue, "QUIET", 0.3)
    server = StreamServer([row(5, started(0))], told({}, HOLD))
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            next(watch)
            end = time.monotonic() + 60
            while watch.stats["reconnects"] == 0 and time.monotonic() < end:
                watch.poll(0.2)
            assert watch.stats["reconnects"] >= 1
            assert watch.stats["gaps"] == 0, "the list shows that nothing had changed"
    finally:
        server.close()


def test_replayed_and_reordered_indexes_change_nothing_twice() -> None:
    new = row(12, started(0), ended(1), restarting(2))
    server = StreamServer(
        [row(5, started(0))],
        told(
            {}, batch(4, row(4)), batch(12, new), batch(11, row(11, started(0), ended(1))), batch(12, new),
            {}, HOLD,
        ),
    )  # fmt: skip
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            found = until(watch, lambda c: len(c.changed) == 1)
            found += [c for c in [watch.poll(0.4)] if c is not None]
            told_events = [key for c in found for key in keys(c.new_events)]
            assert len(told_events) == len(set(told_events)) == 3
            assert watch.snapshot.allocations["modify_index"].tolist() == [12]
            assert watch.stats["duplicates"] >= 2
    finally:
        server.close()


def test_an_allocation_that_was_never_listed_is_read_for_its_job() -> None:
    other = row(11, started(5), identity="11111111-0f87-8e6b-5e91-0c7da3a41eb7")
    ready = threading.Event()
    server = StreamServer([row(5, started(0))], told({}, ready, batch(11, other), HOLD), told({}, HOLD))
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            next(watch)
            server.rows[other["ID"]] = other
            ready.set()
            change = until(watch, lambda c: len(c.added) == 1)[-1]
            assert change.added[["job_type", "job_version"]].to_numpy().tolist() == [["service", 4]]
            assert watch.stats["reads"] == 1
            del server.rows[other["ID"]]
            server.index = 12
            watch._reflector._relist_at = 0.0
            gone = until(watch, lambda c: len(c.removed) == 1)[-1]
            assert gone.removed["alloc_id"].tolist() == [other["ID"]]
    finally:
        server.close()


def test_a_slow_consumer_gets_what_still_fits_and_else_a_new_list(
    live: af.sim.Cluster, viewer: af.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_queue, "MAX_BYTES", 60_000)
    with viewer.watch(namespace="*") as watch:
        next(watch)
        for which in range(12):
            crash(live, 2, which)
        end = time.monotonic() + 60
        while watch.stats["overflows"] == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert watch.stats["overflows"] >= 1
        assert len(watch._reflector.queue) < 30
        assert watch._reflector.subscriber.current.ended is None, "the reader was never held up"
        until(watch, lambda c: c.full)
        same(watch, viewer, namespace="*")


def test_servers_that_were_restored_to_low_indexes_are_followed(
    live: af.sim.Cluster, viewer: af.Client
) -> None:
    with viewer.watch(namespace="*") as watch:
        first = next(watch)
        live.restart_servers(restored=True)
        found = until(watch, lambda c: c.full)
        assert found[-1].index < first.index
        assert sum(len(c.new_events) + len(c.removed) + len(c.added) for c in found) == 0, (
            "no row was lost or made"
        )
        assert watch.stats["resets"] == watch.stats["gaps"] == 1
        journal = live.engine.keep_journal()
        crash(live, 3)
        after = until(watch, lambda c: c.index == live.state.index)
        assert sorted(k for c in after for k in keys(c.new_events)) == sorted(journal)
        same(watch, viewer, namespace="*")


def test_events_of_a_node_whose_clock_is_wrong_are_reported_in_the_order_of_indexes() -> None:
    early = row(11, started(0), ended(-5000))
    late = row(12, started(0), ended(-5000), restarting(-9000))
    server = StreamServer([row(5, started(0))], told({}, batch(11, early), batch(12, late), HOLD))
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            found = until(watch, lambda c: c.index == 12)
            told_events = [key[2] for c in found for key in keys(c.new_events)]
            assert told_events == ["Started", "Terminated", "Restarting"]
            runs = af.stats.runs(watch.snapshot)
            assert (runs["duration"].dropna() >= pd.Timedelta(0)).all()
    finally:
        server.close()


def test_a_full_disk_under_a_watch_is_waited_out_and_nothing_that_the_server_kept_is_lost(
    live: af.sim.Cluster, viewer: af.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, add = threading.Event(), Capture.add

    def fails(*given: Any, **more: Any) -> Any:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(*given, **more)

    crash(live)
    monkeypatch.setattr(Capture, "add", fails)
    with viewer.watch(namespace="*") as watch:
        next(watch)
        journal = live.engine.keep_journal()
        full.set()
        crash(live, 6)
        end = time.monotonic() + 60
        while watch.last_error is None and time.monotonic() < end:
            assert watch.poll(0.2) is None
        assert "No space left" in (watch.last_error or "")
        full.clear()
        found = until(watch, lambda c: c.full)
        same(watch, viewer, namespace="*")
    assert sorted(k for c in found for k in keys(c.new_events)) == sorted(journal)
    assert watch.stats["gaps"] == 0


def test_ctrl_c_ends_a_watch_and_leaves_no_thread_and_the_client_usable(viewer: af.Client, mode: str) -> None:
    import os
    import signal

    watch = viewer.watch(namespace="*", stream=mode == "stream")
    next(watch)
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in watch:
            pass
    timer.join()
    assert watch.closed
    assert threads() == []
    assert len(viewer.snapshot(namespace="*", progress=False)) > 0


def test_a_list_is_applied_while_changes_come_as_fast_as_they_are_taken(
    live: af.sim.Cluster, viewer: af.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with viewer.watch(namespace="*", resync_interval=0.2) as watch:
        first = next(watch)
        queue, rounds = watch._reflector.queue, []
        busy = first.added["alloc_id"].iloc[0]

        def take(limit: int) -> Any:
            rounds.append(limit)
            assert len(rounds) < 30, "it never ends"
            row = live.state.allocs[busy].stub(live.state.version)
            index = live.state.commit("allocs")
            event = {"Payload": {"Allocation": {**row, "ModifyIndex": index}}}
            queue.put(updates.parse(json.dumps({"Index": index, "Events": [event]}).encode()))
            return update_queue.UpdateQueue.take(queue, limit)

        monkeypatch.setattr(queue, "take", take)
        found = until(watch, lambda c: c.source == "list")
        assert found[-1].full


def test_a_restore_is_noticed_although_the_servers_have_passed_their_old_index(
    live: af.sim.Cluster, viewer: af.Client
) -> None:
    with viewer.watch(namespace="*") as watch:
        next(watch)
        live.restart_servers(restored=True)
        crash(live, 6)
        last = until(watch, lambda c: c.index == live.state.index)[-1]
        journal = live.engine.keep_journal()
        live.restart_servers(restored=True)
        while live.state.index <= last.index + 5:
            crash(live, 4)
        found = until(watch, lambda c: c.full and c.index >= live.state.index)
        held = {key for c in found for key in keys(c.new_events)}
        assert set(journal) - held, "events were lost, so the gap must be reported"
        assert (watch.stats["gaps"], watch.stats["resumed"]) == (2, 0)
        same(watch, viewer, namespace="*")


A, B = (f"{letter * 8}-0f87-8e6b-5e91-0c7da3a41eb7" for letter in "ab")


@pytest.mark.parametrize(
    ("known", "listed", "replayed"),
    [
        ({A: 18, B: 10}, {A: 12, B: 25}, [21, 25]),
        ({A: 10, B: 12}, {A: 15, B: 25}, [21, 25]),
        ({A: 10, B: 12}, {A: 25, B: 26}, [15, 25, 26]),
    ],
    ids=["the list is older than what is known", "the list has an older change", "so has the replay"],
)
def test_rows_that_contradict_what_is_known_show_a_restore(
    known: dict[str, int], listed: dict[str, int], replayed: list[int]
) -> None:
    """The index of the checkpoint is 20, and the server's is higher, as if nothing had happened."""
    rows = [row(index, started(0), identity=identity) for identity, index in listed.items()]
    batches = [batch(index, row(index, started(0), identity=A)) for index in replayed]
    server = StreamServer(rows, told(batch(19), *batches, HOLD), index=30)
    at = pd.Timestamp.now(tz="UTC") - pd.Timedelta("1min")
    try:
        with (
            af.Client(server.address) as client,
            client.watch(checkpoint=af.Checkpoint(20, at, known)) as watch,
        ):
            found = until(watch, lambda c: c.full)
            gaps = [c.gap for c in found if c.gap is not None]
            assert (len(gaps), watch.stats["resets"], watch.stats["resumed"]) == (1, 1, 0)
            assert gaps[0].until > at + pd.Timedelta("59s")
    finally:
        server.close()


def test_a_replay_that_agrees_with_what_is_known_is_no_gap() -> None:
    rows = [row(index, started(0), identity=identity) for identity, index in ((A, 25), (B, 12))]
    stream = told(
        *(
            batch(index, row(index, started(0), identity=identity))
            for index, identity in ((12, B), (18, A), (25, A))
        ),
        HOLD,
    )
    server = StreamServer(rows, stream, index=30)
    at = pd.Timestamp.now(tz="UTC") - pd.Timedelta("1min")
    try:
        with (
            af.Client(server.address) as client,
            client.watch(checkpoint=af.Checkpoint(20, at, {A: 18, B: 12})) as watch,
        ):
            found = until(watch, lambda c: c.full)
            assert [c.gap for c in found] == [None] * len(found)
            assert (watch.stats["resets"], watch.stats["resumed"]) == (0, 1)
    finally:
        server.close()


def test_a_stream_that_breaks_just_before_a_relist_leaves_a_gap(
    live: af.sim.Cluster, viewer: af.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with viewer.watch(namespace="*") as watch:
        next(watch)
        crash(live)
        until(watch, lambda c: c.index == live.state.index)
        live.restart_servers()
        crash(live, 2)
        broken = watch._reflector.subscriber.current
        with watch._reflector.queue.changed:
            assert watch._reflector.queue.changed.wait_for(lambda: broken.ended is not None, 10)
        # It breaks after the look whether it has.
        monkeypatch.setattr(watch._reflector, "_check_stream", lambda: None)
        monkeypatch.setattr(watch._reflector, "_relist_at", 0.0)
        found = until(watch, lambda c: c.full)
        assert [c.gap.reason for c in found if c.gap] == ["the event stream broke: the server ended it"]
        assert watch.stats["reconnects"] == 1
