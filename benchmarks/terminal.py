"""Benchmark of the terminal in a notebook, and of JupyterLab's own: the echo of a key, 20 MB to the screen.

Every part is real: JupyterLab in a headless browser, the kernel, Nomad's WebSocket, and a program in a
pseudo-terminal. If a `nomad` program is on PATH, `nomad alloc exec` is measured, too, without a screen.
"""

from __future__ import annotations

import os
import pty
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

from allocframe import sim

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "ui"))
import labpage

KEYS = 50
LINE = b"%07d the quick brown fox jumps over the lazy dog\n"
LINES = 20_000_000 // 53
SCREEN: Any = {"width": 1280, "height": 900}
OPTIONS = (
    "--LabApp.expose_app_in_browser=True",
    "--ServerApp.terminado_settings={'shell_command': ['/bin/sh']}",
)
"""Let the benchmark reach the xterm.js of JupyterLab's own terminal, and give that the same shell."""

_Times: TypeAlias = tuple[float, float, float]
"""Milliseconds of an echo, median and 95th percentile, and MB/s of output."""

_WATCH_ECHO = """root => { const term = root.allocframeTerminal; let at = 0; window.echoes = [];
  root.addEventListener("keydown", () => { at = performance.now(); }, true);
  term.onWriteParsed(() => { if (at) { window.echoes.push(performance.now() - at); at = 0; } }); }"""
_WATCH_END = """root => { const term = root.allocframeTerminal, buffer = term.buffer.active; window.ended = 0;
  term.onWriteParsed(() => { const line = buffer.getLine(buffer.baseY + buffer.cursorY - 1);
    if (line?.translateToString(true) === "end of it") window.ended = performance.now(); });
  root.addEventListener("keydown", () => { window.started = performance.now(); }, true); }"""


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        sim.Cluster("calm", allocations=20, seed=1, shell="pty") as cluster,
    ):
        big = Path(folder) / "big"
        big.write_bytes(b"".join(LINE % n for n in range(LINES)))
        alloc = _running(cluster)
        rows = []
        # Both are measured twice, one after the other, because the machine may be busier at one time.
        with labpage.lab(Path(folder), *OPTIONS) as lab, labpage.browser() as browser:
            for turn in ("", " again"):
                page = browser.new_page(viewport=SCREEN)
                rows.append((f"allocframe{turn}", *_in_notebook(cluster, alloc[0], lab, page, big)))
                page.close()
                page = browser.new_page(viewport=SCREEN)
                rows.append((f"JupyterLab's own{turn}", *_in_labs_own_terminal(lab, page, big)))
                page.close()
        if shutil.which("nomad"):
            rows.append(("nomad alloc exec", *_by_cli(cluster, alloc, big)))
    print(f"{'':24}{'echo, median':>14}{'95th':>10}{'20 MB':>12}")
    for name, median, high, speed in rows:
        print(f"{name:24}{median:11.0f} ms{high:7.0f} ms{speed:7.1f} MB/s")


def _running(cluster: sim.Cluster) -> tuple[str, str]:
    """Return a running allocation and its task."""
    assert cluster.engine is not None
    alloc = next(a for a in cluster.engine.live() if a.client_status == "running" and len(a.tasks) == 1)
    return alloc.id, next(iter(alloc.tasks))


def _in_notebook(cluster: sim.Cluster, alloc: str, lab: labpage.Lab, page: Any, big: Path) -> _Times:
    lab.notebook(
        "terminal.ipynb",
        f"import allocframe as af\nclient = af.Client({cluster.address!r}, token={cluster.token!r})\n"
        f"af.Terminal(client, {alloc!r})",
    )
    notebook = labpage.Notebook(page, lab, "terminal.ipynb")
    notebook.run(0)
    return _measure(labpage.Screen(notebook), big)


def _in_labs_own_terminal(lab: labpage.Lab, page: Any, big: Path) -> _Times:
    """Measure JupyterLab's terminal, which also is xterm.js, but of a shell on this machine: no Nomad."""
    page.goto(f"{lab.url}/lab?token={lab.token}&reset")
    page.wait_for_function("window.jupyterapp")
    page.evaluate(
        """async () => { await jupyterapp.restored;
        window.own = await jupyterapp.commands.execute("terminal:create-new"); }"""
    )
    page.locator(".jp-Terminal .xterm-screen").wait_for()
    page.evaluate("own.content.node.allocframeTerminal = own.content._term")
    page.locator(".jp-Terminal .xterm-screen").click()
    return _measure(_LabTerminal(page), big)


class _LabTerminal(labpage.Screen):
    """JupyterLab's own terminal, with what the terminal of a notebook has."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.root = page.locator(".jp-Terminal").first


def _measure(screen: labpage.Screen, big: Path) -> _Times:
    page = screen.page
    screen.type("echo rea''dy\n")
    screen.shows("ready\n")
    screen.root.evaluate(_WATCH_ECHO)
    for n in range(KEYS):
        page.keyboard.press("z")
        page.wait_for_function(f"window.echoes.length > {n}")
        time.sleep(0.05)
    echoes = sorted(page.evaluate("window.echoes"))
    page.keyboard.press("Control+C")
    screen.type(f"cat {big}; echo end of i''t")
    screen.root.evaluate(_WATCH_END)
    page.keyboard.press("Enter")
    page.wait_for_function("window.ended", polling=100, timeout=120_000)
    seconds = page.evaluate("(window.ended - window.started) / 1000")
    return _median(echoes), _percentile_95(echoes), big.stat().st_size / 1e6 / seconds


def _by_cli(cluster: sim.Cluster, alloc: tuple[str, str], big: Path) -> _Times:
    master, slave = pty.openpty()
    environ = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token, "PATH": "/usr/bin:/bin"}
    command = [shutil.which("nomad") or "nomad", "alloc", "exec", "-task", alloc[1], alloc[0], "/bin/sh"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environ)
    read = _Reader(master)
    try:
        read.until(b"# ")
        echoes = sorted(read.seconds(b"z", b"z") * 1000 for _ in range(KEYS))
        read.seconds(b"\x03", b"# ")
        seconds = read.seconds(f"cat {big}; echo end of i''t\r".encode(), b"\nend of it")
    finally:
        process.kill()
        process.wait()
    return _median(echoes), _percentile_95(echoes), big.stat().st_size / 1e6 / seconds


class _Reader:
    """Types into a pseudo-terminal and waits for its output."""

    def __init__(self, master: int) -> None:
        self._master = master

    def until(self, text: bytes) -> None:
        tail = b""
        while text not in tail:
            if not select.select([self._master], [], [], 30)[0]:
                raise TimeoutError(f"{text!r} did not come; the last output was {tail!r}")
            tail = tail[-100:] + os.read(self._master, 1 << 16)

    def seconds(self, keys: bytes, text: bytes) -> float:
        """Return the seconds from typing until a text is in the output."""
        started = time.perf_counter()
        os.write(self._master, keys)
        self.until(text)
        return time.perf_counter() - started


def _median(values: list[Any]) -> float:
    return float(statistics.median(values))


def _percentile_95(values: list[Any]) -> float:
    return float(statistics.quantiles(values, n=20)[-1])


if __name__ == "__main__":
    main()
