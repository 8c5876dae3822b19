"""Memory that allocators hold without using it."""

from __future__ import annotations

import gc
import subprocess
import sys

import pyarrow as pa
import pytest

from allocframe._utils.memory import decoding

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


def test_while_several_decode_arrow_uses_the_c_librarys_memory_and_afterwards_its_own_again() -> None:
    before = pa.default_memory_pool()
    own = next(name for name in pa.supported_memory_backends() if name != "system")
    pa.set_memory_pool(getattr(pa, f"{own}_memory_pool")())
    try:
        first, second = decoding(), decoding()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert pa.default_memory_pool().backend_name == "system"
        second.__exit__(None, None, None)
        assert pa.default_memory_pool().backend_name == own
        assert gc.isenabled()
    finally:
        pa.set_memory_pool(before)


def test_an_error_while_decoding_leaves_python_and_arrow_as_they_were() -> None:
    own = pa.default_memory_pool().backend_name
    with pytest.raises(ZeroDivisionError), decoding():
        _ = 1 / gc.isenabled()  # none looks for cycles here
    assert gc.isenabled()
    assert pa.default_memory_pool().backend_name == own


@pytest.mark.parametrize("chosen", [None, "default"])
def test_arrow_takes_the_memory_of_the_c_library_unless_the_user_has_chosen(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARROW_DEFAULT_MEMORY_POOL", raising=False)
    if chosen:
        monkeypatch.setenv("ARROW_DEFAULT_MEMORY_POOL", chosen)
    script = (
        "import os, allocframe, pyarrow as pa\n"
        "print(os.environ['ARROW_DEFAULT_MEMORY_POOL'], pa.default_memory_pool().backend_name)"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    setting, pool = answer.stdout.split()
    assert setting == (chosen or "system")
    assert chosen or pool == "system"
