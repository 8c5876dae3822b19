"""A JupyterLab and a page with it for the whole run, and a notebook for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import labpage
import pytest
from playwright.sync_api import Browser, Page

import allocframe as af


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[labpage.Lab]:
    with labpage.lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="session")
def tab(browser: Browser) -> Iterator[Page]:
    """A page for JupyterLab: each new one would compile all of it again."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    yield page
    page.close()


@pytest.fixture
def page(tab: Page) -> Iterator[Page]:
    """The page of JupyterLab, on which no script may fail."""
    errors: list[str] = []

    def note(error: object) -> None:
        # JupyterLab's own, if a kernel is shut down before it has answered: none of ours
        if "Canceled future for create_subshell_request" not in str(error):
            errors.append(str(error))

    tab.on("pageerror", note)
    yield tab
    tab.remove_listener("pageerror", note)
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
