"""Locks on files, on systems that have them."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

can_lock = fcntl is not None
"""Whether `lock_file` does anything."""


def lock_file(descriptor: int, *, wait: bool) -> None:
    """Hold an open file against other processes until it is closed; without ``fcntl`` do nothing.

    Raises
    ------
    OSError
        Another process holds it and `wait` is False, or its file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
