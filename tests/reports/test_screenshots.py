"""Both reports of two stories in a real browser, as wide as a desk and a phone; build/ has the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from allocframe.cli._lab import NOTEBOOKS

PICTURES = Path(__file__).parents[2] / "build" / "reports"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["postmortem", "cluster"])
@pytest.mark.parametrize("story", ["mixed", "restart_storm"])
def test_a_report_fits_the_screen_and_asks_the_network_for_nothing(
    story: str, kind: str, width: int, reports: dict[tuple[str, str], Path], browser: Any
) -> None:
    page = reports[story, kind]
    tab = browser.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri(), wait_until="load")
    PICTURES.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=PICTURES / f"{story}-{kind}-{width}.png", full_page=True)
    wide, edges, broken, smallest = tab.evaluate(
        """[
            document.documentElement.scrollWidth,
            ['.allocframe-report', 'footer'].map(
                element => document.querySelector(element).getBoundingClientRect().left
            ),
            [...document.images].filter(image => !image.naturalWidth).length,
            Math.min(...[...document.querySelectorAll('p, li, td, th')].map(
                element => parseFloat(getComputedStyle(element).fontSize)
            )),
        ]"""
    )
    tab.close()
    assert wide <= width
    assert edges[0] == edges[1]
    assert broken == 0
    assert smallest >= 12
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]


def test_a_printed_report_cuts_nothing_off(reports: dict[tuple[str, str], Path], browser: Any) -> None:
    page = reports["mixed", "postmortem"]
    tab = browser.new_page(viewport={"width": 690, "height": 1000})  # A4 within its margins
    tab.goto(page.as_uri(), wait_until="load")
    tab.emulate_media(media="print")
    too_wide = tab.evaluate(
        """[...document.querySelectorAll('p, li, table, img')].filter(
            element => element.getBoundingClientRect().right > innerWidth
        ).length"""
    )
    PICTURES.mkdir(parents=True, exist_ok=True)
    tab.pdf(path=PICTURES / "mixed-postmortem.pdf", format="A4")
    tab.close()
    assert too_wide == 0


@pytest.mark.parametrize("name", [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))])
def test_a_notebook_is_drawn_for_people_to_look_at(name: str, tmp_path: Path, browser: Any) -> None:
    import nbformat  # it takes seconds, so only the worker that draws imports it
    from nbconvert import HTMLExporter

    stored = nbformat.read(NOTEBOOKS / name, as_version=4)
    page = tmp_path / "notebook.html"
    for cell in stored.cells:
        # widgets need a kernel
        cell.outputs = [
            each for each in cell.get("outputs", []) if "widget-view" not in str(each.get("data"))
        ]
    page.write_text(HTMLExporter().from_notebook_node(stored)[0])
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.as_uri(), wait_until="load")
    PICTURES.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=PICTURES / f"{Path(name).stem}.png", full_page=True)
    wide, pictures = tab.evaluate("[document.documentElement.scrollWidth, document.images.length]")
    tab.close()
    assert wide <= 1280
    assert (pictures > 0) == (name != "04_act.ipynb")
