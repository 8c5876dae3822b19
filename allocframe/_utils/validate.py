"""Checks of arguments: each returns the value, or raises an error "X must be Y, got Z"."""

from __future__ import annotations

import math
import re

from ..errors import ConfigError
from .text import visible

_CLUSTER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")


def check_count(name: str, value: object) -> int:
    """Return `value` if it is a whole number of at least 1; else raise ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def check_name(name: object) -> str:
    """Return the name of a cluster; raise ConfigError if it could not be a folder's name, too."""
    if not isinstance(name, str) or not _CLUSTER_NAME.fullmatch(name):
        raise ConfigError(
            "the name of a cluster must be up to 100 letters, digits and _ . : -, starting with a letter or "
            f"digit, got {visible(repr(name))}"
        )
    return name


def check_seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return a finite number of seconds above 0, or with `zero` of at least 0; else raise ConfigError."""
    seconds = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    if 0 < seconds < math.inf or (zero and seconds == 0):
        return seconds
    bound = "of at least 0" if zero else "above 0"
    raise ConfigError(f"{name} must be a number of seconds {bound}, got {value!r}")
