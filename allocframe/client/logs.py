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

from .._utils.text import escaped, visible
from .._utils.times import to_utc
from .._utils.validate import check_count
from ..errors import ConfigError, DecodeError, NotFound
from ..nomad.transport import Response
from .log_timestamps import Stamp, stamp
from .session import Session

STREAMS = ("stdout", "stderr")
FIRST_BYTES = 64 << 10
MOST_BYTES = 4 << 20
UTMOST_BYTES = 64 << 20
"""Bytes of one stream that are read at first, at most unless the caller says otherwise, and at the utmost."""

GROWTH = 32 << 20
"""Bytes of an answer that may come beyond what was asked for, because the task writes on meanwhile."""

_ROTATED = re.compile(r"\.(\d{1,9})\Z")
_FAR_NS = 300 * 10**9


@dataclass(frozen=True)
class Line:
    """One line, where its log file has it, and when it says it was written."""

    file: str
    offset: int
    text: str


@dataclass(frozen=True)
class Tail:
    """The end of one stream: its lines, whether what is before them was read, and whether the node still has that."""

    lines: list[Line]
    size: int
    cut: bool
    rotated: bool


class Logs:
    """Lines of a task's logs, made by `Client.logs`.

    Attributes
    ----------
    frame : pandas.DataFrame
        One row for each line: stream, file, offset (bytes into that file), time (what the line says of itself, UTC; missing where it
        says nothing that can be read), line. stdout comes before stderr.
    notes : list of str
        What was found, what was not, and what was cut.
    text : str
        The lines as they were written, without anything made harmless.
    """

    def __init__(self, frame: pd.DataFrame, notes: list[str]) -> None:
        self.frame = frame
        self.notes = notes

    @property
    def text(self) -> str:
        """The lines as they were written, one after the other."""
        return "\n".join(self.frame["line"])

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        lines = [f"{row.stream}  {visible(row.line)}" for row in self.frame.itertuples()]
        return "\n".join([*lines, *(f"({visible(note)})" for note in self.notes)])

    def _repr_html_(self) -> str:
        shown = (f"{row.stream}  {escaped(row.line)}" for row in self.frame.itertuples())
        notes = "".join(f"<li>{escaped(note)}</li>" for note in self.notes)
        return f"<pre style='overflow-x:auto'>{chr(10).join(shown)}</pre><ul>{notes}</ul>"


def read_logs(
    session: Session,
    alloc_id: str,
    task: str,
    *,
    stream: Literal["stdout", "stderr", "both"] = "both",
    around: pd.Timestamp | datetime | str | None = None,
    lines: int = 50,
    max_bytes: int = MOST_BYTES,
) -> Logs:
    """Read lines of a task's logs; see `Client.logs`."""
    if stream not in (*STREAMS, "both"):
        raise ConfigError(f'stream must be "stdout", "stderr" or "both", got {stream!r}')
    if not isinstance(task, str) or not task:
        raise ConfigError(f"task must be the name of a task, got {task!r}")
    if check_count("max_bytes", max_bytes) > UTMOST_BYTES:
        raise ConfigError(f"max_bytes must be {UTMOST_BYTES:,} or less, got {max_bytes!r}")
    check_count("lines", lines)
    around_ns = None if around is None else to_utc(around, "around").as_unit("ns").value
    identity = session.resolve_id(alloc_id)
    rows, notes = [], []
    for name in STREAMS if stream == "both" else (stream,):
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
                f"/v1/client/fs/logs/{alloc_id}", params, check=parse, most=2 * size + GROWTH
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
    """Return the lines of an answer that was asked for so many bytes from the end.

    Raises
    ------
    DecodeError
        It is not whole, or not what nodes send.
    """
    spans = list(_spans(body))
    data = b"".join(part for _, _, part in spans)
    if not data:
        return Tail([], 0, cut=False, rotated=False)
    first_file, first_offset = spans[0][0], spans[0][1]
    lines = list(_lines(data, spans))
    if first_offset and len(lines) > 1:
        del lines[0]  # what is before it was not asked for: it may have begun there
    number = _ROTATED.search(first_file)
    whole = first_offset == 0 and number is not None and int(number[1]) == 0
    cut = len(data) >= asked and not whole
    return Tail(lines, len(data), cut=cut, rotated=not cut and not whole)


def _spans(body: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yield file, offset and bytes of each frame.

    A frame's own offset is the end of the first piece that was read of its file: the start only of the first frame follows from it.
    """
    file, offset = None, 0
    for frame in _frames(body):
        data = _data(frame)
        if not data:
            continue
        if frame.get("File") != file:
            file, end = frame.get("File"), frame.get("Offset") or 0
            if not isinstance(end, int) or not 0 <= end < 2**63:
                raise DecodeError(f"a frame of the log has an odd offset: {visible(end)}")
            offset = end - len(data)
        yield str(file).rpartition("/")[2], max(offset, 0), data
        offset += len(data)


def _frames(body: bytes) -> Iterator[dict[str, Any]]:
    try:
        text = body.decode("ascii")
        decoder, place = json.JSONDecoder(), 0
        while place < len(text):
            frame, place = decoder.raw_decode(text, place)
            if not isinstance(frame, dict):
                raise ValueError("a frame is no object")
            yield frame
            while place < len(text) and text[place] in " \r\n\t":
                place += 1
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the log did not come whole: {visible(error)}") from None


def _data(frame: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(frame.get("Data") or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DecodeError(f"a frame of the log holds no base64: {visible(error)}") from None


def _lines(data: bytes, spans: list[tuple[str, int, bytes]]) -> Iterator[Line]:
    starts = np.cumsum([0, *(len(part) for _, _, part in spans[:-1])])
    place = 0
    for raw in data.removesuffix(b"\n").split(b"\n"):
        at = int(np.searchsorted(starts, place, side="right")) - 1
        file, offset, _ = spans[at]
        text = raw.removesuffix(b"\r").decode("utf-8", "replace")
        yield Line(file, offset + place - int(starts[at]), text)
        place += len(raw) + 1


def is_enough(tail: Tail, lines: int, around_ns: int | None) -> bool:
    """Tell whether no more of a stream need be read: it holds the lines, and what comes before the moment asked for."""
    if not tail.cut:
        return True
    if around_ns is None:
        return len(tail.lines) >= lines
    written = next((one.ns for line in tail.lines if (one := stamp(line.text, around_ns))), None)
    return written is not None and written < around_ns and len(tail.lines) >= lines


def choose_lines(
    tail: Tail, stream: str, lines: int, around_ns: int | None, now_ns: int
) -> tuple[list[tuple[Line, Stamp | None]], list[str]]:
    """Return the lines to show of one stream, with their times, and what must be said of them."""
    notes = list(_limits(tail, stream, lines, around_ns))
    near = now_ns if around_ns is None else around_ns
    if around_ns is None:
        last = [(line, stamp(line.text, near)) for line in tail.lines[-lines:]]
        return last, notes
    stamped = [(line, stamp(line.text, near)) for line in tail.lines]
    known = [(place, one) for place, (_, one) in enumerate(stamped) if one is not None]
    if not known:
        if tail.lines:
            notes.insert(
                0, f"{stream}: no line begins with a time that can be read, so these are its last lines"
            )
        return stamped[-lines:], notes
    place, closest = min(known, key=lambda pair: abs(pair[1].ns - near))
    notes.insert(0, _found(stream, len(stamped), [one for _, one in known], closest, near))
    start = max(min(place - lines // 2, len(stamped) - lines), 0)
    return stamped[start : start + lines], notes


def _found(stream: str, read: int, known: list[Stamp], closest: Stamp, near: int) -> str:
    forms = Counter(one.form for one in known)
    said = f"{stream}: {len(known):,} of {read:,} lines read begin with a time ({', '.join(forms)})"
    if not all(one.zoned for one in known):
        said += ", without a time zone: taken as UTC"
    if abs(closest.ns - near) > _FAR_NS:
        first, last = (pd.Timestamp(pick(one.ns for one in known), tz="UTC") for pick in (min, max))
        said += f"; none is of the time asked for: they go from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"
    return said


def _limits(tail: Tail, stream: str, lines: int, around_ns: int | None) -> Iterator[str]:
    if not tail.lines:
        yield f"{stream}: nothing was written, or nothing is left of it"
    if not is_enough(tail, lines, around_ns):
        yield f"{stream}: only its last {tail.size:,} bytes were read; max_bytes= reads more"
    if tail.rotated and (around_ns is not None or len(tail.lines) < lines):
        yield f"{stream}: what was written before {tail.lines[0].file} is gone: the node keeps few log files"


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
