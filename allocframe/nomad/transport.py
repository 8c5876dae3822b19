"""HTTP requests: retries within one deadline, bounds on responses, and typed errors."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import httpx

from .._utils.text import visible
from .._utils.thread_pool import ThreadPool
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
from .connection import (
    OpenSockets,
    is_tls_error,
    new_http_client,
    not_nomad_message,
    refused_certificate,
    tls_hint,
    was_reset,
)
from .network import bounded, interruptible
from .protocol import Headers

MAX_BODY = 1 << 30
"""Maximum bytes of one response, decompressed."""

_JSON_STARTS = b'[{"ntf-0123456789'


@dataclass
class Counters:
    """Counts of requests and failures since the client was made."""

    requests: int = 0
    retries: int = 0
    bytes_received: int = 0
    pages: int = 0
    duplicates: int = 0
    loops: int = 0


@dataclass(frozen=True)
class Response:
    """One complete response."""

    headers: Headers
    body: bytes


class _Retryable(Exception):
    """A failed attempt that may be repeated.

    Parameters
    ----------
    error : AllocframeError
        Raised if no retry succeeds.
    pause : float, optional
        Seconds that the server asked to wait.
    stale_connection : bool
        The attempt used a kept-alive connection, which the server may have closed already.
    """

    def __init__(
        self, error: AllocframeError, *, pause: float | None = None, stale_connection: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause
        self.stale_connection = stale_connection

    def pop_error(self) -> AllocframeError:
        """Return the error and drop the reference to it.

        This exception becomes the error's context. A reference back would be a cycle that keeps every frame
        of the traceback alive, with all that the frames hold.
        """
        error: AllocframeError = self.__dict__.pop("error")
        return error


class Transport:
    """Sends requests and turns failures into typed errors. Thread-safe, but not usable after a fork."""

    def __init__(self, config: Config, *, timeout: float, retries: int, read_only: bool = False) -> None:
        self.stats: Counters = Counters()
        self._read_only = read_only
        self._config = config
        self._scrub = config.scrub
        self._timeout = timeout
        self._retries = retries
        self._lock = threading.Lock()
        self.sockets: OpenSockets = OpenSockets()
        self._has_answered = False
        self._pid = os.getpid()
        self._client: httpx.Client | None = new_http_client(self._config)

    def clone(self) -> Transport:
        """Return a new read-only transport with the same settings, which can be aborted on its own."""
        return Transport(self._config, timeout=self._timeout, retries=self._retries, read_only=True)

    def get(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        check: Callable[[Response], Any] = lambda response: None,
        timeout: float | None = None,
        max_bytes: int | None = None,
        base64: bool = False,
    ) -> Any:
        """Send one read and return what `check` makes of the response. Retry if that can help.

        Parameters
        ----------
        check : callable
            Takes the `Response`. Raises DecodeError if the body is incomplete, which is retried.
        timeout : float, optional
            Seconds for all attempts together; the client's timeout if omitted.
        max_bytes : int, optional
            Maximum size of the decompressed body.
        base64 : bool
            The body holds data in base64; see `Scrubber.body`.
        """
        if not protocol.is_read(path):
            raise AllocframeError(f"GET {path} is not one of the read-only requests that allocframe may send")
        return self._retry(
            lambda deadline: self._get_once(path, params, deadline, check, max_bytes, base64), timeout
        )

    def post(self, path: str, params: Mapping[str, str], body: Mapping[str, object]) -> Any:
        """Request a change and return the parsed response.

        Retry only if the change was certainly not applied.

        Raises
        ------
        ResultUnknown
            The request was sent, but its response was lost.
        """
        if self._read_only:
            raise AllocframeError(f"POST {path} was not sent: this client is read-only (read_only=True)")
        return self._retry(lambda deadline: self._post_once(path, params, body, deadline))

    def server_version(self) -> str | None:
        """Return the server's version, or None if this token may not read it."""
        try:
            agent = self.get("/v1/agent/self", {}, check=parse_json)
            return str(agent["config"]["Version"]["Version"])
        except (AllocframeError, KeyError, TypeError):
            return None

    def _retry(self, send: Callable[[float], Any], timeout: float | None = None) -> Any:
        """Call `send` with the deadline until it succeeds, fails for good, or the time is over."""
        deadline = time.monotonic() + (timeout or self._timeout)
        attempt = 0
        while True:
            try:
                return interruptible(partial(send, deadline))
            except KeyboardInterrupt:
                # Drop the libraries' frames from the traceback: their locals may hold the token.
                raise KeyboardInterrupt from None
            except _Retryable as failure:
                attempt += 1
                pause = failure.pause if failure.pause is not None else retry.backoff(attempt)
                if failure.stale_connection and attempt == 1:
                    pause = 0.0  # the server closed an idle connection, which says nothing about its health
                if (
                    attempt > self._retries
                    or time.monotonic() + pause >= deadline
                    or self.sockets.ended.is_set()
                ):
                    raise failure.pop_error() from None
                self.count(retries=1)
                self.sockets.ended.wait(pause)

    def _get_once(
        self,
        path: str,
        params: Mapping[str, str],
        deadline: float,
        check: Callable[[Response], Any],
        max_bytes: int | None,
        base64: bool,
    ) -> Any:
        client = self.check_usable()
        self.count(requests=1)
        left = max(deadline - time.monotonic(), 0.001)
        request = f"GET {self._config.address}{path}"
        reused = self._has_answered
        try:
            timeout = httpx.Timeout(left, connect=min(left, 10.0))
            extensions = {"trace": self.sockets.remember, **self._server_name()}
            with (
                bounded(deadline),
                client.stream("GET", path, params=params, timeout=timeout, extensions=extensions) as raw,
            ):
                response = self._check_response(
                    raw,
                    self._scrub.body(b"".join(self._read_body(raw, request, max_bytes)), base64=base64),
                    path,
                    request,
                )
        except httpx.TimeoutException:
            hint = "Raise timeout= or lower per_page="
            late = f"{request}: no complete response within {self._timeout:g} s. {hint}"
            raise _Retryable(RequestTimeout(late)) from None
        except httpx.ConnectError as error:
            raise self._unreachable(error) from None
        except (httpx.TransportError, zlib.error, OSError) as error:
            reason = self._scrub.visible(error) or type(error).__name__
            if refused_certificate(reason):
                raise self._tls_failed(reason) from None
            broken = ConnectionFailed(f"{request}: the connection broke: {reason}")
            raise _Retryable(broken, stale_connection=reused) from None
        self._has_answered = True
        try:
            return check(response)
        except DecodeError as error:
            raise _Retryable(error) from None

    def _post_once(
        self, path: str, params: Mapping[str, str], body: Mapping[str, object], deadline: float
    ) -> Any:
        """Send a change over a new connection.

        If a kept-alive connection broke, nobody could tell whether the server had closed it before the
        request or had read the request first.
        """
        self.check_usable()
        self.count(requests=1)
        left = max(deadline - time.monotonic(), 0.001)
        request = f"POST {self._config.address}{path}"
        timeout, extensions = httpx.Timeout(left, connect=min(left, 10.0)), self._server_name()
        try:
            with (
                bounded(deadline),
                new_http_client(self._config) as fresh,
                fresh.stream(
                    "POST", path, params=params, json=dict(body), timeout=timeout, extensions=extensions
                ) as response,
            ):
                answer = self._scrub.body(b"".join(self._read_body(response, request)))
                text = answer.decode("utf-8", "replace")
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            reason = self._scrub.visible(error) or "no connection in time"
            if is_tls_error(reason):
                reason += f". {tls_hint(reason)}"
            raise ConnectionFailed(f"{request}: nothing was sent: {reason}") from None
        except (httpx.TransportError, zlib.error, OSError) as error:
            reason = self._scrub.visible(error) or type(error).__name__
            if refused_certificate(reason):
                raise self._tls_failed(reason) from None
            raise ResultUnknown(f"{request}: sent, but no response came: {reason}") from None
        return self._check_change(response, text, path, request)

    def _check_change(self, response: httpx.Response, text: str, path: str, request: str) -> Any:
        """Return the parsed response to a change, or raise the error that it stands for."""
        status = response.status_code
        if status == 200:
            try:
                return json.loads(text)
            except ValueError:
                raise ResultUnknown(
                    f"{request}: sent, but the response is not from Nomad: {visible(text[:200])!r}"
                ) from None
        if retry.may_be_applied(status, text):
            raise ResultUnknown(f"{request}: sent, but answered with {status}: {visible(text.strip()[:200])}")
        # A local variable with the error would be a cycle: error, traceback, frame, error.
        make_error = partial(protocol.error_for, "POST", path, status, self._scrub.visible(text.strip()))
        if retry.was_not_applied(status, text):
            raise _Retryable(make_error(), pause=retry.retry_after(response.headers.get("retry-after")))
        raise make_error()

    def _read_body(
        self, response: httpx.Response, request: str, max_bytes: int | None = None
    ) -> Iterator[bytes]:
        """Yield the decompressed body in pieces."""
        bound = MAX_BODY if max_bytes is None else max_bytes
        inflate = zlib.decompressobj(31) if response.headers.get("content-encoding", "") == "gzip" else None
        total = 0
        for raw in response.iter_raw():
            data = raw
            while data:
                if inflate is None:
                    piece, data = data, b""
                else:
                    if inflate.eof:
                        inflate = zlib.decompressobj(31)
                    # A bounded piece at a time, so that a compression bomb never fills the memory.
                    piece = inflate.decompress(data, 1 << 20)
                    data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
                total += len(piece)
                if total > bound:
                    raise ResponseTooLarge(
                        f"{request}: more than {bound:,} bytes. Lower per_page= or request less"
                    )
                yield piece
        # A cut gzip body can satisfy its Content-Length. Only gzip's own end mark proves that it is complete.
        if inflate is not None and not inflate.eof and total:
            raise zlib.error("the compressed response is incomplete")
        self.count(bytes_received=total)

    def _check_response(self, response: httpx.Response, body: bytes, path: str, request: str) -> Response:
        """Return the response to a read, or raise the error that it stands for."""
        status = response.status_code
        start = body[:16].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
        if status != 200 or (start and start not in _JSON_STARTS):
            body = self._scrub.body(body)  # what is shown of it is text, whatever was asked for
        if 300 <= status < 400:
            location = self._scrub.visible(response.headers.get("location", "?"))
            raise NotNomad(
                f"{request}: redirected to {location}; allocframe does not follow redirects. "
                "Set NOMAD_ADDR to the final address"
            )
        if status != 200:
            text = body.decode("utf-8", "replace")
            if response.headers.get("content-type", "").startswith("text/html"):
                # An HTML page comes from a proxy. Only its status decides whether to retry, not its words.
                page = NotNomad(not_nomad_message(request, status, body))
                raise self._maybe_retryable(response, page)
            raise self._maybe_retryable(
                response, protocol.error_for("GET", path, status, self._scrub.visible(text.strip())), text
            )
        if start and start not in _JSON_STARTS:
            raise NotNomad(not_nomad_message(request, status, body))
        return Response(Headers.parse({k: self._scrub.text(v) for k, v in response.headers.items()}), body)

    def _maybe_retryable(self, response: httpx.Response, error: AllocframeError, text: str = "") -> Exception:
        """Return the error itself, or wrapped if a retry may help."""
        if not retry.is_transient(response.status_code, text):
            return error
        return _Retryable(error, pause=retry.retry_after(response.headers.get("retry-after")))

    def _unreachable(self, error: httpx.ConnectError) -> Exception:
        """Return the exception for a failed connection.

        It is retried only if the server has answered before.
        """
        text = self._scrub.visible(error)
        if is_tls_error(text):
            return self._tls_failed(text)
        failed = ConnectionFailed(
            f"nothing answers at {self._config.address}: {text}. "
            "Check that the agent is up, and NOMAD_ADDR (or address=)"
        )
        return _Retryable(failed) if self._has_answered or was_reset(error) else failed

    def _tls_failed(self, reason: str) -> ConnectionFailed:
        return ConnectionFailed(f"{self._config.address}: TLS failed: {reason}. {tls_hint(reason)}")

    def _server_name(self) -> dict[str, Any]:
        name = self._config.tls_server_name
        return {"sni_hostname": name} if name else {}

    def check_usable(self) -> httpx.Client:
        """Return the HTTP client.

        Raises
        ------
        AllocframeError
            Nothing can be sent: the client is closed, was made before a fork, or was interrupted.
        """
        if self._client is None:
            raise AllocframeError("this Client is closed. Make a new one")
        if self._pid != os.getpid():
            raise AllocframeError("this Client was made before a fork. Make a new one in the child process")
        if self.sockets.ended.is_set():
            raise AllocframeError("interrupted")
        return self._client

    def pause(self, seconds: float) -> None:
        """Wait for some seconds. Raise if the transport is aborted meanwhile."""
        if self.sockets.ended.wait(seconds):
            self.check_usable()

    def abort(self) -> None:
        """Abort every request in flight. Can be called from any thread; call `recover` afterwards."""
        self.sockets.end()

    def recover(self) -> None:
        """Make the transport usable again after an abort, once all requests have ended."""
        if self._client is not None:
            # First the new one: Ctrl-C may break the old one while it is closed.
            before, self._client = self._client, new_http_client(self._config)
            before.close()
        self.sockets.clear()

    def count(self, **more: int) -> None:
        """Add to the counters."""
        with self._lock:
            for name, number in more.items():
                setattr(self.stats, name, getattr(self.stats, name) + number)

    def close(self) -> None:
        """Close every connection. Can be called twice."""
        if self._client is not None:
            before, self._client = self._client, None
            before.close()

    def counters(self) -> dict[str, int]:
        """Return the counts as a dictionary."""
        return asdict(self.stats)


def parse_json(response: Response) -> Any:
    """Return the JSON of a response. Pass it as `check` to `Transport.get`."""
    try:
        return json.loads(response.body)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the response is not complete JSON: {error}") from None


def parse_allocation(alloc_id: str) -> Callable[[Response], dict[str, Any]]:
    """Return a `check` for `Transport.get` that takes nothing but the allocation of this ID."""

    def parse(response: Response) -> dict[str, Any]:
        alloc = parse_json(response)
        if not isinstance(alloc, dict) or alloc.get("ID") != alloc_id:
            raise DecodeError(f"the answer is not allocation {alloc_id}")
        return alloc

    return parse


@contextlib.contextmanager
def request_pool(transport: Transport, workers: int) -> Iterator[ThreadPool]:
    """Yield a thread pool; on error, cancel in-flight requests and reset the transport."""
    with ThreadPool(workers) as pool:
        try:
            yield pool
        except BaseException:
            transport.abort()
            pool.close()
            transport.recover()
            raise
