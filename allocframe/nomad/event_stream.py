"""Nomad's event stream. A thread reads the lines, so that a slow consumer never blocks the connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from ..errors import AllocframeError, ConnectionFailed, NotNomad
from . import protocol
from .config import Config
from .connection import new_http_client, not_nomad_message, opened_socket, was_reset
from .network import bounded, extend

STREAM = "/v1/event/stream"

HEARTBEAT = 30.0
"""Seconds between the empty lines that servers send while nothing happens."""

QUIET = 2.5 * HEARTBEAT
"""Seconds without a line after which a stream counts as broken."""

MAX_LINE = 128 << 20
"""Maximum bytes of one line. A plan of thousands of allocations is one line."""


class NotAnEvent(ValueError):
    """A line of the stream is not a Nomad event."""


class EventStream:
    """A subscription to Nomad's event stream, read by its own thread until it breaks or is closed.

    Parameters
    ----------
    config : Config
        How to reach the server.
    params : mapping
        Query parameters of the subscription.
    on_line : callable
        Called in the stream's thread with each whole line, without its line end.
        If it raises `NotAnEvent`, the stream ends.
    on_end : callable
        Called in the stream's thread with the reason, when no more lines will come.
    quiet : float
        Seconds without a line after which the connection counts as broken.

    Attributes
    ----------
    established : bool
        The server has sent a whole line. Only that proves that this token may subscribe.
    error : AllocframeError or None
        The typed error, if the server refused or could not be reached.
    """

    def __init__(
        self,
        config: Config,
        params: Mapping[str, str],
        on_line: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        quiet: float,
    ) -> None:
        self.established: bool = False
        self.error: AllocframeError | None = None
        self._config = config
        self._scrub = config.scrub
        self._params = dict(params)
        self._on_line = on_line
        self._on_end = on_end
        self._quiet = quiet
        self._socket: socket.socket | None = None
        self._is_closing = False
        self._is_started = False
        self._starting = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="allocframe-stream", daemon=True)

    def start(self) -> None:
        """Start the reading thread, unless the stream was closed in the meantime."""
        with self._starting:
            if not self._is_closing:
                self._thread.start()
                self._is_started = True
                return
        self._on_end("it was closed")

    def _run(self) -> None:
        reason = "its reader failed"
        try:
            self._read()
            reason = "the server ended it"
        except NotAnEvent as error:
            reason = f"invalid event: {self._scrub.visible(error)}"
        except AllocframeError as error:
            self.error, reason = error, str(error)
        except httpx.TimeoutException:
            reason = f"no line for {self._quiet:g} s"
        except (httpx.HTTPError, zlib.error, OSError) as error:
            reason = f"the connection broke: {self._scrub.visible(error) or type(error).__name__}"
            if isinstance(error, httpx.ConnectError) and not was_reset(error):
                self.error = ConnectionFailed(f"{self._config.address}: {reason}")
        finally:
            self._on_end("it was closed" if self._is_closing else reason)

    def _read(self) -> None:
        name = self._config.tls_server_name
        extensions: dict[str, Any] = {
            "trace": self._remember_socket,
            **({"sni_hostname": name} if name else {}),
        }
        timeout = httpx.Timeout(self._quiet, connect=10.0)
        with (
            bounded(time.monotonic() + self._quiet),
            new_http_client(self._config) as client,
            client.stream(
                "GET", STREAM, params=self._params, timeout=timeout, extensions=extensions
            ) as response,
        ):
            self._check_status(response)
            for line in self._lines(response):
                self._on_line(self._scrub.body(line))
                self.established = True
                extend(self._quiet)  # only a whole line shows that the server is alive

    def _check_status(self, response: httpx.Response) -> None:
        status, request = response.status_code, f"GET {self._config.address}{STREAM}"
        if status == 200:
            return
        body = self._scrub.body(response.read()[:4096])
        if 300 <= status < 400 or response.headers.get("content-type", "").startswith("text/html"):
            raise NotNomad(not_nomad_message(request, status, body))
        text = self._scrub.visible(body.decode("utf-8", "replace").strip())
        raise protocol.error_for("GET", STREAM, status, text)

    def _lines(self, response: httpx.Response) -> Iterator[bytes]:
        """Yield complete lines.

        Raises
        ------
        NotAnEvent
            The body ended within a line, or a line is too long.
        """
        inflate = zlib.decompressobj(31) if response.headers.get("content-encoding") == "gzip" else None
        buffer = bytearray()
        for raw in response.iter_raw():
            data = raw if inflate is None else inflate.decompress(raw, MAX_LINE)
            start = len(buffer)  # what came before holds no line end: never search it twice
            buffer += data
            while (end := buffer.find(b"\n", start)) >= 0:
                line = bytes(buffer[:end])
                del buffer[: end + 1]
                start = 0
                if line.strip():
                    yield line
            if len(buffer) >= MAX_LINE:
                raise NotAnEvent(f"more than {MAX_LINE:,} bytes in one line")
        if buffer:
            raise NotAnEvent("the stream was cut within a line")

    def _remember_socket(self, event: str, info: dict[str, Any]) -> None:
        if (opened := opened_socket(event, info)) is not None:
            self._socket = opened
            if self._is_closing:  # closed while it was connecting
                self._shut_down()

    def _shut_down(self) -> None:
        """Wake the thread that waits on the socket. Closing the client from here would not wake it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the stream and wait for its thread."""
        with self._starting:
            self._is_closing = True
        self._shut_down()
        if self._is_started and self._thread is not threading.current_thread():
            self._thread.join()
