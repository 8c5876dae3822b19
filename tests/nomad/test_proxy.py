"""Which proxy is used: Go's rules, held to the cases of Go's own tests; and how each kind is spoken to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from exec_sessions import EXITED, out, scripted
from faultserver import good, serving
from sockets import listening
from websockets.sync.server import ServerConnection

import allocframe as af
from allocframe.nomad.proxy import proxy_for

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"

# golang.org/x/net/http/httpproxy, proxy_test.go: UseProxyTests
NO_PROXY = (
    "foobar.com, .barbaz.net, *.wildcard.io, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, "
    "2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)
CASES = {
    "localhost": False,
    "127.0.0.1": False,
    "127.0.0.2": False,
    "[::1]": False,
    "[::2]": True,
    "192.168.1.1": False,
    "192.168.1.2": True,
    "192.168.1.3": False,
    "10.0.0.2": False,
    "[2001:db8::52:0:1]": False,
    "[2001:db8::52:0:2]": True,
    "[2001:db8::52:0:3]": False,
    "[2002:db8:a::123]": False,
    "[fe80::424b:c8be:1643:a1b6]": True,
    "barbaz.net": True,
    "www.barbaz.net": False,
    "foobar.com": False,
    "www.foobar.com": False,
    "foofoobar.com": True,
    "baz.com": True,
    "localhost.net": True,
    "local.localhost": True,
    "barbarbaz.net": True,
    "wildcard.io": True,
    "nested.wildcard.io": False,
    "awildcard.io": True,
}


@pytest.mark.parametrize(("host", "is_proxied"), CASES.items())
def test_kind_proxy_a_host_is_reached_as_gos_own_cases_say(host: str, is_proxied: bool) -> None:
    environ = {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": NO_PROXY}
    assert (proxy_for(f"http://{host}", environ) is not None) == is_proxied


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HTTP_PROXY": "127.0.0.1:8080"}, "<Proxy http://127.0.0.1:8080>"),
        ({"http_proxy": "cache.corp.example.com"}, "<Proxy http://cache.corp.example.com:80>"),
        ({"HTTP_PROXY": "https://cache.corp.example.com"}, "<Proxy https://cache.corp.example.com:443>"),
        ({"HTTP_PROXY": "socks5://127.0.0.1"}, "<Proxy socks5://127.0.0.1:1080>"),
        ({"HTTP_PROXY": "http://upper", "http_proxy": "http://lower"}, "<Proxy http://upper:80>"),
        ({"HTTPS_PROXY": "http://other"}, None),
        ({"HTTP_PROXY": "http://a", "REQUEST_METHOD": "GET"}, None),
        ({"HTTP_PROXY": "http://a", "no_proxy": "*"}, None),
        ({"HTTP_PROXY": "http://a", "NO_PROXY": "b, nomad.example:4646"}, None),
        ({"HTTP_PROXY": "http://a", "NO_PROXY": "nomad.example:80"}, "<Proxy http://a:80>"),
        ({"HTTP_PROXY": "http://a", "NO_PROXY": " ,, :80, ::/x"}, "<Proxy http://a:80>"),
        ({}, None),
    ],
)
def test_the_variables_are_read_as_go_reads_them(environ: dict[str, str], expected: str | None) -> None:
    proxy = proxy_for("http://nomad.example:4646", environ)
    assert (repr(proxy) if proxy else None) == expected


@pytest.mark.parametrize("address", ["http://127.0.0.1:{}", "http://localhost:{}"])
def test_kind_proxy_nothing_for_this_machine_goes_to_a_proxy(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exits(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(EXITED)

    with serving(good()) as proxy, serving(good()) as server, scripted(exits) as exec_address:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")
        with af.Client(address.format(server.address.rsplit(":", 1)[1]), token="canary-token") as client:
            client.snapshot(progress=False)
        with af.Client(address.format(exec_address.rsplit(":", 1)[1]), token="canary-token") as client:
            assert client.exec(ID, ["x"], task="t").exit_code == 0
    assert proxy.raw == []
    assert server.raw


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


def pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def socks_server(logins: list[bytes]) -> Callable[[socket.socket], None]:
    """Return a SOCKS5 proxy by RFC 1928 and 1929, which sends every connection to this machine."""

    def handler(connection: socket.socket) -> None:
        version, count = read_exactly(connection, 2)
        assert version == 5
        method = read_exactly(connection, count)[0]
        connection.sendall(bytes([5, method]))
        if method == 2:
            assert read_exactly(connection, 1) == b"\x01"
            user = read_exactly(connection, read_exactly(connection, 1)[0])
            logins.append(user + b":" + read_exactly(connection, read_exactly(connection, 1)[0]))
            connection.sendall(b"\x01\x00")
        _, _, _, kind = read_exactly(connection, 4)
        read_exactly(connection, {1: 4, 4: 16}.get(kind) or read_exactly(connection, 1)[0])
        (port,) = struct.unpack(">H", read_exactly(connection, 2))
        with socket.create_connection(("127.0.0.1", port)) as far:
            connection.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
            back = threading.Thread(target=pump, args=(far, connection))
            back.start()
            pump(connection, far)
            back.join()

    return handler


@pytest.mark.parametrize("login", ["", "me:p%40ss@"])
@pytest.mark.parametrize("host", ["nomad.invalid", "192.0.2.7", "[2001:db8::7]"])
def test_a_socks_proxy_is_spoken_to_by_reads_and_exec(
    login: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers(connection: ServerConnection) -> None:
        connection.recv()
        connection.send(out(b"out"))
        connection.send(EXITED)

    logins: list[bytes] = []
    with listening(socks_server(logins)) as proxy, serving(good()) as server, scripted(answers) as exec_at:
        monkeypatch.setenv("http_proxy", f"socks5://{login}{proxy}")
        monkeypatch.setenv("no_proxy", "")
        with af.Client(f"http://{host}:{server.address.rsplit(':', 1)[1]}") as client:
            assert len(client.snapshot(progress=False)) == 1
        with af.Client(f"http://{host}:{exec_at.rsplit(':', 1)[1]}") as client:
            assert client.exec(ID, ["x"], task="t").stdout == b"out"
    assert set(logins) == ({b"me:p@ss"} if login else set())


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x05\xff", b"\x04\x00", b"\x05\x00\x05\x05\x00\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
)
def test_a_socks_proxy_that_misbehaves_is_a_typed_error(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(connection: socket.socket) -> None:
        connection.recv(3)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)

    with listening(handler) as proxy:
        monkeypatch.setenv("http_proxy", f"socks5://{proxy}")
        monkeypatch.setenv("no_proxy", "")
        with af.Client("http://nomad.invalid:4646", timeout=1, retries=0) as client:
            with pytest.raises(af.ConnectionFailed):
                client.snapshot(progress=False)
            with pytest.raises(af.ConnectionFailed):
                client.exec(ID, ["x"], task="t", timeout=1)


@pytest.mark.parametrize("scheme", ["socks5", "http"])
@pytest.mark.parametrize("silent", [True, False])
def test_kind_deadline_a_proxy_that_is_silent_or_trickles_does_not_outlast_it(
    scheme: str, silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handler(connection: socket.socket) -> None:
        while True:
            time.sleep(0.05)
            if not silent:
                connection.sendall(b"\x05" if scheme == "socks5" else b"H")

    with listening(handler) as proxy:
        monkeypatch.setenv("https_proxy", f"{scheme}://{proxy}")
        monkeypatch.setenv("no_proxy", "")
        started = time.monotonic()
        with af.Client("https://nomad.invalid:4646", timeout=0.5) as client:
            with pytest.raises(af.AllocframeError):
                client.snapshot(progress=False)
            with pytest.raises(af.AllocframeError):
                client.exec(ID, ["x"], task="t", timeout=0.5)
        assert time.monotonic() - started < 10  # a busy machine; it would never end


def test_a_proxy_whose_answer_has_no_end_is_given_up_long_before_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def handler(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X-Y: z\r\n" * 1000)

    with listening(handler) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        monkeypatch.setenv("no_proxy", "")
        started = time.monotonic()
        with (
            af.Client("http://nomad.invalid:4646", timeout=20, retries=0) as client,
            pytest.raises(af.ConnectionFailed, match="answer to CONNECT is not HTTP"),
        ):
            client.exec(ID, ["x"], task="t", timeout=20)
        assert time.monotonic() - started < 10


def test_a_proxy_that_refuses_a_tunnel_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv("http_proxy", proxy.address.replace("//", "//me:canary-pw@"))
        monkeypatch.setenv("no_proxy", "")
        with (
            af.Client("http://nomad.invalid:4646") as client,
            pytest.raises(af.ConnectionFailed, match="proxy refused CONNECT") as caught,
        ):
            client.exec(ID, ["x"], task="t")
    assert "canary" not in str(caught.value)
