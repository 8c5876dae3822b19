"""Exec reaches Nomad by the ways of every other request.

These are TLS, Unix sockets, proxies, path prefixes and HTTP authentication.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.sync.server import ServerConnection, serve, unix_serve

import allocframe as af

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


@contextmanager
def answering(make: Any = serve, *where: Any, **options: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Run a server whose every command writes `out` and ends; yield its socket and the requests that came."""
    requests: list[Any] = []

    def handler(connection: ServerConnection) -> None:
        requests.append(connection.request)
        connection.recv()
        connection.send(json.dumps({"stdout": {"data": b64encode(b"out").decode()}}))
        connection.send(json.dumps({"exited": True, "result": {}}))

    server = make(handler, *where, **options)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.socket, requests
    finally:
        server.shutdown()
        thread.join()


def port(opened: socket.socket) -> int:
    return int(opened.getsockname()[1])


def run(address: str, **settings: Any) -> bytes:
    with af.Client(address, **settings) as client:
        return client.exec(ID, ["true"], task="t").stdout


def secured(authority: trustme.CA, name: str, *, wants_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if wants_client:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def test_certificates_are_verified(authority: trustme.CA, ca_file: str) -> None:
    with answering(serve, "127.0.0.1", 0, ssl=secured(authority, "127.0.0.1")) as (opened, _):
        address = f"https://127.0.0.1:{port(opened)}"
        assert run(address, ca_cert=ca_file) == b"out"
        with pytest.raises(af.ConnectionFailed, match="NOMAD_CACERT"):
            run(address)


def test_the_name_in_the_certificate_can_be_said(authority: trustme.CA, ca_file: str) -> None:
    with answering(serve, "127.0.0.1", 0, ssl=secured(authority, "server.global.nomad")) as (opened, _):
        address = f"https://127.0.0.1:{port(opened)}"
        assert run(address, ca_cert=ca_file, tls_server_name="server.global.nomad") == b"out"
        with pytest.raises(af.ConnectionFailed, match="NOMAD_TLS_SERVER_NAME"):
            run(address, ca_cert=ca_file)


def test_a_client_certificate_is_shown(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    mine = authority.issue_cert("me.example")
    mine.cert_chain_pems[0].write_to_path(cert := tmp_path / "me.pem")
    mine.private_key_pem.write_to_path(key := tmp_path / "me.key")
    with answering(serve, "127.0.0.1", 0, ssl=secured(authority, "127.0.0.1", wants_client=True)) as (
        opened,
        _,
    ):
        shown = {"client_cert": str(cert), "client_key": str(key)}
        assert run(f"https://127.0.0.1:{port(opened)}", ca_cert=ca_file, **shown) == b"out"


def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    path = tmp_path / "nomad api.sock"
    with answering(unix_serve, str(path)):
        assert run("unix://" + str(path).replace(" ", "%20"), token="t") == b"out"


def test_a_path_prefix_and_http_authentication_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_HTTP_AUTH", "me:pw")
    with answering(serve, "127.0.0.1", 0) as (opened, requests):
        assert run(f"http://127.0.0.1:{port(opened)}/team") == b"out"
    assert requests[0].path.startswith(f"/team/v1/client/allocation/{ID}/exec?")
    assert requests[0].headers["Authorization"] == "Basic " + b64encode(b"me:pw").decode()


@contextmanager
def tunnels() -> Iterator[tuple[str, list[bytes]]]:
    """Run a proxy that tunnels one request after the other; yield its address and the requests to it."""
    asked: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # either side may be gone first
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve_one() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            head = near.recv(65536)
            asked.append(head.split(b"\r\n")[0])
            if not head.startswith(b"CONNECT"):
                near.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", int(head.split()[1].rsplit(b":", 1)[1])))
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=pump, args=(far, near))
            back.start()
            pump(near, far)
            back.join()
            near.close()
            far.close()

    thread = threading.Thread(target=serve_one)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port(listener)}", asked
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_the_environments_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(serve, "127.0.0.1", 0) as (opened, _), tunnels() as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        assert run(f"http://nomad.invalid:{port(opened)}") == b"out"
    assert f"CONNECT nomad.invalid:{port_of(asked)} HTTP/1.1".encode() in asked


def port_of(asked: list[bytes]) -> str:
    connects = [line for line in asked if line.startswith(b"CONNECT")]
    return connects[0].split()[1].rsplit(b":", 1)[1].decode()
