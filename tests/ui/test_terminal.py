"""The terminal in a real JupyterLab, in a real browser."""

from __future__ import annotations

import json
import re
import time

import labpage
import pytest
from labpage import Notebook, Screen
from playwright.sync_api import Page, expect

import allocframe as af

OPEN_TERMINAL = """
if "terminal" in globals(): terminal.close()
terminal = af.Terminal(client, {alloc!r}, {task!r})
terminal
"""


@pytest.fixture(scope="module")
def notebook(tab: Page, lab: labpage.Lab) -> Notebook:
    """One notebook for all tests."""
    lab.notebook(
        "terminal.ipynb",
        "import time, allocframe as af",
        "",
        labpage.busy_until("terminal-rests"),
        "terminal.transcript",
    )
    notebook = Notebook(tab, lab, "terminal.ipynb")
    notebook.run(0)
    return notebook


def open_terminal(notebook: Notebook, cluster: af.sim.Cluster, token: str) -> Screen:
    """Open a terminal in the second cell."""
    alloc = next(a for a in cluster.state.allocs.values() if a.client_status == "running")
    client = f"client = af.Client({cluster.address!r}, token={token!r})"
    notebook.write(1, client + OPEN_TERMINAL.format(alloc=alloc.id, task=next(iter(alloc.tasks))))
    notebook.run(1)
    return Screen(notebook)


@pytest.fixture
def screen(cluster: af.sim.Cluster, notebook: Notebook) -> Screen:
    notebook.page.set_viewport_size({"width": 1280, "height": 900})
    screen = open_terminal(notebook, cluster, cluster.token)
    screen.shows("#")
    return screen


def test_commands_run_and_their_output_is_shown(screen: Screen) -> None:
    screen.type("echo ligne é 漢字 👍\n")
    screen.shows("\nligne é 漢字 👍")
    assert "connected" in screen.status
    screen.notebook.picture("terminal")
    assert "ligne é 漢字 👍" in screen.notebook.run(3)
    screen.type("exit 7\n")
    labpage.eventually(lambda: "exit code 7" in screen.status)
    # A saved notebook has the transcript, and the live terminal hides it.
    page, book = screen.page, screen.notebook
    book.save()
    outputs = json.loads((book.lab.folder / "terminal.ipynb").read_text())["cells"][1]["outputs"]
    assert "ligne é 漢字 👍" in json.dumps(outputs, ensure_ascii=False)
    expect(page.locator("[class^=allocframe-saved]").last).to_be_hidden()


def test_the_command_gets_the_size_and_its_changes(screen: Screen) -> None:
    rows, cols = screen.size
    assert (rows, cols) != (24, 80)
    screen.type("stty size\n")
    screen.shows(f"\n{rows} {cols}")
    screen.page.set_viewport_size({"width": 900, "height": 900})
    labpage.eventually(lambda: screen.size[1] < cols)
    rows, cols = screen.size
    screen.type("stty size\n")
    screen.shows(f"\n{rows} {cols}")


def test_a_full_screen_program_fills_the_screen_and_restores_it(screen: Screen) -> None:
    screen.type("vi notes\n")
    screen.shows('"notes"')
    rows, cols = screen.size
    screen.shows(f"{rows}x{cols}")
    screen.type("ihello")
    screen.shows("-- INSERT --")
    screen.page.set_viewport_size({"width": 1000, "height": 900})
    labpage.eventually(lambda: screen.size[1] != cols)
    screen.shows("{}x{}".format(*screen.size))
    screen.notebook.picture("terminal-vi")
    screen.page.keyboard.press("Escape")
    screen.type(":q\n")
    labpage.eventually(lambda: screen.text.rstrip().endswith("#"))
    assert "hello" not in screen.text


def test_ctrl_c_interrupts_a_program_but_not_the_shell(screen: Screen) -> None:
    screen.type("sleep 600\n")
    screen.page.keyboard.press("Control+C")
    screen.shows("^C")
    screen.type("echo still here\n")
    screen.shows("\nstill here")


def test_a_paste_arrives_complete_and_without_control_characters(screen: Screen) -> None:
    text = "echo " + "x" * 3000 + "\x1b[201~y"
    screen.focus()
    screen.page.evaluate(
        """text => { const data = new DataTransfer(); data.setData("text/plain", text);
        const options = {clipboardData: data, bubbles: true, cancelable: true};
        document.activeElement.dispatchEvent(new ClipboardEvent("paste", options)); }""",
        text,
    )
    screen.page.keyboard.press("Enter")
    pasted = "x" * 3000 + "[201~y"
    labpage.eventually(lambda: screen.text.replace("\n", "").count(pasted) == 2)


def test_ctrl_v_pastes_in_brackets_if_the_program_asked_for_them(screen: Screen) -> None:
    screen.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    screen.page.evaluate("navigator.clipboard.writeText('echo from the clipboard')")
    screen.focus()
    screen.page.keyboard.press("Control+V")
    screen.page.keyboard.press("Enter")
    screen.shows("\nfrom the clipboard")
    screen.type(r"printf '\033[?2004h'" + "\n")
    screen.root.evaluate(
        "root => { window.sent = []; root.allocframeTerminal.onData(text => window.sent.push(text)); }"
    )
    labpage.eventually(
        lambda: screen.root.evaluate("root => root.allocframeTerminal.modes.bracketedPasteMode")
    )
    screen.page.keyboard.press("Control+V")
    expected = "\x1b[200~echo from the clipboard\x1b[201~"
    labpage.eventually(lambda: screen.page.evaluate("window.sent.join('')") == expected)
    screen.page.keyboard.press("Control+C")


def test_typing_works_while_a_cell_runs(screen: Screen, lab: labpage.Lab) -> None:
    screen.notebook.start(2)
    labpage.eventually(lambda: "[*]" in screen.notebook.cell(2).locator(".jp-InputPrompt").inner_text())
    screen.type("echo busy\n")
    screen.shows("\nbusy")
    (lab.folder / "terminal-rests").touch()
    screen.notebook.done(2)


def test_after_a_reload_the_screen_is_restored(screen: Screen) -> None:
    screen.type("echo before the reload\n")
    screen.shows("\nbefore the reload")
    screen.type("vi notes\n")
    screen.shows('"notes"')
    screen.notebook.save()
    screen.page.reload()
    screen.notebook.ready()
    reloaded = Screen(screen.notebook)
    reloaded.shows('"notes"')
    reloaded.type(":q\n")
    reloaded.shows("\nbefore the reload")
    reloaded.type("echo after it\n")
    reloaded.shows("\nafter it")


def test_two_views_show_the_same(screen: Screen) -> None:
    screen.type("echo one\n")
    screen.shows("\none")
    screen.notebook.insert_and_run("terminal")
    second = Screen(screen.notebook, 1)
    second.shows("\none")
    second.type("echo two\n")
    second.shows("\ntwo")
    screen.shows("\ntwo")


def test_a_flood_of_output_can_be_interrupted(screen: Screen) -> None:
    screen.type("yes\n")
    screen.shows("y\ny\ny")
    time.sleep(0.5)
    screen.page.keyboard.press("Control+C")
    screen.shows("^C")
    screen.type("echo calm again\n")
    screen.shows("\ncalm again")


HOSTILE = {
    "title": r"\x1b]0;evil\x07\x1b]2;evil\x07",
    "clipboard": r"\x1b]52;c;ZXZpbA==\x07\x1b]52;c;?\x07",
    "link": r"\x1b]8;;javascript:alert(1)\x07click\x1b]8;;\x07",
    "colours": r"\x1b]10;?\x07\x1b]11;?\x07\x1b]4;1;?\x07",
    "images": r"\x1b]1337;File=inline=1:AAAA\x07",
    "status string": r"\x1bP$qm\x1b\\\x1bP+q544e\x1b\\",
    "modes": r"\x1b[?1$p\x1b[4$p",
    "window": r"\x1b[21t\x1b[14t\x1b[18t\x1b[8;10;10t",
    "version": r"\x1b[>q\x1b[5n\x1b[?6n",
}


def test_row_osc_hostile_output_sends_nothing_back_and_changes_nothing_outside(screen: Screen) -> None:
    title = screen.page.title()
    screen.page.evaluate("navigator.clipboard.writeText = text => { window.stolen = text; }")
    screen.root.evaluate(
        "root => { window.sent = []; root.allocframeTerminal.onData(text => window.sent.push(text)); }"
    )
    for name, output in HOSTILE.items():
        screen.type(f"printf '{output}'; echo {name} is over\n")
        screen.shows(f"{name} is over\n")
        assert "\x1b" not in screen.page.evaluate("window.sent.join('')"), name
        assert screen.page.title() == title, name
        assert screen.page.evaluate("window.stolen ?? null") is None, name
        assert screen.root.locator("a").count() == 0, name


def test_queries_of_full_screen_programs_are_answered(screen: Screen) -> None:
    screen.root.evaluate(
        "root => { window.sent = []; root.allocframeTerminal.onData(text => window.sent.push(text)); }"
    )
    screen.type(r"printf '\x1b[6n\x1b[c'" + "\n")
    labpage.eventually(
        lambda: re.search(r"\x1b\[\d+;\d+R\x1b\[\?[\d;]+c", screen.page.evaluate("window.sent.join('')"))
    )


def test_the_buttons_close_and_restart_a_session(screen: Screen) -> None:
    screen.type("sleep 600\n")
    screen.root.get_by_role("button", name="Close").click()
    labpage.eventually(lambda: "closed" in screen.status)
    screen.root.get_by_role("button", name="Reconnect").click()
    labpage.eventually(lambda: "connected" in screen.status)
    screen.shows("[new session]")
    screen.type("echo again\n")
    screen.shows("\nagain")


def test_shift_escape_moves_the_focus_to_the_buttons(screen: Screen) -> None:
    screen.focus()
    screen.page.keyboard.press("Shift+Escape")
    assert screen.page.evaluate("document.activeElement.textContent") == "Close"


def test_a_refusal_is_shown_in_the_terminal(cluster: af.sim.Cluster, notebook: Notebook) -> None:
    alloc = next(a for a in cluster.state.allocs.values() if a.client_status == "running")
    screen = open_terminal(notebook, cluster, cluster.add_token([alloc.namespace]))
    labpage.eventually(lambda: "Permission denied" in screen.text.replace("\n", ""))
    assert "alloc-exec" in screen.status
