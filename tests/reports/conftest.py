"""What the tests of reports share: reports of two stories."""

from __future__ import annotations

from pathlib import Path

import pytest
from stories import captured

import allocframe as af


@pytest.fixture(scope="session")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, af.Snapshot]:
    return {name: captured(tmp_path_factory.mktemp(name), name)[1] for name in ("mixed", "restart_storm")}


@pytest.fixture(scope="session")
def reports(
    snapshots: dict[str, af.Snapshot], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    """Both reports of two stories, as HTML."""
    folder = tmp_path_factory.mktemp("reports")
    return {
        (story, kind): af.report(snap, kind, output=folder / f"{story}-{kind}.html", progress=False)
        for story, snap in snapshots.items()
        for kind in ("postmortem", "cluster")
    }
