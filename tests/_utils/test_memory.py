"""Memory that allocators hold without using it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAPS = """
import ctypes, sys, tempfile, threading
from pathlib import Path
from allocframe._utils import memory

if sys.argv[1] == "shared":
    memory.share_heaps()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
barrier = threading.Barrier(8)

def take():
    libc.malloc(ctypes.c_size_t(4000))
    barrier.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(Path(file.name).read_text().count("<heap nr="))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc, which is Linux's")
def test_threads_of_a_process_that_runs_for_months_share_two_heaps() -> None:
    heaps = {
        mode: int(subprocess.run([sys.executable, "-c", HEAPS, mode], check=True, capture_output=True).stdout)
        for mode in ("shared", "separate")
    }
    assert heaps["shared"] <= 2 < heaps["separate"]
