"""A real JupyterLab and a real browser for tests: servers, notebooks, cells, and terminals."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
TIMEOUT = 60.0
PICTURES = Path(__file__).parent.parent.parent / "build" / "pictures"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab: its URL, its token, and the folder that it serves."""

    url: str
    token: str
    folder: Path

    def notebook(self, name: str, *cells: str) -> str:
        """Write a notebook and return its name."""
        empty: dict[str, Any] = {"metadata": {}, "outputs": [], "execution_count": None}
        code_cells = [
            {"cell_type": "code", "id": f"cell{n}", "source": cell, **empty} for n, cell in enumerate(cells)
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = {
            "cells": code_cells,
            "metadata": {"kernelspec": kernel},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.folder / name).write_text(json.dumps(content))
        return name


def busy_until(name: str) -> str:
    """Return a cell that runs until a file of this name is in the folder."""
    return f"import pathlib, time\nwhile not pathlib.Path({name!r}).exists(): time.sleep(0.05)\n'rested'"


@contextlib.contextmanager
def lab(folder: Path, *options: str) -> Iterator[Lab]:
    """Run JupyterLab on a free local port, with its own settings and without outside connections."""
    config = folder / ".config"
    settings = config / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_urlsafe(24)
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True", *options,
    ]  # fmt: skip
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(folder / ".data"),
        "IPYTHONDIR": str(folder / ".ipython"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    with (folder / ".lab.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: urllib.request.urlopen(f"{url}/api?token={token}", timeout=5).status == 200)
        yield Lab(url, token, folder)
    finally:
        process.terminate()
        process.wait(60)


def eventually(condition: Callable[[], Any], timeout: float = TIMEOUT) -> Any:
    """Return the result of `condition` once it is true. After the timeout, fail with its last result."""
    end, last = time.monotonic() + timeout, None
    while time.monotonic() < end:
        try:
            last = condition()
        except (OSError, AssertionError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.05)
    raise AssertionError(f"not reached within {timeout:g} s; last: {last!r}")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Notebook:
    """A notebook in a page.

    A page that shows JupyterLab already opens it there, with the kernel of the notebook before: to load
    JupyterLab takes a browser seconds.
    """

    _OPEN = """async path => {
        const { commands, serviceManager } = jupyterapp;
        await commands.execute('docmanager:save-all');
        await commands.execute('application:close-all');
        const [kernel] = serviceManager.kernels.running();
        const notebook = await commands.execute(
            'docmanager:open', { path, factory: 'Notebook', kernel: { id: kernel.id } }
        );
        await notebook.context.ready;
        await notebook.sessionContext.ready;
    }"""

    def __init__(self, page: Page, lab: Lab, name: str) -> None:
        self.page = page
        self.lab = lab
        page.set_default_timeout(TIMEOUT * 1000)
        # A test that failed may have left a question open, which keeps JupyterLab from closing its notebook.
        if page.url.startswith(lab.url) and page.locator(".jp-Dialog").count() == 0:
            page.evaluate(self._OPEN, name)
        else:
            page.goto(f"{lab.url}/lab/tree/{name}?token={lab.token}&reset")
        self.ready()

    def ready(self) -> None:
        """Wait until the kernel is ready."""
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        self.page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for()

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)

    def write(self, number: int, source: str) -> None:
        """Replace the source of a cell."""
        self.cell(number).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)

    def start(self, number: int) -> None:
        """Start a cell without waiting for it."""
        self.cell(number).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number: int) -> str:
        """Run a cell and return its output as text."""
        before = self.prompt(number)
        self.start(number)
        eventually(lambda: self.prompt(number) not in (before, "[*]:"))
        return self.output(number)

    def prompt(self, number: int) -> str:
        return self.cell(number).locator(".jp-InputPrompt").inner_text()

    def done(self, number: int) -> None:
        """Wait until a started cell has ended."""
        eventually(lambda: re.search(r"\[\d+\]", self.prompt(number)))

    def output(self, number: int) -> str:
        return self.cell(number).locator(".jp-OutputArea").inner_text()

    def insert_and_run(self, source: str) -> None:
        """Add a cell at the end and run it."""
        last = self.page.locator(".jp-Notebook .jp-CodeCell").count() - 1
        self.cell(last).locator(".jp-InputArea-prompt").click()
        self.page.keyboard.press("b")
        self.cell(last + 1).locator(".jp-InputArea-editor").click()
        self.page.keyboard.type(source)
        self.page.keyboard.press("Control+Enter")
        self.done(last + 1)

    def save(self) -> None:
        """Save the notebook, so that its outputs are there after a reload."""
        self.page.locator('jp-button[data-command="docmanager:save"]').click()
        self.page.locator(".jp-mod-dirty").wait_for(state="detached")

    def picture(self, name: str) -> Path:
        """Save a screenshot."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        self.page.screenshot(path=path)
        return path


class Screen:
    """A terminal on a page: its keyboard, and the text in xterm.js."""

    _READ = """root => { const buffer = root.allocframeTerminal.buffer.active, rows = [];
        for (let n = 0; n < buffer.length; n++) rows.push(buffer.getLine(n).translateToString(true));
        return rows.join("\\n").trimEnd(); }"""

    def __init__(self, notebook: Notebook, number: int = 0) -> None:
        self.notebook = notebook
        self.page = page = notebook.page
        self.root = page.locator(".allocframe-terminal").nth(number)
        self.root.locator(".xterm-screen").wait_for()

    @property
    def text(self) -> str:
        return str(self.root.evaluate(self._READ))

    @property
    def status(self) -> str:
        return self.root.locator('[role="status"]').inner_text()

    @property
    def size(self) -> tuple[int, int]:
        rows, cols = self.root.evaluate(
            "root => [root.allocframeTerminal.rows, root.allocframeTerminal.cols]"
        )
        return rows, cols

    def focus(self) -> None:
        self.root.locator(".xterm-screen").click()

    def type(self, text: str) -> None:
        self.focus()
        self.page.keyboard.type(text)

    def shows(self, text: str, timeout: float = TIMEOUT) -> None:
        """Wait until the terminal shows a text."""

        def is_shown() -> bool:
            assert text in self.text, self.text[-2000:]
            return True

        eventually(is_shown, timeout)
