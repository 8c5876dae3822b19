"""The scripts of the widgets in the package are built from their source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import javascript
import pytest

STATIC = javascript.ROOT / "allocframe" / "widgets" / "static"


def test_the_scripts_in_the_package_are_built_from_their_source(tmp_path: Path) -> None:
    source = tmp_path / "js"
    shutil.copytree(javascript.installed(), source, symlinks=True)
    subprocess.run(["npm", "run", "build"], cwd=source, check=True, capture_output=True)
    output = tmp_path / "allocframe" / "widgets" / "static"
    assert {path.name for path in output.iterdir()} == {path.name for path in STATIC.iterdir()}
    for path in output.iterdir():
        assert path.read_bytes() == (STATIC / path.name).read_bytes(), (
            f"{path.name} is outdated: run `make js` and commit it"
        )


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.glob("*.js")))
def test_no_script_loads_anything_from_elsewhere(name: str) -> None:
    script = (STATIC / name).read_text()
    for call in ("fetch(", "XMLHttpRequest", "WebSocket(", "import(", "importScripts(", "eval("):
        assert call not in script, call
