"""A server that misbehaves at every stage of an answer, at every endpoint that is called.

Each call must end within its deadline, with a result or one of our errors, and a peer that repeats the
request must not get the token into anything that is kept.
"""

from __future__ import annotations

import gzip
import json
import logging
import pickle
import socket
import threading
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
from faultserver import reset
from sockets import listening

import allocframe as af
from allocframe.nomad.config import Config, Scrubber, Secret
from allocframe.nomad.event_stream import EventStream
from allocframe.watch import update_queue

CANARY = "c4na21e5-dead-beef-0000-secretsecret"
LOGIN = "me:canary+p@ss/word"
TIMEOUT = 0.6
ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Nomad-Index: 7\r\n"

Behaviour = Callable[[socket.socket, bytes], None]

CALLS: dict[str, Callable[[af.Client], object]] = {
    "snapshot": lambda client: client.snapshot(progress=False),
    "allocation": lambda client: client.allocation(ID),
    "allocations": lambda client: client.allocations([ID], progress=False),
    "start of an ID": lambda client: client.allocation("5457"),
    "evaluations": lambda client: client.evaluations(),
    "history": lambda client: client.history(namespace="*"),
    "stop": lambda client: client.stop(ID),
    "signal": lambda client: client.signal(ID, "SIGHUP"),
    "restart": lambda client: client.restart(ID),
    "restart all": lambda client: client.restart(ID, all_tasks=True),
    "exec": lambda client: client.exec(ID, ["true"], task="t", timeout=TIMEOUT),
    "exec many": lambda client: client.exec_many([ID], ["true"], task="t", timeout=TIMEOUT),
    "logs": lambda client: client.logs(ID, "web"),
    "usage": lambda client: client.usage([ID]),
    "watch": lambda client: client.watch(stream=False).poll(0.0),
    "stream": lambda client: client.watch().poll(0.0),
    "rights": lambda client: client._session.rights(),
    "accessor": lambda client: client._session.accessor(),
    "version": lambda client: client._session.transport.server_version(),
}


LIMIT = 4 * TIMEOUT + 12
"""Seconds that a call may take: up to four requests, and a busy machine."""


@pytest.fixture(autouse=True)
def _impatient_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less for the first line of a stream."""
    monkeypatch.setattr(update_queue, "ESTABLISH_TIMEOUT", 1.0)


@contextmanager
def peer(behaviour: Behaviour) -> Iterator[str]:
    """Run a server that does the same to every request; yield its address."""

    def serve_one(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
        behaviour(connection, head)

    with listening(serve_one) as address:
        yield f"http://{address}"


def trickling(start: bytes, piece: bytes) -> Behaviour:
    """Send `start`, then a piece again and again, for ever."""

    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece)
            time.sleep(0.03)

    return behave


def flooding(start: bytes, piece: bytes) -> Behaviour:
    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(piece * 100)

    return behave


def saying(answer: bytes) -> Behaviour:
    return lambda connection, _: connection.sendall(answer)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
ENDLESS: dict[str, Behaviour] = {
    "silence": lambda connection, _: time.sleep(TIMEOUT + 2),
    "status line": trickling(b"HTTP/1.1 200 ", b"O"),
    "header name": trickling(OK, b"x"),
    "header value": trickling(OK + b"X: ", b"y"),
    "headers": trickling(OK, b"X-Y: z\r\n"),
    "100 Continue": trickling(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "103 Early Hints": trickling(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    "body with a length": trickling(OK + b"Content-Length: 1000000\r\n\r\n[", b" "),
    "body without a length": trickling(OK + b"\r\n[", b" "),
    "body of an error": trickling(b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n", b"a"),
    "chunk size": trickling(CHUNKED, b"0"),
    "chunk extension": trickling(CHUNKED + b"1;", b"e"),
    "chunks": trickling(CHUNKED, b"1\r\n \r\n"),
    "trailers": trickling(CHUNKED + b"2\r\n[]\r\n0\r\n", b"X-Y: z\r\n"),
    "gzip": trickling(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"[]")[:10], b"\x00"),
    "frames after an upgrade": trickling(UPGRADE + b"\r\n", b"\x89\x00"),
    "flood of headers": flooding(OK, b"X-Y: z\r\n"),
    "flood of hints": flooding(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "flood of trailers": flooding(CHUNKED + b"2\r\n[]\r\n0\r\n", b"X-Y: z\r\n"),
}
BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"220 mail.example ESMTP\r\n",
    "TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "HTTP/0.9": b"[]",
    "HTTP/2": b"HTTP/2 200\r\n\r\n[]",
    "status 999": b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n[]",
    "status with letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "header without a colon": OK + b"nonsense\r\n\r\n[]",
    "header with NUL": OK + b"X: a\0b\r\n\r\n[]",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]",
    "negative length": OK + b"Content-Length: -2\r\n\r\n[]",
    "length of text": OK + b"Content-Length: two\r\n\r\n[]",
    "length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n[]",
    "unknown transfer encoding": OK + b"Transfer-Encoding: br\r\n\r\n[]",
    "cut in the head": OK,
    "cut in the body": OK + b"Content-Length: 100\r\n\r\n[",
    "cut in a chunk": CHUNKED + b"ff\r\n[",
    "chunk size of text": CHUNKED + b"zz\r\n[",
    "cut in a trailer": CHUNKED + b"2\r\n[]\r\n0\r\nX: ",
    "no gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]",
    "unknown encoding": OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n[]",
    "upgrade to nothing": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "upgrade without a key": UPGRADE + b"\r\n",
    "wrong key": UPGRADE + b"Sec-WebSocket-Accept: AAAA\r\n\r\n",
    "redirect": b"HTTP/1.1 307 Go\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n",
    "login page": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
}
WRONG: list[Any] = [
    None, True, 7, -1.5, "text", [], {}, [None], [7], ["text"], [[]], [{}], [{"ID": None}], [{"ID": 7}],
    [{"ID": {}}], {"ID": 7}, {"ID": ID, "TaskStates": []}, {"error": "denied"}, {"EvalID": 7}, {"EvalID": ""},
    {"Index": "x"},
    {"Errors": ["No"]}, [{"ID": ID, "TaskStates": {"t": []}}], {"AccessorID": []}, {"Policies": 7},
    {"AccessorID": "a", "Policies": ["../../v1/jobs"]}, {"AccessorID": "a", "Roles": [{"ID": "../.."}]},
    {"ResourceUsage": 7, "Tasks": {"t": 7}},
]  # fmt: skip


def outcome(call: Callable[[af.Client], object], address: str) -> tuple[object, float]:
    """Return what a call ends with, an error of ours included, and the seconds it took."""
    started = time.monotonic()
    with af.Client(address, token=CANARY, timeout=TIMEOUT, retries=1) as client:
        try:
            result = call(client)
        except af.AllocframeError as error:
            result = error
    return result, time.monotonic() - started


def all_outcomes(address: str) -> dict[str, tuple[object, float]]:
    """Make every call, all at the same time."""
    with ThreadPoolExecutor(len(CALLS)) as pool:
        ended = {name: pool.submit(outcome, call, address) for name, call in CALLS.items()}
        return {name: future.result() for name, future in ended.items()}


@pytest.mark.parametrize("behaviour", ENDLESS.values(), ids=ENDLESS)
def test_kind_deadline_it_holds_whatever_arrives_without_end(behaviour: Behaviour) -> None:
    with peer(behaviour) as address:
        for name, (_, seconds) in all_outcomes(address).items():
            assert seconds < LIMIT, f"{name}: {seconds:.1f} s"


def test_kind_deadline_it_holds_while_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(30))
    start = time.monotonic()
    with af.Client("http://slow.example:4646", timeout=0.5, retries=0) as client:
        for act in (
            lambda: client.snapshot(progress=False),
            lambda: client.restart(ID),
            lambda: client.exec(ID, ["true"], task="web", timeout=0.5),
        ):
            with pytest.raises((af.RequestTimeout, af.ConnectionFailed)):
                act()
    ended.set()
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_kind_framing_an_answer_that_is_broken_anywhere_is_a_result_or_one_of_our_errors(
    answer: bytes,
) -> None:
    with peer(saying(answer)) as address:
        for name, (_, seconds) in all_outcomes(address).items():
            assert seconds < LIMIT, f"{name}: {seconds:.1f} s"


def test_kind_close_a_reset_at_any_byte_is_one_of_our_errors() -> None:
    answer = OK + b"Content-Length: 2\r\n\r\n[]"
    for cut in range(0, len(answer), 19):

        def behave(connection: socket.socket, _: bytes, cut: int = cut) -> None:
            connection.sendall(answer[:cut])
            reset(connection)

        with peer(behave) as address:
            for name, (result, _) in all_outcomes(address).items():
                if name in ("snapshot", "allocation", "evaluations", "stop", "signal", "exec", "logs"):
                    assert isinstance(result, af.AllocframeError), (name, cut)


def answering_json(value: Any) -> Behaviour:
    body = json.dumps(value).encode()
    return saying(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("value", WRONG, ids=json.dumps)
def test_kind_wrong_type_and_shape_are_a_result_or_one_of_our_errors(value: Any) -> None:
    with peer(answering_json(value)) as address:
        results = {name: result for name, (result, _) in all_outcomes(address).items()}
    assert isinstance(results["exec"], af.AllocframeError)


# What a peer repeats


def echoes(head: bytes) -> dict[str, bytes]:
    """Return answers that repeat the request."""
    flat = b" ".join(head.split())

    def answer(status: bytes, body: bytes, kind: bytes = b"text/plain", more: Sequence[bytes] = ()) -> bytes:
        lines = [b"HTTP/1.1 %s" % status, b"Content-Type: %s" % kind, *more, b"X-Nomad-Index: 9"]
        lines += [b"Content-Length: %d" % len(body), b"Connection: close", b"", body]
        return b"\r\n".join(lines)

    token = flat[flat.lower().index(b"x-nomad-token: ") + 15 :].split()[0]
    login = flat[flat.lower().index(b"authorization: ") + 15 :].split()[1]
    text = json.dumps(flat.decode()).encode()
    row = {"ID": ID, "JobID": token.decode(), "Namespace": LOGIN, "TaskStates": {login.decode(): {}}}
    return {
        **{f"text {code}": answer(b"%d No" % code, head) for code in (400, 401, 403, 404, 429, 500, 502)},
        "text 200": answer(b"200 OK", head),
        "page 200": answer(b"200 OK", b"<pre>" + head, b"text/html"),
        "page 500": answer(b"500 No", b"<pre>" + head, b"text/html"),
        "far down": answer(b"500 No", b"x" * 190 + head),
        "reason": answer(b"500 " + flat, b"no"),
        "upper case": answer(b"500 No", head.upper()),
        "quoted": answer(b"500 No", quote(LOGIN, safe="").encode() + b" " + LOGIN.encode()),
        "redirect": answer(b"307 Go", b"", more=[b"Location: http://x/?" + token + login]),
        "header": answer(b"200 OK", b"[]", more=[b"X-Nomad-NextToken: " + token, b"X-Echo: " + flat]),
        "status line": flat,
        "broken header": OK + flat.replace(b":", b"") + b"\r\n\r\n",
        "JSON text": answer(b"200 OK", text, b"application/json"),
        "JSON list": answer(b"200 OK", b"[%s]" % text, b"application/json"),
        "JSON key": answer(b"200 OK", b"{%s: 1, %s: {}}" % (text, json.dumps(token.decode()).encode())),
        "JSON rows": answer(b"200 OK", json.dumps([row]).encode(), b"application/json"),
        "JSON row": answer(
            b"200 OK",
            json.dumps({**row, "EvalID": token.decode(), "AccessorID": token.decode(), "Index": 3}).encode(),
            b"application/json",
        ),
        "cut JSON": answer(b"200 OK", b"[" + text, b"application/json"),
        "upgrade": UPGRADE + b"Sec-WebSocket-Accept: %s\r\nX-Login: %s\r\n\r\n" % (token, login),
    }  # fmt: skip


NAMES = list(echoes(b"X-Nomad-Token: t\r\nAuthorization: Basic b\r\n\r\n"))
SECRETS = [CANARY, LOGIN, "canary+p@ss/word", b64encode(LOGIN.encode()).decode(), quote(LOGIN, safe="")]


def kept(result: object) -> str:
    """Return whatever a user could find in a result."""
    if isinstance(result, BaseException):
        shown = traceback.TracebackException.from_exception(result, capture_locals=True).format()
        data = pickle.dumps(result).decode("latin-1")
        return "".join([*shown, repr(result), str(vars(result)), data])
    if isinstance(result, pd.DataFrame):
        return result.to_csv() + str(result.attrs)
    if isinstance(result, af.Snapshot):
        pages = [page.read_bytes() for page in Path(result._capture.folder).rglob("*") if page.is_file()]
        frames = [result.allocations, result.task_states, result.events, result.issues]
        return "".join(
            [*map(kept, frames), json.dumps(result.info), *(page.decode("latin-1") for page in pages)]
        )
    inner = list(vars(result).values()) if hasattr(result, "__dict__") else []
    frames = [value for value in inner if isinstance(value, pd.DataFrame)]
    return repr(result) + str(inner) + "".join(map(kept, frames))


@pytest.mark.parametrize("name", NAMES)
def test_kind_echo_no_secret_that_a_peer_repeats_is_kept(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, audit_log: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("NOMAD_HTTP_AUTH", LOGIN)
    with peer(lambda connection, head: connection.sendall(echoes(head)[name])) as address:
        results = {call: result for call, (result, _) in all_outcomes(address).items()}
    places = {**{call: kept(result) for call, result in results.items()}, "logs": caplog.text}
    places["audit log"] = audit_log.read_text() if audit_log.exists() else ""
    for place, text in places.items():
        for secret in SECRETS:
            assert secret.lower() not in text.lower(), f"{secret} in {place}"


def test_kind_echo_a_refused_or_broken_exec_session_keeps_no_secret(audit_log: Path) -> None:
    from exec_sessions import scripted
    from websockets.sync.server import ServerConnection

    def behave(reason: str, frame: str) -> Callable[[ServerConnection], None]:
        def handler(connection: ServerConnection) -> None:
            connection.recv()
            if frame:
                connection.send(frame)
            connection.close(1011, reason)

        return handler

    for reason, frame in (
        (f"no {CANARY}", ""),
        (f"failed to start command {CANARY}", ""),
        ("", f'{{"stdout": "{CANARY}"}}'),
        ("", "x" * 100 + CANARY),
    ):
        with scripted(behave(reason, frame)) as address:
            result, _ = outcome(CALLS["exec"], address)
        assert isinstance(result, af.AllocframeError)
        assert CANARY not in kept(result)
    assert CANARY not in audit_log.read_text()


@pytest.mark.parametrize("behaviour", ENDLESS.values(), ids=ENDLESS)
def test_kind_silence_bytes_without_a_whole_line_do_not_keep_a_stream_alive(behaviour: Behaviour) -> None:
    ended = threading.Event()
    with peer(behaviour) as address:
        stream = EventStream(
            Config.load(address, environ={}), {}, lambda line: None, lambda reason: ended.set(), quiet=0.5
        )
        stream.start()
        assert ended.wait(60)
        stream.close()


def test_a_stream_in_which_lines_come_lives_longer_than_its_quiet_time() -> None:
    lines: list[bytes] = []
    ends: list[str] = []
    with peer(trickling(OK + b"\r\n", b"{}\n")) as address:
        stream = EventStream(Config.load(address, environ={}), {}, lines.append, ends.append, quiet=1.0)
        stream.start()
        time.sleep(2.5)
        assert ends == []
        assert len(lines) > 20
        stream.close()


def test_short_texts_are_not_cut_out_of_answers() -> None:
    scrub = Scrubber(Secret("web"), Secret("a:b"), Secret(""))
    assert scrub.text("web a:b b") == "web a:b b"
    assert scrub.body(b"web") == b"web"


def test_data_in_base64_is_left_alone_in_the_output_of_a_command() -> None:
    from exec_sessions import EXITED, out, scripted
    from websockets.sync.server import ServerConnection

    def env(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(out(CANARY.encode()))
        connection.send(EXITED)

    with scripted(env) as address, af.Client(address, token=CANARY) as client:
        assert client.exec(ID, ["env"], task="t").text == CANARY


def test_scrubbing_leaves_json_that_can_be_read() -> None:
    scrub = Scrubber(Secret('quote"and\\slash'))
    row = json.dumps({"a": 'quote"and\\slash', "b": 1}).encode()
    assert json.loads(scrub.body(row)) == {"a": "(secret)", "b": 1}


def test_the_logs_of_other_users_of_httpx_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    import httpx

    caplog.set_level(logging.DEBUG)
    with peer(saying(b"HTTP/1.1 200 Fine\r\nX-Echo: seen\r\nContent-Length: 0\r\n\r\n")) as address:
        httpx.get(address, trust_env=False)
    assert "X-Echo" in caplog.text
    assert "200 Fine" in caplog.text
