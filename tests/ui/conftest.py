"""A JupyterLab for the whole run, and a page for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import labpage
import pytest
from playwright.sync_api import Browser, Page

import allocframe as af


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labpage.Lab]:
    with labpage.lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page on which no script may fail."""
    failed: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.on("pageerror", lambda error: failed.append(str(error)))
    yield opened
    context.close()
    assert failed == []


@pytest.fixture
def cluster() -> Iterator[af.sim.Cluster]:
    """A cluster of the test's own, since it is acted upon."""
    with af.sim.Cluster("calm", allocations=20, seed=1) as made:
        yield made


@pytest.fixture
def notebook(page: Page, lab: labpage.Lab, request: pytest.FixtureRequest) -> Callable[..., labpage.Notebook]:
    """Open a new notebook of these cells, its kernel running."""

    def opened(*cells: str) -> labpage.Notebook:
        name = lab.notebook(f"{request.node.name}.ipynb".replace("[", "-").replace("]", ""), *cells)
        return labpage.Notebook(page, lab, name)

    return opened
