"""Find the allocations in a file that somebody saved: a list, a stream of events, a state, or something else.

Only files are read so freely. What a server answers must be a list.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from .._utils.text import visible
from ..errors import DecodeError
from . import lenient_json

_ODD = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_EXCERPT = 60


class _Peek(msgspec.Struct, gc=False):
    """What tells an allocation from anything else, without decoding the rest."""

    ID: msgspec.Raw = msgspec.Raw()
    TaskGroup: msgspec.Raw = msgspec.Raw()
    ClientStatus: msgspec.Raw = msgspec.Raw()


_PEEK_PAGE = msgspec.json.Decoder(list[_Peek])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])

_OF_ALLOCATIONS = {
    "ClientStatus", "DesiredStatus", "DesiredTransition", "TaskGroup", "TaskStates", "AllocatedResources",
    "EvalID", "NodeName", "PreviousAllocation", "NextAllocation", "RescheduleTracker", "DeploymentStatus",
    "PreemptedByAllocation",
}  # fmt: skip
"""Fields of allocations that nothing else with an ID has."""

_OTHERS = (
    ("a Raft log", {"LogType"}),
    ("the output of nomad-firehose, which leaves out most fields", {"AllocationID"}),
    ("a list of evaluations", {"TriggeredBy"}),
    ("a list of nodes", {"SchedulingEligibility", "Datacenter", "NodeClass", "Drain"}),
    ("a list of jobs", {"ParentID", "JobSummary", "Periodic", "SubmitTime"}),
    ("a list of deployments", {"StatusDescription", "IsMultiregion"}),
    ("an error message", {"errors", "error", "message"}),
)

_BEGINNINGS = (
    (b"<", "a web page, perhaps a login page. Ask Nomad itself, with its token"),
    (b"HTTP/", "headers of HTTP. Run curl without -i"),
    (b"*", "the log of curl. Run curl without -v"),
    (b"Permission denied", "Nomad's refusal. Set NOMAD_TOKEN to a token with read-job"),
    (b"No cluster leader", "an error message of Nomad"),
    (b"ID ", "the table that nomad prints. Run it with -json"),
    (b"PK", "a zip archive. If Snapshot.save wrote it, use af.load"),
    (b"PAR1", "a Parquet file. Use pandas.read_parquet"),
)
_EXPECTED = "Expected JSON of /v1/allocations, of the event stream or of a cluster's state"


def extract_allocations(body: bytes, source: str) -> tuple[bytes, str | None]:
    """Return the JSON of the allocations in a file, and a note if something of it was left out.

    Raises
    ------
    DecodeError
        The file holds something else. The message shows how it begins, and what it looks like.
    """
    text = _to_utf8(body, source)
    stripped = text.strip()
    if not stripped or stripped == b"null":
        return text, None
    if stripped[:1] not in (b"[", b"{"):
        raise _refuse(stripped, source)
    if is_plain_list(stripped):
        return text, None
    found = _Found(stripped, source)
    values = list(_split_values(stripped, source))
    for value in values:
        found.add_all(_elements(value, source) if _is_array(value) else [value])
    if (found.records and not found.has_objects) or found.only_heartbeats:
        raise _refuse(stripped, source)
    is_as_it_was = not found.unwrapped and (len(values) == 1 or stripped[:1] == b"{")
    return (text if is_as_it_was else b"[" + b",\n".join(found.records) + b"]"), found.note()


def _to_utf8(body: bytes, source: str) -> bytes:
    """Return text that PowerShell wrote as UTF-16 in UTF-8, and other text without its byte order mark."""
    encoding = None
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    elif body[:2] in (b"[\0", b"{\0"):
        encoding = "utf-16-le"
    elif body[:2] in (b"\0[", b"\0{"):
        encoding = "utf-16-be"
    if encoding is None:
        return body.removeprefix(b"\xef\xbb\xbf")
    try:
        return body.decode(encoding).encode()
    except UnicodeError as error:
        raise DecodeError(f"{source} is damaged UTF-16: {error}. Save it again", file=source) from None


def is_plain_list(text: bytes) -> bool:
    """Return whether this is one list of allocations, as nearly all files are."""
    try:
        records = _PEEK_PAGE.decode(text)
    except _ODD:
        return False
        # A field that is missing is empty, and its buffer has no bytes.
    return all(map(_has_marks, records))


def _has_marks(peek: _Peek) -> bool:
    return bool(memoryview(peek.ID)) and bool(memoryview(peek.TaskGroup) or memoryview(peek.ClientStatus))


def _is_array(value: Any) -> bool:
    return bytes(memoryview(value)[:1]) == b"["


def _split_values(text: bytes, source: str) -> Iterable[Any]:
    """Return the values of a file: one, one on each line, or several in a row (``cat page1 page2``)."""
    with contextlib.suppress(*_ODD):
        return [_RAW.decode(text)]
    with contextlib.suppress(*_ODD):
        return _RAW.decode_lines(text)
    return lenient_json.split_values(text, source)


def _elements(value: Any, source: str) -> Iterable[Any]:
    with contextlib.suppress(*_ODD):
        return _ARRAY.decode(value)
    return lenient_json.split_records(bytes(value), source)


def _fields(raw: Any) -> dict[str, Any] | None:
    """Return the fields of an object as JSON; None for anything else."""
    with contextlib.suppress(*_ODD):
        return _OBJECT.decode(raw)
    return None


class _Found:
    """The allocations that were found in one file."""

    def __init__(self, text: bytes, source: str) -> None:
        self.records: list[bytes] = []
        self.has_objects = False
        self.unwrapped = False
        self._text, self._source = text, source
        self._heartbeats = 0
        self._updates = 0
        self._position = 0

    def add_all(self, values: Iterable[Any]) -> None:
        for value in values:
            self._add(bytes(value).strip())
            self._position += 1

    def _add(self, raw: bytes) -> None:
        fields = _fields(raw)
        if fields is None:
            # The lenient reader names what is not an object, and repairs what msgspec refuses.
            self.has_objects = self.has_objects or raw.startswith(b"{")
            self.records.append(raw)
            return
        self.has_objects = True
        inner = list(self._unwrap(fields))
        if inner:
            self.unwrapped = True
            for values in inner:
                self.add_all(values)
            return
        kind = _name_other_kind(fields)
        if kind is not None:
            raise _refuse(self._text, self._source, f"record {self._position} looks like {kind}")
        self.records.append(raw)

    def _unwrap(self, fields: dict[str, Any]) -> Iterator[list[Any]]:
        """Yield the lists of allocations that an object holds, if it is not an allocation itself."""
        if not fields:
            self._heartbeats += 1
            yield []
        elif "Payload" in fields and "Topic" in fields:
            self._updates += 1
            allocation = (_fields(fields["Payload"]) or {}).get("Allocation")
            yield [] if allocation is None else [allocation]
        elif "Events" in fields and "Index" in fields and "ID" not in fields:
            self._updates += 1
            yield _list_of(fields["Events"])
        elif "ID" not in fields:
            for name, value in fields.items():
                if name.lower() in ("allocs", "allocations"):
                    yield _list_of(value)
                elif name == "Allocation" and _fields(value):
                    yield [value]
                elif _holds_allocations(value):
                    yield _list_of(value)

    @property
    def only_heartbeats(self) -> bool:
        """Whether there are empty objects, which a stream sends when nothing happens, and no stream."""
        return bool(self._heartbeats and not self._updates)

    def note(self) -> str | None:
        if not self._updates:
            return None
        return f"{self._source} is an event stream: only the newest version of each allocation is here"


def _list_of(value: Any) -> list[Any]:
    with contextlib.suppress(*_ODD):
        return list(_ARRAY.decode(value))
    return []


def _holds_allocations(value: Any) -> bool:
    values = _list_of(value) if _is_array(value) else []
    fields = (_fields(values[0]) if values else None) or {}
    return "ID" in fields and not _OF_ALLOCATIONS.isdisjoint(fields)


def _name_other_kind(fields: dict[str, Any]) -> str | None:
    """Return what an object is that is not an allocation."""
    if "ID" in fields and not _OF_ALLOCATIONS.isdisjoint(fields):
        return None
    for kind, marks in _OTHERS:
        if not marks.isdisjoint(fields):
            return kind
    return None if "ID" in fields or not _OF_ALLOCATIONS.isdisjoint(fields) else "something else"


def _refuse(text: bytes, source: str, kind: str | None = None) -> DecodeError:
    excerpt = visible(repr(text[:_EXCERPT].decode(errors="replace")))
    if kind is None:
        kinds = (f"looks like {named}" for mark, named in _BEGINNINGS if text.startswith(mark))
        kind = next(kinds, "is not JSON with allocations")
    return DecodeError(f"{source}: {kind}. It begins with {excerpt}. {_EXPECTED}", file=source)
