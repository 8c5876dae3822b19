"""Exec: the recorded sessions frame by frame, the simulated cluster, and broken servers."""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from typing import Any

import flatten
import pytest
from children import child
from exec_sessions import EXITED, echo, out, scripted, server_side, talk
from faultserver import http, serving
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection

import allocframe as af
from allocframe import sim
from allocframe.client.audit_log import audit_path
from allocframe.nomad import exec as _exec
from allocframe.nomad import websocket

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


def sessions(version: str) -> dict[str, Any]:
    return flatten.recorded(version, "exec-sessions")  # type: ignore[return-value]


def replayed(frames: list[dict[str, Any]]) -> tuple[_exec.BufferedSession, Exception | None]:
    """Feed a session with what a server sent; return it, and the error that its end stands for."""
    session = _exec.BufferedSession("/exec")
    for frame in frames:
        if "server" in frame:
            session.receive(json.dumps(frame["server"]))
        if "close" in frame:
            return session, session.close_error(frame["close"]["code"], frame["close"]["reason"] or "")
    return session, None


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_recorded_sessions_end_as_they_ended(version: str) -> None:
    for name, (stdout, code) in {
        "cat-stdin-close": ("line one\nligne é\n", 0),
        "tty-shell": (None, 7),
    }.items():
        session, error = replayed(sessions(version)[name]["frames"])
        assert error is None
        assert session.exit_code == code
        assert stdout is None or session.result().text == stdout
    for name, kind in {
        "no-such-command": af.ExecError,
        "no-such-task": af.BadRequest,
        "no-task": af.BadRequest,
        "no-such-alloc": af.NotFound,
    }.items():
        _, error = replayed(sessions(version)[name]["frames"])
        assert type(error) is kind, name


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_recorded_output_without_an_exit_is_kept_in_the_error(version: str) -> None:
    session, _ = replayed(sessions(version)["stderr-exit3"]["frames"])
    error = session.close_error(None, "")
    assert isinstance(error, af.ExecError)
    assert error.stderr == b"oops\n"
    with pytest.raises(af.ExecError, match="not ended"):
        session.result()


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_the_simulated_cluster_sends_the_frames_that_were_recorded(version: str) -> None:
    for name in (
        "stdout-exit0",
        "stderr-exit3",
        "cat-stdin-close",
        "no-such-command",
        "no-such-task",
        "no-task",
        "no-such-alloc",
    ):
        recorded = sessions(version)[name]
        with sim.Cluster("calm", allocations=20, seed=1, version=version) as cluster:
            alloc = next(a for a in cluster.state.allocs.values() if a.client_status == "running")
            identity = "5456bd7a-9fc0-c0dd-6131-cbee77f57577" if name == "no-such-alloc" else alloc.id
            task = {"nope": "nope", None: None}.get(recorded["query"].get("task"), next(iter(alloc.tasks)))
            assert talk(cluster, identity, recorded, task) == server_side(recorded["frames"]), name


@pytest.fixture(params=flatten.VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[sim.Cluster]:
    with sim.Cluster("calm", allocations=90, seed=4, version=request.param) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: sim.Cluster) -> Iterator[af.Client]:
    with af.Client(cluster.address, token=cluster.token) as client:
        yield client


def running(cluster: sim.Cluster, tasks: int = 1) -> str:
    return next(
        a.id for a in cluster.state.allocs.values() if a.client_status == "running" and len(a.tasks) == tasks
    )


def test_a_command_for_a_task_that_has_ended_is_refused_with_the_reason(
    cluster: sim.Cluster, client: af.Client
) -> None:
    ended = next(a for a in cluster.state.allocs.values() if a.client_status == "complete")
    task = next(iter(ended.tasks))
    message = rf'Nomad answered 400: task "{task}" is not running\. Read the allocation again'
    with pytest.raises(af.Conflict, match=message):
        client.exec(ended.id, ["true"], task=task)


def test_a_command_ends_with_its_output_apart_and_its_exit_code(
    cluster: sim.Cluster, client: af.Client
) -> None:
    done = client.exec(running(cluster), ["sh", "-c", "echo hello; echo oops >&2; exit 3"])
    assert (done.stdout, done.stderr, done.exit_code, done.text) == (b"hello\n", b"oops\n", 3, "hello\n")
    assert client.exec(running(cluster), ["true"]).exit_code == 0


def test_stdin_reaches_the_command_whole_in_pieces(cluster: sim.Cluster, client: af.Client) -> None:
    data = bytes(range(256)) * 700
    assert client.exec(running(cluster), ["cat"], stdin=data).stdout == data
    assert client.exec(running(cluster), ["cat"], stdin="ligne é").text == "ligne é"


def test_ten_megabytes_of_output_come_whole(cluster: sim.Cluster, client: af.Client) -> None:
    assert client.exec(running(cluster), ["seq", "1300000"]).stdout.endswith(b"1299999\n1300000\n")


def test_the_task_must_be_said_where_there_are_several(cluster: sim.Cluster, client: af.Client) -> None:
    identity = running(cluster, tasks=2)
    with pytest.raises(af.ConfigError, match="log-shipper, server"):
        client.exec(identity, ["true"])
    assert client.exec(identity, ["true"], task="server").exit_code == 0


@pytest.mark.parametrize("command", ["echo hi", [], ["echo", 1], None])
def test_what_is_no_command_is_refused_before_anything_is_sent(client: af.Client, command: Any) -> None:
    with pytest.raises(af.ConfigError, match="command"):
        client.exec(ID, command)
    assert client.counters["requests"] == 0


def test_a_command_that_does_not_end_in_time_is_an_error_with_what_came(
    cluster: sim.Cluster, client: af.Client
) -> None:
    with pytest.raises(af.ExecError, match="may still be running") as caught:
        client.exec(running(cluster), ["sh", "-c", "echo first; sleep 30"], timeout=2)
    assert caught.value.stdout == b"first\n"
    assert not [t for t in threading.enumerate() if t.name.startswith("allocframe")]


def test_without_permission_or_in_a_read_only_client_nothing_is_run(cluster: sim.Cluster) -> None:
    identity = running(cluster)
    namespace = cluster.state.allocs[identity].namespace
    with (
        af.Client(cluster.address, token=cluster.add_token([namespace])) as reader,
        pytest.raises(af.PermissionDenied),
    ):
        reader.exec(identity, ["true"])
    with (
        af.Client(cluster.address, token=cluster.token, read_only=True) as reader,
        pytest.raises(af.AllocframeError, match="read-only"),
    ):
        reader.exec(identity, ["true"], task="x")


def test_many_are_run_and_those_that_fail_are_rows_too(cluster: sim.Cluster, client: af.Client) -> None:
    good = [
        a.id for a in cluster.state.allocs.values() if a.client_status == "running" and len(a.tasks) == 1
    ][:5]
    results = client.exec_many([good[0], ID, *good[1:]], ["echo", "x"], workers=3)
    assert results["alloc_id"].tolist() == [good[0], ID, *good[1:]]
    assert results["exit_code"].fillna(-1).tolist() == [0, -1, 0, 0, 0, 0]
    assert results["error"].notna().tolist() == [False, True, False, False, False, False]
    assert results["stdout"].fillna("").tolist() == ["x\n", "", "x\n", "x\n", "x\n", "x\n"]
    assert (results["duration"] > "0s").all()
    assert client.exec_many([], ["true"]).columns.tolist() == results.columns.tolist()


def test_the_simulated_shell_is_closed_to_other_names_and_sites(cluster: sim.Cluster) -> None:
    url = (
        cluster.address.replace("http", "ws")
        + f"/v1/client/allocation/{running(cluster)}/exec?task=server&command=%5B%22true%22%5D"
    )
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(Exception, match=r"403|rejected"):
            connect(url, additional_headers={**headers, "X-Nomad-Token": cluster.token}, proxy=None)


# Broken servers


def dropped(*frames: str) -> Callable[[ServerConnection], None]:
    def handler(connection: ServerConnection) -> None:
        connection.recv()  # the handshake: what is not read makes the kernel reset the connection
        for frame in frames:
            connection.send(frame)
        connection.socket.close()

    return handler


def test_a_drop_after_the_exit_is_an_end_and_before_it_a_loss() -> None:
    with scripted(dropped(out(b"all"), EXITED)) as address, af.Client(address) as client:
        assert client.exec(ID, ["x"], task="t").stdout == b"all"
    with (
        scripted(dropped(out(b"part"))) as address,
        af.Client(address) as client,
        pytest.raises(af.ExecError, match="lost") as caught,
    ):
        client.exec(ID, ["x"], task="t")
    assert caught.value.stdout == b"part"


# Both directions at the same time


def talk_then_listen(connection: ServerConnection) -> None:
    """Read nothing before 20 MB of output are taken."""
    connection.recv()
    for _ in range(160):
        connection.send(out(bytes(125_000)))
    while "close" not in json.loads(connection.recv())["stdin"]:
        pass
    connection.send(EXITED)


def listen_then_talk(connection: ServerConnection) -> None:
    connection.recv()
    while "close" not in json.loads(connection.recv())["stdin"]:
        pass
    for _ in range(160):
        connection.send(out(bytes(125_000)))
    connection.send(EXITED)


@pytest.mark.parametrize("server", [echo, talk_then_listen, listen_then_talk])
def test_kind_reading_never_waits_for_writing_whoever_waits_on_the_other_side(
    server: Callable[[ServerConnection], None],
) -> None:
    data = bytes(20_000_000)
    with scripted(server) as address, af.Client(address) as client:
        done = client.exec(ID, ["x"], task="t", stdin=data, timeout=60)
    assert (done.stdout == data, done.exit_code) == (True, 0)


def test_kind_a_failing_send_drops_no_frame_that_was_received() -> None:
    def ends_early(connection: ServerConnection) -> None:
        connection.recv()
        connection.recv()  # the rest of stdin stays unread, so that the kernel resets the connection
        connection.send(out(b"first"))
        connection.send(out(b" second"))
        connection.send(EXITED)
        connection.socket.close()

    with scripted(ends_early) as address, af.Client(address) as client:
        for _ in range(30):
            done = client.exec(ID, ["head"], task="t", stdin=bytes(3_000_000), timeout=20)
            assert (done.stdout, done.exit_code) == (b"first second", 0)


def test_a_session_lost_while_stdin_is_sent_says_why_that_may_be() -> None:
    def drop(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(out(b"part"))
        connection.recv()
        connection.socket.close()

    with (
        scripted(drop) as address,
        af.Client(address) as client,
        pytest.raises(af.ExecError, match=r"lost .* without reading all of its stdin") as caught,
    ):
        client.exec(ID, ["x"], task="t", stdin=bytes(10_000_000))
    assert caught.value.stdout == b"part"


def test_output_beyond_the_bound_is_cut_off_on_stderr_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exec, "MAX_OUTPUT", 100_000)
    session = _exec.BufferedSession("/exec")
    frame = json.dumps(
        {stream: {"data": b64encode(bytes(30_000)).decode()} for stream in ("stdout", "stderr")}
    )
    session.receive(frame)
    with pytest.raises(af.ExecError, match="100,000 bytes"):
        session.receive(frame)


def test_pings_without_end_do_not_fill_the_memory() -> None:
    def ping(connection: ServerConnection) -> None:
        with connection.protocol_mutex:
            for _ in range(100_000):
                connection.protocol.send_ping(bytes(120))
                for data in connection.protocol.data_to_send():
                    connection.socket.sendall(data)

    with (
        scripted(ping) as address,
        af.Client(address) as client,
        pytest.raises(af.ExecError, match="lost"),
    ):
        client.exec(ID, ["x"], task="t", timeout=30)


def test_heartbeats_are_sent_while_a_command_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HEARTBEAT_EVERY", 0.2)
    heard: list[str | bytes] = []

    def silent(connection: ServerConnection) -> None:
        heard.extend(connection.recv() for _ in range(5))
        connection.send(EXITED)

    with scripted(silent) as address, af.Client(address) as client:
        client.exec(ID, ["x"], task="t", timeout=20)
    assert heard[2:] == ["{}"] * 3


@pytest.mark.parametrize(
    "junk",
    [
        "not json",
        "[]",
        '{"stdout": {"data": "%%%"}}',
        '{"stdout": 5}',
        '{"exited": true, "result": {"exit_code": "x"}}',
    ],
)
def test_what_is_not_a_frame_is_an_error_that_shows_its_start(junk: str) -> None:
    with (
        scripted(dropped(junk)) as address,
        af.Client(address) as client,
        pytest.raises(af.ExecError, match="invalid frame"),
    ):
        client.exec(ID, ["x"], task="t")


def test_split_characters_are_put_together() -> None:
    data = "é€😀".encode()
    frames = [out(data[n : n + 1]) for n in range(len(data))]
    with scripted(dropped(*frames, EXITED)) as address, af.Client(address) as client:
        assert client.exec(ID, ["x"], task="t").text == "é€😀"


def test_output_without_end_is_cut_off_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_exec, "MAX_OUTPUT", 100_000)

    def yes(connection: ServerConnection) -> None:
        while True:
            connection.send(out(b"y\n" * 1000))

    with (
        scripted(yes) as address,
        af.Client(address) as client,
        pytest.raises(af.ExecError, match="100,000 bytes"),
    ):
        client.exec(ID, ["yes"], task="t")


def test_what_is_no_websocket_server_is_an_error_that_says_so() -> None:
    with (
        af.Client("http://127.0.0.1:9") as client,
        pytest.raises(af.ConnectionFailed, match="no exec session"),
    ):
        client.exec(ID, ["x"], task="t")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            "400 Bad Request",
            "websocket: the client is not using the websocket protocol: 'upgrade' token not found",
        ),
        ("426 Upgrade Required", ""),
        ("200 OK", "[]"),
    ],
)
def test_a_proxy_that_takes_the_upgrade_away_is_named(status: str, text: str) -> None:
    answer = http(text.encode(), status, kind="text/plain", length=len(text))
    with (
        serving(answer) as server,
        af.Client(server.address) as client,
        pytest.raises(af.ConnectionFailed, match="A proxy in between must pass WebSockets"),
    ):
        client.exec(ID, ["true"], task="web")


def test_the_token_goes_in_the_header_and_the_first_frame_and_into_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str | None] = []

    def handler(connection: ServerConnection) -> None:
        seen.append(connection.request.headers.get("X-Nomad-Token") if connection.request else None)
        seen.append(connection.recv())
        connection.send(EXITED)

    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
    with (
        caplog.at_level(logging.DEBUG),
        scripted(handler) as address,
        af.Client(address, token="canary-token") as client,
    ):
        client.exec(ID, ["x"], task="t")
    assert seen == ["canary-token", '{"version": 1, "auth_token": "canary-token"}']
    assert "canary" not in caplog.text


@given(st.binary(max_size=100_000))
def test_stdin_is_cut_into_frames_without_loss_and_closed_once(data: bytes) -> None:
    frames = [json.loads(frame)["stdin"] for frame in _exec.stdin_frames(data)]
    assert b"".join(b64decode(frame["data"]) for frame in frames[:-1]) == data
    assert frames[-1] == {"close": True}
    assert all("close" not in frame for frame in frames[:-1])


_INTERRUPTED = """
import sys, threading
import allocframe as af
client = af.Client(sys.argv[1], token=sys.argv[2])
try:
    client.exec(sys.argv[3], ["sh", "-c", "echo started; sleep 600"])
except KeyboardInterrupt:
    threads = [t for t in threading.enumerate() if t.name.startswith("allocframe")]
    for thread in threads:  # on a busy machine, one may be about to end
        thread.join(30)
    left = [thread.name for thread in threads if thread.is_alive()]
    again = client.exec(sys.argv[3], ["echo", "again"]).text
    print("interrupted", left, again, af.read_audit()["result"].tolist())
"""


def test_ctrl_c_ends_a_command_leaves_no_thread_and_the_next_call_works(cluster: sim.Cluster) -> None:
    alloc = running(cluster)
    log = audit_path()
    with child(_INTERRUPTED, cluster.address, cluster.token, alloc) as process:
        while not log.exists() or not log.stat().st_size:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    # "failed": its connection was not open yet, so nothing was sent
    assert re.fullmatch(r"interrupted \[\] again\n \['(unknown|failed)', 'done'\]\n", output)


_SEVERAL_INTERRUPTED = """
import sys, threading
import allocframe as af
client = af.Client(sys.argv[1], token=sys.argv[2])
try:
    client.exec_many(sys.argv[3:], ["sh", "-c", "echo started; sleep 600"], task="server", workers=2)
except KeyboardInterrupt:
    threads = [t for t in threading.enumerate() if t.name.startswith("allocframe")]
    for thread in threads:  # on a busy machine, one may be about to end
        thread.join(30)
    left = [thread.name for thread in threads if thread.is_alive()]
    again = client.exec(sys.argv[3], ["echo", "again"], task="server").text
    print("interrupted", left, again, af.read_audit()["result"].tolist())
"""


def test_ctrl_c_ends_commands_in_many_allocations_and_starts_no_further_one(cluster: sim.Cluster) -> None:
    allocs = [running(cluster)] * 5
    log = audit_path()
    with child(_SEVERAL_INTERRUPTED, cluster.address, cluster.token, *allocs) as process:
        while not log.exists() or log.read_text().count("\n") < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    # "failed": its connection was not open yet, so nothing was sent
    assert re.fullmatch(
        r"interrupted \[\] again\n \['(unknown|failed)', '(unknown|failed)', 'done'\]\n", output
    )
