"""When a line of a log says it was written: the formats that programs use, and nothing guessed. No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EARLIEST, _LATEST = 1990, 2200
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = "|".join(_MONTHS)
_COLOUR_OR_BRACKET = r"(?:\x1b\[[0-9;]{0,20}m|[\[(\"'<\s])*"
_CLOCK = r"(\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
_FIELD = re.compile(
    r"(?:\{.{0,300}?\"@?(?:time|ts|timestamp)\"\s{0,2}:\s{0,2}|(?:\w{1,20}=\S{1,40} ){0,4}(?:time|ts|timestamp)=)\"?(?=\d)"
)
_SKIPPED = re.compile(_COLOUR_OR_BRACKET)
_ISO = re.compile(rf"(\d{{4}})[-/](\d\d)[-/](\d\d)[T _]{_CLOCK} ?(Z|UTC|[+-]\d\d:?\d\d)?")
_EPOCH = re.compile(r"(1\d{9})(\d{9}|\d{6}|\d{3}|\.\d{1,9})?(?![\d.])")
_KLOG = re.compile(rf"[IWEF](\d\d)(\d\d) {_CLOCK}")
_SYSLOG = re.compile(rf"(?:\d{{1,3}}>)?({_MONTH}) {{1,2}}(\d{{1,2}}) {_CLOCK}")
_ACCESS = re.compile(
    rf"(?:\S{{1,100}} \S{{1,100}} \S{{1,100}} )?\[(\d\d)/({_MONTH})/(\d{{4}}):{_CLOCK} ([+-]\d{{4}})\]"
)


@dataclass(frozen=True)
class Stamp:
    """A line's time in nanoseconds, the format it was written in, and whether that names a time zone."""

    ns: int
    form: str
    zoned: bool = True


def stamp(line: str, near_ns: int) -> Stamp | None:
    """Return when a line says it was written, or None; a year that is left out is the one closest to `near_ns`."""
    head = line[:400]
    if found := _ACCESS.match(head):
        day, month, year, hour, minute, second, part, zone = found.groups()
        number = _MONTHS.index(month) + 1
        return _made("access log", _ns((year, number, day), (hour, minute, second), part, zone))
    field = _FIELD.match(head)
    skipped = field or _SKIPPED.match(head)
    start = skipped.end() if skipped else 0
    if found := _ISO.match(head, start):
        year, month, day, *clock, part, zone = found.groups()
        return _made("RFC 3339", _ns((year, month, day), clock, part, zone), zoned=zone is not None)
    if found := _EPOCH.match(head, start):
        whole, rest = found[1], (found[2] or "").lstrip(".")
        return _made("Unix time", int(whole) * 10**9 + int(rest.ljust(9, "0")))
    if found := _KLOG.match(head, start):
        month, day, *clock, part = found.groups()
        return _made("klog", _closest((month, day), clock, part, near_ns), zoned=False)
    if found := _SYSLOG.match(head, start):
        name, day, *clock, part = found.groups()
        number = _MONTHS.index(name) + 1
        return _made("syslog", _closest((number, day), clock, part, near_ns), zoned=False)
    return None


def _made(form: str, ns: int | None, *, zoned: bool = True) -> Stamp | None:
    return None if ns is None else Stamp(ns, form, zoned)


def _ns(
    date: tuple[object, ...], clock: tuple[str, ...] | list[str], part: str | None, zone: str | None
) -> int | None:
    year, month, day = (int(str(number)) for number in date)
    try:
        hour, minute, second = (int(number) for number in clock)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    if not _EARLIEST <= year <= _LATEST:
        return None
    return int((moment - _offset(zone)).timestamp()) * 10**9 + int((part or "").ljust(9, "0"))


def _offset(zone: str | None) -> timedelta:
    if zone in (None, "Z", "UTC"):
        return timedelta()
    digits = zone.replace(":", "")
    away = timedelta(hours=int(digits[1:3]), minutes=int(digits[3:5]))
    return away if digits[0] == "+" else -away


def _closest(
    date: tuple[object, object], clock: tuple[str, ...] | list[str], part: str | None, near_ns: int
) -> int | None:
    """Return the time in the year that brings it closest to a known one."""
    year = datetime.fromtimestamp(near_ns // 10**9, UTC).year
    tried = (_ns((one, *date), clock, part, None) for one in (year - 1, year, year + 1))
    return min((ns for ns in tried if ns is not None), key=lambda ns: abs(ns - near_ns), default=None)
