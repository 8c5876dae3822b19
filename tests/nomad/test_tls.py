"""TLS: verified by default, and an error that names the variable to set."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme
from faultserver import BODY, ROW, http, serving
from sockets import listening

import allocframe as af
from allocframe.nomad.config import Config


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def tls_server(cert: trustme.LeafCert, *, client_ca: trustme.CA | None = None) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert.configure_cert(context)
    if client_ca is not None:
        client_ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def rows(address: str, **settings: object) -> int:
    with af.Client(address, **settings) as client:  # type: ignore[arg-type]
        return len(client.snapshot(progress=False))


def test_a_server_signed_by_the_given_authority_is_trusted(
    authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    with tls_server(authority.issue_cert("127.0.0.1")) as address:
        assert rows(address, ca_cert=ca_file) == 1


def test_an_unknown_authority_is_refused_naming_nomad_cacert(authority: trustme.CA) -> None:
    with (
        tls_server(authority.issue_cert("127.0.0.1")) as address,
        pytest.raises(af.ConnectionFailed, match="NOMAD_CACERT"),
    ):
        rows(address)


def test_another_name_is_refused_naming_nomad_tls_server_name(authority: trustme.CA, ca_file: str) -> None:
    with tls_server(authority.issue_cert("server.global.nomad")) as address:
        with pytest.raises(af.ConnectionFailed, match="NOMAD_TLS_SERVER_NAME"):
            rows(address, ca_cert=ca_file)
        assert rows(address, ca_cert=ca_file, tls_server_name="server.global.nomad") == 1


def test_an_expired_certificate_is_refused_saying_so(authority: trustme.CA, ca_file: str) -> None:
    old = authority.issue_cert("127.0.0.1", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    with tls_server(old) as address, pytest.raises(af.ConnectionFailed, match="expired"):
        rows(address, ca_cert=ca_file)


def test_tls_before_1_2_is_not_spoken_and_names_are_checked(ca_file: str) -> None:
    for settings in ({"ca_cert": ca_file}, {"verify": True}):
        config = Config.load("https://nomad.example", environ={}, **settings)  # type: ignore[arg-type]
        context = config.ssl_context()
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_skip_verify_connects_and_warns(authority: trustme.CA) -> None:
    with (
        tls_server(authority.issue_cert("127.0.0.1")) as address,
        pytest.warns(UserWarning, match="not verified"),
    ):
        assert rows(address, verify=False) == 1


def test_a_server_that_wants_a_client_certificate_gets_it_or_the_error_says_so(
    authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    mine = authority.issue_cert("client@nomad.example")
    mine.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    with tls_server(authority.issue_cert("127.0.0.1"), client_ca=authority) as address:
        pair = str(tmp_path / "client.pem")
        assert rows(address, ca_cert=ca_file, client_cert=pair, client_key=pair) == 1
        # In TLS 1.3 the refusal comes after the request, of which the server has read nothing.
        with af.Client(address, ca_cert=ca_file, timeout=2.0) as client:
            for act in (
                lambda: client.snapshot(progress=False),
                lambda: client.restart(ROW["ID"]),
                lambda: client.exec(ROW["ID"], ["true"], task="web"),
            ):
                with pytest.raises(af.ConnectionFailed, match="NOMAD_CLIENT_CERT"):
                    act()
            assert client.counters["retries"] == 0


def test_every_file_in_the_folder_of_authorities_is_trusted_whatever_its_name(
    authority: trustme.CA, tmp_path: Path
) -> None:
    folder = tmp_path / "authorities"
    (folder / "old").mkdir(parents=True)
    with pytest.raises(af.ConfigError, match=r"NOMAD_CAPATH.* must be a folder of PEM files"):
        rows("https://127.0.0.1:1", ca_path=folder)
    trustme.CA().cert_pem.write_to_path(folder / "another.pem")
    authority.cert_pem.write_to_path(folder / "nomad-agent-ca.pem")
    with tls_server(authority.issue_cert("127.0.0.1")) as address:
        assert rows(address, ca_path=folder) == 1
    (folder / "notes.txt").write_text("no certificate")
    with pytest.raises(af.ConfigError, match=r"cannot use the TLS files .*notes\.txt"):
        rows("https://127.0.0.1:1", ca_path=folder)


def plain_http(connection: socket.socket) -> None:
    """Answer as a plain HTTP server answers the start of TLS."""
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n400 Bad Request")


def test_https_to_a_plain_port_and_http_to_a_tls_port_are_errors_that_say_so() -> None:
    with listening(plain_http) as address, af.Client(f"https://{address}") as client:
        for act in (lambda: client.snapshot(progress=False), lambda: client.restart(ROW["ID"])):
            with pytest.raises(af.ConnectionFailed, match="plain HTTP: then set NOMAD_ADDR to http://"):
                act()
    words = b"Client sent an HTTP request to an HTTPS server.\n"  # of Go's server
    with (
        serving(http(words, "400 Bad Request", kind="text/plain", length=len(words))) as server,
        af.Client(server.address) as client,
    ):
        for act in (
            lambda: client.snapshot(progress=False),
            lambda: client.restart(ROW["ID"]),
            lambda: client.exec(ROW["ID"], ["true"], task="web"),
        ):
            with pytest.raises(af.ConnectionFailed, match=r"speaks TLS\. Set NOMAD_ADDR to https://"):
                act()
