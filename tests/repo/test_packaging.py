"""What the package declares is what it needs and what it holds."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from pathlib import Path

import package
import pytest

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
UNDECLARED = {
    "numpy": "pandas and pyarrow are made of it",
    "pyspark": "only in somebody's Spark session, which brings it",
    "IPython": "only in a kernel, which brings it",
}


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0].replace("-", "_").lower()


def closure(extra: str) -> set[str]:
    """Return the modules that an extra brings, with those of the extras that it includes and of the core."""
    brought = {name_of(requirement) for requirement in PROJECT["dependencies"]}
    for requirement in EXTRAS[extra]:
        if included := re.match(r"allocframe\[(.*)\]", requirement):
            brought |= set[str]().union(*(closure(name) for name in included[1].split(",")))
        else:
            brought.add(name_of(requirement))
    return brought


def imported(source: str) -> set[str]:
    """Return the top-level modules that a source imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    return (
        {name.partition(".")[0] for name in names}
        - set(sys.stdlib_module_names)
        - {"__future__", "allocframe"}
    )


def test_every_module_that_is_imported_is_a_declared_dependency() -> None:
    declared = set[str]().union(*(closure(extra) for extra in EXTRAS))
    sources = [path.read_text() for path in (ROOT / "allocframe").rglob("*.py")]
    used = set[str]().union(*map(imported, sources))
    assert used - declared - set(UNDECLARED) == set()


def test_lab_and_the_extras_in_it_bring_what_the_notebooks_import() -> None:
    used = set()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        for cell in (cell for cell in cells if cell["cell_type"] == "code"):
            lines = [line for line in "".join(cell["source"]).splitlines() if not line.startswith("%")]
            used |= imported("\n".join(lines))
    assert used - closure("lab") - set(UNDECLARED) == set()
    assert {"deltalake", "ipywidgets", "anywidget", "websockets", "matplotlib"} <= closure("lab")


@pytest.mark.parametrize(
    "requirement", [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
)
def test_every_dependency_has_a_lower_bound(requirement: str) -> None:
    assert requirement.startswith("allocframe[") or ">=" in requirement


def test_every_extra_is_installed_alone_and_tried_by_make_package() -> None:
    assert set(package.CHECKS) == {"core", *EXTRAS}


def test_the_notice_names_what_the_terminal_is_bundled_of() -> None:
    notice = (ROOT / "NOTICE").read_text()
    for name, version in json.loads((ROOT / "js" / "package.json").read_text())["dependencies"].items():
        assert f"{name} {version}" in notice
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]


def test_the_changelog_has_sections_for_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    version = re.search(r'"(.*)"', (ROOT / "allocframe" / "_version.py").read_text())
    assert version
    assert re.search(
        rf"^## {re.escape(version[1])} - (Unreleased|\d{{4}}-\d\d-\d\d)$", changelog, re.MULTILINE
    )
    sections = re.findall(r"^### (.*)$", changelog, re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert len(sections) == len(set(sections)) * changelog.count("\n## ")
