"""The lenient reader, for the rare record that does not fit the declared types.

It rewrites the JSON so that it fits. No allocation is lost: a value of another type becomes null, and each
such change is returned as an `Issue`.
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
from ..tables.rows import RFC3339

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_SPACE = b" \t\r\n"
_MAX_DEPTH = 64
"""No answer of Nomad nests so deeply. Anything deeper is only in the captured page."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_EXCERPT_LENGTH = 200


@dataclass(frozen=True)
class Issue:
    """One value that did not fit: its record and field, the problem, and an excerpt of the value."""

    record: int
    alloc_id: str | None
    field: str
    problem: str
    value: str


class _UnrepresentableNumber:
    """A number that JSON allows but no declared type can hold."""

    def __init__(self, text: str) -> None:
        self.text = text


def fit_record(raw: bytes, number: int, file: str) -> tuple[bytes | None, list[Issue]]:
    """Return a record as JSON of the declared types, and the values that did not fit.

    Anything but an object is not an allocation: then the record is None, and an issue says so.

    Raises
    ------
    DecodeError
        The record is not JSON.
    """
    issues: list[Issue] = []
    checker = _Checker(number, issues)
    value = checker.parse(raw, file)
    if not isinstance(value, dict):
        checker.add_issue("", "not an allocation; record left out", value)
        return None, issues
    identity = value.get("ID")
    checker.alloc_id = identity if isinstance(identity, str) else None
    fitted = checker.fit(value, wire_schema.ALLOCATION, "")
    return json.dumps(fitted, separators=(",", ":")).encode(), issues


def split_records(body: bytes, file: str) -> Iterator[bytes]:
    """Yield the records of an array, of a single object, or of objects in a row.

    Raises
    ------
    DecodeError
        The JSON is not complete, or something follows it.
    """
    text = body.removeprefix(b"\xef\xbb\xbf").strip(_SPACE)
    if text == b"null":
        return
    if not text:
        raise DecodeError(f"{file} is empty: no JSON in it", file=file)
    if text.startswith(b"["):
        if _closing_bracket(text, 0, file) != len(text):
            raise DecodeError(f"{file}: something follows the end of the JSON array", file=file)
        yield from _elements(text[1:-1], file)
        return
    yield from split_values(text, file, starts=b"{")


_BLANKS = re.compile(rb"[ \t\r\n]*")


def split_values(text: bytes, file: str, starts: bytes = b"{[") -> Iterator[bytes]:
    """Yield values that follow each other: objects, or also arrays, as `starts` says.

    Raises
    ------
    DecodeError
        The last one is not complete, or something else is between them.
    """
    start = 0
    while start < len(text):
        if text[start : start + 1] not in [bytes([mark]) for mark in starts]:
            raise DecodeError(f"{file}: byte {start} is not the start of a JSON object", file=file)
        end = _closing_bracket(text, start, file)
        yield text[start:end]
        blanks = _BLANKS.match(text, end)
        start = blanks.end() if blanks else end


def _closing_bracket(text: bytes, start: int, file: str) -> int:
    """Return the position after the bracket that closes the one at `start`."""
    depth = 0
    for token in _TOKEN.finditer(text, start):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
            if depth == 0:
                return token.end()
    raise DecodeError(f"{file} is truncated: {depth} brackets are still open at its end", file=file)


def _elements(inner: bytes, file: str) -> Iterator[bytes]:
    """Yield the elements of an array, given the text between its brackets."""
    if not inner.strip(_SPACE):
        return
    depth, start = 0, 0
    # The pattern matches texts whole, so that brackets and commas inside them do not count.
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


def _cut_deep_nesting(raw: bytes) -> tuple[bytes, bool]:
    """Return `raw` with values that are nested too deep replaced by null, and whether there were any."""
    depth, parts, start = 0, [], 0
    for token in _TOKEN.finditer(raw):
        mark = token.group()
        if mark in (b"[", b"{"):
            depth += 1
            if depth == _MAX_DEPTH:
                parts.append(raw[start : token.start()] + b"null")
        elif mark in (b"]", b"}"):
            if depth == _MAX_DEPTH:
                start = token.end()
            depth -= 1
    return (b"".join(parts) + raw[start:], True) if parts else (raw, False)


def _integer(text: str) -> int | _UnrepresentableNumber:
    # Python refuses to convert texts of thousands of digits; no declared type has more than 20.
    return int(text) if len(text) <= 40 else _UnrepresentableNumber(text)


def _decimal(text: str) -> Decimal | _UnrepresentableNumber:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return _UnrepresentableNumber(text)
    return number if abs(number.adjusted()) < 400 else _UnrepresentableNumber(text)


class _Checker:
    """Fits one record to the declared types and lists the values that do not fit."""

    def __init__(self, record: int, issues: list[Issue]) -> None:
        self.record = record
        self.issues = issues
        self.alloc_id: str | None = None

    def add_issue(self, field: str, problem: str, value: Any) -> None:
        self.issues.append(Issue(self.record, self.alloc_id, field, problem, _excerpt(value)))

    def parse(self, raw: bytes, file: str) -> Any:
        text = raw.decode("utf-8", errors="replace")
        if text.count("�") > raw.count("�".encode()):
            self.add_issue("", "invalid UTF-8, replaced by U+FFFD", None)
        try:
            if raw.count(b"[") + raw.count(b"{") >= _MAX_DEPTH:
                shortened, was_cut = _cut_deep_nesting(raw)
                if was_cut:
                    self.add_issue(
                        "",
                        f"nested deeper than {_MAX_DEPTH} levels; that part is in the captured page only",
                        None,
                    )
                    text = shortened.decode("utf-8", errors="replace")
            return json.loads(
                text,
                parse_int=_integer,
                parse_float=_decimal,
                parse_constant=_UnrepresentableNumber,
                strict=False,
            )
        except ValueError as error:
            message = f"{file}: record {self.record} is not JSON: {error}"
            raise DecodeError(message, file=file, record=self.record) from error

    def fit(self, value: Any, kind: wire_schema.WireType, field: str) -> Any:
        if value is None:
            return None
        if isinstance(kind, wire_schema.Scalar):
            return self._scalar(value, kind, field)
        if isinstance(kind, wire_schema.ListOf):
            return self._list(value, kind, field)
        if not isinstance(value, dict):
            self.add_issue(field, "expected an object", value)
            return None
        if isinstance(kind, wire_schema.MapOf):
            if kind.value is wire_schema.ANY_TEXT:
                self._check_details(value, field)
            return {
                self._replace_surrogates(name, field): self.fit(v, kind.value, f"{field}.{name}")
                for name, v in value.items()
            }
        prefix = f"{field}." if field else ""
        return {
            name: self.fit(value[name], inner, prefix + name)
            for name, inner in kind.fields.items()
            if name in value
        }

    def _list(self, value: Any, kind: wire_schema.ListOf, field: str) -> list[Any] | None:
        if not isinstance(value, list):
            self.add_issue(field, "expected an array", value)
            return None
        for position, item in enumerate(value):
            if item is None:
                self.add_issue(f"{field}[{position}]", "null; skipped", None)
        return [self.fit(item, kind.item, f"{field}[{position}]") for position, item in enumerate(value)]

    def _scalar(self, value: Any, kind: wire_schema.Scalar, field: str) -> Any:
        if kind is wire_schema.ANY_TEXT:
            return self._to_text(value, field)
        if kind is wire_schema.TEXT:
            fitted: Any = self._replace_surrogates(value, field) if isinstance(value, str) else None
        elif kind is wire_schema.TIME:
            is_time = isinstance(value, str) and (not value or RFC3339.fullmatch(value))
            fitted = value if is_time else None
        elif kind is wire_schema.BOOL:
            fitted = value if isinstance(value, bool) else None
        elif kind is wire_schema.FLOAT:
            fitted = _parse_float(value)
        else:
            fitted = _parse_integer(value, *wire_schema.INT_RANGE[kind])
        if fitted is None:
            self.add_issue(field, f"expected {_EXPECTED[kind]}", value)
        return fitted

    def _check_details(self, details: dict[str, Any], field: str) -> None:
        """Add an issue for each detail that its column cannot hold. The `details` column keeps the text."""
        for names, allowed, expected in _DETAILS:
            for name in names:
                text = details.get(name)
                if isinstance(text, str) and not allowed.fullmatch(text):
                    self.add_issue(f"{field}.{name}", f"expected {expected}", text)

    def _to_text(self, value: Any, field: str) -> str:
        if isinstance(value, str):
            return self._replace_surrogates(value, field)
        return self._replace_surrogates(
            json.dumps(value, default=_to_plain, separators=(",", ":"), ensure_ascii=False), field
        )

    def _replace_surrogates(self, value: str, field: str) -> str:
        cleaned = _SURROGATE.sub("�", value)
        if cleaned != value:
            self.add_issue(field, "half of a surrogate pair, replaced by U+FFFD", cleaned)
        return cleaned


_DETAILS = (
    (wire_schema.DETAIL_NUMBERS, re.compile(r"(?:-?\d{1,18})?", re.ASCII), "a whole number"),
    (wire_schema.DETAIL_FLAGS, re.compile(r"(?:true|false)?"), "true or false"),
)

_EXPECTED = {
    wire_schema.TEXT: "a text",
    wire_schema.TIME: "a time, as RFC 3339 writes it, before the year 3000",
    wire_schema.BOOL: "true or false",
    wire_schema.FLOAT: "a number",
    wire_schema.INT64: "a whole number of 64 bits",
    wire_schema.UINT64: "a whole number from 0 to 2^64-1",
}


def _parse_integer(value: Any, minimum: int, maximum: int) -> int | None:
    """Return an integer in this range, else None. Nomad's API documentation also shows them as text."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value, re.ASCII):
        value = int(value)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        return None
    return value


def _parse_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _to_plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    return value.text if isinstance(value, _UnrepresentableNumber) else repr(value)


def _excerpt(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, default=_to_plain, ensure_ascii=False)
    text = _SURROGATE.sub("�", text)
    return text if len(text) <= _EXCERPT_LENGTH else f"{text[:_EXCERPT_LENGTH]}… ({len(text)} characters)"
