"""The manual builds without a warning, its reference has everything public, and no page needs a network."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sphinx.util.inventory import InventoryFile

import allocframe as af
from allocframe import testing
from allocframe.tables import HISTORY, TABLES

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "pages"
SHOWN_PAGES = ("docs/index", "docs/access", "docs/reference/tables", "notebooks/01_first_look")
ERRORS = [
    name
    for name in af.__all__
    if inspect.isclass(value := getattr(af, name)) and issubclass(value, Exception)
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of `make docs`."""
    recipe = re.search(
        r"^docs:.*\n\t\$\(BIN\)/python (.*) build/docs$", (ROOT / "Makefile").read_text(), re.M
    )
    assert recipe
    output = tmp_path_factory.mktemp("site")
    command = [sys.executable, *recipe[1].split(), str(output)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=170)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    return output


def public() -> Iterator[str]:
    """Yield the names of the public API, with the methods and properties of classes."""
    for module in (af, af.stats, af.plots, af.sim, testing):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value) or name == "__version__":
                continue
            yield f"{module.__name__}.{name}"
            if inspect.isclass(value):
                yield from (f"{module.__name__}.{name}.{member}" for member in _members(value))


def _members(cls: type[Any]) -> Iterator[str]:
    for name, member in inspect.getmembers_static(cls):
        body = getattr(member, "fget", getattr(member, "func", member))  # a property, plain or cached
        ours = str(getattr(body, "__module__", "")).startswith("allocframe")
        if ours and not name.startswith("_") and member.__doc__:
            yield name


def test_everything_public_is_in_the_reference(site: Path) -> None:
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    names = {name for kind, objects in inventory.items() if kind.startswith("py:") for name in objects}
    assert [name for name in public() if name not in names] == []


def test_every_column_is_in_the_reference_with_its_dtype_and_meaning(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "docs" / "reference" / "tables.html").read_text())
    for table in (*TABLES.values(), *HISTORY.values()):
        dtypes = table.empty().dtypes
        for column in table.columns:
            cells = "\n".join((column.name, str(dtypes[column.name]), column.unit))
            assert cells in page, f"{table.name}: {cells!r}"


@pytest.mark.parametrize("error", ERRORS)
def test_the_page_of_errors_explains_every_error(error: str) -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    base = rf"`(af\.)?{error}` is the base class of the following errors"
    assert re.search(rf"^### {error}\n\n\w.+|{base}|is an `af\.{error}`", page, re.M)


def test_every_page_is_linked_from_the_index(site: Path) -> None:
    front = (site / "docs" / "index.html").read_text()
    for page in site.rglob("*.html"):
        name = page.relative_to(site).as_posix()
        if name.startswith(("docs/", "notebooks/", "benchmarks/")) and name != "docs/index.html":
            link = name.removeprefix("docs/") if name.startswith("docs/") else f"../{name}"
            assert f'href="{link}"' in front, name
    assert 'url=docs/index.html"' in (site / "index.html").read_text()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", SHOWN_PAGES)
def test_a_page_fits_the_screen_and_needs_no_network(name: str, width: int, site: Path, browser: Any) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto((site / f"{name}.html").as_uri(), wait_until="load")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / f"{name.replace('/', '-')}-{width}.png", full_page=True)
    page_width = tab.evaluate("document.documentElement.scrollWidth")
    broken_images = tab.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    tab.close()
    assert page_width <= width
    assert broken_images == 0
    assert [url for url in requests if not url.startswith(("data:", site.as_uri()))] == []
