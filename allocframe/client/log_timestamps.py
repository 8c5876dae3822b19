"""Timestamps at the start of log lines: the formats that programs use, and nothing guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_FIRST_YEAR, _LAST_YEAR = 1990, 2200
"""A year outside of these is some other number."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = "|".join(_MONTHS)
_COLOUR_OR_BRACKET = r"(?:\x1b\[[0-9;]{0,20}m|[\[(\"'<\s])*"
_CLOCK = r"(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
_FIELD = re.compile(
    r"(?:\{.{0,300}?\"@?(?:time|ts|timestamp)\"\s{0,2}:\s{0,2}"  # JSON
    r"|(?:\w{1,20}=\S{1,40} ){0,4}(?:time|ts|timestamp)=)\"?(?=\d)"  # logfmt
)
_DECORATION = re.compile(_COLOUR_OR_BRACKET)
_ISO = re.compile(rf"(\d{{4}})[-/](\d\d)[-/](\d\d)[T _]{_CLOCK} ?(Z|UTC|[+-]\d\d:?\d\d)?")
_EPOCH = re.compile(r"(1\d{9})(\d{9}|\d{6}|\d{3}|\.\d{1,9})?(?![\d.])")
_KLOG = re.compile(rf"[IWEF](\d\d)(\d\d) {_CLOCK}")
_SYSLOG = re.compile(rf"(?:\d{{1,3}}>)?({_MONTH}) {{1,2}}(\d{{1,2}}) {_CLOCK}")
_ACCESS = re.compile(
    rf"(?:\S{{1,100}} \S{{1,100}} \S{{1,100}} )?\[(\d\d)/({_MONTH})/(\d{{4}}):{_CLOCK} ([+-]\d{{4}})\]"
)


@dataclass(frozen=True)
class Stamp:
    """The time of a line in nanoseconds, its format, and whether that names a time zone."""

    ns: int
    form: str
    zoned: bool = True


def stamp(line: str, near_ns: int) -> Stamp | None:
    """Return the time at the start of a line, or None. If it has no year, the result is the closest to
    `near_ns`.
    """
    head = line[:400]  # long lines cost no more
    if match := _ACCESS.match(head):
        day, month, year, hour, minute, second, fraction, zone = match.groups()
        number = _MONTHS.index(month) + 1
        return _make_stamp("access log", _to_ns((year, number, day), (hour, minute, second), fraction, zone))
    field = _FIELD.match(head)
    lead = field or _DECORATION.match(head)
    start = lead.end() if lead else 0
    if match := _ISO.match(head, start):
        year, month, day, *clock, fraction, zone = match.groups()
        return _make_stamp(
            "RFC 3339", _to_ns((year, month, day), clock, fraction, zone), zoned=zone is not None
        )
    if match := _EPOCH.match(head, start):
        seconds, fraction = match[1], (match[2] or "").lstrip(".")
        return _make_stamp("Unix time", int(seconds) * 10**9 + int(fraction.ljust(9, "0")))
    if match := _KLOG.match(head, start):
        month, day, *clock, fraction = match.groups()
        return _make_stamp("klog", _closest_year((month, day), clock, fraction, near_ns), zoned=False)
    if match := _SYSLOG.match(head, start):
        name, day, *clock, fraction = match.groups()
        number = _MONTHS.index(name) + 1
        return _make_stamp("syslog", _closest_year((number, day), clock, fraction, near_ns), zoned=False)
    return None


def _make_stamp(form: str, ns: int | None, *, zoned: bool = True) -> Stamp | None:
    return None if ns is None else Stamp(ns, form, zoned)


def _to_ns(
    date: tuple[object, ...], clock: tuple[str, ...] | list[str], fraction: str | None, zone: str | None
) -> int | None:
    year, month, day = (int(str(number)) for number in date)
    try:
        hour, minute, second = (int(number) for number in clock)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    if not _FIRST_YEAR <= year <= _LAST_YEAR:
        return None
    return int((moment - _offset(zone)).timestamp()) * 10**9 + int((fraction or "").ljust(9, "0"))


def _offset(zone: str | None) -> timedelta:
    if zone in (None, "Z", "UTC"):
        return timedelta()
    digits = zone.replace(":", "")
    offset = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5]))
    return offset if digits[0] == "+" else -offset


def _closest_year(
    date: tuple[object, object], clock: tuple[str, ...] | list[str], fraction: str | None, near_ns: int
) -> int | None:
    """Return the time in the year that puts it closest to `near_ns`."""
    year = datetime.fromtimestamp(near_ns // 10**9, UTC).year
    candidates = (_to_ns((each, *date), clock, fraction, None) for each in (year - 1, year, year + 1))
    return min((ns for ns in candidates if ns is not None), key=lambda ns: abs(ns - near_ns), default=None)
