"""What the documents say is held to the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import allocframe as af

ROOT = Path(__file__).parent.parent
TESTS = re.findall(
    r"def (test_\w+)", "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
)
ROWS = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| \d", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip())
def test_every_fault_that_is_promised_to_be_met_has_a_test(row: str) -> None:
    named = re.findall(r"test_\w+", row)
    assert named
    for name in named:
        assert any(test.startswith(name) for test in TESTS), name


def test_every_statistic_and_plot_is_in_the_documents() -> None:
    page = (ROOT / "docs" / "statistics.md").read_text()
    missing = [name for module in (af.stats, af.plots) for name in module.__all__ if f"{name}" not in page]
    assert [name for name in missing if name != "meanings"] == []


def test_every_picture_and_link_of_the_documents_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
