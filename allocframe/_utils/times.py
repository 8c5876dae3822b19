"""Times that people give: one parser, and UTC throughout."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from ..errors import ConfigError


def to_utc(moment: pd.Timestamp | datetime | str, name: str = "the time") -> pd.Timestamp:
    """Return a time in UTC; one without an offset is taken as UTC.

    Raises
    ------
    ConfigError
        It is no time. The message calls it `name`.
    """
    try:
        stamp = pd.Timestamp(moment)
        if pd.isna(stamp):
            raise ValueError
        return stamp.tz_convert("UTC") if stamp.tzinfo else stamp.tz_localize("UTC")
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"{name} must be a time such as 2026-11-24T09:30, got {moment!r}") from None
