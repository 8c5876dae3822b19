"""The manual matches the code: the audit's tests, the statistics, pictures and links."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import allocframe as af

ROOT = Path(__file__).parents[2]
AUDIT = (ROOT / "docs" / "audit.md").read_text()
NODE = re.compile(r"`(tests/[\w/]+\.py::test_\w+)`")


def table_rows(section: str) -> list[list[str]]:
    """Return the cells of each row of a section's table in the audit."""
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


def test_each_row_of_the_audit_names_existing_tests(collected: set[str]) -> None:
    lines = [
        line for section in ("Promises", "Faults", "Protections", "Kinds") for line in table_rows(section)
    ]
    assert len(lines) > 130
    for *_, cell in lines:
        tests = NODE.findall(cell)
        assert ", ".join(f"`{node}`" for node in tests) == cell, f"not only tests: {cell}"
        assert tests
        assert [node for node in tests if node not in collected] == []


def test_the_audit_has_each_promise_and_each_fault_once() -> None:
    assert [line[0] for line in table_rows("Promises")] == [str(number) for number in range(1, 10)]
    assert [line[0] for line in table_rows("Faults")] == [str(number) for number in range(1, 59)]


def test_every_statistic_and_plot_is_in_the_manual() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text()
    missing = [name for module in (af.stats, af.plots) for name in module.__all__ if f"{name}" not in page]
    assert [name for name in missing if name != "vocabulary"] == []


def test_every_picture_and_link_target_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
