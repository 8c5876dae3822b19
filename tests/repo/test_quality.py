"""The code is clean, modules stay short, and pages name files that exist. `make lint` checks types, too."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = {
    "ruff check": ["-m", "ruff", "check", "."],
    "ruff format": ["-m", "ruff", "format", "--check", "."],
    "import contracts": [
        "-c",
        "from importlinter.cli import lint_imports_command; lint_imports_command()",
        "--no-cache",
    ],
}
MOST_LINES = 500
"""Lines of a module; the public face of the client may be longer."""


@pytest.mark.parametrize("tool", TOOLS)
def test_the_code_is_clean(tool: str) -> None:
    command = [sys.executable, *TOOLS[tool]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_have_at_most_500_lines() -> None:
    modules = {str(path.relative_to(ROOT)): path for path in (ROOT / "allocframe").rglob("*.py")}
    modules.pop("allocframe/client/client.py")
    lines = {name: len(path.read_text().splitlines()) for name, path in modules.items()}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "X"


def test_no_error_text_ends_with_a_full_stop() -> None:
    """Programs put it into lines of their own."""
    raised = [
        text_of(node.exc.args[0])
        for path in (ROOT / "allocframe").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
    ]
    assert len(raised) > 300
    assert [text for text in raised if re.search(r"(?<!\.\.)\.$", text)] == []


def test_every_path_that_contributing_names_exists() -> None:
    paths = r"`((?:allocframe/|docs/|tests/|tools/|js/)?[\w/]+(?:\.(?:py|js|css|md)|/))`"
    named = re.findall(paths, (ROOT / "CONTRIBUTING.md").read_text())
    missing = [
        name for name in named if not (ROOT / name).exists() and not (ROOT / "allocframe" / name).exists()
    ]
    assert len(named) > 15
    assert missing == []


def test_every_test_file_that_the_makefile_names_exists() -> None:
    named = re.findall(r"\b(?:tests|tools|benchmarks|docs)/[\w/]+\.py\b", (ROOT / "Makefile").read_text())
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []
