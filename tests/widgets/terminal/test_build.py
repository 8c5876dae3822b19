"""The terminal's script in the package is built from its source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
STATIC = ROOT / "allocframe" / "widgets" / "terminal" / "static"


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm (Node.js 20 or newer)")
def test_the_script_in_the_package_is_built_from_its_source(tmp_path: Path) -> None:
    source = tmp_path / "js"
    shutil.copytree(ROOT / "js", source, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=source, check=True, capture_output=True)
    output = tmp_path / "allocframe" / "widgets" / "terminal" / "static"
    subprocess.run(["npm", "run", "build"], cwd=source, check=True, capture_output=True)
    assert {path.name for path in output.iterdir()} == {path.name for path in STATIC.iterdir()}
    for path in output.iterdir():
        assert path.read_bytes() == (STATIC / path.name).read_bytes(), (
            f"{path.name} is outdated: run `make js` and commit it"
        )


def test_the_script_loads_nothing_from_elsewhere() -> None:
    script = (STATIC / "terminal.js").read_text()
    for call in ("fetch(", "XMLHttpRequest", "WebSocket(", "import(", "importScripts(", "eval("):
        assert call not in script, call
