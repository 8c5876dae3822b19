"""The watch for asyncio and trio."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, wait
from typing import Self

import anyio

from .._utils.threads import documented_as, start_thread, wait_for, wait_until_done
from ..errors import AllocframeError
from ..snapshot.snapshot import Snapshot
from .change import Change
from .watch import Watch

TURN = 2.0
"""Seconds that a watch listens to its stream before it checks whether it was closed or somebody needs its
lock.
"""

CLOSE_TIMEOUT = 10.0
"""Seconds that closing a watch waits for its thread."""


class AsyncWatch:
    """Watch a cluster from asyncio: ``async for change in watch``. Made by `AsyncClient.watch`.

    A watch belongs to one task. Cancelling a wait loses no change: the next wait returns it.

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
        self._pending: Future[Change | None] | None = None

    @documented_as(Watch.poll)
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
            pending = self._next_poll(left)
            with anyio.move_on_after(_finite(left)):
                await wait_until_done(pending)
            if not pending.done():
                return None
            self._pending = None
            change = pending.result()
            if change is not None or time.monotonic() >= end:
                return change

    def _next_poll(self, left: float) -> Future[Change | None]:
        """Return the poll that a cancelled wait left behind, or start a new one.

        Listening to a stream is cut into turns, so that its thread ends soon after a wait is cancelled. A
        blocking query is not, because each turn would be a request.
        """
        if self._pending is None:
            turn = min(left, TURN) if self._watch.mode == "stream" else left
            self._pending = start_thread(lambda: self._watch.poll(_finite(turn)))
        return self._pending

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

    @documented_as(Watch.heartbeat)
    async def heartbeat(self) -> Change | None:
        """
        >>> async def quiet():
        ...     async with aio.watch(namespace="*") as watch:
        ...         await anext(watch)
        ...         return await watch.heartbeat()
        >>> len(asyncio.run(quiet()) or ())
        0
        """
        return await wait_for(start_thread(self._watch.heartbeat))

    async def snapshot(self) -> Snapshot:
        """Return the present state, after the last change that was reported, as a snapshot that later changes
        leave alone; see `Watch`.

        Examples
        --------
        >>> async def first():
        ...     async with aio.watch(namespace="*") as watch:
        ...         change = await anext(watch)
        ...         return len(change.added) == len(await watch.snapshot())
        >>> asyncio.run(first())
        True
        """
        return await wait_for(start_thread(lambda: self._watch.snapshot))

    @property
    def mode(self) -> str:
        """How changes are found, "stream" or "blocking"."""
        return self._watch.mode

    @property
    def no_stream(self) -> str | None:
        """Why there is no event stream although one was wanted, so that `mode` is "blocking"; else None."""
        return self._watch.no_stream

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
        await wait_for(start_thread(self._end))

    def _end(self) -> None:
        pending = self._pending
        self._watch.close()
        if pending is not None:
            wait([pending], CLOSE_TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._watch).replace("<Watch", "<AsyncWatch", 1)


def _finite(seconds: float) -> float | None:
    return None if seconds == math.inf else seconds
