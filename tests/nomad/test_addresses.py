"""The ways to reach Nomad: a Unix socket, a path prefix behind a proxy, and a proxy of the environment."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from faultserver import good, http, serving

import allocframe as af


def test_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    path = tmp_path / "nomad api.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            for reply in (good(Connection="close"), http(b"", "404 Not Found", length=0, Connection="close")):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with af.Client("unix://" + str(path).replace(" ", "%20")) as client:
            assert len(client.snapshot(progress=False)) == 1
        thread.join(10)


def test_a_path_prefix_comes_before_every_path() -> None:
    with serving(good()) as server, af.Client(f"{server.address}/v1/allocations-of/team") as client:
        client.snapshot(progress=False)
        assert server.requests[0].startswith("/v1/allocations-of/team/v1/allocations?")


def test_http_auth_is_sent_for_a_proxy_that_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_HTTP_AUTH", "me:pw")
    with serving(good()) as server, af.Client(server.address) as client:
        client.snapshot(progress=False)
        assert b"authorization: basic bwu6chc=" in server.raw[0].lower()


def test_the_environments_proxy_is_used_and_no_proxy_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        monkeypatch.setenv("no_proxy", "")
        with af.Client("http://nomad.invalid:4646") as client:
            assert len(client.snapshot(progress=False)) == 1
        monkeypatch.setenv("no_proxy", "nomad.invalid")
        with af.Client("http://nomad.invalid:4646") as client, pytest.raises(af.ConnectionFailed):
            client.snapshot(progress=False)


@pytest.mark.parametrize("proxy", ["socks4://me:pw@127.0.0.1:1", "nonsense://x", "http://", "http://[::1"])
def test_a_proxy_that_cannot_be_spoken_to_is_refused_without_showing_it(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    with af.Client("http://nomad.invalid:4646") as client:
        monkeypatch.setenv("http_proxy", proxy)
        with pytest.raises(af.ConfigError, match="HTTP_PROXY") as caught:
            af.Client("http://nomad.invalid:4646")
        assert "pw" not in str(caught.value)
        with pytest.raises(af.ConfigError, match="HTTP_PROXY"):
            client.exec("5457f16d-0f87-8e6b-5e91-0c7da3a41eb7", ["x"], task="t")


def test_a_proxy_without_a_scheme_is_one_of_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(good()) as proxy:
        monkeypatch.setenv("http_proxy", proxy.address.removeprefix("http://"))
        monkeypatch.setenv("no_proxy", "")
        with af.Client("http://nomad.invalid:4646") as client:
            assert len(client.snapshot(progress=False)) == 1


def test_an_address_that_only_looks_like_a_name_is_refused() -> None:
    with pytest.raises(af.ConfigError, match="NOMAD_ADDR"):
        af.Client("http://xn--a:4646")
