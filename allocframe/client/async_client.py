"""The client for asyncio and trio: the methods of `Client`, each in a thread while the event loop runs.

There is no second implementation. Answers are decoded in threads anyway, and Nomad's rules (paging, retries,
which change may be repeated) are hard enough to get right once. A new method of `Client` needs one
declaration here, with an example.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from .._utils.threads import documented_as
from ..errors import AllocframeError
from ..watch.async_watch import AsyncWatch
from ..watch.watch import Watch
from .client import Client
from .session import RETRIES, TIMEOUT

MAX_CALLS = 8
"""Calls at the same time: Nomad allows 100 connections from one address, and a call may need eight."""

_CLOSED_BEFORE_TURN = "this AsyncClient was closed before the call had its turn"

P = ParamSpec("P")
R = TypeVar("R")
Example: TypeAlias = "Callable[[AsyncClient], None]"


def _in_thread(
    method: Callable[Concatenate[Client, P], R],
) -> Callable[[Example], Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]]:
    """Make a coroutine method of a method of `Client`, with its parameters, types and documentation.

    The decorated function gives the name and the example, and is never called.
    """

    def decorate(example: Example) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
        async def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return await self._run(method, *args, **kwargs)

        _describe(call, method, example)
        return call

    return decorate


def _watching(
    method: Callable[Concatenate[Client, P], Watch],
) -> Callable[[Example], Callable[Concatenate[AsyncClient, P], AsyncWatch]]:
    """Make a method that returns an `AsyncWatch` of one that returns a `Watch`; else as `_in_thread`."""

    def decorate(example: Example) -> Callable[Concatenate[AsyncClient, P], AsyncWatch]:
        def call(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncWatch:
            return AsyncWatch(method(self._client, *args, **kwargs))

        _describe(call, method, example)
        call.__annotations__ = {**method.__annotations__, "return": AsyncWatch}
        signature = inspect.signature(method).replace(return_annotation=AsyncWatch)
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def _describe(call: Callable[..., Any], method: Callable[..., Any], example: Example) -> None:
    """Give a call the signature and documentation of `method`, and the name and example of `example`."""
    functools.update_wrapper(call, method, assigned=("__annotations__",))
    for attribute in ("__name__", "__qualname__", "__doc__"):
        setattr(call, attribute, getattr(example, attribute))
    documented_as(method)(call)


class _Call:
    """One call, which the event loop may abort while a thread carries it out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._aborted = False

    def begin(self, client: Client) -> None:
        with self._lock:
            if self._aborted:
                raise AllocframeError("interrupted")
            self._client = client

    def abort(self) -> None:
        """Shut down the sockets of reads under way. A change that was sent is finished, for the audit log."""
        with self._lock:
            self._aborted = True
            if self._client is not None:
                self._client._session.transport.abort()

    def end(self) -> None:
        """Make the client ready for the next call."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._aborted:
            client._session.transport.recover()


class AsyncClient:
    """`Client` for asyncio and trio: the same methods with the same arguments, awaited.

    It belongs to no event loop and may be shared by tasks. Eight calls run at a time, and further calls wait
    for their turn. A call returns what `Client` returns. A table of a `Snapshot` is built when it is first
    read, which takes a while if it is large: ``await asyncio.to_thread(lambda: snap.events)``.

    Cancelling a call, by ``asyncio.timeout`` or ``task.cancel()``, aborts its requests; other calls continue.
    A change (stop, signal, restart) that was already sent is not undone: `CancelledError` does not mean that
    nothing happened. The audit log (`read_audit`) has the result, and `close` waits for it. A command that
    `exec` started may run on.

    Parameters
    ----------
    address, token, namespace, region, ca_cert, ca_path, client_cert, client_key, tls_server_name
        As in `Client`.
    verify, timeout, retries, read_only
        As in `Client`.

    Examples
    --------
    >>> import asyncio
    >>> async def count():
    ...     async with af.AsyncClient(cluster.address, token=cluster.token) as client:
    ...         return len(await client.snapshot(namespace="*"))
    >>> asyncio.run(count()) == len(snap)
    True
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        namespace: str | None = None,
        region: str | None = None,
        ca_cert: str | None = None,
        ca_path: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        tls_server_name: str | None = None,
        verify: bool | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        read_only: bool = False,
    ) -> None:
        self._client = Client(
            address,
            token=token,
            namespace=namespace,
            region=region,
            ca_cert=ca_cert,
            ca_path=ca_path,
            client_cert=client_cert,
            client_key=client_key,
            tls_server_name=tls_server_name,
            verify=verify,
            timeout=timeout,
            retries=retries,
            read_only=read_only,
        )
        # A call takes a client of its own, so that aborting it shuts down its connections and no others.
        self._clients = [self._client]
        self._idle = [self._client]
        self._calls: set[_Call] = set()
        self._changed = threading.Condition()
        self._closed = False
        # A limiter belongs to an event loop, and an AsyncClient may serve one loop after the other.
        self._limiter: RunVar[CapacityLimiter] = RunVar("allocframe-limiter")

    @_in_thread(Client.snapshot)
    def snapshot(self) -> None:
        """
        >>> asyncio.run(aio.snapshot(namespace="*")).info["complete"]
        True
        """

    @_in_thread(Client.allocation)
    def allocation(self) -> None:
        """
        >>> asyncio.run(aio.allocation(running[1])).placement.shape[0]
        1
        """

    @_in_thread(Client.allocations)
    def allocations(self) -> None:
        """
        >>> len(asyncio.run(aio.allocations(running[1:4])))
        3
        """

    @_in_thread(Client.evaluations)
    def evaluations(self) -> None:
        """
        >>> len(asyncio.run(aio.evaluations(namespace="*"))) > 0
        True
        """

    @_in_thread(Client.history)
    def history(self) -> None:
        """
        >>> len(asyncio.run(aio.history(namespace="*")).changes) > 0
        True
        """

    @_in_thread(Client.stop)
    def stop(self) -> None:
        """
        >>> len(asyncio.run(aio.stop(running[0])).eval_id)
        36
        """

    @_in_thread(Client.signal)
    def signal(self) -> None:
        """
        >>> asyncio.run(aio.signal(running[1], "SIGHUP"))
        """

    @_in_thread(Client.restart)
    def restart(self) -> None:
        """
        >>> asyncio.run(aio.restart(running[1]))
        """

    @_in_thread(Client.exec)
    def exec(self) -> None:
        """
        >>> asyncio.run(aio.exec(running[1], ["echo", "hello"])).text
        'hello\\n'
        """

    @_in_thread(Client.exec_many)
    def exec_many(self) -> None:
        """
        >>> asyncio.run(aio.exec_many(running[1:4], ["uname"]))["exit_code"].tolist()
        [0, 0, 0]
        """

    @_in_thread(Client.logs)
    def logs(self) -> None:
        """
        >>> asyncio.run(aio.logs(running[1], "server", lines=3)).frame.columns.tolist()
        ['stream', 'file', 'offset', 'time', 'line']
        """

    @_in_thread(Client.usage)
    def usage(self) -> None:
        """
        >>> asyncio.run(aio.usage(running[1:4])).errors.empty
        True
        """

    @_watching(Client.watch)
    def watch(self) -> None:
        """
        >>> async def first():
        ...     async with aio.watch(namespace="*") as watch:
        ...         return await anext(watch)
        >>> asyncio.run(first()).full
        True
        """

    @property
    def read_only(self) -> bool:
        """Whether calls that change something are refused."""
        return self._client.read_only

    @property
    def counters(self) -> dict[str, int]:
        """Requests, retries, bytes, pages, duplicates and loops since the client was created."""
        with self._changed:
            counters = [Counter(client.counters) for client in self._clients]
        return {name: sum(counter[name] for counter in counters) for name in counters[0]}

    async def close(self) -> None:
        """Abort reads, wait for changes that were sent, and close every connection."""
        with self._changed:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.abort()
        await to_thread.run_sync(self._close_clients, abandon_on_cancel=True, limiter=CapacityLimiter(1))

    async def _run(self, method: Callable[Concatenate[Client, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a method of a client in a thread. Cancelling it raises at once and aborts its requests."""
        if self._closed:
            raise AllocframeError("this AsyncClient is closed; make a new one")
        call = _Call()
        try:
            limiter = self._limiter.get()
        except LookupError:
            self._limiter.set(limiter := CapacityLimiter(MAX_CALLS))

        def run() -> R:
            client = self._take_client(call)
            try:
                call.begin(client)
                return method(client, *args, **kwargs)
            finally:
                call.end()
                with self._changed:
                    self._idle.append(client)
                    self._calls.discard(call)
                    self._changed.notify_all()

        try:
            return await to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)
        except anyio.get_cancelled_exc_class():
            call.abort()
            raise

    def _take_client(self, call: _Call) -> Client:
        with self._changed:
            if self._closed:
                raise AllocframeError(_CLOSED_BEFORE_TURN)
            self._calls.add(call)
            if self._idle:
                return self._idle.pop()
        client = Client._from_session(self._client._session.clone())
        with self._changed:
            self._clients.append(client)
        return client

    def _close_clients(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._calls)
        for client in self._clients:
            client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._client!r}"
