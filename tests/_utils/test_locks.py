"""Systems without ``fcntl``, such as Windows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from allocframe._utils.locks import lock_file

WITHOUT = """
import sys
sys.modules["fcntl"] = None
import ctypes
def missing(*_): raise OSError("no such library")
ctypes.CDLL = missing
import allocframe as af
for name in set(af.__all__) - {"sim"}:  # the simulated exec runs on a Unix terminal
    getattr(af, name)
from allocframe._utils import locks, memory
memory.release_memory()
memory.share_heaps()
locks.lock_file(0, wait=True)
print(len(af.__all__))
"""


def test_every_name_of_the_package_is_there_without_fcntl_and_glibc() -> None:
    result = subprocess.run([sys.executable, "-c", WITHOUT], check=True, capture_output=True, text=True)
    assert int(result.stdout) > 30


def test_a_file_is_held_until_it_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = os.open(tmp_path / "lock", os.O_WRONLY | os.O_CREAT)
    second = os.open(tmp_path / "lock", os.O_WRONLY)
    try:
        lock_file(first, wait=False)
        with pytest.raises(BlockingIOError):
            lock_file(second, wait=False)
        os.close(first)
        lock_file(second, wait=False)
    finally:
        os.close(second)
