"""The interactive timeline in a browser, as a page without a network and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import javascript
import labpage
import pytest
from labpage import eventually
from playwright.sync_api import Browser, Page, expect

import allocframe as af
from allocframe.widgets.timeline.page import script_hash, timeline_html

HOSTILE = "<img src=x onerror=\"window.hit='yes'\">"
INNER = "document.querySelector('.allocframe-timeline').allocframeTimeline"


@pytest.fixture(scope="module")
def fragment() -> str:
    with af.sim.Cluster("mixed", allocations=200, seed=7) as cluster:
        alloc = next(each for each in cluster.state.allocs.values() if each.job.id == "search-indexer")
        alloc.tasks[HOSTILE] = alloc.tasks[next(iter(alloc.tasks))]
        with af.Client(cluster.address, token=cluster.token) as client:
            snap = client.snapshot(namespace="*", history=True)
    return timeline_html(snap)


@pytest.fixture(scope="module")
def document(fragment: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page that forbids all but the fragment's own script and style, as reports do."""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{script_hash()}'"
    path = tmp_path_factory.mktemp("timeline") / "page.html"
    path.write_text(
        f'<!doctype html><html lang="en"><title>t</title><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><main>{fragment}</main>',
        encoding="utf-8",
    )
    return path.as_uri()


@pytest.fixture
def opened(browser: Browser, document: str) -> Iterator[Callable[..., Page]]:
    """Open the page; no script may fail on it, and nothing may be loaded."""
    errors: list[str] = []
    contexts = []

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: errors.append(request.url) if request.url != document else None)
        page.goto(document)
        page.locator(".af-tl-label").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


def span(page: Page) -> tuple[float, float]:
    begin, end = page.evaluate(f"[{INNER}.view.begin, {INNER}.view.end]")
    return begin, end


def test_it_opens_on_the_incident_and_is_moved_folded_filtered_and_read_by_mouse_and_keyboard(
    opened: Callable[..., Page],
) -> None:
    page = opened(viewport={"width": 1280, "height": 900})
    incident = page.get_by_role("treeitem", name="search-indexer runs out of memory")
    expect(incident).to_have_attribute("aria-expanded", "true")
    assert page.locator(".af-tl-static").count() == 0
    begin, end = span(page)
    worst = page.evaluate(f"{INNER}.data.incidents[0].began")
    assert begin < worst < begin + (end - begin) / 3
    # The mouse: drag moves by as much as the pointer, Ctrl and the wheel zoom at the pointer.
    canvas = page.locator(".af-tl-sticky canvas")
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 300)
    page.mouse.up()
    moved = span(page)
    assert moved[0] == pytest.approx(begin - 100 / box["width"] * (end - begin), rel=0.01)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    eventually(lambda: (zoomed := span(page))[1] - zoomed[0] < (moved[1] - moved[0]) * 0.8)
    # Folding, and the keyboard.
    rows = f"{INNER}.rows.length"
    before = page.evaluate(rows)
    incident.focus()
    incident.press("Enter")
    expect(incident).to_have_attribute("aria-expanded", "false")
    assert page.evaluate(rows) < before
    page.keyboard.press("Enter")
    assert page.evaluate(rows) == before
    page.keyboard.press("0")
    whole = span(page)
    assert whole[1] - whole[0] > (end - begin)
    page.keyboard.press("i")
    assert span(page) != whole
    # The filter leaves the rows that match and those above them.
    page.keyboard.press("/")
    page.keyboard.type("checkout app[0]")
    of_lanes = (
        f"{INNER}.rows.filter(row => row.type === 'lane').map(row => {INNER}.data.lanes.name[row.lane])"
    )
    eventually(
        lambda: (
            (lanes := page.evaluate(of_lanes))
            and all(name.startswith("checkout") and "app[0]" in name for name in lanes)
        )
    )
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    details = page.locator(".af-tl-details")
    expect(details).to_contain_text(".app[0] server")
    expect(details.locator("tbody tr").first).to_be_visible()
    page.keyboard.press("Escape")
    # What was changed, at its mark.
    page.get_by_label("Filter the rows").fill("")
    at = page.evaluate(f"{INNER}.data.changes.find(change => change.lines.join().includes('→')).at")
    page.evaluate(f"{INNER}.view.show({at} - 1e5, {at} + 1e5); {INNER}.draw()")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 22 + 11)
    expect(page.get_by_role("tooltip")).to_contain_text("→")
    assert page.evaluate("window.hit ?? null") is None


def test_everything_is_there_as_tables_and_accessible_in_light_dark_and_on_a_phone(
    opened: Callable[..., Page],
) -> None:
    axe = javascript.axe()
    labpage.PICTURES.mkdir(parents=True, exist_ok=True)
    for name, scheme, width in (("light", "light", 1280), ("dark", "dark", 1280), ("phone", "dark", 390)):
        page = opened(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.screenshot(path=labpage.PICTURES / f"timeline-{name}.png", full_page=True)
        page.locator("summary").click()
        tables = page.locator(".af-tl-tables")
        expect(tables).to_contain_text("out of memory")
        expect(tables).to_contain_text("Node node-")
        expect(tables.get_by_role("cell", name=HOSTILE).first).to_be_attached()
        page.evaluate(f"{INNER}.showDetails({INNER}.rows.find(row => row.type === 'lane'))")
        cdp = page.context.new_cdp_session(page)
        cdp.send("Runtime.evaluate", {"expression": axe})  # past the page's policy
        assert javascript.violations(page, ".allocframe-timeline") == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate("window.hit ?? null") is None


def test_without_scripts_a_still_picture_stays(browser: Browser, document: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(document)
        expect(page.get_by_role("img")).to_be_visible()
        expect(page.get_by_role("cell", name="search-indexer runs out of memory")).to_be_visible()


def test_in_a_notebook_it_draws_and_reads_the_logs_of_a_task(
    cluster: af.sim.Cluster, notebook: Callable[..., labpage.Notebook]
) -> None:
    cell = (
        "import allocframe as af\n"
        f"client = af.Client({cluster.address!r}, token={cluster.token!r})\n"
        "af.timeline(client.snapshot(namespace='*'), client=client)"
    )
    book = notebook(cell)
    book.run(0)
    root = book.page.locator(".allocframe-timeline")
    root.locator(".af-tl-label").first.wait_for()
    # Its colours come from a style sheet that the notebook adds later: it must not stay black.
    # Most of the left edge: at some minutes of an hour a line's time stands there, too.
    edge = """root => [".af-tl-sticky canvas", ".af-tl-overview"].map(name => {
        const canvas = root.querySelector(name), counts = new Map();
        const { data } = canvas.getContext("2d").getImageData(0, 0, 6, canvas.height - 2);
        for (let at = 0; at < data.length; at += 4) {
            const colour = data.slice(at, at + 4).join();
            counts.set(colour, (counts.get(colour) ?? 0) + 1);
        }
        return [...counts].reduce((most, each) => (each[1] > most[1] ? each : most))[0]; })"""
    eventually(lambda: root.evaluate(edge) == ["255,255,255,255"] * 2)
    root.evaluate(
        """root => { const its = root.allocframeTimeline, data = its.data;
        const lane = data.runs.lane[data.runs.end.findIndex(end => end === 0)];
        its.showDetails({ type: "lane", lane, lanes: [lane] }); }"""
    )
    root.get_by_role("button", name="Last log lines").click()
    expect(root.locator(".af-tl-logs")).to_contain_text("std")
