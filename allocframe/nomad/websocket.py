"""Exec sessions over WebSockets. The only importer of websockets."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlencode

from .._utils.text import visible
from ..errors import ConnectionFailed, MissingExtra
from .config import Config
from .connection import credentials, proxy_for, tls_hint
from .exec import (
    HEARTBEAT,
    HEARTBEAT_EVERY,
    BufferedSession,
    ExecRequest,
    ExecResult,
    ExecSession,
    Frame,
    handshake,
    stdin_frames,
)
from .protocol import error_for

__all__ = [
    "REFUSED_WITHIN",
    "ClientConnection",
    "WebSocketException",
    "abort",
    "open_session",
    "receive",
    "run_command",
]

try:
    from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
    from websockets.sync.client import ClientConnection, connect
except ModuleNotFoundError as _error:  # with an underscore: a module's public name needs a type
    raise MissingExtra("exec needs websockets: pip install 'allocframe[exec]'") from _error

REFUSED_WITHIN = 0.1
"""Seconds to wait for a refusal before sending anything.

If a server closes a connection with unread data, the error message it sent is lost.
"""

_OPEN_TIMEOUT = 10.0
_MAX_FRAME = 16 << 20
_SILENT = logging.Logger("allocframe.websockets", logging.CRITICAL + 1)
"""A logger that no configuration can reach: at DEBUG, websockets would log the token's header."""

SocketHolder = Callable[[socket.socket], AbstractContextManager[None]]


def run_command(
    config: Config, request: ExecRequest, stdin: bytes, timeout: float | None, hold_socket: SocketHolder
) -> ExecResult:
    """Run one command to its end.

    Parameters
    ----------
    hold_socket : callable
        Takes the socket, and returns a context in which another thread may shut it down.

    Raises
    ------
    ExecError
        The session was lost, or the command did not end within `timeout`.
    ApiError
        Nomad refused the command.
    ConnectionFailed
        The session could not be opened.
    """
    session = BufferedSession(request.path)
    deadline = None if timeout is None else time.monotonic() + timeout
    open_timeout = _OPEN_TIMEOUT if timeout is None else min(timeout, _OPEN_TIMEOUT)
    with open_session(config, request, open_timeout) as connection, hold_socket(connection.socket):
        first_message, done = threading.Event(), threading.Event()
        feeder = threading.Thread(
            target=_feed, args=(connection, stdin, first_message, done), name="allocframe-exec"
        )
        try:
            feeder.start()
            _listen(connection, session, deadline, first_message)
        finally:
            first_message.set()
            done.set()
            abort(connection)
            if feeder.is_alive():
                feeder.join()
    return session.result()


def _listen(
    connection: ClientConnection,
    session: BufferedSession,
    deadline: float | None,
    first_message: threading.Event,
) -> None:
    while session.exit_code is None:
        left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            receive(connection, session, left)
            first_message.set()
        except TimeoutError:
            raise session.error(
                "the command did not end in time. It may still be running: leaving a session does not stop it"
            ) from None


def receive(connection: ClientConnection, session: ExecSession, timeout: float | None = None) -> Frame | None:
    """Return the next frame; None if the connection ended after the command.

    Raises
    ------
    TimeoutError
        No frame came in time.
    ExecError, ApiError
        The frame is invalid, or the connection ended before the command.
    """
    try:
        return session.receive(connection.recv(timeout=timeout))
    except ConnectionClosed as closed:
        code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, "")
        error = session.close_error(code, reason)
        if error is not None:
            raise error from None
        return None


def abort(connection: ClientConnection) -> None:
    """End a connection from any thread, and wake the thread that waits on it."""
    with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)


def _feed(
    connection: ClientConnection, stdin: bytes, first_message: threading.Event, done: threading.Event
) -> None:
    """Send stdin and close it, then send heartbeats until the command has ended."""
    first_message.wait(REFUSED_WITHIN)
    with contextlib.suppress(WebSocketException, OSError):
        for frame in stdin_frames(stdin):
            connection.send(frame)
        while not done.wait(HEARTBEAT_EVERY):
            connection.send(HEARTBEAT)


@contextlib.contextmanager
def open_session(
    config: Config, request: ExecRequest, open_timeout: float = _OPEN_TIMEOUT
) -> Iterator[ClientConnection]:
    """Open a session.

    The token is sent in a header and in the first frame, because some proxies drop the header.
    """
    url = f"ws{config.base_url.removeprefix('http')}{request.path}?{urlencode(request.params)}"
    try:
        with _hide_library_frames():
            session = connect(
                url,
                additional_headers=credentials(config),
                logger=_SILENT,
                max_size=_MAX_FRAME,
                compression=None,
                user_agent_header="allocframe",
                ping_interval=None,
                open_timeout=open_timeout,
                close_timeout=2,
                **_connection_options(config),
            )
    except InvalidStatus as refused:
        text = (refused.response.body or b"").decode("utf-8", "replace").strip()
        raise error_for("GET", request.path, refused.response.status_code, visible(text)) from None
    except (WebSocketException, OSError) as error:
        reason = visible(error) or type(error).__name__
        if isinstance(error, ssl.SSLError):
            reason += f". {tls_hint(reason)}"
        raise ConnectionFailed(f"no exec session with {config.address}: {reason}") from None
    with session as connection:
        with contextlib.suppress(ConnectionClosed), _hide_library_frames():
            connection.send(handshake(config.token.reveal()))
        yield connection


@contextlib.contextmanager
def _hide_library_frames() -> Iterator[None]:
    """Raise an interrupt without the libraries' frames, whose locals may hold the token."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt from None


def _connection_options(config: Config) -> dict[str, Any]:
    """Return the same socket, proxy and TLS settings that other requests use."""
    options: dict[str, Any] = {"proxy": None if config.unix_socket else proxy_for(config.base_url)}
    if config.unix_socket:
        options["sock"] = unix_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            unix_socket.connect(config.unix_socket)
        except OSError:
            unix_socket.close()
            raise
    if config.base_url.startswith("https"):
        options["ssl"] = config.ssl_context()
        if config.tls_server_name:
            options["server_hostname"] = config.tls_server_name
    return options
