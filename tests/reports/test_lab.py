"""``allocframe demo --lab`` opens copies of the notebooks on the simulated cluster, and ends cleanly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads the children of a process from /proc")
def test_lab_serves_the_notebooks_to_kernels_that_find_the_cluster_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "allocframe-notebooks").mkdir()
    (tmp_path / "allocframe-notebooks" / "01_first_look.ipynb").write_text("mine")
    command = [
        sys.executable,
        "-m",
        "allocframe",
        "demo",
        "--lab",
        "--no-browser",
        "--story",
        "calm",
        "--allocations",
        "20",
    ]
    places = {
        name: str(tmp_path / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, **places, "NOMAD_ADDR": "http://elsewhere"},
        stderr=subprocess.PIPE,
        text=True,
    ) as lab:
        try:
            assert lab.stderr
            address, token = _address_and_token(iter(lab.stderr.readline, ""))
            assert address.startswith("http://127.0.0.1:")
            entries = _get(f"{address}api/contents", token)["content"]
            assert {"01_first_look.ipynb", "04_act.ipynb"} <= {entry["name"] for entry in entries}
            assert (tmp_path / "allocframe-notebooks" / "01_first_look.ipynb").read_text() == "mine"
            recorder = (tmp_path / "allocframe-notebooks" / "05_recorder.ipynb").read_text()
            linked = re.findall(r"\]\((docs/[^)#]+)", recorder)
            assert linked, "links to the manual, which JupyterLab can open"
            assert [link for link in linked if not (tmp_path / "allocframe-notebooks" / link).exists()] == []
            server = _child(lab.pid)
            settings = dict(
                part.split("=", 1)
                for part in Path(f"/proc/{server}/environ").read_text().split("\0")
                if "=" in part
            )
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", settings["NOMAD_ADDR"])
            assert settings["NOMAD_TOKEN"]
            assert settings["ALLOCFRAME_DEMO"], "the notebooks may act, since nothing is real"
            lab.send_signal(signal.SIGINT)
            output = lab.stderr.read()
            assert lab.wait(60) == 0
            assert "Traceback" not in output
            assert not Path(f"/proc/{server}").exists()
        finally:
            lab.kill()


def _address_and_token(lines: Any) -> tuple[str, str]:
    """Return the address and token that JupyterLab prints once it is ready."""
    for line in lines:
        if match := re.search(r"(http://127\.0\.0\.1:\d+/)lab\S*\?token=(\w+)", line):
            return match[1], match[2]
    raise AssertionError("JupyterLab ended before it was ready")


def _get(url: str, token: str) -> Any:
    """Read from JupyterLab, which prints its address a moment before it listens."""
    request = urllib.request.Request(url, headers={"Authorization": f"token {token}"})
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _child(parent: int) -> int:
    return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])


def test_lab_without_jupyterlab_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import importlib.util as util, sys; find = util.find_spec;"
        "util.find_spec = lambda name, *more: None if name == 'jupyterlab' else find(name, *more);"
        "sys.argv = ['allocframe', 'demo', '--lab', '--allocations', '20', '--story', 'calm'];"
        "from allocframe.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "pip install 'allocframe[lab]'" in done.stderr
