"""allocframe: Nomad allocations and task events as pandas DataFrames.

import allocframe as af

snap = af.Client().snapshot(namespace="*")
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Arrow reads this when it is imported. Of what is freed, its own allocator keeps hundreds of megabytes.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from . import accessor as _accessor  # noqa: F401 - registers .alloc on every DataFrame
from ._version import __version__
from .errors import (
    AllocframeError,
    ApiError,
    BadRequest,
    ConfigError,
    Conflict,
    ConnectionFailed,
    DecodeError,
    ExecError,
    MissingExtra,
    NodeUnreachable,
    NotFound,
    NotNomad,
    PermissionDenied,
    RequestTimeout,
    ResponseTooLarge,
    ResultUnknown,
    Unsupported,
)

if TYPE_CHECKING:
    from . import plots, sim, spark, stats
    from .archive.archive import Archive
    from .client.async_client import AsyncClient
    from .client.audit_log import read_audit
    from .client.client import Client
    from .client.fleet import Fleet
    from .client.logs import Logs
    from .client.usage import Usage
    from .diagnosis.data_quality import data_quality
    from .diagnosis.diagnose import Diagnosis, diagnose, findings
    from .diagnosis.finding import Finding, Findings, Thresholds
    from .nomad.actions import StopResult
    from .nomad.exec import ExecResult
    from .recovery.recover import recover
    from .reports.cluster import Trends, cluster_summary, trends
    from .reports.postmortem import Postmortem, postmortem
    from .reports.render import format_table
    from .reports.report import report
    from .snapshot.allocation import Allocation
    from .snapshot.diff import Diff
    from .snapshot.history import History
    from .snapshot.io import load, read_json
    from .snapshot.multi_cluster import MultiSnapshot, combine
    from .snapshot.snapshot import Snapshot
    from .watch.change import Change, Checkpoint, Gap
    from .watch.watch import Watch
    from .widgets.panel.panel import ControlPanel
    from .widgets.terminal.terminal import Terminal
    from .widgets.time_machine.time_machine import TimeMachine
    from .widgets.timeline.timeline import Timeline, timeline

__all__ = [
    "Allocation",
    "AllocframeError",
    "ApiError",
    "Archive",
    "AsyncClient",
    "BadRequest",
    "Change",
    "Checkpoint",
    "Client",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "ControlPanel",
    "DecodeError",
    "Diagnosis",
    "Diff",
    "ExecError",
    "ExecResult",
    "Finding",
    "Findings",
    "Fleet",
    "Gap",
    "History",
    "Logs",
    "MissingExtra",
    "MultiSnapshot",
    "NodeUnreachable",
    "NotFound",
    "NotNomad",
    "PermissionDenied",
    "Postmortem",
    "RequestTimeout",
    "ResponseTooLarge",
    "ResultUnknown",
    "Snapshot",
    "StopResult",
    "Terminal",
    "Thresholds",
    "TimeMachine",
    "Timeline",
    "Trends",
    "Unsupported",
    "Usage",
    "Watch",
    "__version__",
    "cluster_summary",
    "combine",
    "data_quality",
    "diagnose",
    "findings",
    "format_table",
    "load",
    "plots",
    "postmortem",
    "read_audit",
    "read_json",
    "recover",
    "report",
    "sim",
    "spark",
    "stats",
    "timeline",
    "trends",
]

_MODULES = {
    "archive.archive": ("Archive",),
    "client.async_client": ("AsyncClient",),
    "client.audit_log": ("read_audit",),
    "client.client": ("Client",),
    "client.fleet": ("Fleet",),
    "client.logs": ("Logs",),
    "client.usage": ("Usage",),
    "diagnosis.data_quality": ("data_quality",),
    "diagnosis.diagnose": ("Diagnosis", "diagnose", "findings"),
    "diagnosis.finding": ("Finding", "Findings", "Thresholds"),
    "nomad.actions": ("StopResult",),
    "nomad.exec": ("ExecResult",),
    "plots": ("plots",),
    "recovery.recover": ("recover",),
    "reports.cluster": ("Trends", "cluster_summary", "trends"),
    "reports.postmortem": ("Postmortem", "postmortem"),
    "reports.render": ("format_table",),
    "reports.report": ("report",),
    "sim": ("sim",),
    "snapshot.allocation": ("Allocation",),
    "snapshot.diff": ("Diff",),
    "snapshot.history": ("History",),
    "snapshot.io": ("load", "read_json"),
    "snapshot.multi_cluster": ("MultiSnapshot", "combine"),
    "snapshot.snapshot": ("Snapshot",),
    "spark": ("spark",),
    "stats": ("stats",),
    "watch.change": ("Change", "Checkpoint", "Gap"),
    "watch.watch": ("Watch",),
    "widgets.panel.panel": ("ControlPanel",),
    "widgets.terminal.terminal": ("Terminal",),
    "widgets.time_machine.time_machine": ("TimeMachine",),
    "widgets.timeline.timeline": ("Timeline", "timeline"),
}
"""Public names by the module that defines them.

They load on first use, so that ``import allocframe`` costs little more than pandas.
"""

_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

_EXTRAS = {
    "archive": ("archive", "deltalake"),
    "diagnosis": ("stats", "narwhals and scipy"),
    "plots": ("plots", "matplotlib"),
    "reports": ("stats", "narwhals and scipy"),
    "sim": ("demo", "starlette and uvicorn"),
    "stats": ("stats", "narwhals and scipy"),
    "widgets.panel.panel": ("widgets", "anywidget and ipywidgets"),
    "widgets.terminal.terminal": ("widgets", "anywidget and websockets"),
    "widgets.time_machine.time_machine": ("widgets", "anywidget"),
    "widgets.timeline.timeline": ("widgets", "anywidget"),
}
"""Packages and modules that need an extra: its name, and what it installs."""


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'allocframe' has no attribute {name!r}")
    module = _MODULE_OF[name]
    try:
        loaded = importlib.import_module(f".{module}", __name__)
    except (ModuleNotFoundError, MissingExtra) as error:
        needed = _EXTRAS.get(module) or _EXTRAS.get(module.partition(".")[0])
        # what it imports may lack an extra, too; the one for `name` brings both
        if needed is None or (error.name or "").startswith("allocframe"):
            raise
        extra, needs = needed
        raise MissingExtra(f"allocframe.{name} needs {needs}: pip install 'allocframe[{extra}]'") from error
    globals()[name] = loaded if module == name else getattr(loaded, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
