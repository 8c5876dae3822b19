"""allocframe: Nomad allocations and task events as pandas DataFrames.

import allocframe as af

snap = af.Client().snapshot(namespace="*")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import (
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
    Unsupported,
)
from ._version import __version__
from .allocation import Allocation
from .client import Client
from .snapshot import Snapshot, load, read_json

if TYPE_CHECKING:
    from . import plots, sim, stats
    from .findings import findings

__all__ = [
    "Allocation",
    "AllocframeError",
    "ApiError",
    "BadRequest",
    "Client",
    "ConfigError",
    "Conflict",
    "ConnectionFailed",
    "DecodeError",
    "ExecError",
    "MissingExtra",
    "NodeUnreachable",
    "NotFound",
    "NotNomad",
    "PermissionDenied",
    "RequestTimeout",
    "ResponseTooLarge",
    "Snapshot",
    "Unsupported",
    "__version__",
    "findings",
    "load",
    "plots",
    "read_json",
    "sim",
    "stats",
]

_OPTIONAL = {
    "findings": ("stats", "narwhals and scipy"),
    "plots": ("plots", "matplotlib, narwhals and scipy"),
    "sim": ("demo", "starlette and uvicorn"),
    "stats": ("stats", "narwhals and scipy"),
}
"""What is loaded on first use: the module, the extra that it needs, and what that installs."""


def __getattr__(name: str) -> Any:
    if name not in _OPTIONAL:
        raise AttributeError(f"module 'allocframe' has no attribute {name!r}")
    extra, needs = _OPTIONAL[name]
    try:
        module = importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("allocframe"):
            raise
        raise MissingExtra(f"allocframe.{name} needs {needs}: pip install 'allocframe[{extra}]'") from error

    found = getattr(module, name, module)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
