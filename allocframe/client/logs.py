"""A task's logs: read from the end, taken out of the frames that nodes send, and cut to the lines to show."""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd

from .._utils import html
from .._utils.text import escaped, visible
from .._utils.times import to_utc
from .._utils.validate import check_count
from ..errors import ConfigError, DecodeError, NotFound
from ..nomad.transport import Response
from .log_timestamps import Stamp, stamp
from .session import Session

STREAMS = ("stdout", "stderr")
FIRST_BYTES = 64 << 10
"""Bytes of a stream that the first request reads."""

DEFAULT_MAX_BYTES = 4 << 20
"""Bytes of a stream that are read at most, unless the caller sets another limit."""

MAX_BYTES = 64 << 20
"""The highest limit that a caller may set."""

GROWTH = 32 << 20
"""Bytes by which an answer may exceed the request, because the task keeps writing."""

_FILE_NUMBER = re.compile(r"\.(\d{1,9})\Z")
_FAR_NS = 300 * 10**9
"""If no line is closer than this to the time asked for, a note says which times there are."""


@dataclass(frozen=True)
class Line:
    """One line, with its log file and its offset there."""

    file: str
    offset: int
    text: str


@dataclass(frozen=True)
class Tail:
    """The end of one stream.

    `cut` means that the log has more before the first line. `rotated` means that there was more, in a file
    that the node has removed.
    """

    lines: list[Line]
    size: int
    cut: bool
    rotated: bool


class Logs:
    """Lines of a task's logs, made by `Client.logs`.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row per line: stream, file, offset (bytes into that file), time (the timestamp in the line, UTC;
        NaT if it has none that can be read), line. stdout comes before stderr.
    notes : list of str
        Which timestamps were found, and what is missing.
    text : str
        The lines as the task wrote them. Control characters are not escaped.
    """

    def __init__(self, frame: pd.DataFrame, notes: list[str]) -> None:
        self.frame = frame
        self.notes = notes

    @property
    def text(self) -> str:
        """The lines as the task wrote them."""
        return "\n".join(self.frame["line"])

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        lines = [f"{row.stream}  {visible(row.line)}" for row in self.frame.itertuples()]
        return "\n".join([*lines, *(f"({visible(note)})" for note in self.notes)])

    def _repr_html_(self) -> str:
        shown = (f"{row.stream}  {escaped(row.line)}" for row in self.frame.itertuples())
        return f"<pre style='overflow-x:auto'>{chr(10).join(shown)}</pre>{html.bullets(self.notes)}"


def read_logs(
    session: Session,
    alloc_id: str,
    task: str,
    *,
    stream: Literal["stdout", "stderr", "both"] = "both",
    around: pd.Timestamp | datetime | str | None = None,
    lines: int = 50,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> Logs:
    """Read lines of a task's logs; see `Client.logs`."""
    if stream not in (*STREAMS, "both"):
        raise ConfigError(f'stream must be "stdout", "stderr" or "both", got {stream!r}')
    if not isinstance(task, str) or not task:
        raise ConfigError(f"task must be the name of a task, got {task!r}")
    if check_count("max_bytes", max_bytes) > MAX_BYTES:
        raise ConfigError(f"max_bytes must be {MAX_BYTES:,} or less, got {max_bytes!r}")
    check_count("lines", lines)
    around_ns = None if around is None else to_utc(around, "around").as_unit("ns").value
    identity = session.resolve_id(alloc_id)
    rows, notes = [], []
    for name in STREAMS if stream == "both" else (stream,):
        with session.naming_tasks(identity):
            tail = _read_tail(session, identity, task, name, lines, around_ns, max_bytes)
        chosen, about = choose_lines(tail, name, lines, around_ns, time.time_ns())
        rows += [(name, line, when) for line, when in chosen]
        notes += about
    frame = frame_of(rows)
    frame.attrs = {"table": "logs", "alloc_id": identity, "task": task, "notes": notes}
    return Logs(frame, notes)


def _read_tail(
    session: Session, alloc_id: str, task: str, stream: str, lines: int, around_ns: int | None, max_bytes: int
) -> Tail:
    """Read the end of one stream, and more of it until it holds the lines asked for or reaches the bound."""
    size = min(FIRST_BYTES, max_bytes)
    while True:
        params = {"task": task, "type": stream, "origin": "end", "offset": str(size)} | session.region_params

        def parse(response: Response, size: int = size) -> Tail:
            return parse_tail(response.body, size)

        try:
            tail: Tail = session.transport.get(
                f"/v1/client/fs/logs/{alloc_id}",
                params,
                check=parse,
                max_bytes=2 * size + GROWTH,
                base64=True,
            )
        except NotFound as error:
            # Nodes answer so when a task that runs has written nothing yet; any other 404 is a real one.
            if "log entry for task" not in error.text:
                raise
            return Tail([], 0, cut=False, rotated=False)
        if size == max_bytes or is_enough(tail, lines, around_ns):
            return tail
        size = min(size * 8, max_bytes)


def parse_tail(body: bytes, asked: int) -> Tail:
    """Return the lines of an answer to a request for the last `asked` bytes.

    Raises
    ------
    DecodeError
        The answer is not whole, or not a node's.
    """
    spans = list(_spans(body))
    data = b"".join(part for _, _, part in spans)
    if not data:
        return Tail([], 0, cut=False, rotated=False)
    first_file, first_offset = spans[0][0], spans[0][1]
    lines = list(_lines(data, spans))
    if first_offset and len(lines) > 1:
        del lines[0]  # the answer may begin in the middle of it
    number = _FILE_NUMBER.search(first_file)
    # File 0 is the first that the task wrote: a log that begins there has lost nothing.
    is_complete = first_offset == 0 and number is not None and int(number[1]) == 0
    cut = len(data) >= asked and not is_complete
    return Tail(lines, len(data), cut=cut, rotated=not cut and not is_complete)


def _spans(body: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield file, offset and bytes of each frame.

    A frame's own offset is the end of the first chunk that the node read of that file. Only the first frame
    of a file therefore gives a position; later ones follow from the bytes before them.
    """
    file, offset = None, 0
    for frame in _frames(body):
        data = _data(frame)
        if not data:
            continue
        if frame.get("File") != file:
            file, end = frame.get("File"), frame.get("Offset") or 0
            if not isinstance(end, int) or not 0 <= end < 2**63:
                raise DecodeError(f"a frame of the log has an invalid offset: {visible(end)}")
            offset = end - len(data)
        yield str(file).rpartition("/")[2], max(offset, 0), data
        offset += len(data)


def _frames(body: bytes) -> Iterator[dict[str, Any]]:
    try:
        text = body.decode("ascii")
        decoder, position = json.JSONDecoder(), 0
        while position < len(text):  # frames follow each other without a separator
            frame, position = decoder.raw_decode(text, position)
            if not isinstance(frame, dict):
                raise ValueError("a frame is not an object")
            yield frame
            while position < len(text) and text[position] in " \r\n\t":
                position += 1
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the log is not whole: {visible(error)}") from None


def _data(frame: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(frame.get("Data") or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DecodeError(f"a frame of the log is not base64: {visible(error)}") from None


def _lines(data: bytes, spans: list[tuple[str, int, bytes]]) -> Iterator[Line]:
    """Yield the lines; a line belongs to the file and offset where its first byte is."""
    starts = np.cumsum([0, *(len(part) for _, _, part in spans[:-1])])
    position = 0
    for raw in data.removesuffix(b"\n").split(b"\n"):
        span = int(np.searchsorted(starts, position, side="right")) - 1
        file, offset, _ = spans[span]
        text = raw.removesuffix(b"\r").decode("utf-8", "replace")
        yield Line(file, offset + position - int(starts[span]), text)
        position += len(raw) + 1


def is_enough(tail: Tail, lines: int, around_ns: int | None) -> bool:
    """Return whether a stream need not be read further back.

    It holds the number of lines, and a time before the one asked for, or there is no more.
    """
    if not tail.cut:
        return True
    if around_ns is None:
        return len(tail.lines) >= lines
    stamps = (stamp(line.text, around_ns) for line in tail.lines)
    earliest = next((found.ns for found in stamps if found), None)
    return earliest is not None and earliest < around_ns and len(tail.lines) >= lines


def choose_lines(
    tail: Tail, stream: str, lines: int, around_ns: int | None, now_ns: int
) -> tuple[list[tuple[Line, Stamp | None]], list[str]]:
    """Return the lines of one stream to show, with their times, and notes about them."""
    notes = list(_note_limits(tail, stream, lines, around_ns))
    if around_ns is None:
        return [(line, stamp(line.text, now_ns)) for line in tail.lines[-lines:]], notes
    stamped = [(line, stamp(line.text, around_ns)) for line in tail.lines]
    with_time = [(number, when) for number, (_, when) in enumerate(stamped) if when is not None]
    if not with_time:
        if tail.lines:
            notes.insert(0, f"{stream}: no line begins with a known time format; these are the last lines")
        return stamped[-lines:], notes
    number, closest = min(with_time, key=lambda pair: abs(pair[1].ns - around_ns))
    notes.insert(0, _note_times(stream, len(stamped), [when for _, when in with_time], closest, around_ns))
    start = max(min(number - lines // 2, len(stamped) - lines), 0)
    return stamped[start : start + lines], notes


def _note_times(stream: str, read: int, stamps: list[Stamp], closest: Stamp, around_ns: int) -> str:
    """Say which time formats the lines have, and whether they reach the time asked for."""
    formats = ", ".join(Counter(each.form for each in stamps))
    note = f"{stream}: {len(stamps):,} of {read:,} lines begin with a time ({formats})"
    if not all(each.zoned for each in stamps):
        note += ", without a time zone: read as UTC"
    if abs(closest.ns - around_ns) > _FAR_NS:
        first, last = (pd.Timestamp(pick(each.ns for each in stamps), tz="UTC") for pick in (min, max))
        note += (
            f"; none is near the time asked for: {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
        )
    return note


def _note_limits(tail: Tail, stream: str, lines: int, around_ns: int | None) -> Iterator[str]:
    """Say what the log has lost, and what was not read."""
    if not tail.lines:
        yield f"{stream}: empty, or already removed"
    if not is_enough(tail, lines, around_ns):
        yield f"{stream}: only the last {tail.size:,} bytes were read; max_bytes= reads more"
    if tail.rotated and (around_ns is not None or len(tail.lines) < lines):
        yield f"{stream}: lines before {tail.lines[0].file} are gone: the node keeps few log files"


def frame_of(rows: list[tuple[str, Line, Stamp | None]]) -> pd.DataFrame:
    """Return lines as a DataFrame, with the same columns and dtypes for none."""
    times = [None if when is None else when.ns for _, _, when in rows]
    return pd.DataFrame(
        {
            "stream": pd.Series([stream for stream, _, _ in rows], dtype="str"),
            "file": pd.Series([line.file for _, line, _ in rows], dtype="str"),
            "offset": pd.Series([line.offset for _, line, _ in rows], dtype="int64"),
            "time": pd.to_datetime(pd.Series(times, dtype="Int64"), unit="ns", utc=True),
            "line": pd.Series([line.text for _, line, _ in rows], dtype="str"),
        }
    )
