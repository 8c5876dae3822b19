"""Memory that is free but still held by allocators: after large steps it is given back, or the peak of the next one adds to it."""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa

LARGE = 1_000_000
"""Rows from which on a step is large."""

_M_ARENA_MAX = -8
"""The number of this setting in glibc's malloc.h."""


def give_back() -> None:
    """Let the system have what Arrow and the C library hold without using it."""
    pa.default_memory_pool().release_unused()
    _ask_glibc("malloc_trim", 0)


def share_heaps() -> None:
    """Let the threads of this process share two heaps of the C library, instead of eight for each core.

    For processes that run for months: what one thread has freed is then used by the others, and the holes in heaps do not add up.
    """
    _ask_glibc("mallopt", _M_ARENA_MAX, 2)


def _ask_glibc(function: str, *given: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps less
        getattr(ctypes.CDLL("libc.so.6"), function)(*given)
