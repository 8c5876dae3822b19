"""The control panel in a real JupyterLab, in a real browser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from labpage import Lab, Notebook, Screen, busy_until, eventually
from playwright.sync_api import Locator, expect

import allocframe as af
from allocframe.sim.cluster.alloc import Alloc

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

    def __init__(self, notebook: Notebook, cluster: af.sim.Cluster) -> None:
        self.notebook, self.page = notebook, notebook.page
        notebook.run(0)
        self.root = self.page.locator(".allocframe-panel")
        eventually(lambda: self.options.count() >= 20)

    @property
    def options(self) -> Locator:
        return self.root.locator(".allocframe-list option")

    def row(self, alloc: Alloc) -> Locator:
        return self.options.filter(has_text=alloc.id[:8])

    def button(self, name: str) -> Locator:
        return self.root.get_by_role("button", name=name)

    def shows(self, text: str) -> None:
        expect(self.root.get_by_text(text).first).to_be_visible()


@pytest.fixture
def panel(cluster: af.sim.Cluster, notebook: OpenNotebook) -> Panel:
    cell = (
        "import allocframe as af\n"
        "from allocframe.widgets.panel import panel as module\n"
        "module.REFRESH_INTERVAL = 1.0\n"
        f"client = af.Client({cluster.address!r}, token={cluster.token!r})\n"
        "panel = af.ControlPanel(client, namespace='*')\n"
        "panel"
    )
    return Panel(notebook(cell, busy_until("panel-rests"), LOG), cluster)


def test_choose_stop_confirm_and_see_the_replacement(
    cluster: af.sim.Cluster, panel: Panel, alloc: Alloc
) -> None:
    panel.row(alloc).click()
    panel.button("Stop").click()
    panel.shows(f"Stop {alloc.name}")
    assert alloc.desired_status == "run"
    panel.notebook.picture("panel-asks")
    panel.button("Confirm stop").click()
    panel.shows("replaced by")
    assert alloc.desired_status == "stop"
    panel.shows(f"replaced by {alloc.next[:8]}")
    expect(panel.row(alloc)).to_contain_text("complete")
    expect(panel.row(cluster.state.allocs[alloc.next])).to_contain_text("running")
    panel.notebook.picture("panel-done")
    assert "[['stop', 'done']]" in panel.notebook.run(2)


def test_it_works_without_a_mouse(panel: Panel, alloc: Alloc) -> None:
    keyboard = panel.page.keyboard
    active = "document.activeElement.textContent.trim()"

    def tab_to(name: str) -> None:
        for _ in range(12):
            keyboard.press("Tab")
            if str(panel.page.evaluate(active)).startswith(name):
                return
        raise AssertionError(f"{name} was not reached")

    panel.root.get_by_label("Filter").focus()
    keyboard.type(alloc.id[:8])
    expect(panel.button("Choose all")).to_be_enabled()
    eventually(lambda: panel.options.count() == 1)
    tab_to("Choose all")
    keyboard.press("Space")
    panel.shows(alloc.id)
    expect(panel.button("Restart")).to_be_enabled()
    tab_to("Restart")
    keyboard.press("Space")
    expect(panel.button("Confirm restart")).to_be_enabled()
    assert alloc.tasks[next(iter(alloc.tasks))].restarts == 0
    tab_to("Confirm restart")
    keyboard.press("Space")
    expect(panel.root.get_by_role("cell", name="done")).to_be_visible()
    assert alloc.tasks[next(iter(alloc.tasks))].restarts == 1


def test_it_works_while_a_cell_runs(panel: Panel, alloc: Alloc, lab: Lab) -> None:
    panel.row(alloc).click()
    panel.shows(alloc.id)
    panel.notebook.start(1)
    panel.button("Restart").click()
    panel.button("Confirm restart").click()
    expect(panel.root.get_by_role("cell", name="done")).to_be_visible()
    assert "[*]" in panel.notebook.cell(1).locator(".jp-InputPrompt").inner_text()
    (lab.folder / "panel-rests").touch()
    panel.notebook.done(1)


def test_hostile_names_are_shown_as_text(cluster: af.sim.Cluster, panel: Panel, alloc: Alloc) -> None:
    object.__setattr__(alloc.job, "id", HOSTILE)
    alloc.node.name = alloc.client_description = HOSTILE
    alloc.tasks[HOSTILE] = alloc.tasks[next(iter(alloc.tasks))]
    panel.button("Refresh").click()
    panel.root.get_by_label("Filter").fill(f"onerror {alloc.id[:8]}")
    expect(panel.button("Choose all")).to_be_enabled()
    panel.button("Choose all").click()
    panel.root.get_by_label("Tasks").select_option(label=HOSTILE)
    panel.button("Restart").click()
    panel.shows(f"Restart {HOSTILE} of {HOSTILE}")
    panel.notebook.picture("panel-hostile")
    panel.button("Confirm restart").click()
    expect(panel.root.get_by_role("cell", name="done")).to_be_visible()
    assert panel.root.locator("img").count() == 0
    assert panel.page.evaluate("window.allocframeHit") is None


def test_the_list_keeps_its_scroll_position_when_something_changes(
    cluster: af.sim.Cluster, panel: Panel, alloc: Alloc
) -> None:
    last = panel.options.last
    last.scroll_into_view_if_needed()
    scrolled = "list => list.scrollTop"
    list_box = panel.root.locator(".allocframe-list")
    before = list_box.evaluate(scrolled)
    assert before > 0
    with af.Client(cluster.address, token=cluster.token) as client:
        client.stop(alloc.id)
    expect(panel.row(alloc)).to_contain_text("complete", timeout=20_000)
    assert list_box.evaluate(scrolled) == before


def test_exec_opens_a_terminal_below(panel: Panel, alloc: Alloc) -> None:
    panel.row(alloc).click()
    panel.root.get_by_label("Tasks").select_option(label=next(iter(alloc.tasks)))
    panel.button("Exec").click()
    screen = Screen(panel.notebook)
    screen.shows("#")
    screen.type("echo here\n")
    screen.shows("\nhere")
    panel.notebook.picture("panel-exec")
