"""The recorder keeps everything that it saw, and says what it did not see, whatever goes wrong meanwhile."""

from __future__ import annotations

import errno
import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from children import started
from crashing import crash, keys
from faultserver import http, serving
from historyserver import HistoryServer

import allocframe as af
from allocframe import cli
from allocframe.archive import archive as archive_module
from allocframe.archive import recorder
from allocframe.archive.recorder import Recorder
from allocframe.tables import TABLES
from allocframe.watch import update_queue
from allocframe.watch.change import Change


@pytest.fixture
def live() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("calm", allocations=30, seed=3) as cluster:
        yield cluster


@pytest.fixture
def viewer(live: af.sim.Cluster) -> Iterator[af.Client]:
    with af.Client(live.address, token=live.token) as client:
        yield client


@pytest.fixture
def archive(tmp_path: Path) -> af.Archive:
    return af.Archive(tmp_path / "archive")


def until(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.fixture
def full(archive: af.Archive, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """While it is set, the disk of the archive is full."""
    full, append = threading.Event(), archive.append

    def fails(*changes: Any, **more: Any) -> None:
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        append(*changes, **more)

    monkeypatch.setattr(archive, "append", fails)
    return full


@contextmanager
def recording(client: af.Client, archive: af.Archive, **more: Any) -> Iterator[tuple[Recorder, list[str]]]:
    """Record in a thread, from the first commit on."""
    said: list[str] = []
    stop = threading.Event()
    made = Recorder(client, archive, **{"interval": 0.1, **more}, on_message=said.append)
    thread = threading.Thread(target=made.run, args=(stop,))
    thread.start()
    try:
        until(lambda: made.counts.commits)
        yield made, said
    finally:
        stop.set()
        thread.join(60)
    assert made.status == "stopped"


def restart(cluster: af.sim.Cluster) -> None:
    """Restart a task as an operator does, which no policy ends."""
    engine = cluster.engine
    with engine.state.changed:
        chosen = next(a for a in engine.live() if a.client_status == "running" and a.job.kind == "service")
        engine.runner.restart_signaled(chosen, "User requested running tasks to restart")
    engine.advance(30)


def _nothing() -> Change:
    none = {name: TABLES[name].empty() for name in ("task_states", "events", "reschedules")}
    empty, now = TABLES["allocations"].empty(), pd.Timestamp.now("UTC")
    return Change(now, 9, "stream", False, empty, empty, empty, new_events=none["events"], **none)


def until_caught_up(archive: af.Archive, live: af.sim.Cluster) -> None:
    """Wait until the archive has what the cluster has. It is read only after a commit: that takes long."""
    assert archive._tables.folder is not None
    log, seen = archive._tables.folder / "snapshots" / "_delta_log", None

    def reached() -> bool:
        nonlocal seen
        newest = max(log.glob("*.json"), default=None)
        if newest is None or newest == seen:
            return False
        seen = newest
        return archive.state().index == live.state.table_index("allocs")

    until(reached)


def gaps(archive: af.Archive) -> pd.DataFrame:
    return archive.sql(
        "SELECT DISTINCT gap_since, gap_until, gap_reason FROM snapshots WHERE gap_since IS NOT NULL"
    )


def test_every_event_is_archived_once_far_beyond_the_ring(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive
) -> None:
    with recording(viewer, archive) as (made, _):
        journal = live.engine.keep_journal()
        for _ in range(20):
            restart(live)
        until_caught_up(archive, live)
    held = keys(archive.events())
    assert len(held) == len(set(held))
    assert set(journal) <= set(held)
    assert max(pd.Series(journal).map(lambda event: event[:2]).value_counts()) > 60
    assert made.counts.gaps == len(gaps(archive)) == 0


def test_it_goes_on_where_it_stopped(live: af.sim.Cluster, viewer: af.Client, archive: af.Archive) -> None:
    crash(live)
    with recording(viewer, archive):
        pass
    journal = live.engine.keep_journal()
    crash(live, 6)
    with recording(viewer, archive) as (made, _):
        until_caught_up(archive, live)
        assert made.counts.changes < len(live.state.allocs), "what had not changed was not reported again"
    assert set(journal) <= set(keys(archive.events()))
    assert gaps(archive).empty, "the server had kept what came meanwhile"


def test_a_time_without_a_recorder_is_a_gap_where_the_server_has_not_kept_it(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive
) -> None:
    with recording(viewer, archive):
        pass
    last = archive.state().at
    crash(live, 3)
    live.restart_servers()
    with recording(viewer, archive):
        until_caught_up(archive, live)
    told = gaps(archive)
    assert len(told) == 1
    assert told["gap_reason"][0] == "nobody watched"
    assert last - pd.Timedelta(seconds=2) < told["gap_since"][0] < last


def test_two_recorders_on_one_archive_make_nothing_twice(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive, tmp_path: Path
) -> None:
    other = af.Archive(tmp_path / "archive")
    with recording(viewer, archive, name="one"), recording(viewer, other, name="two"):
        journal = live.engine.keep_journal()
        for _ in range(5):
            crash(live, 2)
        until_caught_up(archive, live)
    held = keys(archive.events())
    assert len(held) == len(set(held))
    assert set(journal) <= set(held)
    assert set(archive.state().recorders["recorder"]) == {"one", "two"}


def test_a_full_disk_is_reported_and_waited_for_and_nothing_is_lost(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive, full: threading.Event
) -> None:
    with recording(viewer, archive) as (made, said):
        journal = live.engine.keep_journal()
        full.set()
        crash(live, 2)
        until(lambda: made.status == "cannot write")
        crash(live, 6)
        full.clear()
        until_caught_up(archive, live)
        assert made.status == "recording"
        assert made.counts.failures >= 1
    assert sum("No space left" in line for line in said) == 1, "it is said once, not at each try"
    assert set(journal) <= set(keys(archive.events()))
    assert gaps(archive).empty


def test_while_nothing_can_be_written_memory_is_bounded_and_the_gap_is_reported(
    live: af.sim.Cluster,
    viewer: af.Client,
    archive: af.Archive,
    full: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "MAX_ROWS", 40)
    monkeypatch.setattr(update_queue, "MAX_BYTES", 60_000)
    with recording(viewer, archive) as (made, _):
        full.set()
        which = itertools.cycle(range(20))

        def has_overflowed() -> bool:
            crash(live, 3, next(which))  # how much a recorder has taken before it is full varies
            return made.watch is not None and made.watch.stats["overflows"] > 0

        until(has_overflowed)
        assert sum(len(change.events) for change in made._uncommitted) < 1000
        live.restart_servers()  # which have kept nothing of what was dropped
        full.clear()
        until_caught_up(archive, live)
    told = gaps(archive)
    assert len(told) >= 1
    known = {
        (alloc.id, task, kind, at)
        for alloc in live.state.allocs.values()
        for task, state in alloc.tasks.items()
        for kind, at, _ in state.events
    }
    assert known <= set(keys(archive.events())), "what the rings still held is there"


def test_a_lost_permission_is_told_and_waited_for(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = live.add_token(["default", "platform", "data"])
    with af.Client(live.address, token=token) as limited, recording(limited, archive) as (made, said):
        grant = live._access.grants[token]
        live.revoke(token)
        until(lambda: made.status == "cannot watch")
        assert "Permission denied" in (made.last_error or "")
        journal = live.engine.keep_journal()
        crash(live, 2)
        live._access.grants[token] = grant
        until(lambda: made.status == "recording")
        until_caught_up(archive, live)
    assert sum(line.startswith("cannot watch") for line in said) == 1
    assert set(journal) <= set(keys(archive.events()))


def test_restarts_of_servers_and_leaderless_times_are_lived_through(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive
) -> None:
    with recording(viewer, archive) as (made, _):
        live.restart_servers(restored=True)
        crash(live)
        until_caught_up(archive, live)
        live.restart_servers()
        with live.without_leader():
            crash(live)
            until(lambda: made.last_error)
        until_caught_up(archive, live)
    assert len(gaps(archive)) >= 1
    with archive.snapshot() as snap:
        held = dict(zip(snap.allocations["alloc_id"], snap.allocations["modify_index"], strict=True))
    assert held == {each.id: each.modify_index for each in live.state.allocs.values()}


def test_a_quiet_cluster_still_shows_that_somebody_watches(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "HEARTBEAT_INTERVAL", 0.2)
    live.engine.heartbeat = 0.1
    with recording(viewer, archive) as (made, _):
        before = archive.state().at
        until(lambda: made.counts.commits >= 3)
        assert archive.state().at > before
        assert made.counts.changes == len(live.state.allocs)


@pytest.mark.parametrize("step", ["reads its archive", "lists"])
def test_a_recorder_stops_soon_whatever_it_does(
    step: str, archive: af.Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, end, stop = threading.Event(), threading.Event(), threading.Event()

    def hang(connection: Any) -> None:
        began.set()
        end.wait(60)

    def read_for_ever(connection: Any) -> None:
        began.set()
        connection.sql("SELECT sum(a.range * b.range % 7) FROM range(1000000) a, range(1000000) b").fetchall()

    with serving(hang) as server, af.Client(server.address) as client:
        if step == "reads its archive":
            archive.append(_nothing())
            monkeypatch.setattr(archive_module, "read_state", read_for_ever)
        thread = threading.Thread(target=Recorder(client, archive, history=False).run, args=(stop,))
        thread.start()
        assert began.wait(60)
        started = time.monotonic()
        stop.set()
        thread.join(60)
        took = time.monotonic() - started
        end.set()
    assert took < 30, "two seconds, on a very busy machine"


def test_jobs_and_nodes_are_recorded_beside_allocations_and_once_adds_only_what_is_new(
    live: af.sim.Cluster, viewer: af.Client, archive: af.Archive
) -> None:
    with recording(viewer, archive):
        until(lambda: len(archive.history().nodes) == len(live.state.nodes))
    recorded, fetched = archive.history(), viewer.history(namespace="*")
    assert len(recorded.job_versions) == len(fetched.job_versions) > 3
    assert len(recorded.job_changes) == len(fetched.job_changes)
    rows = archive.info["tables"]["job_versions"]["rows"]
    Recorder(viewer, archive).once()
    assert archive.info["tables"]["job_versions"]["rows"] == rows
    assert len(archive.history().notes) == 1, "no gap"


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden"])
def test_a_recorder_without_an_event_stream_records_and_says_why(status: str, archive: af.Archive) -> None:
    def refuse(connection: Any) -> None:
        connection.sendall(http(b"<html>no</html>", status, kind="text/html"))

    server = HistoryServer(refuse)
    try:
        with af.Client(server.address) as client, recording(client, archive, history=False) as (_, said):
            until(lambda: len(said) > 2)
    finally:
        server.close()
    assert said[2].startswith("there is no event stream: a proxy refuses it. Blocking queries are sent")


# The command


def command(live: af.sim.Cluster, archive: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "allocframe",
        "record",
        "--archive",
        str(archive),
        "--address",
        live.address,
        *more,
    ]


def environment(live: af.sim.Cluster) -> dict[str, str]:
    import os

    return {**os.environ, "NOMAD_TOKEN": live.token}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_cleanly_with_what_it_has(
    live: af.sim.Cluster, tmp_path: Path, end: signal.Signals
) -> None:
    folder = tmp_path / "archive"
    words = command(live, folder, "--interval", "60")
    with started(words, env=environment(live), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert "reading the archive, then listing the cluster" in process.stderr.readline()
        assert "recording" in process.stderr.readline()
        process.send_signal(end)
        said = process.stderr.read()
        assert process.wait(60) == 0
    assert said.count("stopped") == 1
    assert "Traceback" not in said
    with af.Archive(folder).snapshot() as snap:
        assert len(snap) == len(live.state.allocs)


def heaps_of_threads(pid: int) -> int:
    """Return how many heaps glibc has made for the threads of a process. Each reserves 64 MB."""
    size, spans = 64 << 20, []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, access, *_ = line.split()
        start, end = (int(address, 16) for address in span.split("-"))
        spans.append((start, end, access))
    pairs = itertools.pairwise(spans)
    return sum(
        start % size == 0 and access == "rw-p" and end == rest and last == start + size and closed == "---p"
        for (start, end, access), (rest, last, closed) in pairs
    )


_HEAPS = """
import threading, time
held = threading.Barrier(5)
def hold():
    mine = [bytearray(2000) for _ in range(100)]
    held.wait()
    time.sleep(60)
for _ in range(4):
    threading.Thread(target=hold, daemon=True).start()
held.wait()
print(flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, which is Linux's")
def test_the_threads_of_the_command_share_their_heaps(live: af.sim.Cluster, tmp_path: Path) -> None:
    words = command(live, tmp_path / "archive", "--interval", "0.1")
    with started(words, env=environment(live), stderr=subprocess.DEVNULL) as process:
        archive = af.Archive(tmp_path / "archive")
        until(lambda: archive.state().index)
        found = heaps_of_threads(process.pid)
        process.terminate()
    assert found <= 1
    with started([sys.executable, "-c", _HEAPS], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert heaps_of_threads(other.pid) > 1, "threads have heaps of their own unless it is forbidden"


def test_a_recorder_that_was_killed_loses_nothing_that_was_committed(
    live: af.sim.Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "archive"
    archive = af.Archive(folder)
    crash(live)
    held: set[Any] = set()
    journal = live.engine.keep_journal()
    for _ in range(2):
        words = command(live, folder, "--interval", "0.1")
        with started(words, env=environment(live), stderr=subprocess.DEVNULL) as process:
            until_caught_up(archive, live)
            crash(live, 2)
            process.kill()
        now = keys(archive.events())
        assert len(now) == len(set(now))
        assert held <= set(now)
        held = set(now)
    with af.Client(live.address, token=live.token) as client, recording(client, archive):
        until_caught_up(archive, live)
    assert set(journal) <= set(keys(archive.events()))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["allocframe", *arguments])
    return cli.run()


def test_once_lists_and_status_tells(
    live: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "archive")
    monkeypatch.setenv("NOMAD_TOKEN", live.token)
    assert run(monkeypatch, "record", "--archive", folder, "--status") == 1
    assert "nothing recorded yet" in capsys.readouterr().out
    assert run(monkeypatch, "record", "--archive", folder, "--address", live.address, "--once") == 0
    assert f"{len(live.state.allocs)} new" in capsys.readouterr().err
    crash(live)
    assert run(monkeypatch, "record", "--archive", folder, "--address", live.address, "--once") == 0
    assert "0 new, 1 changed, 0 removed" in capsys.readouterr().err
    assert run(monkeypatch, "record", "--archive", folder, "--status") == 0
    said = capsys.readouterr().out
    assert f"{len(live.state.allocs)} current allocations" in said
    assert "alive" in said
    assert "nobody watched" in said


def test_once_without_a_cluster_fails_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "archive"
    assert (
        run(monkeypatch, "record", "--archive", str(folder), "--address", "http://127.0.0.1:9", "--once") == 1
    )
    assert "NOMAD_ADDR" in capsys.readouterr().err
    assert not folder.exists()


def test_a_small_month_with_kills_adds_up(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Without kills only with --deep: a test above holds what is recorded then to the journal."""
    import month

    figures = [month.disturbed(40, 140, 1, tmp_path, every=0.2)]
    if pytestconfig.getoption("deep"):
        (quiet := tmp_path / "quiet").mkdir()
        figures.append(month.undisturbed(40, 15, quiet, every=0.3))
    for each in figures:
        assert month.good(each), each
        assert each.archived > 100


def test_the_memory_of_a_recorder_stays_flat(tmp_path: Path) -> None:
    import soak

    sizes, figures = soak.soak(8, 60, tmp_path)
    assert figures.emitted > 300
    assert soak.exact(figures), figures
    assert soak.growth(sizes) < soak.BOUND_MB, sizes
