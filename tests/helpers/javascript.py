"""The packages of `js/`, installed once for all tests."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "js"


def installed() -> Path:
    """Return a copy of `js/` with its packages; skip the test without npm."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm (Node.js 20 or newer)")
    BUILD.mkdir(parents=True, exist_ok=True)
    lock = (ROOT / "js" / "package-lock.json").read_text()
    stamp = BUILD / ".installed"
    # Several workers of one run want it.
    with (BUILD / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        shutil.copytree(ROOT / "js", BUILD, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        if not stamp.exists() or stamp.read_text() != lock:
            command = ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"]
            subprocess.run(command, cwd=BUILD, check=True, capture_output=True)
            stamp.write_text(lock)
    return BUILD


def axe() -> str:
    """Return axe-core, which checks a page for people who cannot see or use a mouse."""
    return (installed() / "node_modules" / "axe-core" / "axe.min.js").read_text()
