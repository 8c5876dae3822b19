"""Exec sessions over WebSockets. The only importer of websockets."""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpcore
import httpx

from .._utils.interrupts import LONGEST_WAIT
from ..errors import AllocframeError, ConfigError, ConnectionFailed, MissingExtra, NotNomad
from .config import Config, Scrubber
from .connection import OpenSockets, Trace, is_tls_error, new_http_client, not_nomad_message, tls_hint
from .exec import (
    HEARTBEAT,
    HEARTBEAT_EVERY,
    BufferedSession,
    ExecRequest,
    ExecResult,
    handshake,
    stdin_frames,
)
from .network import bounded, interruptible
from .protocol import error_for
from .proxy import proxy_for

__all__ = ["Ended", "WebSocket", "open_session", "run_command"]

try:
    from websockets.client import ClientProtocol
    from websockets.exceptions import InvalidHandshake
    from websockets.frames import Frame, Opcode
    from websockets.uri import parse_uri
except ModuleNotFoundError as _error:  # with an underscore: a module's public name needs a type
    raise MissingExtra("exec needs websockets: pip install 'allocframe[exec]'") from _error

REFUSED_WITHIN = 0.1
"""Seconds to wait for a refusal before sending anything.

If a server closes a connection with unread data, the error message it sent is lost.
"""

PACED_FRAMES = 16
PACE = 0.01
"""The first frames of stdin are sent this many seconds apart.

If a command ends without reading all of its stdin, as `head` does, Nomad drops the session when more stdin
is on its way, and often loses the exit code. Most such commands end within the first frames.
"""

_OPEN_TIMEOUT = 10.0
_MAX_FRAME = 16 << 20
_MAX_REFUSAL = 64 << 10
_READ_SIZE = 256 << 10
_ROOM = 256 << 10
"""Bytes that may wait for the socket before `WebSocket.has_room` is false."""

_MAX_UNSENT = 4 << 20
"""If a server sends pings and does not read the answers, the session ends at this many unsent bytes."""

_SILENT = logging.Logger("allocframe.websockets", logging.CRITICAL + 1)
"""A logger that no configuration can reach: at DEBUG, websockets would log the token's frame."""


class Ended(Exception):
    """The connection has ended, and every message that came before has been returned."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class WebSocket:
    """An open WebSocket, in which reading never waits for writing.

    One thread calls `step` again and again; it reads and writes whatever is possible, and never blocks in
    either. The frames themselves are made and read by websockets, which does no I/O here.

    Parameters
    ----------
    opened : socket.socket
        The connection, after the handshake.
    frames : ClientProtocol
        The state of the connection, after the handshake.
    scrub : Scrubber
        Cuts the token out of messages that repeat it. Output is in base64, and is left as it is.
    """

    def __init__(self, opened: socket.socket, frames: ClientProtocol, scrub: Scrubber) -> None:
        self._scrub = scrub
        self._socket = opened
        self._frames = frames
        self._unsent = bytearray()
        self._parts: list[bytes] = []
        self._can_write = True
        self._has_ended = False
        self._is_answered = False
        now = time.monotonic()
        self._last_sent, self._refused_until = now, now + REFUSED_WITHIN
        opened.setblocking(False)
        self._waker, self._wakes = socket.socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakes, selectors.EVENT_READ)

    @property
    def has_room(self) -> bool:
        """Whether a frame may be sent now: the server can have refused, and little waits to be sent."""
        if not self._is_answered and time.monotonic() < self._refused_until:
            return False
        return self._can_write and len(self._unsent) < _ROOM

    @property
    def is_flushed(self) -> bool:
        """Whether everything has been given to the server's side of the connection."""
        return self._can_write and not self._unsent

    def send(self, text: str) -> None:
        """Send a frame in the steps to come. Nothing is sent once the server reads no more."""
        if self._can_write and not self._has_ended:
            self._frames.send_text(text.encode())
            self._last_sent = time.monotonic()
            self._take_output()

    def wake(self) -> None:
        """End the current wait in `step`, from any thread."""
        with contextlib.suppress(OSError):  # full: it is awake; closed: nothing waits
            self._waker.send(b"\0")

    def step(self, until: float = math.inf, *, reading: bool = True) -> list[bytes]:
        """Read and write what is possible, and return the messages that are complete.

        Waits until something is possible, a frame may be sent for the first time, `wake` is called, or
        `until`, and for a moment at most: then call it again. Sends a heartbeat if nothing was sent for a
        while.

        Parameters
        ----------
        until : float
            Time of `time.monotonic` at which to return.
        reading : bool
            False to leave what comes to the server, which will then wait.

        Raises
        ------
        Ended
            The connection has ended.
        """
        if self._has_ended:
            closed = self._frames.close_rcvd
            raise Ended(closed.code, closed.reason) if closed else Ended(None, "")
        now = time.monotonic()
        if now >= self._last_sent + HEARTBEAT_EVERY:
            self.send(HEARTBEAT)
        until = min(until, self._last_sent + HEARTBEAT_EVERY)
        if now < self._refused_until and not self._is_answered:
            until = min(until, self._refused_until)
        ready = self._wait(min(max(until - now, 0.0), LONGEST_WAIT), reading)
        if ready & selectors.EVENT_WRITE:
            self._write()
        return self._read() if ready & selectors.EVENT_READ else []

    def _wait(self, seconds: float, reading: bool) -> int:
        """Wait for the socket; return what it is ready for."""
        events = (selectors.EVENT_READ if reading else 0) | (selectors.EVENT_WRITE if self._unsent else 0)
        if events:
            self._selector.register(self._socket, events)
        try:
            ready = {key.fileobj: mask for key, mask in self._selector.select(seconds)}
        finally:
            if events:
                self._selector.unregister(self._socket)
        if self._wakes in ready:
            with contextlib.suppress(OSError):
                self._wakes.recv(4096)
        return ready.get(self._socket, 0)

    def _write(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(memoryview(self._unsent)[:_READ_SIZE])
                del self._unsent[:sent]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass
        except OSError:
            # The server reads no more. What it has sent before is still to be read.
            self._can_write = False
            self._unsent.clear()

    def _read(self) -> list[bytes]:
        size = 0
        try:
            while size < _READ_SIZE and not self._has_ended:
                data = self._socket.recv(_READ_SIZE)
                size += len(data)
                self._receive(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self._receive(b"")
        return self.messages()

    def _receive(self, data: bytes) -> None:
        if data:
            self._frames.receive_data(data)
        else:
            self._frames.receive_eof()
            self._has_ended = True
        self._take_output()

    def _take_output(self) -> None:
        """Queue what is to be sent: frames, and the answers to pings and closes."""
        for data in self._frames.data_to_send():
            if self._can_write:
                self._unsent += data
        if len(self._unsent) > _MAX_UNSENT:
            self._has_ended = True

    def messages(self) -> list[bytes]:
        """Return the complete messages that have been received and not returned."""
        complete = []
        for frame in self._frames.events_received():
            if not isinstance(frame, Frame):  # the handshake
                continue
            if frame.opcode is Opcode.CLOSE:
                self._has_ended = True
            elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self._parts.append(bytes(frame.data))
                if frame.fin:
                    complete.append(self._scrub.body(b"".join(self._parts), base64=True))
                    self._parts.clear()
        if self._frames.parser_exc is not None:  # what comes is not a WebSocket frame
            self._has_ended = True
        self._is_answered |= bool(complete) or self._has_ended
        return complete

    def close(self) -> None:
        """Close the connection."""
        self._selector.close()
        for opened in (self._socket, self._waker, self._wakes):
            opened.close()


def run_command(
    config: Config, request: ExecRequest, stdin: bytes, timeout: float | None, sockets: OpenSockets
) -> ExecResult:
    """Run one command to its end.

    Parameters
    ----------
    sockets : OpenSockets
        Keeps the socket, so that another thread may shut it down.

    Raises
    ------
    ExecError
        The session was lost, or the command did not end within `timeout`.
    ApiError
        Nomad refused the command.
    ConnectionFailed
        The session could not be opened.
    """
    session = BufferedSession(request.path, visible=config.scrub.visible)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    stdin_sender = _StdinSender(stdin)
    with sockets.holding() as trace, open_session(config, request, timeout, trace) as link:
        messages = link.messages()
        while True:
            for message in messages:
                session.receive(message)
            if session.exit_code is not None:
                return session.result()
            if time.monotonic() >= deadline:
                late = "It may still be running: leaving a session does not stop it"
                raise session.error(f"the command did not end in time. {late}")
            next_frame = stdin_sender.send(link)
            try:
                messages = link.step(min(deadline, next_frame))
            except Ended as ended:
                error = session.close_error(ended.code, ended.reason, stdin_sender.loss_hint(link))
                raise error or session.error("the session was lost") from None


class _StdinSender:
    """Sends the stdin of a command as fast as the server takes it, after a slow start."""

    def __init__(self, data: bytes) -> None:
        self._frames = stdin_frames(data)
        self._sent = 0
        self._next = 0.0
        self._all_sent = False

    def send(self, link: WebSocket) -> float:
        """Send what can be sent now; return the time at which to try again at the latest."""
        while link.has_room and time.monotonic() >= self._next and not self._all_sent:
            if (frame := next(self._frames, None)) is None:
                self._all_sent = True
                return math.inf
            link.send(frame)
            self._sent += 1
            if self._sent < PACED_FRAMES:
                self._next = time.monotonic() + PACE
        return self._next if self._next > time.monotonic() and not self._all_sent else math.inf

    def loss_hint(self, link: WebSocket) -> str:
        """Return why a session may have been lost, as far as stdin tells; empty if it was all sent."""
        if self._all_sent and link.is_flushed:
            return ""
        return "The command may have ended without reading all of its stdin, and its output may be cut"


@contextlib.contextmanager
def open_session(
    config: Config, request: ExecRequest, timeout: float | None = None, trace: Trace | None = None
) -> Iterator[WebSocket]:
    """Open a session, for at most `timeout` seconds or 10.

    The token is sent in a header and in the first frame, because some proxies drop the header.
    """
    seconds = _OPEN_TIMEOUT if timeout is None else min(timeout, _OPEN_TIMEOUT)
    _check_proxy(config)
    with contextlib.ExitStack() as stack:
        try:
            link, close = interruptible(lambda: _open(config, request, seconds, trace))
            stack.callback(interruptible, close)
        except KeyboardInterrupt:
            # Without the libraries' frames, whose locals may hold the token.
            raise KeyboardInterrupt from None
        except httpx.TimeoutException:
            raise ConnectionFailed(
                f"no exec session with {config.address}: no answer within {seconds:g} s"
            ) from None
        except (httpx.HTTPError, OSError) as error:
            reason = config.scrub.visible(error) or type(error).__name__
            if is_tls_error(reason):
                reason += f". {tls_hint(reason)}"
            raise ConnectionFailed(f"no exec session with {config.address}: {reason}") from None
        yield link


def _open(
    config: Config, request: ExecRequest, seconds: float, trace: Trace | None
) -> tuple[WebSocket, Callable[[], None]]:
    """Ask the server to upgrade the connection. Return the session, and what closes it."""
    frames = ClientProtocol(parse_uri("ws://nomad/"), max_size=_MAX_FRAME, logger=_SILENT)
    upgrade = {name: value for name, value in frames.connect().headers.raw_items() if name != "Host"}
    extensions: dict[str, Any] = {"trace": trace} if trace else {}
    if config.tls_server_name:
        extensions["sni_hostname"] = config.tls_server_name
    with contextlib.ExitStack() as stack, bounded(time.monotonic() + seconds):
        client = stack.enter_context(new_http_client(config, tunnel=True))
        response = stack.enter_context(
            client.stream(
                "GET", request.path, params=request.params, headers=upgrade, timeout=seconds,
                extensions=extensions,
            )
        )  # fmt: skip
        link = _start(config, request, frames, response)
        stack.callback(link.close)
        link.send(handshake(config.token.reveal()))
        return link, stack.pop_all().close


def _start(
    config: Config, request: ExecRequest, frames: ClientProtocol, response: httpx.Response
) -> WebSocket:
    """Return the WebSocket that a response opens, or raise the error that the response stands for."""
    status = response.status_code
    if status != 101:
        raise _refusal(config, request, response)
    # Not into a variable, which a traceback would show: a peer may repeat the token in a header.
    frames.receive_data(_head(response))
    if isinstance(frames.handshake_exc, InvalidHandshake):
        raise ConnectionFailed(
            f"no exec session with {config.address}: the answer is not a WebSocket handshake: "
            f"{config.scrub.visible(frames.handshake_exc)}"
        )
    stream = response.extensions["network_stream"]
    try:
        early = stream.read(_READ_SIZE, timeout=0)  # what came in one packet with the head
    except (httpcore.NetworkError, httpcore.TimeoutException):
        early = b""
    link = WebSocket(stream.get_extra_info("socket"), frames, config.scrub)
    if early:
        frames.receive_data(early)
    return link


def _head(response: httpx.Response) -> bytes:
    """Return the head of a response as it was sent."""
    lines = b"".join(b"%s: %s\r\n" % pair for pair in response.headers.raw)
    return b"HTTP/1.1 101 Switching Protocols\r\n%s\r\n" % lines


def _read_some(response: httpx.Response) -> bytes:
    """Return the start of a body."""
    body = b""
    for piece in response.iter_bytes():
        body += piece
        if len(body) >= _MAX_REFUSAL:
            break
    return body[:_MAX_REFUSAL]


def _refusal(config: Config, request: ExecRequest, response: httpx.Response) -> AllocframeError:
    """Return the error for a server that opens no WebSocket."""
    status, body = response.status_code, config.scrub.body(_read_some(response))
    where = f"GET {config.address}{request.path}"
    if 300 <= status < 400 or response.headers.get("content-type", "").startswith("text/html"):
        return NotNomad(not_nomad_message(where, status, body))
    text = config.scrub.visible(body.decode("utf-8", "replace").strip())
    # Nomad answers "not using the websocket protocol" if a proxy has taken the Upgrade header away.
    if status < 300 or status == 426 or "websocket protocol" in text:
        return ConnectionFailed(
            f"{where}: the answer ({status}) does not open a WebSocket: {text!r}. A proxy in between must "
            "pass WebSockets (Upgrade)"
        )
    return error_for("GET", request.path, status, text)


def _check_proxy(config: Config) -> None:
    """Refuse the one way that has no socket to wait for: TLS within the TLS of a proxy."""
    if config.unix_socket or not config.base_url.startswith("https"):
        return
    proxy = proxy_for(config.base_url)
    if proxy is not None and proxy.scheme == "https":
        raise ConfigError("exec cannot use a proxy with https:// (HTTPS_PROXY). Use one with http://")
