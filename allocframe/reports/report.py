"""A packaged notebook, run over a snapshot and written as a report."""

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
from .archive_source import DAYS, of_days, of_incident
from .log_excerpts import REDACTED, LogLines, log_lines
from .postmortem import window
from .redact import redacted

if TYPE_CHECKING:
    from ..archive.archive import Archive

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
"""The notebooks that people open, and that reports are made of."""

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
    """Write a report that can be sent to those who were not there.

    Parameters
    ----------
    source : Snapshot or Archive
        Of an archive, a postmortem tells of allocations that are gone, too, and a report on the cluster has trends.
    kind : str
        "postmortem" (what happened) or "cluster" (how the cluster does).
    output : path
        ``NAME.html``, one file that needs no network; or ``NAME.md``, with its pictures in ``NAME_files``.
    job : str, optional
        Only the allocations of this job.
    since, until : time, optional
        The window of a postmortem; from an archive it needs `since`.
    days : int, optional
        From an archive: of how many days, up to its last observation, a report on the cluster is, and as many before them to
        compare with; 7 where left out.
    redact : bool
        Replace every name, address, ID and text of the cluster, the same by the same within this report. Times, numbers and
        Nomad's own words stay.
    client : Client, optional
        The cluster, to put the log lines around failures into a postmortem, where nodes still have them. A redacted one says that
        they are left out. Needs read-logs.
    progress : bool
        Show how far it is.

    Returns
    -------
    pathlib.Path
        The file. The same snapshot and settings, and the same log lines, give the same file, byte for byte.

    Raises
    ------
    ConfigError
        A parameter cannot be used, or there is nothing to tell: no such job, no task event in the window, no archive.
    MissingExtra
        The extra ``report`` is not installed.

    Examples
    --------
    >>> af.report(snap, "postmortem", output="outage.html", progress=False).name
    'outage.html'
    """
    target = _checked(kind, output)
    snapshot, since = _chosen(kind, source, since, until, days, client)
    if job is not None:
        snapshot = _of_job(snapshot, job)
    begin, end = window(snapshot, since, until)
    with tempfile.TemporaryDirectory(prefix="allocframe-") as folder:
        evidence = Path(folder) / "evidence.allocframe"
        saved = redacted(snapshot, evidence) if redact else snapshot.save(evidence)
        parameters = {"source": str(saved)}
        asked = {"since": (since, begin), "until": (until, end)}
        parameters |= {
            name: moment.isoformat() for name, (given, moment) in asked.items() if given is not None
        }
        executed = _executed(kind, parameters, folder, progress)
    from .export import add_section, export

    if client is not None:
        lines = LogLines(REDACTED, []) if redact else log_lines(snapshot, client, begin, end)
        add_section(executed, "Log lines", lines, before="Evidence")
    export(executed, f"{_TITLES[kind]}, {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC", target)
    return target


def _chosen(
    kind: str,
    source: Snapshot | Archive,
    since: pd.Timestamp | str | None,
    until: pd.Timestamp | str | None,
    days: int | None,
    client: Client | None,
) -> tuple[Snapshot, pd.Timestamp | str | None]:
    """Return the snapshot that a report is of, and its start; refuse settings that do not go together."""
    if kind == "cluster" and (since is not None or until is not None):
        raise ConfigError(
            "a report on the cluster is of all that the snapshot covers; leave out since and until"
        )
    if kind == "cluster" and client is not None:
        raise ConfigError("log lines are for a postmortem; leave out client")
    if days is not None and (kind != "cluster" or isinstance(source, Snapshot)):
        raise ConfigError("days are those of a report on the cluster from an archive; leave them out")
    if lacking := missing():
        raise MissingExtra(f"reports need {' and '.join(lacking)}: pip install 'allocframe[report]'")
    if isinstance(source, Snapshot):
        require_one_cluster(source)
        return source, since
    if kind == "cluster":
        return of_days(source, DAYS if days is None else days)
    return of_incident(source, since, until), since


def _checked(kind: str, output: str | os.PathLike[str]) -> Path:
    target = Path(output)
    if kind not in _KINDS:
        raise ConfigError(f"there is no report {kind!r}; there are: {', '.join(_KINDS)}")
    if target.suffix not in (".html", ".md"):
        raise ConfigError(f"output {target}: end the name with .html or .md")
    if not target.parent.is_dir():
        raise ConfigError(f"output {target}: there is no folder {target.parent}")
    return target


def _of_job(snapshot: Snapshot, job: str) -> Snapshot:
    known = sorted(set(snapshot.allocations["job_id"].dropna().astype(str)))
    if job not in known:
        close = difflib.get_close_matches(job, known, n=3, cutoff=0.5) or known[:3]
        hint = f"; did you mean {', '.join(map(visible, close))}?" if close else ""
        raise ConfigError(f"no allocation of a job {visible(job)!r} is in this snapshot{hint}")
    return snapshot.filter(job_id=job)


def missing() -> list[str]:
    """Return what reports need and is not installed."""
    return [name for name in _NEEDS if importlib.util.find_spec(name) is None]


def _executed(kind: str, parameters: dict[str, str], folder: str, progress: bool) -> Any:
    """Run a packaged notebook in a kernel of its own and return it with its outputs."""
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    from tqdm.auto import tqdm

    class ThisPython(AsyncKernelManager):
        """A kernel of the running interpreter, whatever kernels Jupyter knows; its sockets are files in the folder."""

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
    # The kernel reads the saved evidence only: it gets none of the cluster's settings, the token least of all.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NOMAD_")}
    environment |= {"PYTHONHASHSEED": "0", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    # Not client.execute(): it takes over the process's signals, and Ctrl-C would no longer be a KeyboardInterrupt.
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
                    f"the notebook of the {kind} failed in its cell {client.code_cells_executed}: its process ended. "
                    "The machine may lack memory."
                ) from None
    return notebook


def _set_parameters(notebook: Any, parameters: dict[str, str]) -> None:
    """Add a cell that sets parameters, after the notebook's own cell tagged ``parameters``."""
    import nbformat

    v4: Any = nbformat.v4
    place = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(place + 1, v4.new_code_cell(source))
