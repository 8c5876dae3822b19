"""What the documents say is held to the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import allocframe as af

ROOT = Path(__file__).parents[2]
AUDIT = (ROOT / "docs" / "audit.md").read_text()
NODE = re.compile(r"`(tests/[\w/]+\.py::test_\w+)`")


def audited(section: str) -> list[list[str]]:
    """Return the cells of each line of a section's table."""
    body = re.split(r"^## ", AUDIT, flags=re.M)
    lines = next(part for part in body if part.startswith(section)).splitlines()
    table = [line for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


@pytest.fixture(scope="module")
def collected() -> set[str]:
    """The tests in the files that the audit names."""
    files = sorted({node.partition("::")[0] for node in NODE.findall(AUDIT)})
    return {
        f"{file}::{node.name}"
        for file in files
        for node in ast.parse((ROOT / file).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }


def test_each_line_of_the_audit_names_tests_and_they_are_there(collected: set[str]) -> None:
    lines = [line for section in ("Promises", "Faults", "Protections") for line in audited(section)]
    assert len(lines) > 80
    for *_, shown in lines:
        named = NODE.findall(shown)
        assert ", ".join(f"`{node}`" for node in named) == shown, f"something else than tests: {shown}"
        assert named
        assert [node for node in named if node not in collected] == []


def test_the_audit_has_each_promise_and_each_fault_once() -> None:
    assert [line[0] for line in audited("Promises")] == [str(number) for number in range(1, 8)]
    assert [line[0] for line in audited("Faults")] == [str(number) for number in range(1, 59)]


def test_every_test_that_is_named_after_a_fault_is_in_its_line() -> None:
    shown = {line[0]: line[-1] for line in audited("Faults")}
    for file in (ROOT / "tests").rglob("test_*.py"):
        for row, name in re.findall(r"^def (?=test_row_(\d+)_)(\w+)", file.read_text(), re.M):
            assert f"::{name}`" in shown[row], f"{name} is not in line {row}"


def test_every_statistic_and_plot_is_in_the_documents() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text()
    missing = [name for module in (af.stats, af.plots) for name in module.__all__ if f"{name}" not in page]
    assert [name for name in missing if name != "vocabulary"] == []


def test_every_picture_and_link_of_the_documents_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
