"""Decoded records of one kind as Arrow columns, and the readers that a table's columns are declared with.

A reader takes `Rows` and returns one column, or None if no row has a value. Columns that are missing in every
row are the rule (an event has 22 fields, and most use four), so they must cost next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import wire_schema

Reader = Callable[["Rows"], Any]
"""Returns a column's values in its stored type (see `Column.stored`), or None if all are missing."""

TEXT = pa.large_string()
REPEATED = pa.dictionary(pa.int32(), TEXT)
MOMENT = pa.timestamp("ns")

_FIRST_NS, _LAST_NS = -9223372036854775806, 9223372036854775806
"""Beyond these, neither DuckDB nor pandas has a time."""


class MisfitError(Exception):
    """A value does not fit its declared type: the lenient reader must look at its record."""


class Rows:
    """Records of one kind, with their columns read when a reader asks for them.

    Parameters
    ----------
    records : sequence
        Decoded structs; None for a row without one.
    parent : Rows, optional
        The rows that these belong to, with `parent_of`: the place of each row's parent.
    extra : mapping, optional
        Columns that the records do not hold, such as a task's name.
    templates : Rows, optional
        The different ones of these rows, with `template_of`: the place of each row's template.
    strict : bool
        Whether a value that does not fit raises `MisfitError`; if not, it is missing.
    """

    def __init__(
        self,
        records: Sequence[Any],
        parent: Rows | None = None,
        parent_of: np.ndarray[Any, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        templates: Rows | None = None,
        template_of: np.ndarray[Any, Any] | None = None,
        *,
        strict: bool = True,
    ) -> None:
        self.records = records
        self.parent = parent
        self.parent_of = parent_of
        self.templates = templates
        self.template_of = template_of
        self.strict = strict
        self._columns: dict[Any, Any] = dict(extra or {})

    def __len__(self) -> int:
        return len(self.records)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return a column by its key; make it the first time."""
        if key not in self._columns:
            self._columns[key] = make()
        return self._columns[key]

    def field(self, name: str) -> list[Any]:
        """Return a field of each record; ``a.b`` is a field of a field, None where the outer one is."""
        values: list[Any] = self.once(name, lambda: self._field(name))
        return values

    def _field(self, name: str) -> list[Any]:
        outer, _, inner = name.rpartition(".")
        if not outer:
            columns = _transpose(self.records)
            self._columns |= columns
            return columns.get(name, [])
        values, get = self.field(outer), attrgetter(inner)
        return [None if value is None else get(value) for value in values]

    def given(self, name: str) -> pa.Array[Any] | None:
        """Return a text field. Nomad writes an empty text for a value that is missing."""
        values = self.field(name)
        if not any(values):
            return None
        return pa.array(values if all(values) else [value or None for value in values], TEXT)

    def repeated(self, name: str) -> Any:
        """Return a text field as a dictionary array."""
        return self.once(("repeated", name), lambda: encode(self.given(name)))

    def inherit(self, name: str, values: Any) -> Any:
        """Return the parents' column `values`, for each of these rows."""
        if values is None:
            return None
        return self.once(("inherited", name), lambda: repeat(values, self.parent_of))

    @property
    def details(self) -> Details:
        """The details of each event."""
        details: Details = self.once("details", lambda: Details(self.field("Details"), strict=self.strict))
        return details

    def is_type(self, types: Sequence[str]) -> Any:
        """Return which events are of one of these types."""
        return self.once(("is", tuple(types)), lambda: _is_one_of(self.repeated("Type"), types, len(self)))

    def has_unknown_type(self, known: Sequence[str]) -> Any:
        """Return which events are of a type that is not among those `known`, or of none."""
        return ~self.is_type(known)

    def pick(self, name: str, places: np.ndarray[Any, Any]) -> list[Any]:
        """Return a field of the records at `places`."""
        get = attrgetter(name)
        return [get(self.records[place]) for place in places.tolist()]


def _transpose(records: Sequence[msgspec.Struct]) -> dict[str, list[Any]]:
    """Return every field of the records. Part by part, each record is still in the processor's cache."""
    names = records[0].__struct_fields__ if records else ()
    columns: list[list[Any]] = [[] for _ in names]
    for start in range(0, len(records), 250):
        part = map(msgspec.structs.astuple, records[start : start + 250])
        for column, values in zip(columns, zip(*part, strict=True), strict=True):
            column.extend(values)
    return dict(zip(names, columns, strict=True))


class Details:
    """The details of events: a map of texts each, of which many are equal."""

    def __init__(self, raw: Sequence[msgspec.Raw], *, strict: bool) -> None:
        encoded: Any = pa.array(map(bytes, raw), pa.large_binary()).dictionary_encode()
        self.code: np.ndarray[Any, Any] = encoded.indices.to_numpy(zero_copy_only=False)
        """For each event the place of its details among the different ones."""
        self._strict = strict
        try:
            self.distinct: list[dict[str, str | None]] = [
                _DETAILS.decode(body.as_py()) or {} for body in encoded.dictionary
            ]
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise MisfitError from error
        by_key: dict[str, tuple[list[int], list[str]]] = {}
        for place, entries in enumerate(self.distinct):
            for key, value in entries.items():
                if value:
                    places, values = by_key.setdefault(key, ([], []))
                    places.append(place)
                    values.append(value)
        self._by_key = by_key

    def text(self, key: str) -> Any:
        """Return one entry as a dictionary array; None if no event has it."""
        if key not in self._by_key:
            return None
        places, values = self._by_key[key]
        encoded: Any = pa.array(values, TEXT).dictionary_encode()
        codes = self._spread(places, encoded.indices.to_numpy(zero_copy_only=False), np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), encoded.dictionary)

    def _spread(self, places: list[int], values: np.ndarray[Any, Any], dtype: Any) -> Any:
        """Return for each event the value at its details' place; -1 without one."""
        by_place = np.full(len(self.distinct), -1, dtype=dtype)
        by_place[places] = values
        return by_place[self.code]

    def integers(self, key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """Return one entry as whole numbers, and where it has one."""
        # A detail `signal` is a number or a name, by the type of the event.
        return self._parsed(key, _WHOLE_NUMBER, int, np.int64, strict=key in wire_schema.DETAIL_NUMBERS)

    def flags(self, key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """Return one entry as booleans, and where it has one."""
        return self._parsed(key, _FLAG, _is_true, np.bool_, strict=True)

    def durations(self, key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        """Return one entry, which Go wrote as a duration, in nanoseconds, and where it has one."""
        return self._parsed(key, _DURATION, _to_nanoseconds, np.int64, strict=False)

    def _parsed(
        self, key: str, pattern: re.Pattern[str], parse: Any, dtype: Any, *, strict: bool
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None:
        if key not in self._by_key:
            return None
        places, texts = self._by_key[key]
        parsed = {text: parse(text) for text in set(texts) if pattern.fullmatch(text)}
        if self._strict and strict and not all(text in parsed for text in texts):
            raise MisfitError(key)
        fitting = [
            (place, parsed[text])
            for place, text in zip(places, texts, strict=True)
            if parsed.get(text) is not None
        ]
        values = np.array([value for _, value in fitting], dtype=dtype)
        position = self._spread([place for place, _ in fitting], np.arange(len(fitting)), np.int32)
        return np.append(values, np.zeros(1, dtype))[position], position >= 0

    def as_json(self) -> Any:
        """Return all details of each event as JSON, sorted by name: servers send them in any order."""
        texts = [_to_json(entries) if entries else None for entries in self.distinct]
        encoded: Any = pa.array(texts, TEXT).dictionary_encode()
        codes = self._spread(
            list(range(len(texts))), encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int32
        )
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), encoded.dictionary)


_DETAILS = msgspec.json.Decoder(dict[str, str | None] | None)
_ENCODER = msgspec.json.Encoder(order="sorted")
_WHOLE_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
_FLAG = re.compile("true|false")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:h|m|s|ms|us|µs|ns))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)", re.ASCII)
_UNIT_NS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "µs": 1000, "ns": 1}
_ESCAPE = re.compile(r"\\(?:u00[01][a-f]|.)")


def _is_true(text: str) -> bool:
    return text == "true"


def _to_nanoseconds(text: str) -> int | None:
    """Return a duration as Go writes it (1h2m3.5s) in nanoseconds; None if it is longer than 292 years."""
    total = sum(Decimal(number) * _UNIT_NS[unit] for number, unit in _DURATION_PART.findall(text))
    return int(total) if total < 2**63 else None


def _to_json(entries: dict[str, str | None]) -> str:
    text = _ENCODER.encode(entries).decode()
    # Archives know events by a hash of this text, and versions before this one wrote escapes in capitals.
    return _ESCAPE.sub(_capital, text) if "\\u00" in text else text


def _capital(escape: re.Match[str]) -> str:
    return "\\u" + escape.group()[2:].upper() if escape.group()[1] == "u" else escape.group()


def encode(values: pa.Array[Any] | None) -> Any:
    """Return text as a dictionary array."""
    return None if values is None else values.dictionary_encode()


def repeat(values: Any, places: Any) -> Any:
    """Return the values at `places`, text as a dictionary array, which repeats numbers instead of texts."""
    codes = pa.array(places, pa.int32())
    if isinstance(values, pa.DictionaryArray):
        return pa.DictionaryArray.from_arrays(values.indices.take(codes), values.dictionary)
    if values.type != TEXT:
        return values.take(codes)
    if values.null_count:
        codes = pa.array(places, pa.int32(), mask=np.asarray(values.is_null())[places])
        values = values.fill_null("")  # no row points there
    return pa.DictionaryArray.from_arrays(codes, values)


def _is_one_of(types: Any, wanted: Sequence[str], count: int) -> Any:
    if types is None:
        return np.zeros(count, dtype=bool)
    by_code = np.array([*(label in wanted for label in types.dictionary.to_pylist()), False])
    return by_code[types.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def coalesce(*columns: Any) -> Any:
    """Return the first value that is there, of dictionary arrays that may be None."""
    result: Any = None
    for column in columns:
        if column is None:
            continue
        if result is None:
            result = column
        elif result.null_count:
            fills = np.asarray(result.is_null()) & np.asarray(column.is_valid())
            if fills.any():
                result = pc.coalesce(result.cast(TEXT), column.cast(TEXT)).dictionary_encode()
    return result


# Readers, which the tables' columns are declared with.


def text(name: str) -> Reader:
    """Read a text field with many different values."""
    return lambda rows: rows.given(name)


def repeated(name: str) -> Reader:
    """Read a text field with few different values."""
    return lambda rows: rows.repeated(name)


def first_of(*readers: Reader) -> Reader:
    """Read the first of several repeated texts that is there."""
    return lambda rows: coalesce(*(reader(rows) for reader in readers))


def once_each(reader: Reader) -> Reader:
    """Read a column of the rows' templates, and repeat it."""

    def read(rows: Rows) -> Any:
        values = reader(rows.templates) if rows.templates is not None else None
        return None if values is None else repeat(values, rows.template_of)

    return read


def extra(name: str) -> Reader:
    """Read a column that the rows were made with."""
    return lambda rows: rows.once(name, lambda: None)


def parent(name: str, reader: Reader) -> Reader:
    """Read a column of the rows that these belong to."""
    return lambda rows: rows.inherit(name, reader(rows.parent) if rows.parent is not None else None)


def whole(name: str) -> Reader:
    """Read a whole number of 64 bits."""
    return lambda rows: numbers(rows.field(name), pa.int64())


def unsigned(name: str) -> Reader:
    """Read a whole number from 0 to 2^64-1."""
    return lambda rows: numbers(rows.field(name), pa.uint64())


def real(name: str) -> Reader:
    """Read a number."""
    return lambda rows: numbers(rows.field(name), pa.float64())


def flag(name: str) -> Reader:
    """Read a boolean."""
    return lambda rows: numbers(rows.field(name), pa.bool_())


def numbers(values: Sequence[Any] | pa.Array[Any], kind: pa.DataType) -> Any:
    """Return values as an array of a type; None if all are missing."""
    try:
        array: Any = values if isinstance(values, pa.Array) else pa.array(values, kind)
    except (OverflowError, pa.ArrowInvalid) as error:
        raise MisfitError from error
    return None if array.null_count == len(array) else array


def nanoseconds(name: str) -> Reader:
    """Read a time in nanoseconds since 1970. Nomad writes 0 for a missing time."""

    def read(rows: Rows) -> Any:
        values = numbers(rows.field(name), pa.int64())
        if values is None:
            return None
        plain = values.fill_null(0).to_numpy(zero_copy_only=False)
        missing = (plain == 0) | (plain < _FIRST_NS) | (plain > _LAST_NS)
        return pa.array(plain, pa.int64(), mask=missing).cast(MOMENT)

    return read


def rfc3339(name: str) -> Reader:
    """Read a time as RFC 3339 writes it. Go writes the year 1 for a missing time."""
    return lambda rows: _moments(rows.field(name), strict=rows.strict)


_NO_TIME = {None: None, "": None, "0001-01-01T00:00:00Z": None}
RFC3339 = re.compile(
    r"(?P<time>[012]\d{3}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d+))?(?P<zone>[Zz]|[-+]\d\d:\d\d)",
    re.ASCII,
)


def _moments(values: Sequence[str | None], *, strict: bool) -> Any:
    get = _NO_TIME.get
    given = [get(value, value) for value in values]
    texts: Any = pa.array(given, TEXT)
    if texts.null_count == len(texts):
        return None
    if _all_in_utc(texts):
        try:
            return texts.cast(pa.timestamp("ns", tz="UTC")).cast(MOMENT)
        except pa.ArrowInvalid:
            pass  # a date that does not exist, or one that nanoseconds do not reach
    different = {text for text in given if text is not None}
    if strict and not all(map(RFC3339.fullmatch, different)):
        raise MisfitError
    parsed = {text: parse_rfc3339(text) for text in different}
    return pa.array([None if text is None else parsed[text] for text in given], pa.int64()).cast(MOMENT)


def _all_in_utc(texts: pa.Array[Any]) -> bool:
    """Return whether all texts have seconds, a T and a Z: those that Arrow reads are RFC 3339 then.

    A regular expression would take most of the time that reading them takes.
    """
    there: Any = texts.drop_null()
    _, offsets, data = there.buffers()
    starts = np.frombuffer(offsets, np.int64)[there.offset : there.offset + len(there) + 1]
    characters = np.frombuffer(data, np.uint8)
    if np.diff(starts).min() < len("2021-11-04T09:14:22Z"):
        return False
    is_utc = (characters[starts[:-1] + len("2021-11-04")] == ord("T")) & (
        characters[starts[1:] - 1] == ord("Z")
    )
    return bool(is_utc.all())


def parse_rfc3339(text: str) -> int | None:
    """Return a time in nanoseconds since 1970; None if it is none, or one that nanoseconds do not reach."""
    match = RFC3339.fullmatch(text)
    if match is None:
        return None
    fraction, zone = match["fraction"] or "", match["zone"].upper()
    try:
        moment = datetime.fromisoformat(match["time"].upper().replace(" ", "T")).replace(tzinfo=UTC)
    except ValueError:
        return None
    seconds = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if zone != "Z":
        seconds -= (1 if zone[0] == "+" else -1) * (3600 * int(zone[1:3]) + 60 * int(zone[4:6]))
    total = seconds * 10**9 + int(fraction[:9].ljust(9, "0"))
    return total if _FIRST_NS <= total <= _LAST_NS else None
