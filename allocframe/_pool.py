"""Requests at the same time: once one fails, or somebody interrupts, none of them goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from .nomad.transport import Transport


@contextlib.contextmanager
def requesting(transport: Transport, workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads for so many requests; an error in the block breaks off those under way, and the transport can be used again."""
    with ThreadPoolExecutor(workers, "allocframe") as pool:
        try:
            yield pool
        except BaseException:
            transport.abort()
            pool.shutdown(wait=True, cancel_futures=True)
            transport.recover()
            raise
