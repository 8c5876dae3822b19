"""Reports: a packaged notebook, run over a snapshot and written as one file."""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .._utils.text import visible
from ..client.client import Client
from ..diagnosis.data_quality import require_one_cluster
from ..errors import AllocframeError, ConfigError, MissingExtra
from ..snapshot.snapshot import Snapshot
from .archive_source import DAYS, snapshot_for_days, snapshot_for_postmortem
from .log_excerpts import REDACTED, LogLines, log_lines
from .postmortem import window
from .redact import redacted

if TYPE_CHECKING:
    from ..archive.archive import Archive

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
"""The notebooks that people open are the ones that reports run."""

_KINDS = {"postmortem": "02_postmortem.ipynb", "cluster": "03_cluster.ipynb"}
_TITLES = {"postmortem": "Incident postmortem", "cluster": "Cluster report"}
_NEEDS = ("matplotlib", "ipykernel", "matplotlib_inline", "nbclient", "nbconvert", "scipy", "narwhals")


def report(
    source: Snapshot | Archive,
    kind: str = "postmortem",
    *,
    output: str | os.PathLike[str],
    job: str | None = None,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    days: int | None = None,
    redact: bool = False,
    client: Client | None = None,
    progress: bool = True,
) -> Path:
    """Write a report to send to people who were not there.

    Parameters
    ----------
    source : Snapshot or Archive
        From an archive, a postmortem includes allocations that Nomad has removed, and a cluster report has
        trends.
    kind : str
        "postmortem" (what happened) or "cluster" (how the cluster is doing).
    output : path
        ``NAME.html``, one file that works offline, or ``NAME.md``, with its pictures in ``NAME_files``.
    job : str, optional
        Only the allocations of this job.
    since, until : time, optional
        The window of a postmortem; from an archive it needs `since`.
    days : int, optional
        For a cluster report from an archive: how many days it covers, up to the last observation. It compares
        them with as many days before. By default 7.
    redact : bool
        Replace every name, address, ID and text of the cluster, equal ones by equal ones. Times, numbers and
        Nomad's own words stay.
    client : Client, optional
        The cluster, to add the log lines around failures to a postmortem, if the nodes still have them. A
        redacted postmortem leaves them out and says so. Needs read-logs.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pathlib.Path
        The file. The same snapshot, settings and log lines give the same file, byte for byte.

    Raises
    ------
    ConfigError
        A parameter is not valid, or there is nothing to report: no such job, no task event in the window, no
        archive.
    MissingExtra
        The extra ``report`` is not installed.

    Examples
    --------
    >>> af.report(snap, "postmortem", output="outage.html", progress=False).name
    'outage.html'
    """
    target = _check_output(kind, output)
    snapshot, since = _choose_snapshot(kind, source, since, until, days, client)
    if job is not None:
        snapshot = _of_job(snapshot, job)
    start, end = window(snapshot, since, until)
    with tempfile.TemporaryDirectory(prefix="allocframe-") as folder:
        evidence = Path(folder) / "evidence.allocframe"
        saved = redacted(snapshot, evidence) if redact else snapshot.save(evidence)
        parameters = {"source": str(saved)}
        if since is not None:
            parameters["since"] = start.isoformat()
        if until is not None:
            parameters["until"] = end.isoformat()
        notebook = _execute(kind, parameters, folder, progress)
    from .export import add_section, export

    if client is not None:
        lines = LogLines(REDACTED, []) if redact else log_lines(snapshot, client, start, end)
        add_section(notebook, "Log lines", lines, before="Evidence")
    export(notebook, f"{_TITLES[kind]}, {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC", target)
    return target


def _choose_snapshot(
    kind: str,
    source: Snapshot | Archive,
    since: pd.Timestamp | str | None,
    until: pd.Timestamp | str | None,
    days: int | None,
    client: Client | None,
) -> tuple[Snapshot, pd.Timestamp | str | None]:
    """Return the snapshot of a report and the start of its window; check the settings."""
    if kind == "cluster" and (since is not None or until is not None):
        raise ConfigError("a cluster report covers the whole snapshot; leave out since and until")
    if kind == "cluster" and client is not None:
        raise ConfigError("log lines are for a postmortem; leave out client")
    if days is not None and (kind != "cluster" or isinstance(source, Snapshot)):
        raise ConfigError("days is for a cluster report from an archive; leave it out")
    if packages := missing_packages():
        raise MissingExtra(f"reports need {' and '.join(packages)}: pip install 'allocframe[report]'")
    if isinstance(source, Snapshot):
        require_one_cluster(source)
        return source, since
    if kind == "cluster":
        return snapshot_for_days(source, DAYS if days is None else days)
    return snapshot_for_postmortem(source, since, until), since


def _check_output(kind: str, output: str | os.PathLike[str]) -> Path:
    target = Path(output)
    if kind not in _KINDS:
        raise ConfigError(f"kind must be {' or '.join(_KINDS)}, got {kind!r}")
    if target.suffix not in (".html", ".md"):
        raise ConfigError(f"output must end with .html or .md, got {target}")
    if not target.parent.is_dir():
        raise ConfigError(f"output {target}: there is no folder {target.parent}")
    return target


def _of_job(snapshot: Snapshot, job: str) -> Snapshot:
    jobs = sorted(set(snapshot.allocations["job_id"].dropna().astype(str)))
    if job not in jobs:
        close = difflib.get_close_matches(job, jobs, n=3, cutoff=0.5) or jobs[:3]
        hint = f"; did you mean {', '.join(map(visible, close))}?" if close else ""
        raise ConfigError(f"this snapshot has no allocation of job {visible(job)!r}{hint}")
    return snapshot.filter(job_id=job)


def missing_packages() -> list[str]:
    """Return the packages that reports need and that are not installed."""
    return [name for name in _NEEDS if importlib.util.find_spec(name) is None]


def _execute(kind: str, parameters: dict[str, str], folder: str, progress: bool) -> Any:
    """Run a packaged notebook in a kernel of its own and return it with its outputs."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from tqdm.auto import tqdm

    class ThisPython(AsyncKernelManager):
        """A kernel of the running interpreter; its sockets are files in the folder."""

        def __init__(self, **settings: Any) -> None:
            sockets = {
                "transport": "ipc",
                "ip": str(Path(folder) / "kernel"),
                "connection_file": str(Path(folder) / "kernel.json"),
            }
            super().__init__(**{**settings, **sockets})

        @property
        def kernel_spec(self) -> KernelSpec:
            start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=start, display_name=kind, language="python", env={"IPYTHONDIR": folder})

    read: Any = nbformat.read
    notebook = read(NOTEBOOKS / _KINDS[kind], as_version=4)
    _set_parameters(notebook, parameters)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,
        kernel_name="python3",
        raise_on_iopub_timeout=True,
        shutdown_kernel="immediate",
    )
    # The kernel only reads the saved evidence, so it gets none of the cluster's settings, above all no token.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOMAD_")}
    environment |= {"PYTHONHASHSEED": "0", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    # Not client.execute(): it takes over the process's signals, and Ctrl-C would raise no KeyboardInterrupt.
    with client.setup_kernel(cwd=folder, env=environment):
        for number, cell in enumerate(tqdm(notebook.cells, desc=kind, unit="cell", disable=not progress)):
            try:
                client.execute_cell(cell, number)
            except CellExecutionError as error:
                raise AllocframeError(
                    f"the notebook of the {kind} failed in its cell {cell.execution_count}: "
                    f"{error.ename}: {visible(error.evalue)}"
                ) from None
            except DeadKernelError:
                raise AllocframeError(
                    f"the notebook of the {kind} failed in its cell {client.code_cells_executed}: "
                    "its process ended. The machine may lack memory."
                ) from None
    return notebook


def _set_parameters(notebook: Any, parameters: dict[str, str]) -> None:
    """Add a cell that sets parameters, after the notebook's own cell tagged ``parameters``."""
    import nbformat

    v4: Any = nbformat.v4
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(place + 1, v4.new_code_cell(source))
