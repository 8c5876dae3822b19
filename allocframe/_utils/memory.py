"""Give memory back to the system that allocators hold without using it.

What they hold after a large step would add to the peak of the next one.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import threading
from collections.abc import Iterator
from typing import Any

MANY_ROWS = 1_000_000
"""A table of this many rows is large: making it leaves memory worth giving back."""

_M_ARENA_MAX = -8
"""The number of this setting in glibc's malloc.h."""

_replacing = threading.Lock()
_replacers = 0
_own_pool: Any = None
_heaps: int | None = None


def release_memory() -> None:
    """Return to the system what Arrow and the C library hold without using it."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    _call_glibc("malloc_trim", 0)


@functools.cache  # what it says below holds until the process ends
def keep_freed_memory() -> None:
    """Let the C library keep a few dozen megabytes of what is freed, for what is allocated next.

    It would give each large block back to the system and ask for it again, which takes a tenth of the time
    that decoding takes. It stops that by itself once it has seen a block of this size freed.
    """
    bytearray(31 << 20)


def share_heaps(most: int = 2) -> None:
    """Let the threads of this process share two heaps of the C library, or `most`, not eight for each core.

    Other threads then reuse what one has freed, and the holes in heaps do not add up: those of a large
    cluster's report take a tenth of its memory. Heaps that exist stay, and so does a lower number.
    """
    global _heaps
    with _replacing:
        if _heaps is None or most < _heaps:
            _heaps = most
            _call_glibc("mallopt", _M_ARENA_MAX, most)


WORTH_RETURNING = 100_000
"""From this many events on, the memory that reading and computing on them leaves is worth giving back."""


def give_back(events: int) -> None:
    """Return to the system what nobody uses, if it is about enough events for that to be worth it."""
    if events > WORTH_RETURNING:
        release_memory()


@contextlib.contextmanager
def return_memory(events: int) -> Iterator[None]:
    """Let Arrow use the C library's memory in this block, and give back at its end what nobody uses.

    Arrow's own pool keeps a few hundred megabytes of what was freed, whatever it is asked. For few events,
    this does nothing.
    """
    if events <= WORTH_RETURNING:
        yield
        return
    try:
        with _without_arrows_pool():
            yield
    finally:
        release_memory()


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Make this process fit for decoding much JSON in this block, in four fifths of the CPU time.

    Arrow's own pool gives memory back soon after it is freed, and asks for it again. Python looks for cycles
    among records, which have none.
    """
    keep_freed_memory()
    share_heaps(max(os.cpu_count() or 1, 2))
    with _without_arrows_pool(), without_cycle_collection():
        yield


@contextlib.contextmanager
def _without_arrows_pool() -> Iterator[None]:
    """Let Arrow use the C library's memory, until the last such block ends."""
    import pyarrow as pa

    global _replacers, _own_pool
    with _replacing:
        if not _replacers:
            _own_pool = pa.default_memory_pool()
            pa.set_memory_pool(pa.system_memory_pool())
        _replacers += 1
    try:
        yield
    finally:
        with _replacing:
            _replacers -= 1
            if not _replacers:
                pa.set_memory_pool(_own_pool)


def _call_glibc(function: str, *arguments: int) -> None:
    # Other C libraries lack these functions; Python may even lack ctypes. Then memory is only used less well.
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        getattr(ctypes.CDLL("libc.so.6"), function)(*arguments)


@contextlib.contextmanager
def without_cycle_collection() -> Iterator[None]:
    """Keep Python from looking for cycles while very many objects without any are made.

    It looks at all objects again and again as their number grows: of a log of 1 GB, that is most of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
