"""Temporary folders of this process. Those that killed processes have left are removed.

The pages of a large cluster have gigabytes, and a process that is killed cannot remove them. So each folder
holds a file that its process keeps locked, and the system ends the lock with the process. The next process
removes what it can lock. On Windows, and where files cannot be locked, folders stay.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .locks import can_lock, lock_file

_PREFIX = "allocframe-"
_MARK = ".in-use"

_held: dict[Path, int] = {}
"""The open mark of each folder of this process."""


def make_folder() -> Path:
    """Return a new folder that only this user can read, for `remove_folder`."""
    _remove_leftovers()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if can_lock:
        with contextlib.suppress(OSError):  # without a mark, nobody will take it for a leftover
            _mark(folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder of `make_folder` with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    if (descriptor := _held.pop(folder, None)) is not None:
        os.close(descriptor)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Yield the path of a new folder, and remove it at the end of the block."""
    folder = make_folder()
    try:
        yield str(folder)
    finally:
        remove_folder(folder)


def _mark(folder: Path) -> None:
    unlocked = folder / f"{_MARK}.new"
    descriptor = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        lock_file(descriptor, wait=False)
        os.write(descriptor, _machine())
        # under its name, the mark is locked from the beginning
        unlocked.rename(folder / _MARK)
    except BaseException:
        os.close(descriptor)
        unlocked.unlink(missing_ok=True)
        raise
    _held[folder] = descriptor


def _machine() -> bytes:
    """Return what names this run of this machine: other machines may share the folder, and not the locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return platform.node().encode()


@functools.cache
def _remove_leftovers() -> None:
    """Remove this user's folders whose process was killed; once is enough for each process."""
    if not can_lock:
        return
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):  # no mark, or its process lives
                    _remove_if_left(Path(entry.path))


def _remove_if_left(folder: Path) -> None:
    if folder.lstat().st_uid != os.getuid():
        return
    descriptor = os.open(folder / _MARK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        lock_file(descriptor, wait=False)
        if os.read(descriptor, 1000) == _machine():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
