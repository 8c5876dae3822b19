"""The interactive timeline in a notebook."""

from __future__ import annotations

import contextvars
import json
import threading
from typing import Any, TypeAlias

import anywidget
import traitlets

from ...client.client import Client
from ...diagnosis.diagnose import Diagnosis
from ...errors import AllocframeError
from ...snapshot.snapshot import Snapshot
from .columns import timeline_columns
from .page import STATIC, still_picture

_LOG_LINES = 40

# What a trait gives, and what it takes.
_Text: TypeAlias = "traitlets.Unicode[str, str | bytes]"
_Flag: TypeAlias = "traitlets.Bool[bool, bool | int]"


class Timeline(anywidget.AnyWidget):
    """The interactive timeline that `timeline` makes.

    Attributes
    ----------
    data : str
        What is drawn, as JSON.
    """

    _esm = STATIC / "timeline.js"
    _css = STATIC / "timeline.css"

    data: _Text = traitlets.Unicode(read_only=True).tag(sync=True)
    has_logs: _Flag = traitlets.Bool(False, read_only=True).tag(sync=True)

    def __init__(self, columns: dict[str, Any], client: Client | None = None) -> None:
        super().__init__()
        self._client = client
        self._still = still_picture(columns)
        self._allocs = set(columns["allocs"])
        self.set_trait("data", json.dumps(columns, separators=(",", ":")))
        self.set_trait("has_logs", client is not None)
        self.on_msg(self._on_message)

    def _on_message(self, _: object, content: object, buffers: object) -> None:
        """Read the end of a task's logs, on a thread of its own: a node may take long to answer."""
        if not isinstance(content, dict) or content.get("type") != "logs" or self._client is None:
            return
        number, alloc, task = (content.get(name) for name in ("id", "alloc", "task"))
        if not (isinstance(number, str) and isinstance(task, str) and alloc in self._allocs):
            return
        context = contextvars.copy_context()
        read = (self._send_logs, self._client, number, alloc, task)
        threading.Thread(target=context.run, args=read, name="allocframe-timeline-logs", daemon=True).start()

    def _send_logs(self, client: Client, number: str, alloc: str, task: str) -> None:
        self.send({"type": "logs", "id": number, "text": last_lines(client, alloc, task)})

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Return the widget, and a still picture for saved notebooks and pages without a kernel."""
        bundle = super()._repr_mimebundle_(**options)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle or {},)
        data = {**data, "text/html": self._still}
        return (data, *metadata) if metadata else data


def last_lines(client: Client, alloc_id: str, task: str) -> str:
    """Return the end of a task's logs as text, or why there is none."""
    try:
        logs = client.logs(alloc_id, task, lines=_LOG_LINES)
    except AllocframeError as error:
        return str(error)
    return repr(logs) if len(logs) or logs.notes else "The task wrote nothing."


def timeline(
    snapshot: Snapshot,
    diagnosis: Diagnosis | None = None,
    *,
    history: Any = None,
    client: Client | None = None,
) -> Timeline:
    """Return an interactive timeline of incidents, jobs and instances, to look at in a notebook.

    It opens on the worst incident. Drag to move, Ctrl and the wheel to zoom, click a row for its events. Runs
    are bars, failures have the colour and shape of their kind, and changes show what was changed. Saved
    notebooks show a still picture.

    Parameters
    ----------
    snapshot : Snapshot
        Of one cluster or several.
    diagnosis : Diagnosis, optional
        That of the snapshot; else it is made.
    history : History, optional
        What had changed. Default: ``snapshot.history``.
    client : Client, optional
        To read the last log lines of a task that you click.

    Examples
    --------
    >>> timeline = af.timeline(snap)
    >>> "incidents" in timeline.data
    True
    """
    return Timeline(timeline_columns(snapshot, diagnosis, history), client)
