"""What the client for asyncio is made of: calls in threads that may be given up, and the watch.

A call takes a client of its own from a few that are kept, so that giving it up breaks off its connections and no other's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ..errors import AllocframeError
from ..snapshot.snapshot import Snapshot
from ..watch.change import Change
from ..watch.watch import Watch
from .client import Client

MOST_CALLS = 8
"""Calls at the same time; others wait for their turn. Nomad allows 100 connections from one address, and a call may need eight."""

TURN = 2.0
"""Seconds that a watch listens to its stream before it looks again whether anybody wants something else of it."""

ENDING = 10.0
"""Seconds that closing a watch waits for its thread at most."""

_NO_TURN = "this AsyncClient was closed before the call had its turn"

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def as_in(method: Callable[..., Any]) -> Callable[[F], F]:
    """Give a method the documentation of the client's, and its own example."""

    def documented(mine: F) -> F:
        told, _, _ = inspect.cleandoc(method.__doc__ or "").partition("\n\nExamples\n")
        mine.__doc__ = f"{told}\n\nExamples\n--------\n{inspect.cleandoc(mine.__doc__ or '')}\n"
        return mine

    return documented


async def _ended(future: Future[Any]) -> None:
    """Wait until a thread has done something; a wait that is cancelled leaves the thread alone."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, waiter)

    future.add_done_callback(wake)
    await waiter


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds


async def _come(future: Future[R]) -> R:
    """Return what a thread returns."""
    await _ended(future)
    return future.result()


def _aside(function: Callable[[], R]) -> Future[R]:
    """Run a function in a thread that ends with it, and keeps no program from ending."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="allocframe-aside", daemon=True).start()
    return future


class _Call:
    """One call, which may be given up from the event loop while a thread carries it out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._given_up = False

    def begin(self, client: Client) -> None:
        with self._lock:
            if self._given_up:
                raise AllocframeError("interrupted")
            self._client = client

    def give_up(self) -> None:
        """Break off what the call waits for. A change that was sent is let come to its end, which the audit log tells."""
        with self._lock:
            self._given_up = True
            if self._client is not None:
                self._client._transport.abort()

    def end(self) -> None:
        """Have the client ready for the next call."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None and self._given_up:
            client._transport.recover()


class Calls:
    """Carries out calls of a client in threads, a few at a time."""

    def __init__(self, client: Client) -> None:
        self._first = client
        self._lock = threading.Lock()
        self._clients = [client]
        self._idle = [client]
        self._calls: set[_Call] = set()
        self._pool = ThreadPoolExecutor(MOST_CALLS, "allocframe-async")
        self._closed = False

    async def make(self, method: Callable[Concatenate[Client, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Carry out a method of a client of the call's own, in a thread."""
        if self._closed:
            raise AllocframeError("this AsyncClient is closed; make a new one")
        call, context = _Call(), contextvars.copy_context()
        future = self._pool.submit(
            context.run, self._carry_out, call, lambda client: method(client, *args, **kwargs)
        )
        try:
            return await _come(future)
        except asyncio.CancelledError:
            future.cancel()
            call.give_up()
            raise
        except CancelledError:
            raise AllocframeError(_NO_TURN) from None

    def _carry_out(self, call: _Call, asked: Callable[[Client], R]) -> R:
        client = self._taken(call)
        try:
            call.begin(client)
            return asked(client)
        finally:
            call.end()
            with self._lock:
                self._idle.append(client)
                self._calls.discard(call)

    def _taken(self, call: _Call) -> Client:
        with self._lock:
            if self._closed:
                raise AllocframeError(_NO_TURN)
            self._calls.add(call)
            if self._idle:
                return self._idle.pop()
        made = self._first._another()
        with self._lock:
            self._clients.append(made)
        return made

    def stats(self) -> dict[str, int]:
        """Return what all clients have counted."""
        with self._lock:
            counted = [Counter(client.stats) for client in self._clients]
        return {name: sum(one[name] for one in counted) for name in counted[0]}

    async def close(self) -> None:
        """Give up what is read, wait for changes that were sent, and close every connection."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.give_up()
        await _come(_aside(self._end))

    def _end(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for client in self._clients:
            client.close()


class AsyncWatch:
    """A cluster that is watched from asyncio: ``async for change in watch``. Made by `AsyncClient.watch`.

    It belongs to one task. A wait that is given up loses no change: the next one gets it.

    Examples
    --------
    >>> async def first_two():
    ...     async with aio.watch(namespace="*") as watch:
    ...         first, none = await watch.poll(), await watch.poll(timeout=0.1)
    ...     return first.full, none
    >>> asyncio.run(first_two())
    (True, None)
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._coming: Future[Change | None] | None = None

    @as_in(Watch.poll)
    async def poll(self, timeout: float | None = None) -> Change | None:
        """
        >>> async def first():
        ...     async with aio.watch(namespace="*") as watch:
        ...         return await watch.poll(timeout=60)
        >>> len(asyncio.run(first()).added) > 0
        True
        """
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        while True:
            left = max(end - time.monotonic(), 0.0)
            coming = self._asked(left)
            try:
                async with asyncio.timeout(_finite(left)):
                    await _ended(coming)
            except TimeoutError:
                return None
            self._coming = None
            change = coming.result()
            if change is not None or time.monotonic() >= end:
                return change

    def _asked(self, left: float) -> Future[Change | None]:
        """Return what comes next: what an earlier wait gave up on, or else what is asked for now.

        Listening to a stream can be cut into turns; a blocking query cannot, for each turn would be a request.
        """
        if self._coming is None:
            turn = min(left, TURN) if self._watch.mode == "stream" else left
            self._coming = _aside(lambda: self._watch.poll(_finite(turn)))
        return self._coming

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        try:
            change = await self.poll()
        except AllocframeError:
            if self.closed:
                raise StopAsyncIteration from None
            raise
        assert change is not None  # noqa: S101 - without a timeout there is one
        return change

    @as_in(Watch.heartbeat)
    async def heartbeat(self) -> Change | None:
        """
        >>> async def quiet():
        ...     async with aio.watch(namespace="*") as watch:
        ...         await anext(watch)
        ...         return await watch.heartbeat()
        >>> len(asyncio.run(quiet()))
        0
        """
        return await _come(_aside(self._watch.heartbeat))

    async def snapshot(self) -> Snapshot:
        """Return the present state, after the last change that was told, as a snapshot that later changes leave alone; see `Watch`.

        Examples
        --------
        >>> async def first():
        ...     async with aio.watch(namespace="*") as watch:
        ...         change = await anext(watch)
        ...         return len(change.added) == len(await watch.snapshot())
        >>> asyncio.run(first())
        True
        """
        return await _come(_aside(lambda: self._watch.snapshot))

    @property
    def mode(self) -> str:
        """How it watches, "stream" or "blocking"."""
        return self._watch.mode

    @property
    def last_error(self) -> str | None:
        """What keeps it from watching at present; None while all is well."""
        return self._watch.last_error

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._watch.closed

    @property
    def stats(self) -> dict[str, int]:
        """What was counted so far; see `Watch`."""
        return self._watch.stats

    async def close(self) -> None:
        """Stop watching: no thread and no connection of it is left. The snapshot stays."""
        await _come(_aside(self._end))

    def _end(self) -> None:
        coming = self._coming
        self._watch.close()
        if coming is not None:
            wait([coming], ENDING)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._watch).replace("<Watch", "<AsyncWatch", 1)
