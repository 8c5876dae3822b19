"""The control panel in a real JupyterLab, and its page with thousands of rows, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import javascript
import labpage
import pytest
from javascript import sent
from labpage import Lab, Notebook, Screen, busy_until, eventually
from playwright.sync_api import Browser, Locator, Page, expect

import allocframe as af
from allocframe.sim.cluster.alloc import Alloc
from allocframe.widgets.panel.rows import as_columns
from allocframe.widgets.panel.state import PanelState

HOSTILE = "<img src=x onerror=\"window.allocframeHit='yes'\">"
LOG = "panel.log[['action', 'result']].to_numpy().tolist()"
OpenNotebook = Callable[..., Notebook]


@pytest.fixture
def alloc(cluster: af.sim.Cluster) -> Alloc:
    return next(
        a for a in cluster.state.allocs.values() if a.job.kind == "service" and a.client_status == "running"
    )


class Panel:
    """A panel on a page."""

    def __init__(self, notebook: Notebook) -> None:
        self.notebook, self.page = notebook, notebook.page
        self.root = self.page.locator(".allocframe-panel")
        eventually(lambda: self.rows.count() >= 10)

    @property
    def rows(self) -> Locator:
        return self.root.locator(".af-body .af-row")

    def row(self, alloc: Alloc) -> Locator:
        return self.root.locator(f'.af-body .af-row[data-id="{alloc.id}"]')

    def find(self, alloc: Alloc) -> Locator:
        """Filter the table to an allocation, and return its row."""
        self.root.get_by_label("Filter", exact=True).fill(alloc.id)
        expect(self.rows).to_have_count(1)
        self.page.wait_for_timeout(450)  # a click just after a reordering is ignored
        return self.row(alloc)

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=re.compile(f"^{name}")).first

    def shows(self, text: str) -> None:
        expect(self.root.get_by_text(text).first).to_be_visible(timeout=60_000)


@pytest.fixture
def panel(cluster: af.sim.Cluster, notebook: OpenNotebook) -> Panel:
    cell = (
        "import allocframe as af\n"
        "from allocframe.widgets.panel import work as module\n"
        "module.REFRESH_INTERVAL = 1.0\n"
        f"client = af.Client({cluster.address!r}, token={cluster.token!r})\n"
        "if 'panel' in globals(): panel.close()\n"
        "panel = af.ControlPanel(client, namespace='*')\n"
        "panel"
    )
    book = notebook(cell, busy_until("panel-rests"), LOG)
    book.run(0)
    return Panel(book)


def test_a_stop_is_asked_confirmed_by_a_double_click_once_and_its_outcome_is_shown_and_saved(
    cluster: af.sim.Cluster, panel: Panel, alloc: Alloc
) -> None:
    panel.find(alloc).click()
    panel.shows(f"Allocation {alloc.id[:8]}")
    panel.shows("Log lines of")
    panel.root.locator(".af-details").get_by_role("button", name="Close").click()
    panel.button("Stop").dblclick()
    panel.shows(f"Stop {alloc.name}")
    assert alloc.desired_status == "run"
    panel.notebook.picture("panel-asks")
    evals = len(cluster.state.evals)
    panel.button("Confirm stop").dblclick()
    panel.shows(f"replaced by {alloc.next[:8]}")
    assert alloc.desired_status == "stop"
    assert len(cluster.state.evals) == evals + 1
    expect(panel.root.get_by_text("Nothing was done")).to_have_count(0)
    expect(panel.row(alloc)).to_contain_text("complete", timeout=60_000)
    panel.notebook.picture("panel-done")
    assert "[['stop', 'done']]" in panel.notebook.run(2)
    # The copy for saved notebooks is there, with what was done, and hidden while the panel lives.
    panel.notebook.save()
    name = panel.page.url.rpartition("/")[2].partition("?")[0]
    saved = (panel.notebook.lab.folder / name).read_text()
    assert "replaced by" in json.dumps(json.loads(saved)["cells"][0]["outputs"])
    expect(panel.page.locator("[class^=allocframe-saved]")).to_be_hidden()


def test_it_works_without_a_mouse_and_while_a_cell_runs(panel: Panel, alloc: Alloc, lab: Lab) -> None:
    keyboard = panel.page.keyboard
    panel.root.get_by_label("Filter", exact=True).focus()
    keyboard.type(alloc.id)
    expect(panel.rows).to_have_count(1)
    panel.row(alloc).focus()
    keyboard.press("ArrowDown")
    keyboard.press("Space")
    panel.shows("Chosen (1)")
    panel.shows(alloc.name)
    expect(panel.button("Restart")).to_be_enabled()
    panel.notebook.start(1)
    panel.button("Restart").focus()
    keyboard.press("Space")
    expect(panel.button("Confirm restart")).to_be_enabled()
    assert alloc.tasks[next(iter(alloc.tasks))].restarts == 0
    panel.button("Confirm restart").focus()
    keyboard.press("Space")
    panel.shows("restarted, running again after")
    assert alloc.tasks[next(iter(alloc.tasks))].restarts == 1
    assert "[*]" in panel.notebook.cell(1).locator(".jp-InputPrompt").inner_text()
    (lab.folder / "panel-rests").touch()
    panel.notebook.done(1)


def test_a_reload_shows_the_question_as_it_stands_and_a_restarted_kernel_is_said(
    panel: Panel, alloc: Alloc
) -> None:
    panel.find(alloc).click()
    panel.button("Stop").click()
    panel.shows(f"Stop {alloc.name}")
    panel.notebook.save()
    panel.page.reload()
    panel.notebook.ready()
    again = Panel(panel.notebook)
    again.shows(f"Stop {alloc.name}")
    again.button("Cancel").click()
    again.shows("Cancelled. Nothing was done.")
    assert alloc.desired_status == "run"
    panel.notebook.insert_and_run(f"af.Terminal(client, {alloc.id!r}, {next(iter(alloc.tasks))!r})")
    Screen(panel.notebook).shows("#")
    again.page.locator('jp-button[data-command="notebook:restart-kernel"]').click()
    again.page.locator(".jp-Dialog .jp-mod-accept").click()
    again.shows("The kernel was restarted or has ended: run the cell again.")
    expect(again.page.locator(".allocframe-status")).to_contain_text("The kernel was restarted or has ended")
    for button in again.page.locator(".af-bar > button, .allocframe-status button").all():
        expect(button).to_be_disabled()


def test_hostile_names_are_shown_as_text_and_exec_opens_a_terminal_below(
    cluster: af.sim.Cluster, panel: Panel, alloc: Alloc
) -> None:
    task = next(iter(alloc.tasks))
    panel.find(alloc).click()
    panel.root.get_by_label("Tasks").select_option(label=task)
    panel.button("Terminal").click()
    screen = Screen(panel.notebook)
    screen.shows("#")
    screen.type("echo here\n")
    screen.shows("\nhere")
    panel.notebook.picture("panel-exec")
    object.__setattr__(alloc.job, "id", HOSTILE)
    alloc.node.name = alloc.client_description = HOSTILE
    alloc.tasks[HOSTILE] = alloc.tasks[task]
    panel.button("Refresh").click()
    expect(panel.row(alloc)).to_contain_text("onerror")
    panel.page.wait_for_timeout(450)
    panel.root.get_by_label("Tasks").select_option(label="all running tasks")
    panel.button("Restart").click()
    panel.shows(f"of {HOSTILE}")
    panel.button("Confirm restart").click()
    panel.shows("running again after")
    assert panel.root.locator("img").count() == 0
    assert panel.page.evaluate("window.allocframeHit ?? null") is None


# The page alone, with a kernel that the test plays


MANY = 5000


class Shown(PanelState):
    """A panel's state without a cluster."""

    waits: tuple[str, float] | None = None

    def _render(self) -> None:
        pass

    def _busy(self) -> tuple[str, float] | None:
        return self.waits


def many_rows() -> dict[str, Any]:
    statuses = ["running"] * 90 + ["complete"] * 6 + ["pending", "restarting", "failed", "replaced"]
    return {
        f"{n:08x}-1111": (
            f"{n:08x}-1111", "default", f"job-{n % 50}", f"{'very-long-name-' * 8}{n % 50}.app[{n}]",
            statuses[n * 37 % 100], "2 running", n % 7, "exit 1" if n % 7 else "",
            1_790_000_000_000 + n * 60_000,
            "3", f"node-{n % 40:03}",
        )
        for n in range(MANY)
    }  # fmt: skip


@pytest.fixture
def mounted(browser: Browser) -> Iterator[Callable[..., tuple[Page, Shown]]]:
    """Show the panel's page with many rows in a browser without Jupyter."""
    contexts, errors = [], list[str]()

    def mount(**options: Any) -> tuple[Page, Shown]:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        state = Shown(read_only=False, limit=10)
        state._table.update(many_rows())
        heading = "http://nomad.example:4646 · namespace *"
        values = {"heading": heading, "saved": "x", "terminal": None, "state": state._state()}
        javascript.mount(page, "panel", values)
        page.evaluate("message => emit('msg:custom', message)", state._table.message())
        return page, state

    yield mount
    for context in contexts:
        context.close()
    assert errors == []


def first_cells(page: Page) -> list[str]:
    return page.locator(".af-body .af-row .af-c-status").all_inner_texts()


def test_thousands_of_rows_are_sorted_filtered_and_stay_where_they_are_under_the_mouse(
    mounted: Callable[..., tuple[Page, Shown]],
) -> None:
    page, state = mounted(viewport={"width": 1280, "height": 900})
    assert sent(page, "hello") == [{"type": "hello"}]
    table = page.get_by_role("grid", name="Allocations")
    assert table.get_attribute("aria-rowcount") == str(MANY + 1)
    assert page.locator(".af-body .af-row").count() < 30
    assert set(first_cells(page)) == {"failed"}
    chips = page.get_by_role("group", name="Filter by status").get_by_role("button")
    assert chips.all_inner_texts()[:3] == ["failed 50", "restarting 50", "pending 50"]
    # Without a cut: the last row is reached, and a long name keeps its tail.
    page.locator(".af-body .af-row").first.focus()
    page.keyboard.press("End")
    expect(page.locator(".af-body .af-row").last).to_contain_text("complete")
    assert page.locator(".af-body .af-row").last.get_attribute("aria-rowindex") == str(MANY + 1)
    tail = page.locator(".af-body .af-tail").last
    box, cell = tail.bounding_box(), page.locator(".af-body .af-c-name").last.bounding_box()
    assert box is not None
    assert cell is not None
    assert box["x"] + box["width"] <= cell["x"] + cell["width"] + 1
    # Sorted by a click on a header, filtered by text and chips.
    page.get_by_role("button", name="restarts").click()
    assert set(page.locator(".af-body .af-row .af-c-restarts").all_inner_texts()) == {"6"}
    expect(page.get_by_role("button", name=f"{MANY:,} match; at most 10 at once")).to_be_disabled()
    page.get_by_label("Filter", exact=True).fill("node-007 app[7]")
    page.get_by_role("button", name="Choose all 1").click()
    assert sent(page, "choose")[-1]["ids"] == [f"{7:08x}-1111"]
    page.get_by_label("Filter", exact=True).fill("node-014")
    page.get_by_role("button", name="failed").click()
    assert set(first_cells(page)) == {"failed"}
    page.get_by_role("button", name="failed").click()
    page.get_by_label("Filter", exact=True).fill("")
    page.get_by_role("button", name="status", exact=True).click()
    # A change does not move a row under the mouse; it does when the mouse has left.
    page.wait_for_timeout(450)
    row = page.locator(".af-body .af-row").nth(2)
    row.hover()
    before = row.get_attribute("data-id")
    rows = many_rows()
    changed = f"{1:08x}-1111"
    rows[changed] = (*rows[changed][:4], "failed", *rows[changed][5:])
    assert rows.pop(str(before)) is not None
    page.evaluate("message => emit('msg:custom', message)", state._table.update(dict(rows)))
    expect(row).to_have_attribute("data-id", str(before))
    expect(row).to_contain_text("removed")
    page.mouse.move(5, 5)
    page.evaluate("document.activeElement.blur()")
    rows[changed] = (*rows[changed][:6], 77, *rows[changed][7:])
    page.evaluate("message => emit('msg:custom', message)", state._table.update(dict(rows)))
    expect(page.locator(f'.af-body .af-row[data-id="{changed}"]')).to_contain_text("77")
    assert page.locator(".af-body .af-row", has_text="removed").count() == 0
    # It has moved only just now, so a click may be meant for another row.
    chosen = len(sent(page, "choose"))
    page.locator(".af-body .af-row").first.click()
    assert len(sent(page, "choose")) == chosen
    page.wait_for_timeout(450)
    page.locator(".af-body .af-row").first.click()
    assert len(sent(page, "choose")) == chosen + 1
    # The first click on another row counts, also if a change comes while the button is down.
    row = page.locator(".af-body .af-row").nth(4)
    row.click()
    assert sent(page, "choose")[-1]["ids"] == [row.get_attribute("data-id")]
    page.locator(".af-body .af-row").nth(6).hover()
    page.mouse.down()
    rows[changed] = (*rows[changed][:6], 78, *rows[changed][7:])
    page.evaluate("message => emit('msg:custom', message)", state._table.update(dict(rows)))
    page.mouse.up()
    row = page.locator(".af-body .af-row").nth(6)
    assert sent(page, "choose")[-1]["ids"] == [row.get_attribute("data-id")]
    # A missed change makes the page ask for all rows.
    page.evaluate("emit('msg:custom', { type: 'changed', number: 99, rows: {}, removed: [] })")
    assert len(sent(page, "hello")) == 2
    assert as_columns({})["id"] == []


def test_a_silent_cluster_and_a_dead_kernel_are_said(
    mounted: Callable[..., tuple[Page, Shown]],
) -> None:
    page, state = mounted(viewport={"width": 1280, "height": 900})
    state.waits = ("the restart", 12.2)
    page.evaluate("state => model.set('state', state)", state._state())
    expect(page.get_by_text("The cluster has given no answer for 12 s (the restart).")).to_be_visible()
    page.get_by_role("button", name="Stop waiting").click()
    assert sent(page, "give up") == [{"type": "give up"}]
    state.waits = None
    page.evaluate("state => model.set('state', state)", state._state())
    expect(page.get_by_role("button", name="Stop waiting")).to_be_hidden()
    # The connection changes. An answer to the ping means that all is well; none means that it is over.
    page.evaluate("emit('comm_live_update')")
    page.evaluate("emit('msg:custom', { type: 'pong', number: 0 })")
    page.evaluate("emit('comm_live_update')")
    assert len(sent(page, "ping")) == 2
    dead = page.get_by_text("The kernel was restarted or has ended: run the cell again.")
    expect(dead).to_be_hidden()
    expect(dead).to_be_visible()
    expect(page.get_by_role("button", name="Refresh")).to_be_disabled()
    page.evaluate("void (model.send = () => { throw new Error('no comm'); })")
    page.evaluate("emit('msg:custom', { type: 'pong', number: 1 })")
    expect(dead).to_be_hidden()
    page.get_by_role("button", name="Refresh").click()  # cannot be sent
    expect(dead).to_be_visible()


def test_it_is_accessible_and_fits_in_light_dark_and_on_a_phone(
    mounted: Callable[..., tuple[Page, Shown]],
) -> None:
    labpage.PICTURES.mkdir(parents=True, exist_ok=True)
    for name, scheme, width in (("light", "light", 1280), ("dark", "dark", 1280), ("phone", "light", 390)):
        page, state = mounted(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        state._details = {
            "id": "x", "short": "00000001", "reading": "",
            "facts": [["job", "default/web"], ["status", "failed"]],
            "tasks": [["server", "running", "3", "26 Nov 10:00:00"]], "events_total": 1, "chain": [],
            "events": [["26 Nov 10:00:00", "server", "Terminated", "Exit Code: 1", "failure"]],
            "logs": [["server", "stderr  panic"]], "usage": [["server", "120 of 256 MiB", "90 of 500 MHz"]],
        }  # fmt: skip
        state._chosen = (f"{1:08x}-1111",)
        shown = {
            **state._state(),
            "question": {
                "number": 1, "action": "stop", "dry_run": False, "reason": "", "left": 18.0, "wait": 0.0,
                "items": ["Stop web.app[0] (on node-1, running). A new allocation replaces it."],
                "left_out": [],
            },
            "results": [
                {
                    "time": "10:00:00", "outcome": "done", "action": "restart", "name": "web.app[1]",
                    "id": "00000002", "detail": "", "follow_up": "restarted, running again after 4 s",
                }
            ],
        }  # fmt: skip
        page.evaluate("state => model.set('state', state)", shown)
        page.screenshot(path=labpage.PICTURES / f"panel-{name}.png", full_page=True)
        page.evaluate(javascript.axe())
        assert javascript.violations(page, ".allocframe-panel") == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
