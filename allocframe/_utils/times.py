"""Times that people give: one parser, and UTC throughout."""

from __future__ import annotations

import re
from datetime import date, datetime

import numpy as np
import pandas as pd

from ..errors import ConfigError

_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}
_UNIT = "|".join(sorted(_SECONDS, key=len, reverse=True))
_PART = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,9}})?) ?({_UNIT})(?![a-z]) ?", re.ASCII)
_AGO = re.compile(rf"(?:{_PART.pattern})+(?:ago)?", re.ASCII)
_DAY = re.compile(r"(today|yesterday)(?: (\d{1,2}:\d\d(?::\d\d)?))?|(\d{1,2}:\d\d(?::\d\d)?)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d", re.ASCII)


def to_utc(
    moment: pd.Timestamp | datetime | str, name: str = "the time", *, now: pd.Timestamp | None = None
) -> pd.Timestamp:
    """Return a time in UTC; one without an offset is taken as UTC.

    Parameters
    ----------
    moment : time or str
        An absolute time (``2026-11-24T09:30``), one of today or yesterday (``14:00``, ``yesterday 14:00``),
        or a duration before now (``2h``, ``1h30m``, ``7 days ago``).
    name : str
        What an error calls it.
    now : Timestamp, optional
        What durations are counted back from.

    Raises
    ------
    ConfigError
        It is not a time, or one that nanoseconds cannot hold.

    Examples
    --------
    >>> import pandas as pd
    >>> from allocframe._utils.times import to_utc
    >>> noon = pd.Timestamp("2026-11-24T12:00", tz="UTC")
    >>> to_utc("2h", now=noon), to_utc("yesterday 14:00", now=noon)
    (Timestamp('2026-11-24 10:00:00+0000', tz='UTC'), Timestamp('2026-11-23 14:00:00+0000', tz='UTC'))
    """
    try:
        stamp = _parse(moment, now)
        if pd.isna(stamp):
            raise ValueError
        stamp = stamp.as_unit("ns")  # else years that no table has would pass
        return stamp.tz_convert("UTC") if stamp.tzinfo else stamp.tz_localize("UTC")
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(
            f"{name} must be a time such as 2026-11-24T09:30, 'yesterday 14:00' or 2h (ago), got {moment!r}"
        ) from None


def _parse(moment: object, now: pd.Timestamp | None) -> pd.Timestamp:
    if isinstance(moment, date | np.datetime64):
        return pd.Timestamp(moment)
    if not isinstance(moment, str):
        raise TypeError  # a number has no unit
    text = " ".join(moment.lower().split())
    now = pd.Timestamp.now(tz="UTC") if now is None else now
    if text == "now":
        return now
    if _AGO.fullmatch(text):
        parts = _PART.findall(text)
        return now - pd.Timedelta(seconds=sum(float(amount) * _SECONDS[unit] for amount, unit in parts))
    if match := _DAY.fullmatch(text):
        day = now.tz_convert("UTC").normalize() - pd.Timedelta(days=int(match[1] == "yesterday"))
        return pd.Timestamp(f"{day:%Y-%m-%d}T{match[2] or match[3] or '00:00'}")
    # pandas reads far more, but "2h" as the year 1.
    if not _DATE.match(text):
        raise ValueError
    return pd.Timestamp(moment)
