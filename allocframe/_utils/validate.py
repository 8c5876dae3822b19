"""Checks of arguments: each returns the value, or says what it must be."""

from __future__ import annotations

import math
import re

from ..errors import (
    ConfigError,
)
from .text import visible


def check_count(name: str, value: object) -> int:
    """Return a positive whole number, or say what is wrong with it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of 1 or more, not {value!r}")
    return value


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")


def check_name(name: object) -> str:
    """Return the name of a cluster, which may become that of a folder, or say what is wrong with it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            "the name of a cluster is of letters, digits and _ . : -, with a letter or digit first, "
            f"not {visible(repr(name))}"
        )
    return name


def check_seconds(name: str, value: object, *, zero: bool = False) -> float:
    """Return a finite number of seconds above 0 (`zero`: 0 or more), or say what is wrong with it."""
    seconds = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    if 0 < seconds < math.inf or (zero and seconds == 0):
        return seconds
    bound = "of 0 or more" if zero else "above 0"
    raise ConfigError(f"{name} must be a number of seconds {bound}, got {value!r}")
