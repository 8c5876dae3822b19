"""The notebooks run, say what is stored in them, and hold neither a token nor a host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from allocframe.cli._lab import NOTEBOOKS

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.timeout(600)
def test_the_notebooks_run_and_show_what_is_stored_in_them(tmp_path: Path) -> None:
    """One process runs them all: what nbval imports takes seconds. Each has a kernel of its own."""
    command = [sys.executable, "-m", "pytest", "-p", "nbval.plugin", "--nbval", "-q", "-c", os.devnull]
    command += ["-p", "no:cacheprovider", f"--nbval-sanitize-with={Path(__file__).with_name('sanitize.cfg')}"]
    command += [str(ROOT / "notebooks" / name) for name in NAMES]
    settings = {
        "PYTHONSTARTUP": str(ROOT / "tests" / "helpers" / "fixed_clock.py"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # importing the others takes a second
        "TQDM_DISABLE": "1",  # a slow machine shows a progress bar, a fast one does not
    }
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, check=False,
        timeout=570,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", NAMES)
def test_stored_outputs_hold_no_token_host_or_path_and_none_is_missing(name: str) -> None:
    stored = json.loads((NOTEBOOKS / name).read_text())
    cells = stored["cells"]
    assert set(stored["metadata"]) == {"kernelspec", "language_info"}
    outputs = json.dumps([cell.get("outputs") for cell in cells])
    shown = re.sub(r'"image/png": "[^"]*"', "", outputs)
    for secret in (
        "127.0.0.1",
        "localhost",
        "NOMAD_TOKEN",
        "/home/",
        "/root/",
        "/tmp/",
        str(ROOT),
        os.uname().nodename,
    ):
        assert secret not in shown
    assert "image/png" in outputs or name == "04_act.ipynb"
    assert [
        cell["id"] for cell in cells if cell["cell_type"] == "code" and cell["execution_count"] is None
    ] == []
    assert '"output_type": "error"' not in outputs


def test_there_is_one_copy_of_the_notebooks_and_the_package_finds_it() -> None:
    assert NOTEBOOKS.resolve() == ROOT / "notebooks"
    assert NAMES[:4] == ["01_first_look.ipynb", "02_postmortem.ipynb", "03_cluster.ipynb", "04_act.ipynb"]


def test_acting_is_left_to_those_who_ask_for_it() -> None:
    code = ["".join(cell["source"]) for cell in json.loads((NOTEBOOKS / "04_act.ipynb").read_text())["cells"]]
    assert any('act = "NOMAD_ADDR" not in os.environ' in source for source in code)
    acting = [source for source in code if re.search(r"client\.(stop|signal|restart|exec_many)\(", source)]
    assert len(acting) == 5
    assert [source for source in acting if not re.search(r"^if act\b", source, re.MULTILINE)] == []
