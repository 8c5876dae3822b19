"""Full reads of many allocations as one snapshot: it notes gone and failed ones, and has all others."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path

import pandas as pd
import pytest
from children import child
from faultserver import good, http, serving

import allocframe as af
from allocframe.nomad import transport

IDS = [f"5457f16d-0f87-8e6b-5e91-{n:012d}" for n in range(30)]


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport.retry, "backoff", lambda attempt: 0.0)


def test_scan_filter_read_gives_the_same_events_as_a_whole_fetch(client: af.Client) -> None:
    whole = client.snapshot(namespace="*").filter(client_status=["failed", "lost"])
    scan = client.snapshot(namespace="*", task_states=False)
    assert scan.events.empty
    chosen = scan.filter(client_status=["failed", "lost"]).allocations["alloc_id"]
    told: list[tuple[int, int | None]] = []
    details = client.allocations(chosen, progress=lambda done, all_: told.append((done, all_)))
    pd.testing.assert_frame_equal(details.events, whole.events)
    pd.testing.assert_frame_equal(details.task_states, whole.task_states)
    assert told[-1] == (len(chosen), len(chosen))
    assert details.info["complete"] is True
    assert "complete: all requested allocations were fetched" in repr(details)
    placed = details.sql("SELECT count(DISTINCT alloc_id) AS n FROM placement")
    assert placed["n"][0] == len(chosen)


def test_starts_of_ids_do_and_each_allocation_is_read_once(client: af.Client, snap: af.Snapshot) -> None:
    identity = snap.allocations["alloc_id"][0]
    before = client.counters["requests"]
    assert client.allocations([identity, identity[:13], identity]).allocations["alloc_id"].tolist() == [
        identity
    ]
    assert client.counters["requests"] == before + 2
    assert len(client.allocations([])) == 0
    with pytest.raises(af.ConfigError, match="must be a UUID"):
        client.allocations([identity, "web"])
    with pytest.raises(af.ConfigError, match="workers"):
        client.allocations([identity], workers=9)


def test_no_secret_of_a_job_is_kept(client: af.Client, snap: af.Snapshot, tmp_path: Path) -> None:
    identity = snap.allocations["alloc_id"][0]
    assert "TaskGroups" in client.allocation(identity).raw["Job"]
    read = client.allocations([identity])
    kept = json.loads(read._capture.file(read._capture.pages[0]).read_bytes())
    assert set(kept["Job"]) == {"Type", "Version", "ParentID"}
    assert read.allocations["job_type"].notna().all()
    again = af.load(read.save(tmp_path / "read.allocframe"))
    pd.testing.assert_frame_equal(again.events, read.events)


def test_allocations_that_are_gone_are_reported_and_the_others_are_there(client: af.Client) -> None:
    with (
        af.sim.Cluster("crash_loop", allocations=30, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token) as c,
    ):
        ids = c.snapshot(namespace="*", task_states=False).allocations["alloc_id"].tolist()
        for identity in ids[3:6]:
            del cluster.state.allocs[identity]
        read = c.allocations(ids)
    assert len(read) == len(ids) - 3
    assert read.info["complete"] is False
    assert read.info["gone"] == ids[3:6]
    assert read.info["failed"] == {}
    assert ids[3] in repr(read)
    assert "NOT complete" in repr(read)


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize(
    ("status", "text"),
    [("404 Not Found", "No path to node"), ("500 Internal Server Error", "rpc error: odd")],
)
def test_reads_that_fail_do_not_lose_the_others(status: str, text: str) -> None:
    def answer(connection: socket.socket) -> None:
        number = int(server.requests[-1][-12:])
        if number % 5 == 3:
            connection.sendall(http(text.encode(), status, length=len(text), kind="text/plain"))
        else:
            connection.sendall(good(json.dumps({"ID": IDS[number], "Namespace": "default"}).encode()))

    with serving(answer) as server, af.Client(server.address) as c:
        read = c.allocations(IDS, workers=1)
        failed = read.info["failed"]
    assert sorted(failed) == IDS[3::5]
    assert all(text in why for why in failed.values())
    assert sorted(read.allocations["alloc_id"]) == sorted(set(IDS) - set(failed))
    assert read.info["complete"] is False
    assert text in repr(read)


@pytest.mark.usefixtures("_no_pauses")
def test_a_server_that_is_lost_on_the_way_is_not_asked_for_all_the_rest() -> None:
    def answer(connection: socket.socket) -> None:
        number = int(server.requests[-1][-12:])
        if number < 5:
            connection.sendall(good(json.dumps({"ID": IDS[number], "Namespace": "default"}).encode()))
        else:
            connection.sendall(http(b"", "503 Service Unavailable", length=0, kind="text/plain"))

    with serving(answer) as server, af.Client(server.address, retries=2) as c:
        read = c.allocations(IDS, workers=1)
        assert len(server.requests) < 2 * len(IDS)  # of three times as many
    assert len(read) == 5
    assert len(read.info["failed"]) == 25
    assert "10 reads in a row had failed" in read.info["failed"][IDS[29]]


@pytest.mark.usefixtures("_no_pauses")
def test_where_nothing_could_be_read_there_is_no_snapshot() -> None:
    with serving(http(b"", "403 Forbidden", length=0)) as server, af.Client(server.address) as c:
        with pytest.raises(af.PermissionDenied):
            c.allocations(IDS)
        assert len(server.requests) < len(IDS)


@pytest.mark.usefixtures("_no_pauses")
def test_an_answer_that_is_cut_is_read_again() -> None:
    body = json.dumps({"ID": IDS[0], "Namespace": "default", "ClientStatus": "running"}).encode()
    with serving(http(body[:-9]), http(b"[]"), good(body)) as server, af.Client(server.address) as c:
        assert c.allocations(IDS[:1]).allocations["client_status"].tolist() == ["running"]
        assert len(server.requests) == 3


_INTERRUPTED = """
import sys, threading
import allocframe as af
c = af.Client(sys.argv[1], timeout=60)
try:
    getattr(c, sys.argv[2])(sys.argv[3:])
except KeyboardInterrupt:
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    for thread in others:  # on a busy machine, one may be about to end
        thread.join(30)
    print("interrupted", [thread.name for thread in others if thread.is_alive()], flush=True)
"""


@pytest.mark.parametrize("call", ["allocations", "usage"])
def test_ctrl_c_ends_reads_at_once_and_leaves_no_thread(call: str) -> None:
    started = threading.Barrier(5)  # the four workers and this test

    def hang(connection: socket.socket) -> None:
        connection.sendall(http(b"", length=100))
        started.wait(60)
        connection.recv(1)

    with serving(hang) as server, child(_INTERRUPTED, server.address, call, *IDS) as process:
        started.wait(60)  # a signal that comes while threads start may not wake the main one of CPython
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert said.split() == ["interrupted", "[]"]
