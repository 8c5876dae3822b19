"""Folders that are made once in a run, for the tests of every worker: what is in them takes long to make."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from allocframe._utils.locks import lock_file


def once(places: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder that the first test which asks for it fills, whichever worker runs it."""
    base = places.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the whole run: each worker has a folder in it
    folder, complete = base / "once" / name, base / "once" / f"{name}.complete"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        lock_file(lock.fileno(), wait=True)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a test left that failed to fill it
            folder.mkdir()
            fill(folder)
            complete.touch()
    return folder
