"""How bytes reach a server: one deadline over everything that is read and written, proxies, and TLS.

The only importer of httpcore, on which httpx is built.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import math
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import httpcore
import httpx

from .._utils.interrupts import away_from_signals
from .._utils.text import visible
from .proxy import Proxy

R = TypeVar("R")

_KEEPALIVE = 5.0
"""Seconds that an idle connection is kept. A server may close it at any time."""

_MAX_PROXY_HEAD = 64 << 10


class _Cutter:
    """Cuts the connection that another thread uses."""

    def __init__(self) -> None:
        self._is_cut = False
        self._stream: _Stream | None = None

    def use(self, stream: _Stream) -> None:
        """Let `cut` end what is read and written here from now on."""
        self._stream = stream
        if self._is_cut:  # asked after the line above, as `cut` does it the other way round
            raise httpcore.ReadError("interrupted")

    def cut(self) -> None:
        self._is_cut = True
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class _Clock(threading.local):
    """The deadline of the request that the current thread is sending, and who may end it."""

    deadline: float = math.inf
    cutter: _Cutter | None = None


_clock = _Clock()


def interruptible(function: Callable[[], R]) -> R:
    """Return what a function returns that sends and receives. Ctrl-C ends it at once, and breaks nothing."""
    cutter = _Cutter()

    def run() -> R:
        before, _clock.cutter = _clock.cutter, cutter
        try:
            return function()
        finally:
            _clock.cutter = before

    return away_from_signals(run, cutter.cut)


@contextlib.contextmanager
def bounded(deadline: float) -> Iterator[None]:
    """Bound whatever this thread sends and receives in the block.

    A timeout of httpx is for one read: a server that sends a byte now and then would never reach it.

    Parameters
    ----------
    deadline : float
        Time of `time.monotonic` after which a read or write fails with a timeout.
    """
    before, _clock.deadline = _clock.deadline, deadline
    try:
        yield
    finally:
        _clock.deadline = before


def extend(seconds: float) -> None:
    """Move the deadline of the current block to `seconds` from now."""
    _clock.deadline = time.monotonic() + seconds


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    """Return the seconds that an operation may take; raise `error` if none are left."""
    left = _clock.deadline - time.monotonic()
    if left <= 0:
        raise error("the deadline has passed")
    if math.isinf(left):
        return timeout
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection of httpcore that keeps to the deadline."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._let_cut()
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._let_cut()
        self._stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        self._let_cut()
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def _let_cut(self) -> None:
        if _clock.cutter is not None:
            _clock.cutter.use(self)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Opens connections that keep to the deadline, through a tunnel of a proxy if there is one."""

    def __init__(self, tunnel: Proxy | None = None) -> None:
        self._tunnel = tunnel
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        until = math.inf if timeout is None else time.monotonic() + timeout
        with bounded(min(until, _clock.deadline)):
            if self._tunnel is None:
                return self._connect(host, port)
            stream = self._connect(self._tunnel.host, self._tunnel.port)
            try:
                if self._tunnel.scheme == "https":
                    stream = stream.start_tls(ssl.create_default_context(), self._tunnel.host)
                (_open_socks if self._tunnel.is_socks else _open_http_tunnel)(
                    stream, self._tunnel, host, port
                )
            except BaseException:
                stream.close()
                raise
            return stream

    def _connect(self, host: str, port: int) -> _Stream:
        """Try each address of a host until the deadline."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port, _left(None, httpcore.ConnectTimeout)):
            try:
                left = _left(None, httpcore.ConnectTimeout)
                return _Stream(self._sockets.connect_tcp(address, port, left, None, []))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> _Stream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._sockets.connect_unix_socket(path, left, socket_options))


def _addresses(host: str, port: int, seconds: float | None) -> list[str]:
    """Look a name up, for at most `seconds`. The operating system's own limit may be minutes."""
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.put(str(error))

    # A lookup cannot be interrupted: it is left behind in a thread that ends nobody's program.
    threading.Thread(target=look_up, name="allocframe-dns", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise httpcore.ConnectTimeout(f"the name {host} was not resolved in time") from None
    if isinstance(answer, str):
        raise httpcore.ConnectError(answer)
    return list(dict.fromkeys(str(info[4][0]) for info in answer))


def _open_http_tunnel(stream: _Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask an HTTP proxy to connect the stream with a host."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    stream.write("\r\n".join([*lines, "", ""]).encode("ascii"))
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        # Byte by byte: what follows the head belongs to the host.
        byte = stream.read(1)
        head += byte
        if not byte or len(head) > _MAX_PROXY_HEAD:
            raise httpcore.ProxyError("the proxy's answer to CONNECT is not HTTP")
    status = bytes(head.split(b"\r\n")[0]).decode("latin-1")
    if not status.startswith("HTTP/1.") or status.split()[1:2] != ["200"]:
        raise httpcore.ProxyError(f"the proxy refused CONNECT {target}: {visible(status[:200])}")


_SOCKS_ERRORS = {
    1: "general failure", 2: "not allowed", 3: "network unreachable", 4: "host unreachable",
    5: "connection refused", 6: "time to live expired", 7: "command not supported",
    8: "address type not supported",
}  # fmt: skip


def _open_socks(stream: _Stream, proxy: Proxy, host: str, port: int) -> None:
    """Ask a SOCKS5 proxy (RFC 1928, RFC 1929) to connect the stream with a host."""
    method = 2 if proxy.user else 0
    stream.write(bytes([5, 1, method]))
    if _read_exactly(stream, 2) != bytes([5, method]):
        raise httpcore.ProxyError("the SOCKS proxy does not accept this login, or is none")
    if method:
        user, password = proxy.user.encode(), proxy.password.encode()
        stream.write(bytes([1, len(user)]) + user + bytes([len(password)]) + password)
        if _read_exactly(stream, 2)[1] != 0:
            raise httpcore.ProxyError("the SOCKS proxy refused user and password")
    try:
        address = ipaddress.ip_address(host)
        encoded = bytes([1 if address.version == 4 else 4]) + address.packed
    except ValueError:
        name = host.encode("idna")
        encoded = bytes([3, len(name)]) + name
    stream.write(b"\x05\x01\x00" + encoded + struct.pack(">H", port))
    version, code, _, kind = _read_exactly(stream, 4)
    if version != 5 or code:
        reason = _SOCKS_ERRORS.get(code, f"error {code}")
        raise httpcore.ProxyError(f"the SOCKS proxy could not connect: {reason}")
    size = {1: 4, 4: 16}.get(kind) or _read_exactly(stream, 1)[0]
    _read_exactly(stream, size + 2)


def _read_exactly(stream: _Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.read(size - len(data))
        if not piece:
            raise httpcore.ProxyError("the proxy closed the connection")
        data += piece
    return data


class _WithoutAnswers(logging.Filter):
    """Leaves out of the libraries' log records what a peer has sent, which may repeat the token.

    Only records of requests inside `bounded` are changed: not those of other users of httpcore.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if math.isinf(_clock.deadline):
            return True
        record.msg = str(record.msg).partition(" ")[0]
        return True


for _name in ("httpcore.connection", "httpcore.http11", "httpcore.proxy"):
    logging.getLogger(_name).addFilter(_WithoutAnswers())


class HttpTransport(httpx.BaseTransport):
    """Connections to one server, which keep to the deadline of `bounded`.

    Parameters
    ----------
    ssl_context : ssl.SSLContext, optional
        Settings for https.
    unix_socket : str, optional
        Path of the socket to use instead of the URL's host.
    proxy : Proxy, optional
        The proxy to use.
    tunnel : bool
        Also tunnel plain HTTP through an HTTP proxy. A WebSocket needs it: a proxy that reads requests does
        not pass an upgrade.
    connections : int
        Maximum number of connections.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None,
        unix_socket: str | None,
        proxy: Proxy | None,
        tunnel: bool = False,
        connections: int,
    ) -> None:
        options: dict[str, Any] = {
            "ssl_context": ssl_context,
            "max_connections": connections,
            "max_keepalive_connections": connections,
            "keepalive_expiry": _KEEPALIVE,
        }
        if proxy is None or proxy.is_socks or tunnel or ssl_context is not None:
            self._pool = httpcore.ConnectionPool(uds=unix_socket, network_backend=_Backend(proxy), **options)
        else:
            headers = [("Proxy-Authorization", proxy.authorization)] if proxy.authorization else []
            if proxy.scheme == "https":
                options["proxy_ssl_context"] = ssl.create_default_context()
            self._pool = httpcore.HTTPProxy(
                httpcore.URL(scheme=proxy.scheme, host=proxy.host, port=proxy.port, target="/"),
                proxy_headers=headers,
                network_backend=_Backend(),
                **options,
            )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        with _as_httpx():
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        extensions = dict(response.extensions)
        # httpx logs the reason and shows it in a repr, but a peer may put anything there.
        extensions.pop("reason_phrase", None)
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """Raise httpcore's errors as those of httpx, which have the same names."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx, type(error).__name__)(str(error)) from error
