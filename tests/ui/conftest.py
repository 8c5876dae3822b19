"""A JupyterLab for the whole run, and a page for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import labpage
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

import allocframe as af


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labpage.Lab]:
    with labpage.lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A profile for the whole run: each new one would fetch and compile all of JupyterLab again."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as made:
        yield made


@pytest.fixture
def page(profile: BrowserContext) -> Iterator[Page]:
    """A page on which no script may fail."""
    errors: list[str] = []
    page = profile.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []


@pytest.fixture
def cluster() -> Iterator[af.sim.Cluster]:
    """A cluster for one test, since the test changes it."""
    with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        yield cluster


@pytest.fixture
def notebook(page: Page, lab: labpage.Lab, request: pytest.FixtureRequest) -> Callable[..., labpage.Notebook]:
    """Open a new notebook with the given cells and a running kernel."""

    def open_notebook(*cells: str) -> labpage.Notebook:
        name = lab.notebook(f"{request.node.name}.ipynb".replace("[", "-").replace("]", ""), *cells)
        return labpage.Notebook(page, lab, name)

    return open_notebook
