"""Processes that a test starts beside itself, and ends."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def started(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a process. After the block, even a failed one, it has ended and its pipes are closed."""
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()  # no effect if the process has ended


@contextlib.contextmanager
def child(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start Python code with its output in a pipe."""
    with started([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as process:
        yield process
