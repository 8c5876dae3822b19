"""How a cluster is reached: its address, TLS, proxy and credentials as one HTTP client."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Generator, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from .._utils.text import visible
from .._utils.validate import check_count
from ..errors import ConfigError
from .config import Config

MAX_CONNECTIONS = 8
"""Nomad allows 100 from one address; watches, streams and other people need theirs."""


class OpenSockets:
    """The sockets that are open, so that another thread can end what waits on them."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._open: set[Any] = set()

    def remember(self, event: str, info: dict[str, Any]) -> None:
        """Keep each socket that an HTTP client opens; for its extension ``trace``."""
        if event.endswith(("connect_tcp.complete", "connect_unix_socket.complete", "start_tls.complete")):
            self._add(info["return_value"].get_extra_info("socket"))

    @contextlib.contextmanager
    def holding(self, opened: socket.socket) -> Iterator[None]:
        """Keep a socket for as long as somebody waits on it."""
        self._add(opened)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(opened)

    def _add(self, opened: Any) -> None:
        with self._lock:
            self._open.add(opened)
        if self.ended.is_set():
            self.end()

    def end(self) -> None:
        """End whatever waits on a socket, and what will, until `clear`."""
        self.ended.set()
        with self._lock:
            for opened in self._open:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def clear(self) -> None:
        """Forget the sockets, which are closed by now."""
        with self._lock:
            self._open.clear()
        self.ended.clear()


class Credentials(httpx.Auth):
    """Adds the token as a request leaves, so that no header collection that can be printed ever holds it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers.update(credentials(self._config))
        yield request


class _Unshown(dict[str, str]):
    """Headers whose values are shown nowhere: tracebacks may show what a function was given."""

    def __repr__(self) -> str:
        return f"<{', '.join(self) or 'no headers'}>"


def credentials(config: Config) -> dict[str, str]:
    """Return the headers that say who asks; they go into no collection that can be printed."""
    headers = _Unshown({"X-Nomad-Token": config.token.reveal()} if config.token else {})
    if config.http_auth:
        headers["Authorization"] = "Basic " + b64encode(config.http_auth.reveal().encode()).decode()
    return headers


def new_http_client(config: Config) -> httpx.Client:
    """Return a new HTTP client for one cluster.

    Raises
    ------
    ConfigError
        The address, the proxy of the environment or a TLS file cannot be used.
    """
    proxy = None if config.unix_socket else proxy_for(config.base_url)
    try:
        base_url = httpx.URL(config.base_url)
        _ = base_url.host  # reading it decodes it
    except (httpx.InvalidURL, ValueError) as error:
        raise ConfigError(
            f"the address {config.address!r} (NOMAD_ADDR) cannot be read: {visible(error)}"
        ) from None
    transport = httpx.HTTPTransport(
        verify=config.ssl_context() if config.base_url.startswith("https") else True,
        uds=config.unix_socket,
        proxy=proxy,
        limits=httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS),
        trust_env=False,
    )
    return httpx.Client(
        base_url=base_url,
        transport=transport,
        auth=Credentials(config),
        headers={"Accept-Encoding": "gzip", "Accept": "application/json", "User-Agent": "allocframe"},
        follow_redirects=False,
        trust_env=False,
    )


def proxy_for(base_url: str) -> str | None:
    """Return the proxy that the environment names; its .netrc is never read.

    Raises
    ------
    ConfigError
        It is none that can be spoken to. The message does not show it: it may hold a password.
    """
    parts = urlsplit(base_url)
    named = urllib.request.getproxies().get(parts.scheme)
    if not named or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = named if "://" in named else f"http://{named}"
    try:
        url = httpx.URL(proxy)
    except (httpx.InvalidURL, ValueError):
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host:
        variable = f"{parts.scheme.upper()}_PROXY"
        raise ConfigError(f"the proxy in {variable} is not one of http://host:port, https://host:port")
    return proxy


def was_reset(error: BaseException | None) -> bool:
    """Tell whether a connection was made and at once broken: so do servers that have too many from one address."""
    while error is not None and not isinstance(error, ConnectionResetError):
        error = error.__cause__ or error.__context__
    return error is not None


def check_workers(workers: int) -> None:
    """Refuse more requests at the same time than there may be connections.

    Raises
    ------
    ConfigError
        They are more, or no number.
    """
    if check_count("workers", workers) > MAX_CONNECTIONS:
        raise ConfigError(
            f"workers must be {MAX_CONNECTIONS} or less: Nomad limits connections, not {workers}"
        )


def not_nomad_message(where: str, status: int, body: bytes) -> str:
    """Say that an answer is not one of Nomad's, with its beginning."""
    excerpt = visible(body[:200].decode("utf-8", "replace"))
    return f"{where}: the answer ({status}) is not Nomad's: {excerpt!r}. Does NOMAD_ADDR name a proxy or login page?"


def tls_hint(text: str) -> str:
    """Say what to set where TLS failed so."""
    if "Hostname mismatch" in text or "IP address mismatch" in text:
        return "Set NOMAD_TLS_SERVER_NAME to the name in the certificate (server.<region>.nomad)"
    if "expired" in text:
        return "The server's certificate has expired"
    if "alert" in text.lower():
        return "The server wants a client certificate: set NOMAD_CLIENT_CERT and NOMAD_CLIENT_KEY"
    return "Set NOMAD_CACERT to the authority that signed the server's certificate"
