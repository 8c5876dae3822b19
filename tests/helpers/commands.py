"""Commands of allocframe, run in this process: a process of their own would import everything again."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from allocframe import cli


def run(*arguments: object, cwd: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as ``python -W error -m allocframe`` would, with these settings of the environment."""
    words = ["allocframe", *map(str, arguments)]
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        # It also undoes the way of showing warnings that the command line sets.
        warnings.catch_warnings(),
    ):
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", words)
        warnings.simplefilter("error")
        code = cli.run()
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())


def run_as_process(
    *arguments: object, cwd: Path | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as people do."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "allocframe", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
