"""The lenient reader: turns any JSON into JSON that fits the declared types, and notes each difference.

Used for the rare page that does not fit the declared types. It never loses a record: a value of another
type becomes null and is noted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from ..errors import DecodeError
from ..tables import wire_schema

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SPACE = b" \t\r\n"
_DEPTH = 64
"""Deeper nesting than any answer of Nomad; what lies below is left to the captured page."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXCERPT = 200


@dataclass(frozen=True)
class Issue:
    """One value that did not fit: which record and field, what was wrong, and an excerpt of it."""

    record: int
    alloc_id: str | None
    field: str
    problem: str
    value: str


class _Odd:
    """A number that JSON allows but no declared type holds."""

    def __init__(self, text: str) -> None:
        self.text = text


def read(body: bytes, file: str) -> tuple[bytes, list[Issue]]:
    """Return `body` as a plain array of records of the declared types, and what had to be left out.

    Raises
    ------
    DecodeError
        The text is not whole: cut short, or with something after its end.
    """
    issues: list[Issue] = []
    records: list[str] = []
    for number, raw in enumerate(_records(body.removeprefix(b"\xef\xbb\xbf"), file)):
        checker = _Checker(number, issues)
        value = checker.parse(raw, file)
        if not isinstance(value, dict):
            checker.note("", "not an allocation; record left out", value)
            continue
        identity = value.get("ID")
        checker.alloc_id = identity if isinstance(identity, str) else None
        records.append(json.dumps(checker.fit(value, wire_schema.ALLOCATION, ""), separators=(",", ":")))
    return ("[" + ",\n".join(records) + "]").encode(), issues


def _records(body: bytes, file: str) -> Iterator[bytes]:
    """Yield each record of an array, of one object, or of objects one after the other."""
    text = body.strip(_SPACE)
    if text == b"null":
        return
    if not text:
        raise DecodeError(f"{file} is empty: no JSON in it", file=file)
    if text.startswith(b"["):
        if _end(text, 0, file) != len(text):
            raise DecodeError(f"{file}: something follows the end of the JSON array", file=file)
        yield from _elements(text[1:-1], file)
        return
    start = 0
    while start < len(text):
        if text[start : start + 1] != b"{":
            raise DecodeError(f"{file}: byte {start} is not the start of a JSON object", file=file)
        end = _end(text, start, file)
        yield text[start:end]
        start = end + len(text[end:]) - len(text[end:].lstrip(_SPACE))


def _end(text: bytes, start: int, file: str) -> int:
    """Return where the bracket that opens at `start` closes."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                return token.end()
    raise DecodeError(f"{file} is cut short: {depth} brackets are still open at its end", file=file)


def _elements(inner: bytes, file: str) -> Iterator[bytes]:
    """Yield the elements of an array's inside, split at its own commas."""
    if not inner.strip(_SPACE):
        return
    depth, start = 0, 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', inner, re.DOTALL):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        elif mark == b"," and depth == 0:
            yield inner[start : token.start()]
            start = token.end()
    yield inner[start:]


def _shallow(raw: bytes) -> tuple[bytes, bool]:
    """Return `raw` with what is nested too deep replaced by null, and whether anything was."""
    depth, kept, start = 0, [], 0
    for token in _TOKEN.finditer(raw):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            if depth == _DEPTH:
                kept.append(raw[start : token.start()] + b"null")
        elif mark in (b"]", b"}"):
            if depth == _DEPTH:
                start = token.end()
            depth -= 1
    return (b"".join(kept) + raw[start:], True) if kept else (raw, False)


def _integer(text: str) -> int | _Odd:
    return int(text) if len(text) <= 40 else _Odd(text)


def _fraction(text: str) -> Decimal | _Odd:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return _Odd(text)
    return number if abs(number.adjusted()) < 400 else _Odd(text)


class _Checker:
    """Fits one record to the declared types, noting what does not fit."""

    def __init__(self, record: int, issues: list[Issue]) -> None:
        self.record = record
        self.issues = issues
        self.alloc_id: str | None = None

    def note(self, field: str, problem: str, value: Any) -> None:
        self.issues.append(Issue(self.record, self.alloc_id, field, problem, _excerpt(value)))

    def parse(self, raw: bytes, file: str) -> Any:
        text = raw.decode("utf-8", errors="replace")
        if text.count("�") > raw.count("�".encode()):
            self.note("", "invalid UTF-8, replaced by U+FFFD", None)
        try:
            if raw.count(b"[") + raw.count(b"{") >= _DEPTH:
                shallow, cut = _shallow(raw)
                if cut:
                    self.note(
                        "",
                        f"nested deeper than {_DEPTH} levels; that part is in the captured page only",
                        None,
                    )
                    text = shallow.decode("utf-8", errors="replace")
            return json.loads(
                text, parse_int=_integer, parse_float=_fraction, parse_constant=_Odd, strict=False
            )
        except ValueError as error:
            what = f"{file}: record {self.record} is not JSON: {error}"
            raise DecodeError(what, file=file, record=self.record) from error

    def fit(self, value: Any, kind: wire_schema.WireType, field: str) -> Any:
        if value is None:
            return None
        if isinstance(kind, wire_schema.Scalar):
            return self._scalar(value, kind, field)
        if isinstance(kind, wire_schema.ListOf):
            return self._list(value, kind, field)
        if not isinstance(value, dict):
            self.note(field, "expected an object", value)
            return None
        if isinstance(kind, wire_schema.MapOf):
            if kind.value is wire_schema.ANY_TEXT:
                self._check_details(value, field)
            return {
                self._text(name, field): self.fit(v, kind.value, f"{field}.{name}")
                for name, v in value.items()
            }
        under = f"{field}." if field else ""
        return {
            name: self.fit(value[name], inner, under + name)
            for name, inner in kind.fields.items()
            if name in value
        }

    def _list(self, value: Any, kind: wire_schema.ListOf, field: str) -> list[Any] | None:
        if not isinstance(value, list):
            self.note(field, "expected an array", value)
            return None
        for position, item in enumerate(value):
            if item is None:
                self.note(f"{field}[{position}]", "null; skipped", None)
        return [self.fit(item, kind.item, f"{field}[{position}]") for position, item in enumerate(value)]

    def _scalar(self, value: Any, kind: wire_schema.Scalar, field: str) -> Any:
        if kind is wire_schema.ANY_TEXT:
            return self._any_text(value, field)
        if kind is wire_schema.TEXT:
            fitted: Any = self._text(value, field) if isinstance(value, str) else None
        elif kind is wire_schema.TIME:
            fitted = value if isinstance(value, str) and _TIME.fullmatch(value) else None
        elif kind is wire_schema.BOOL:
            fitted = value if isinstance(value, bool) else None
        elif kind is wire_schema.FLOAT:
            fitted = _float(value)
        else:
            fitted = _whole(value, *wire_schema.INT_RANGE[kind])
        if fitted is None:
            self.note(field, f"expected {_NAMES[kind]}", value)
        return fitted

    def _check_details(self, details: dict[str, Any], field: str) -> None:
        """Note what its column cannot hold; the `details` column keeps it as it is."""
        for names, allowed, expected in _DETAILS:
            for name in names:
                text = details.get(name)
                if isinstance(text, str) and not allowed.fullmatch(text):
                    self.note(f"{field}.{name}", f"expected {expected}", text)

    def _any_text(self, value: Any, field: str) -> str:
        if isinstance(value, str):
            return self._text(value, field)
        return self._text(json.dumps(value, default=_plain, separators=(",", ":"), ensure_ascii=False), field)

    def _text(self, value: str, field: str) -> str:
        scrubbed = _SURROGATE.sub("�", value)
        if scrubbed != value:
            self.note(field, "half of a surrogate pair, replaced by U+FFFD", scrubbed)
        return scrubbed


_TIME = re.compile(r"(?:[012]\d{3}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[-+]\d\d:\d\d))?", re.ASCII)
_DETAILS = (
    (wire_schema.DETAIL_NUMBERS, re.compile(r"(?:-?\d{1,18})?", re.ASCII), "a whole number"),
    (wire_schema.DETAIL_FLAGS, re.compile(r"(?:true|false)?"), "true or false"),
)

_NAMES = {
    wire_schema.TEXT: "a text",
    wire_schema.TIME: "a time, as RFC 3339 writes it, before the year 3000",
    wire_schema.BOOL: "true or false",
    wire_schema.FLOAT: "a number",
    wire_schema.INT64: "a whole number of 64 bits",
    wire_schema.UINT64: "a whole number from 0 to 2^64-1",
}


def _whole(value: Any, least: int, most: int) -> int | None:
    """Return a whole number in range; Nomad's document also shows them as text."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value, re.ASCII):
        value = int(value)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        return None
    return value


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return value.text if isinstance(value, _Odd) else repr(value)


def _excerpt(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=_plain, ensure_ascii=False)
    text = _SURROGATE.sub("�", text)
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}… ({len(text)} characters)"
