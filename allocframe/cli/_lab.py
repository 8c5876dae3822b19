"""JupyterLab with the simulated cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..errors import MissingExtra

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
"""The notebooks that come with allocframe: a link to the project's own folder, or a copy in the wheel."""

FOLDER = Path("allocframe-notebooks")
"""Where the user gets copies of them."""

DEMO = "ALLOCFRAME_DEMO"
"""Tells the notebooks that the cluster of NOMAD_ADDR is a simulated one, on which they may act."""

_EXIT_TIMEOUT = 10.0


def open_lab(address: str, token: str, *, browser: bool) -> None:
    """Run JupyterLab on copies of the notebooks until it is interrupted.

    Its kernels get the cluster's address and token as environment variables.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtra("demo --lab needs jupyterlab: pip install 'allocframe[lab]'")
    _copy_notebooks()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOMAD_")}
    environment |= {"NOMAD_ADDR": address, "NOMAD_TOKEN": token, DEMO: "1"}
    with tempfile.TemporaryDirectory(prefix="allocframe-lab-") as settings:
        paths = [settings, *filter(None, [environment.get("JUPYTER_CONFIG_PATH")])]
        environment["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)
        _disable_news(Path(settings))
        _run_lab(environment, browser=browser)


def _disable_news(settings: Path) -> None:
    """Keep JupyterLab from asking whether to show news, in a box that covers the notebook."""
    page = settings / "labconfig" / "page_config.json"
    page.parent.mkdir()
    page.write_text(
        json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}})
    )


def _run_lab(environment: dict[str, str], *, browser: bool) -> None:
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.root_dir={FOLDER.resolve()}",
        f"--ServerApp.open_browser={browser}",
        "--LabApp.default_url=/lab/tree/01_first_look.ipynb",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]
    # In its own session, so that Ctrl-C reaches only this process, and JupyterLab does not ask for a
    # confirmation.
    lab = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603
    with _sigterm_as_interrupt(), contextlib.suppress(KeyboardInterrupt):
        try:
            lab.wait()
        finally:
            _terminate(lab)


def _copy_notebooks() -> None:
    """Copy the notebooks that are not there yet. Existing ones are left alone: they may have been edited."""
    FOLDER.mkdir(exist_ok=True)
    docs = NOTEBOOKS.resolve().parent / "docs"
    if has_docs := docs.is_dir():  # in a clone; JupyterLab opens nothing outside its folder
        ignored = shutil.ignore_patterns("*.py", "_*")
        shutil.copytree(docs, FOLDER / "docs", dirs_exist_ok=True, ignore=ignored)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        copy = FOLDER / notebook.name
        if not copy.exists():
            text = notebook.read_text(encoding="utf-8")
            copy.write_text(text.replace("](../docs/", "](docs/") if has_docs else text, encoding="utf-8")
    print(
        f"The notebooks are copies in {FOLDER}/. Press Ctrl-C to end JupyterLab and the simulated cluster.",
        file=sys.stderr,
    )


def _terminate(lab: subprocess.Popen[bytes]) -> None:
    lab.terminate()
    try:
        lab.wait(_EXIT_TIMEOUT)
    except subprocess.TimeoutExpired:
        lab.kill()
        lab.wait()


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that JupyterLab is ended too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
