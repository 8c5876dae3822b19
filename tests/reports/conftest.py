"""What the tests of reports share: reports of two stories."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from once import once
from stories import captured

import allocframe as af

STORIES = ("mixed", "restart_storm")


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, af.Snapshot]:
    return {name: captured(tmp_path_factory.mktemp(name), name)[1] for name in STORIES}


@pytest.fixture(scope="session")
def report_on(
    snapshots: dict[str, af.Snapshot], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Return the report on a story, as HTML; all tests of a run share it."""

    def page(story: str, kind: str) -> Path:
        def write(folder: Path) -> None:
            af.report(snapshots[story], kind, output=folder / "report.html")

        return once(tmp_path_factory, f"report-{story}-{kind}", write) / "report.html"

    return page


@pytest.fixture(scope="session")
def reports(report_on: Callable[[str, str], Path]) -> dict[tuple[str, str], Path]:
    """Both reports of two stories."""
    return {(story, kind): report_on(story, kind) for story in STORIES for kind in ("postmortem", "cluster")}
