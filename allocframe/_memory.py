"""Memory that is free but still held by allocators: after large steps it is given back, or the peak of the next one adds to it."""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa

LARGE = 1_000_000
"""Rows from which on a step is large."""


def give_back() -> None:
    """Let the system have what Arrow and the C library hold without using it."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # another C library than GNU's keeps less
        ctypes.CDLL("libc.so.6").malloc_trim(0)
