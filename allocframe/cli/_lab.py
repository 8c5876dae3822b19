"""JupyterLab over the simulated cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import MissingExtra
from ..reports import NOTEBOOKS

FOLDER = Path("allocframe-notebooks")
_PATIENCE = 10.0


def open_lab(address: str, token: str, *, browser: bool) -> None:
    """Run JupyterLab on copies of the notebooks until it is interrupted; its kernels find the cluster in their environment."""
    if importlib.util.find_spec("jupyterlab") is None:
        raise MissingExtra("demo --lab needs jupyterlab: pip install 'allocframe[lab]'")
    _copy_notebooks()
    others = {name: value for name, value in os.environ.items() if not name.startswith("NOMAD_")}
    command = [
        sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={FOLDER.resolve()}",
        "--LabApp.default_url=/lab/tree/01_first_look.ipynb", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", f"--ServerApp.open_browser={browser}",
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    # In a session of its own, so that Ctrl-C reaches this process only and JupyterLab is not asked whether it means it.
    lab = subprocess.Popen(  # noqa: S603
        command, env={**others, "NOMAD_ADDR": address, "NOMAD_TOKEN": token}, start_new_session=True
    )
    with _terminated_like_interrupted(), contextlib.suppress(KeyboardInterrupt):
        try:
            lab.wait()
        finally:
            _end(lab)


def _copy_notebooks() -> None:
    """Copy the notebooks that are not there yet: those that are may have been worked on."""
    FOLDER.mkdir(exist_ok=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not (FOLDER / notebook.name).exists():
            shutil.copyfile(notebook, FOLDER / notebook.name)
    print(
        f"the notebooks are copies, in {FOLDER}/; Ctrl-C ends JupyterLab and the simulated cluster",
        file=sys.stderr,
    )


def _end(lab: subprocess.Popen[bytes]) -> None:
    lab.terminate()
    try:
        lab.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        lab.kill()
        lab.wait()


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
