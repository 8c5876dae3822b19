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
    from . import sim

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
    "load",
    "read_json",
    "sim",
]

_OPTIONAL = {"sim": ("demo", "starlette and uvicorn")}


def __getattr__(name: str) -> Any:
    if name not in _OPTIONAL:
        raise AttributeError(f"module 'allocframe' has no attribute {name!r}")
    extra, needs = _OPTIONAL[name]
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("allocframe"):
            raise
        raise MissingExtra(f"allocframe.{name} needs {needs}: pip install 'allocframe[{extra}]'") from error


def __dir__() -> list[str]:
    return __all__
