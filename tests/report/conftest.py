"""What the tests of reports share: reports of two stories, and a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stories import captured

import allocframe as af

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for one file of tests: only one driver may be open at a time, and other tests have theirs."""
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium (`make test` does so as root)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=list(_QUIET))
        yield made
        made.close()
