"""HTTP clients for one cluster: address, TLS, proxy, credentials, and sockets that can be shut down."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from typing import Any

import httpx

from .._utils.text import visible
from .._utils.validate import check_count
from ..errors import ConfigError
from .config import Config
from .network import HttpTransport
from .proxy import proxy_for

MAX_CONNECTIONS = 8
"""Connections per client. Nomad allows 100 per address, which watches, streams and other people share."""


Trace = Callable[[str, dict[str, Any]], None]
"""What httpx's ``trace`` extension takes."""


def opened_socket(event: str, info: dict[str, Any]) -> socket.socket | None:
    """Return the socket that an event of httpx's ``trace`` extension tells of, or None."""
    if not event.endswith(("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")):
        return None
    opened: socket.socket | None = info["return_value"].get_extra_info("socket")
    return opened


class OpenSockets:
    """The open sockets of a client, so that another thread can interrupt whoever waits on them."""

    def __init__(self) -> None:
        self.ended: threading.Event = threading.Event()
        self._lock = threading.Lock()
        self._open: set[Any] = set()

    def remember(self, event: str, info: dict[str, Any]) -> None:
        """Keep each socket that an HTTP client opens. Pass it as httpx's ``trace`` extension."""
        if (opened := opened_socket(event, info)) is not None:
            self._add(opened)

    @contextlib.contextmanager
    def holding(self) -> Iterator[Trace]:
        """Yield a ``trace`` extension that keeps the sockets opened in the block, until it ends."""
        held = []

        def remember(event: str, info: dict[str, Any]) -> None:
            if (opened := opened_socket(event, info)) is not None:
                held.append(opened)
                self._add(opened)

        try:
            yield remember
        finally:
            with self._lock:
                self._open.difference_update(held)

    def _add(self, opened: Any) -> None:
        with self._lock:
            self._open.add(opened)
        if self.ended.is_set():
            self.end()

    def end(self) -> None:
        """Shut down every socket, including those that are opened before `clear` is called."""
        self.ended.set()
        with self._lock:
            for opened in self._open:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def clear(self) -> None:
        """Forget the sockets. They must be closed by now."""
        with self._lock:
            self._open.clear()
        self.ended.clear()


class Credentials(httpx.Auth):
    """Adds the token when a request is sent, so that no printable collection of headers ever holds it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.update(credentials(self._config))
        yield request


class _HiddenValues(dict[str, str]):
    """Headers whose repr hides the values, because tracebacks may show a function's arguments."""

    def __repr__(self) -> str:
        return f"<{', '.join(self) or 'no headers'}>"


def credentials(config: Config) -> dict[str, str]:
    """Return the authentication headers, in a mapping that does not print them."""
    headers = _HiddenValues({"X-Nomad-Token": config.token.reveal()} if config.token else {})
    if config.http_auth:
        headers["Authorization"] = "Basic " + b64encode(config.http_auth.reveal().encode()).decode()
    return headers


def new_http_client(config: Config, *, tunnel: bool = False) -> httpx.Client:
    """Return a new HTTP client for one cluster.

    Parameters
    ----------
    tunnel : bool
        Tunnel plain HTTP through a proxy, too, as WebSockets need it.

    Raises
    ------
    ConfigError
        The address, the proxy from the environment or a TLS file is unusable.
    """
    try:
        base_url = httpx.URL(config.base_url)
        _ = base_url.host  # httpx decodes the host on access, and may fail
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(
            f"the address {config.address!r} (NOMAD_ADDR) is not a valid URL: {visible(error)}"
        ) from None
    transport = HttpTransport(
        ssl_context=config.ssl_context() if config.base_url.startswith("https") else None,
        unix_socket=config.unix_socket,
        proxy=None if config.unix_socket else proxy_for(config.base_url),
        tunnel=tunnel,
        connections=MAX_CONNECTIONS,
    )
    return httpx.Client(
        base_url=base_url,
        transport=transport,
        auth=Credentials(config),
        headers={"Accept-Encoding": "gzip", "Accept": "application/json", "User-Agent": "allocframe"},
        follow_redirects=False,
        trust_env=False,  # a .netrc file is never read
    )


def was_reset(error: BaseException | None) -> bool:
    """Return whether the server reset the connection.

    Servers do that when an address has too many of them.
    """
    while error is not None and not isinstance(error, ConnectionResetError):
        error = error.__cause__ or error.__context__
    return error is not None


def check_workers(workers: int) -> None:
    """Check that `workers` does not exceed the number of connections.

    Raises
    ------
    ConfigError
        The number is too large, or not a positive whole number.
    """
    if check_count("workers", workers) > MAX_CONNECTIONS:
        raise ConfigError(f"workers must be between 1 and {MAX_CONNECTIONS}, got {workers}")


def not_nomad_message(request: str, status: int, body: bytes) -> str:
    """Return the error text for a response that is not Nomad's, with the start of its scrubbed body."""
    excerpt = visible(body[:200].decode("utf-8", "replace"))
    hint = "Check whether NOMAD_ADDR points to a proxy or a login page"
    return f"{request}: the response ({status}) is not from Nomad: {excerpt!r}. {hint}"


_REFUSED_CERTIFICATE = re.compile(
    r"alert (?:bad |unsupported |unknown )?(?:certificate|ca)|handshake failure", re.IGNORECASE
)


def refused_certificate(text: str) -> bool:
    """Return whether a server ended the TLS handshake because of the client's certificate.

    In TLS 1.3, this arrives when the request has been sent. The server has read nothing of it.
    """
    return _REFUSED_CERTIFICATE.search(text) is not None


def is_tls_error(text: str) -> bool:
    """Return whether the text of an error is about TLS."""
    return re.search(r"certificate|SSL|TLS", text, re.IGNORECASE) is not None


def tls_hint(text: str) -> str:
    """Return what to do about a TLS error."""
    if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER_FAILURE" in text or "PACKET_LENGTH" in text:
        return "This port may speak plain HTTP: then set NOMAD_ADDR to http://..."
    if "protocol version" in text.lower():
        return "The server speaks no TLS version from 1.2 on"
    if "Hostname mismatch" in text or "IP address mismatch" in text:
        return "Set NOMAD_TLS_SERVER_NAME to the name in the certificate (server.<region>.nomad)"
    if "expired" in text:
        return "The server's certificate has expired"
    if "alert" in text.lower():
        return "The server requires a client certificate: set NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY"
    return "Set NOMAD_CACERT to the certificate authority that signed the server's certificate"
