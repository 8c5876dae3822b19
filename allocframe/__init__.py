"""allocframe: Nomad allocations and task events as pandas DataFrames.

import allocframe as af

snap = af.Client().snapshot(namespace="*")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import accessor as _accessor  # noqa: F401 - gives DataFrames their .alloc
from . import spark
from ._version import __version__
from .client.async_client import AsyncClient
from .client.audit_log import read_audit
from .client.client import Client
from .client.fleet import Fleet
from .client.logs import Logs
from .client.usage import Usage
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
from .nomad.actions import StopResult
from .nomad.exec import ExecResult
from .snapshot.allocation import Allocation
from .snapshot.diff import Diff
from .snapshot.io import load, read_json
from .snapshot.multi_cluster import MultiSnapshot, combine
from .snapshot.snapshot import Snapshot
from .watch.change import Change, Checkpoint, Gap
from .watch.watch import Watch

if TYPE_CHECKING:
    from . import plots, sim, stats
    from .archive.archive import Archive
    from .diagnosis.data_quality import data_quality
    from .diagnosis.diagnose import Diagnosis, diagnose, findings
    from .diagnosis.finding import Finding, Findings, Thresholds
    from .reports.cluster import Trends, cluster_summary, trends
    from .reports.postmortem import Postmortem, postmortem
    from .reports.render import format_table
    from .reports.report import report
    from .widgets.panel.panel import ControlPanel
    from .widgets.terminal.terminal import Terminal

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
    "report",
    "sim",
    "spark",
    "stats",
    "trends",
]

_OPTIONAL = {
    "Archive": ("archive", "archive", "deltalake"),
    "ControlPanel": ("widgets.panel.panel", "widgets", "ipywidgets"),
    "Diagnosis": ("diagnosis.diagnose", "stats", "narwhals and scipy"),
    "Finding": ("diagnosis.finding", "stats", "narwhals and scipy"),
    "Findings": ("diagnosis.finding", "stats", "narwhals and scipy"),
    "Postmortem": ("reports", "stats", "narwhals and scipy"),
    "Terminal": ("widgets.terminal.terminal", "widgets", "anywidget and websockets"),
    "Thresholds": ("diagnosis.finding", "stats", "narwhals and scipy"),
    "Trends": ("reports", "stats", "narwhals and scipy"),
    "data_quality": ("diagnosis.data_quality", "stats", "narwhals and scipy"),
    "diagnose": ("diagnosis.diagnose", "stats", "narwhals and scipy"),
    "findings": ("diagnosis.diagnose", "stats", "narwhals and scipy"),
    "cluster_summary": ("reports", "stats", "narwhals and scipy"),
    "plots": ("plots", "plots", "matplotlib"),
    "postmortem": ("reports", "stats", "narwhals and scipy"),
    "format_table": ("reports", "stats", "narwhals and scipy"),
    "report": ("reports", "stats", "narwhals and scipy"),
    "sim": ("sim", "demo", "starlette and uvicorn"),
    "stats": ("stats", "stats", "narwhals and scipy"),
    "trends": ("reports", "stats", "narwhals and scipy"),
}
"""What is loaded on first use: from which module, and what that needs."""


def __getattr__(name: str) -> Any:
    if name not in _OPTIONAL:
        raise AttributeError(f"module 'allocframe' has no attribute {name!r}")
    module, extra, needs = _OPTIONAL[name]
    try:
        loaded = importlib.import_module(f".{module}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("allocframe"):
            raise
        raise MissingExtra(f"allocframe.{name} needs {needs}: pip install 'allocframe[{extra}]'") from error
    globals()[name] = loaded if module == name else getattr(loaded, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
