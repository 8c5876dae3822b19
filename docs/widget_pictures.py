"""Take the pictures of the widgets for the manual, in a real JupyterLab: `make pictures`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from allocframe import sim

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests" / "ui"))

import labpage  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
SCREEN = {"width": 1360, "height": 1300}


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        sim.Cluster("mixed", allocations=200, seed=7) as cluster,
        labpage.lab(Path(folder)) as lab,
        labpage.browser() as browser,
    ):
        client = (
            f"import allocframe as af\nclient = af.Client({cluster.address!r}, token={cluster.token!r})\n"
        )
        lab.notebook(
            "pictures.ipynb", client + "panel = af.ControlPanel(client, namespace='*')\npanel",
            "panel.wait()\nrunning = panel.rows.loc[panel.rows['status'] == 'running', 'alloc_id'].tolist()\n"
            "panel.choose(running[:1]); panel.ask('stop'); panel.wait()\n"
            "panel.confirm(); panel.wait()\n"
            "panel.choose(running[3:5]); panel.wait()\n"
            "panel.ask('restart'); panel.wait()",
            "alloc = running[6]\n"
            "task = client.allocation(alloc).task_states['task'][0]\n"
            "terminal = af.Terminal(client, alloc, task)\nterminal",
            "snap = client.snapshot(namespace='*', history=True)\naf.timeline(snap, client=client)",
            "af.TimeMachine(snap)",
        )  # fmt: skip
        page = browser.new_page(viewport=SCREEN)
        notebook = labpage.Notebook(page, lab, "pictures.ipynb")
        for cell in range(5):
            notebook.run(cell)
        page.locator(".af-tl-label").first.wait_for()
        page.locator(".allocframe-timeline").screenshot(path=FOLDER / "interactive_timeline.png")
        page.locator(".allocframe-time-machine").screenshot(path=FOLDER / "time_machine.png")
        page.locator(".allocframe-panel").first.screenshot(path=FOLDER / "panel.png")
        screen = labpage.Screen(notebook)
        screen.type("uname\nls\nstty size\nvi config.yml\n")
        screen.shows("config.yml")
        screen.type("ilisten: 0.0.0.0:8080\nworkers: 4\n")
        screen.shows("workers: 4")
        page.wait_for_timeout(500)
        screen.root.screenshot(path=FOLDER / "terminal.png")


if __name__ == "__main__":
    main()
