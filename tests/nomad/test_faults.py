"""Broken answers lead to a retry or to an error that says what happened, never to a short table."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from children import child
from faultserver import BODY, ROW, FaultServer, any_json, good, http, packed, reset, serving

import allocframe as af
from allocframe.nomad import transport


def client(server: FaultServer, **more: object) -> af.Client:
    return af.Client(server.address, **{"timeout": 10.0, "retries": 3, **more})  # type: ignore[arg-type]


def fetched(server: FaultServer, **more: object) -> int:
    with client(server, **more) as c, c.snapshot(progress=False) as snap:
        assert snap.info["complete"]
        return len(snap)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport.retry, "backoff", lambda attempt: 0.0)


def test_a_refused_connection_names_the_address_and_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with (
        af.Client(f"http://127.0.0.1:{port}") as c,
        pytest.raises(af.ConnectionFailed, match=rf"{port}.*NOMAD_ADDR"),
    ):
        c.snapshot()


def test_a_connection_that_the_server_closed_is_opened_anew() -> None:
    with serving(good(), reset, good()) as server, client(server) as c:
        assert len(c.snapshot(progress=False)) == 1
        assert len(c.snapshot(progress=False)) == 1
        assert c.counters["retries"] == 1


def test_a_kept_connection_that_breaks_on_its_next_request_is_opened_anew_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A pause beyond the deadline would end in an error: the repeat succeeds only because it does not wait.
    monkeypatch.setattr(transport.retry, "backoff", lambda attempt: 3600.0)
    one = any_json(ROW)
    with serving(one, good(), reset, good(), keep_alive=True) as server, client(server) as c:
        assert len(c.allocation(ROW["ID"]).events) == 0
        assert len(c.snapshot(progress=False)) == 1
        assert len(c.snapshot(progress=False)) == 1
        assert c.counters["retries"] == 1


@pytest.mark.parametrize("cut", range(1, len(BODY), 9))
def test_a_body_cut_anywhere_is_fetched_again(cut: int) -> None:
    with serving(http(BODY[:cut], length=len(BODY)), good()) as server:
        assert fetched(server) == 1


def test_chunks_cut_short_are_fetched_again() -> None:
    chunk = http(b"%x\r\n%s\r\n" % (len(BODY), BODY), Transfer_Encoding="chunked")
    with serving(chunk, good()) as server:
        assert fetched(server) == 1
        assert len(server.requests) == 2


def test_gzip_that_stops_early_with_a_fitting_length_is_fetched_again() -> None:
    rows = [{**ROW, "ID": str(n), "Name": os.urandom(8).hex()} for n in range(500)]
    data = gzip.compress(json.dumps(rows).encode())
    half = data[: len(data) // 2]
    with serving(
        http(half, length=len(half), Content_Encoding="gzip"), packed(json.dumps(rows).encode())
    ) as server:
        assert fetched(server) == 500
        assert len(server.requests) == 2


def test_gzip_with_a_wrong_checksum_is_fetched_again_then_an_error() -> None:
    data = bytearray(gzip.compress(BODY))
    data[-8] ^= 0xFF
    broken = http(bytes(data), length=len(data), Content_Encoding="gzip")
    with serving(broken, packed()) as server:
        assert fetched(server) == 1
    with serving(broken) as server, pytest.raises(af.ConnectionFailed, match="broke"):
        fetched(server)


@pytest.mark.parametrize("cut", [1, len(BODY) // 2, len(BODY) - 1])
def test_a_body_that_ends_with_the_connection_too_early_is_fetched_again(cut: int) -> None:
    with serving(http(BODY[:cut]), http(BODY)) as server:
        assert fetched(server) == 1
    with serving(http(BODY[:cut])) as server, pytest.raises(af.AllocframeError):
        fetched(server)


def test_a_decompression_bomb_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BODY", 1 << 20)
    with serving(packed(b"[" + b" " * (50 << 20) + b"]")) as server:
        tracemalloc.start()
        try:
            with pytest.raises(af.ResponseTooLarge, match="per_page"):
                fetched(server)
            assert tracemalloc.get_traced_memory()[1] < 10 << 20, "it was never unpacked as a whole"
        finally:
            tracemalloc.stop()


def test_a_body_that_trickles_in_ends_at_the_deadline_of_the_request() -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(http(b"[", length=10_000))
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    with serving(trickle) as server, pytest.raises(af.RequestTimeout, match="timeout="):
        fetched(server, timeout=0.5)


def test_a_server_that_hangs_after_the_headers_ends_at_the_deadline() -> None:
    done = threading.Event()

    def hang(connection: socket.socket) -> None:
        connection.sendall(http(b"", length=100))
        done.wait(20)

    with serving(hang) as server:
        with pytest.raises(af.RequestTimeout):
            fetched(server, timeout=0.5)
        done.set()


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"])
def test_a_burst_of_gateway_errors_is_waited_out_and_bounded(status: str) -> None:
    page = http(b"<html>sorry</html>", status, length=18, kind="text/html")
    with serving(page, page, good()) as server:
        assert fetched(server) == 1
    with serving(page) as server:
        with pytest.raises(af.AllocframeError):
            fetched(server)
        assert len(server.requests) == 4


@pytest.mark.parametrize("value", ["0", "garbage", formatdate(0, usegmt=True)])
def test_status_429_is_waited_out_with_or_without_a_sound_retry_after(value: str) -> None:
    busy = http(b"too many", "429 Too Many Requests", length=8, kind="text/plain", Retry_After=value)
    with serving(busy, good()) as server:
        assert fetched(server) == 1
    bare = http(b"", "429 Too Many Requests", length=0, kind="text/plain")
    with serving(bare) as server, pytest.raises(af.ApiError, match="100 connections"):
        fetched(server)


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    busy = http(b"", "429 Too Many Requests", length=0, Retry_After="1000000000")
    with serving(busy) as server, pytest.raises(af.ApiError):
        fetched(server, timeout=1.0)


def test_a_connection_closed_without_a_word_is_tried_again() -> None:
    with serving(reset, reset, good()) as server:
        assert fetched(server) == 1


def test_a_leader_election_is_waited_out() -> None:
    text = b"No cluster leader"
    election = http(text, "500 Internal Server Error", length=len(text), kind="text/plain")
    with serving(election, election, good()) as server:
        assert fetched(server) == 1


@pytest.mark.parametrize(
    "text", ["alloc lookup failed: index error: UUID must be 36 characters", "Permission denied"]
)
def test_a_500_for_bad_input_is_asked_once(text: str) -> None:
    with serving(
        http(text.encode(), "500 Internal Server Error", length=len(text), kind="text/plain")
    ) as server:
        with pytest.raises(af.ApiError, match=r"denied|UUID"):
            fetched(server)
        assert len(server.requests) == 1


def test_a_login_page_with_200_is_not_nomad_and_its_excerpt_is_harmless() -> None:
    page = b"<html>\x1b[31m<script>alert(1)</script> please log in"
    with (
        serving(http(page, length=len(page), kind="text/html")) as server,
        pytest.raises(af.NotNomad, match="NOMAD_ADDR") as e,
    ):
        fetched(server)
    assert "\x1b" not in str(e.value)


def test_a_redirect_is_not_followed() -> None:
    moved = http(b"", "307 Temporary Redirect", length=0, Location="http://evil.example/v1/allocations")
    with serving(moved) as server, client(server, token="canary") as c:
        with pytest.raises(af.NotNomad, match=r"evil\.example"):
            c.snapshot()
        assert len(server.requests) == 1


def test_an_index_that_goes_back_during_a_walk_is_reported() -> None:
    def page(connection: socket.socket) -> None:
        first = "prefix" not in server.requests[-1]
        more = {"X_Nomad_Nexttoken": "77777.5", "X_Nomad_Index": "900"} if first else {"X_Nomad_Index": "7"}
        connection.sendall(good(BODY if "prefix=54" in server.requests[-1] else b"[]", **more))

    with serving(page) as server, client(server) as c:
        assert "went back from 900 to 7" in repr(c.snapshot(per_page=1, progress=False))


@pytest.mark.parametrize("index", ["0", "abc", str(2**64), "-5"])
def test_an_index_that_cannot_be_is_overlooked(index: str) -> None:
    with serving(good(X_Nomad_Index=index)) as server, client(server) as c:
        snap = c.snapshot(progress=False)
        told = 0 if index == "0" else None
        assert (len(snap), snap.info["index_first"], snap.info["index_last"]) == (1, told, told)


def test_a_snapshot_asks_once_and_never_blocks() -> None:
    with serving(good(X_Nomad_Index="7")) as server:
        assert fetched(server) == 1
        assert len(server.requests) == 1
        assert not any(word in server.requests[0] for word in ("index=", "wait="))


def test_a_row_that_changes_between_two_pages_is_there_once_in_its_newest_form() -> None:
    def page(connection: socket.socket) -> None:
        target = server.requests[-1]
        old, new = {**ROW, "ModifyIndex": 5, "JobID": "old"}, {**ROW, "ModifyIndex": 6, "JobID": "new"}
        if "prefix" not in target:
            connection.sendall(good(json.dumps([old]).encode(), X_Nomad_Nexttoken="77777.54"))
        else:
            connection.sendall(good(json.dumps([new] if "prefix=54" in target else []).encode()))

    with serving(page) as server, client(server) as c:
        snap = c.snapshot(per_page=1, progress=False)
        assert snap.allocations["job_id"].tolist() == ["new"]
        assert snap.info["duplicates"] == 1


def test_an_allocation_that_is_gone_when_it_is_read_says_so_and_its_listed_row_stays() -> None:
    with (
        af.sim.Cluster("crash_loop", allocations=30, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token) as c,
    ):
        snap = c.snapshot(namespace="*")
        done = snap.allocations.set_index("alloc_id")["client_status"].eq("failed").idxmax()
        del cluster.state.allocs[done]
        with pytest.raises(af.NotFound, match="alloc not found"):
            c.allocation(done)
        assert done in set(snap.allocations["alloc_id"])


def test_rows_removed_between_pages_cost_no_other_row() -> None:
    with (
        af.sim.Cluster("calm", allocations=200, seed=3, version="1.3.1") as cluster,
        af.Client(cluster.address, token=cluster.token) as c,
    ):
        before = set(cluster.state.allocs)

        def remove_the_first_of_every_shard(done: int, estimate: int | None) -> None:
            for head in {identity[:2] for identity in cluster.state.allocs}:
                mine = sorted(i for i in cluster.state.allocs if i.startswith(head))
                if len(mine) > 1 and len(cluster.state.allocs) > 150:
                    del cluster.state.allocs[mine[0]]
            cluster.state.commit("allocs")

        snap = c.snapshot(namespace="*", per_page=1, workers=1, progress=remove_the_first_of_every_shard)
        assert len(cluster.state.allocs) < len(before)
        assert set(cluster.state.allocs) <= set(snap.allocations["alloc_id"]) <= before


def test_a_node_that_cannot_be_reached_is_not_an_allocation_that_is_gone() -> None:
    text = b"No path to node"
    with (
        serving(http(text, "404 Not Found", length=len(text), kind="text/plain")) as server,
        client(server) as c,
    ):
        with pytest.raises(af.NodeUnreachable):
            c.allocation("5457f16d-0f87-8e6b-5e91-0c7da3a41eb7")
        assert len(server.requests) == 1


def test_permission_lost_in_the_middle_of_a_walk_leaves_no_partial_table() -> None:
    def page(connection: socket.socket) -> None:
        if "prefix=07" in server.requests[-1]:
            connection.sendall(http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain"))
        elif "prefix" in server.requests[-1]:
            connection.sendall(good(b"[]"))
        else:
            connection.sendall(good(X_Nomad_Nexttoken="77777.5"))

    with (
        serving(page) as server,
        client(server) as c,
        pytest.raises(af.PermissionDenied, match="NOMAD_TOKEN"),
    ):
        c.snapshot(per_page=1, progress=False)


def test_two_documents_in_one_answer_are_not_taken_for_one() -> None:
    body = BODY + BODY
    with serving(good(body)) as server, pytest.raises(af.DecodeError):
        fetched(server)
    with serving(good(b"\xef\xbb\xbf" + BODY)) as server:
        assert fetched(server) == 1


def test_a_page_that_is_broken_among_small_ones_is_fetched_again() -> None:
    broken = [True]

    def page(connection: socket.socket) -> None:
        target = server.requests[-1]
        if "prefix" not in target:
            connection.sendall(good(X_Nomad_Nexttoken="77777.5"))
        elif "prefix=54" in target and broken:
            broken.clear()
            connection.sendall(http(BODY[:-2]))
        else:
            connection.sendall(good(BODY if "prefix=54" in target else b"[]"))

    with serving(page) as server, client(server) as c:
        snap = c.snapshot(per_page=1, progress=False)
        assert len(snap) == 1
        assert sum("prefix=54" in target for target in server.requests) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_client_used_after_a_fork_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good()) as server, client(server) as c:
        monkeypatch.setattr(c._session.transport, "_pid", -1)
        with pytest.raises(af.AllocframeError, match="fork"):
            c.snapshot()


_FORKED = """
import os, sys
import allocframe as af
client = af.Client(sys.argv[1])
print(len(client.snapshot(progress=False)), flush=True)
if os.fork() == 0:
    try:
        client.snapshot(progress=False)
    except af.AllocframeError as error:
        print(error, flush=True)
    with af.Client(sys.argv[1]) as mine:
        print(len(mine.snapshot(progress=False)), flush=True)
    os._exit(0)
os.wait()
print(len(client.snapshot(progress=False)), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_a_real_fork_the_child_is_told_to_make_its_own_and_the_parent_keeps_working() -> None:
    with serving(good()) as server:
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKED, server.address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    lines = done.stdout.splitlines()
    assert [lines[0], lines[2], lines[3]] == ["1", "1", "1"], done.stderr
    assert "before a fork" in lines[1]


def test_a_client_serves_several_threads_and_a_running_event_loop() -> None:
    async def inside() -> int:
        return len(c.snapshot(progress=False))

    with (
        af.sim.Cluster("crash_loop", allocations=40, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token, namespace="*") as c,
        ThreadPoolExecutor(8) as pool,
    ):
        wanted = len(cluster.state.allocs)
        found = list(pool.map(lambda n: len(c.snapshot(progress=False)), range(16)))
        assert found == [wanted] * 16
        assert asyncio.run(inside()) == wanted


def test_an_error_that_was_dealt_with_keeps_nothing_alive() -> None:
    with serving(good()) as server, client(server) as c:  # it does not tell its version, which is no failure
        gc.collect()
        gc.disable()
        try:
            found = c.snapshot(progress=False)
            assert found.info["version"] is None
            store = weakref.ref(found._store)
            found.close()
            del found
            assert store() is None
        finally:
            gc.enable()


def test_a_closed_client_says_so_and_closing_twice_does_no_harm() -> None:
    with serving(good()) as server:
        c = client(server)
        c.close()
        c.close()
        with pytest.raises(af.AllocframeError, match="closed"):
            c.snapshot()


_INTERRUPTED = """
import sys, threading
import allocframe as af
c = af.Client(sys.argv[1], timeout=60)
try:
    c.snapshot(progress=False)
except KeyboardInterrupt:
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    for thread in others:  # on a busy machine, one may be about to end
        thread.join(60)
    alive = [thread.name for thread in others if thread.is_alive()]
    print("interrupted", alive, len(c.snapshot(progress=False)), flush=True)
"""


def test_ctrl_c_ends_a_walk_at_once_leaves_no_thread_and_the_next_call_works() -> None:
    reached = threading.Event()

    def hang(connection: socket.socket) -> None:
        connection.sendall(http(b"", length=100))
        reached.set()
        connection.recv(1)

    with serving(hang, good()) as server, child(_INTERRUPTED, server.address) as process:
        assert reached.wait(30)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert said.split() == ["interrupted", "[]", "1"]
