"""HTTP: one pool of connections, one deadline for each request with its repeats. The only importer of httpx."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import httpx

from .._utils.text import visible
from ..errors import (
    AllocframeError,
    ConnectionFailed,
    DecodeError,
    NotNomad,
    RequestTimeout,
    ResponseTooLarge,
    ResultUnknown,
)
from . import protocol, retry
from .config import Config
from .connection import OpenSockets, new_http_client, not_nomad_message, tls_hint, was_reset
from .protocol import Headers

MAX_BODY = 1 << 30
"""Bytes that one answer may have, unpacked."""

_JSON_STARTS = b'[{"ntf-0123456789'


@dataclass
class Counters:
    """What was sent and what went wrong, counted since the client was made."""

    requests: int = 0
    retries: int = 0
    bytes_received: int = 0
    pages: int = 0
    duplicates: int = 0
    loops: int = 0


@dataclass(frozen=True)
class Response:
    """One whole answer."""

    headers: Headers
    body: bytes


class _Fault(Exception):
    """A try that failed, the error it amounts to in the end, and the pause the server asked for."""

    def __init__(
        self, error: AllocframeError, *, pause: float | None = None, stale_connection: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause
        self.stale_connection = stale_connection

    def taken(self) -> AllocframeError:
        """Return the error and let go of it: this is its context, and a circle would keep every frame, with all it holds."""
        error: AllocframeError = self.__dict__.pop("error")
        return error


class Transport:
    """Sends reads and judges what comes back; safe to use from several threads, not across a fork."""

    def __init__(self, config: Config, *, timeout: float, retries: int, read_only: bool = False) -> None:
        self.stats = Counters()
        self._read_only = read_only
        self._config = config
        self._timeout = timeout
        self._retries = retries
        self._lock = threading.Lock()
        self.sockets = OpenSockets()
        self._answered = False
        self._pid = os.getpid()
        self._client: httpx.Client | None = new_http_client(self._config)

    def clone(self) -> Transport:
        """Return a new one with the same settings, for work that is ended on its own."""
        return Transport(self._config, timeout=self._timeout, retries=self._retries, read_only=True)

    def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        check: Callable[[Response], Any] = lambda response: None,
        timeout: float | None = None,
        most: int | None = None,
    ) -> Any:
        """Return what `check` makes of the answer to one read, asking again where that can help.

        `check` raises DecodeError for a body that is not whole; that counts as a fault on the way. `most` bounds the body, unpacked.
        """
        if not protocol.is_read(path):
            raise AllocframeError(f"GET {path} is not one of the calls that only read")
        return self._repeated(lambda deadline: self._attempt(path, params, deadline, check, most), timeout)

    def post(self, path: str, params: Mapping[str, str], body: Mapping[str, object]) -> Any:
        """Ask for a change; return the parsed answer. It is repeated only where it has surely not been carried out.

        Raises
        ------
        ResultUnknown
            The request was sent, and its answer was lost.
        """
        if self._read_only:
            raise AllocframeError(f"POST {path} was not sent: this client is read-only (read_only=True)")
        return self._repeated(lambda deadline: self._post_once(path, params, body, deadline))

    def server_version(self) -> str | None:
        """Return the server's version, or None where this token may not ask."""
        try:
            said = self.get("/v1/agent/self", {}, check=parse_json)
            return str(said["config"]["Version"]["Version"])
        except (AllocframeError, KeyError, TypeError):
            return None

    def _repeated(self, attempted: Callable[[float], Any], timeout: float | None = None) -> Any:
        deadline = time.monotonic() + (timeout or self._timeout)
        attempt = 0
        while True:
            try:
                return attempted(deadline)
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None  # without the frames of libraries: their locals may hold the token
            except _Fault as fault:
                attempt += 1
                pause = fault.pause if fault.pause is not None else retry.backoff(attempt)
                if fault.stale_connection and attempt == 1:
                    pause = 0.0
                if (
                    attempt > self._retries
                    or time.monotonic() + pause >= deadline
                    or self.sockets.ended.is_set()
                ):
                    raise fault.taken() from None
                self.count(retries=1)
                self.sockets.ended.wait(pause)

    def _attempt(
        self,
        path: str,
        params: Mapping[str, str],
        deadline: float,
        check: Callable[[Response], Any],
        most: int | None,
    ) -> Any:
        client = self.check_usable()
        self.count(requests=1)
        left = max(deadline - time.monotonic(), 0.001)
        where = f"GET {self._config.address}{path}"
        reused = self._answered
        try:
            timeout = httpx.Timeout(left, connect=min(left, 10.0))
            trace = {"trace": self.sockets.remember, **self._server_name()}
            with client.stream("GET", path, params=params, timeout=timeout, extensions=trace) as answer:
                body = b"".join(self._body(answer, deadline, where, most))
                response = self._judge(answer, body, path, where)
        except httpx.TimeoutException:
            what = f"{where}: no whole answer within {self._timeout:g} s; raise timeout= or lower per_page="
            raise _Fault(RequestTimeout(what)) from None
        except httpx.ConnectError as error:
            raise self._unreachable(error) from None
        except (httpx.TransportError, zlib.error, OSError) as error:
            cut = ConnectionFailed(f"{where}: the connection broke: {visible(error) or type(error).__name__}")
            raise _Fault(cut, stale_connection=reused) from None
        self._answered = True
        try:
            return check(response)
        except DecodeError as error:
            raise _Fault(error) from None

    def _post_once(
        self, path: str, params: Mapping[str, str], body: Mapping[str, object], deadline: float
    ) -> Any:
        """Send a change over a connection of its own: one that was kept may be closed by now, and nobody could tell."""
        self.check_usable()
        self.count(requests=1)
        left = max(deadline - time.monotonic(), 0.001)
        where = f"POST {self._config.address}{path}"
        timeout, named = httpx.Timeout(left, connect=min(left, 10.0)), self._server_name()
        try:
            with (
                new_http_client(self._config) as fresh,
                fresh.stream(
                    "POST", path, params=params, json=dict(body), timeout=timeout, extensions=named
                ) as answer,
            ):
                text = b"".join(self._body(answer, deadline, where)).decode("utf-8", "replace")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectionFailed(
                f"{where}: nothing was sent: {visible(error) or 'no connection in time'}"
            ) from None
        except (httpx.TransportError, zlib.error, OSError) as error:
            raise ResultUnknown(
                f"{where}: sent, but no answer came: {visible(error) or type(error).__name__}"
            ) from None
        return self._accepted(answer, text, path, where)

    def _accepted(self, answer: httpx.Response, text: str, path: str, where: str) -> Any:
        status = answer.status_code
        if status == 200:
            try:
                return json.loads(text)
            except ValueError:
                raise ResultUnknown(
                    f"{where}: sent, but the answer is not Nomad's: {visible(text[:200])!r}"
                ) from None
        if retry.may_be_applied(status, text):
            raise ResultUnknown(f"{where}: sent, and answered {status}: {visible(text.strip()[:200])}")
        failed = partial(protocol.error_for, "POST", path, status, visible(text.strip()))
        if retry.was_not_applied(status, text):
            raise _Fault(failed(), pause=retry.retry_after(answer.headers.get("retry-after")))
        raise failed()

    def _body(
        self, answer: httpx.Response, deadline: float, where: str, most: int | None = None
    ) -> Iterator[bytes]:
        """Yield the unpacked body; a packed one must reach its own end, which Content-Length does not prove."""
        bound = MAX_BODY if most is None else most
        inflate = zlib.decompressobj(31) if answer.headers.get("content-encoding", "") == "gzip" else None
        total = 0
        for raw in answer.iter_raw():
            if time.monotonic() > deadline:
                raise httpx.ReadTimeout("deadline")
            data = raw
            while data:
                if inflate is None:
                    piece, data = data, b""
                else:
                    if inflate.eof:
                        inflate = zlib.decompressobj(31)
                    piece = inflate.decompress(data, 1 << 20)
                    data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
                total += len(piece)
                if total > bound:
                    raise ResponseTooLarge(
                        f"{where}: more than {bound:,} bytes; lower per_page=, or ask for less"
                    )
                yield piece
        if inflate is not None and not inflate.eof and total:
            raise zlib.error("the compressed answer stops before its end")
        self.count(bytes_received=total)

    def _judge(self, answer: httpx.Response, body: bytes, path: str, where: str) -> Response:
        status = answer.status_code
        if 300 <= status < 400:
            target = visible(answer.headers.get("location", "?"))
            raise NotNomad(
                f"{where}: redirected to {target}; allocframe follows none. Set NOMAD_ADDR to the final address"
            )
        if status != 200:
            text = body.decode("utf-8", "replace")
            if answer.headers.get("content-type", "").startswith("text/html"):
                raise self._fault_or_error(status, answer, NotNomad(not_nomad_message(where, status, body)))
            said = visible(text.strip())
            raise self._fault_or_error(status, answer, protocol.error_for("GET", path, status, said), text)
        start = body[:16].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if start and start not in _JSON_STARTS:
            raise NotNomad(not_nomad_message(where, status, body))
        return Response(Headers.parse(answer.headers), body)

    def _fault_or_error(
        self, status: int, answer: httpx.Response, error: AllocframeError, text: str = ""
    ) -> Exception:
        if not retry.is_transient(status, text):
            return error
        return _Fault(error, pause=retry.retry_after(answer.headers.get("retry-after")))

    def _unreachable(self, error: httpx.ConnectError) -> Exception:
        """Return the fault for a connection that was not made; where none ever was, it is not tried again."""
        text = visible(error)
        address = self._config.address
        if re.search(r"certificate|SSL|TLS", text, re.IGNORECASE):
            return ConnectionFailed(f"{address}: TLS failed: {text}. {tls_hint(text)}")
        failed = ConnectionFailed(
            f"nothing answers at {address}: {text}. Is the agent up, and is NOMAD_ADDR (or address=) right?"
        )
        return _Fault(failed) if self._answered or was_reset(error) else failed

    def _server_name(self) -> dict[str, Any]:
        name = self._config.tls_server_name
        return {"sni_hostname": name} if name else {}

    def check_usable(self) -> httpx.Client:
        """Return the HTTP client, or say why nothing can be sent."""
        if self._client is None:
            raise AllocframeError("this Client is closed; make a new one")
        if self._pid != os.getpid():
            raise AllocframeError("this Client was made before a fork; make a new one in the child process")
        if self.sockets.ended.is_set():
            raise AllocframeError("interrupted")
        return self._client

    def pause(self, seconds: float) -> None:
        """Wait, unless an interrupt ends it."""
        if self.sockets.ended.wait(seconds):
            self.check_usable()

    def abort(self) -> None:
        """End every read that is under way, from another thread, and start afresh."""
        self.sockets.end()

    def recover(self) -> None:
        """Make the transport usable again once all reads have ended."""
        if self._client is not None:
            self._client.close()
            self._client = new_http_client(self._config)
        self.sockets.clear()

    def count(self, **more: int) -> None:
        """Add to the counters."""
        with self._lock:
            for name, number in more.items():
                setattr(self.stats, name, getattr(self.stats, name) + number)

    def close(self) -> None:
        """Close every connection; doing it twice does no harm."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def counters(self) -> dict[str, int]:
        """Return the counters as plain numbers."""
        return asdict(self.stats)


def parse_json(response: Response) -> Any:
    """Return an answer's JSON, for `Transport.get`."""
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the answer is not whole JSON: {error}") from None


@contextlib.contextmanager
def request_pool(transport: Transport, workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads for so many requests; an error in the block breaks off those under way, and the transport can be used again."""
    with ThreadPoolExecutor(workers, "allocframe") as pool:
        try:
            yield pool
        except BaseException:
            transport.abort()
            pool.shutdown(wait=True, cancel_futures=True)
            transport.recover()
            raise
