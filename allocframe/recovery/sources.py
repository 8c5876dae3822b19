"""What was given to recover: recognized by content, opened and read piece by piece."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from .._utils.progress import Show
from ..errors import DecodeError
from .replica import Replica

_HEAD = 4096
"""Bytes that tell what a file is."""

_STATE_LISTS = ("Allocs", "Evals", "Deployments", "Nodes", "Jobs", "JobVersions")
_BUNDLE_LISTS = ("allocations", "evaluations", "deployments", "nodes")
_LONGEST_LINE = 256 << 20
"""Bytes. A longer line is not a log entry."""

_LINES_SHOWN = 200
"""After so many lines the progress is shown again."""


class Reader:
    """Reads sources into a replica, and notes what it could not read. `show` is told how many lines it read.

    Attributes
    ----------
    notes : list of str
        What was damaged or unknown.
    kinds : set of str
        What was read: Raft log, state, debug bundle, event stream, list.
    """

    def __init__(self, replica: Replica, show: Show) -> None:
        self.replica = replica
        self._show = show
        self._lines_read = 0
        self.notes: list[str] = []
        self.kinds: set[str] = set()

    def read_file(self, file: Path) -> None:
        """Read one file: a printed log or state, a bundle, events or a list.

        Raises
        ------
        DecodeError
            It is none of these, or nothing in it can be read.
        """
        with file.open("rb") as raw:
            stream = _decompressed(raw, file)
            head = stream.peek(_HEAD)[:_HEAD]
            if _is_tar(head):
                self._read_tar(stream, file)
            elif not head.strip():
                raise DecodeError(f"{file} is empty", file=str(file))
            else:
                self._read_json(stream, head, str(file))

    def read_program(self, output: IO[bytes], name: str) -> None:
        """Read what the nomad program prints of a Raft log."""
        self._read_lines(output, name)

    def read_state(self, state: Any, name: str) -> None:
        """Read a state as the nomad program prints it."""
        if not isinstance(state, dict) or not any(part in state for part in _STATE_LISTS):
            raise DecodeError(f"{name} is not a server's state", file=name)
        self.kinds.add("state")
        replica = self.replica
        for spec in (*_rows(state, "JobVersions"), *_rows(state, "Jobs")):
            replica.jobs.observe(spec)
        for add, part in (
            (replica.add_allocation, "Allocs"),
            (replica.add_evaluation, "Evals"),
            (replica.add_deployment, "Deployments"),
            (replica.add_node, "Nodes"),
        ):
            for row in _rows(state, part):
                add(row)

    def _read_json(self, stream: IO[bytes], head: bytes, name: str) -> None:
        start = head.lstrip()
        if start.startswith(b"{") and _looks_like_lines(head):
            self._read_lines(stream, name)
            return
        if not start.startswith((b"{", b"[")):
            raise DecodeError(
                f"{name} must be a printed Raft log or state, a debug bundle or JSON of Nomad, and is none "
                "of these. For a server's files, give its folder",
                file=name,
            )
        try:
            value = json.loads(stream.read())
        except (ValueError, RecursionError) as error:
            raise DecodeError(f"{name} is not complete JSON: {error}", file=name) from None
        if isinstance(value, dict) and "LogType" in value:
            self.kinds.add("Raft log")
            self.replica.apply(value)
        elif isinstance(value, dict):
            self.read_state(value, name)
        else:
            self._read_list(value, name)

    def _read_lines(self, stream: IO[bytes], name: str) -> None:
        """Read entries or events, one a line. A damaged line is counted, and the next one is read."""
        damaged, last_line_is_damaged, understood = 0, False, 0
        for line in _lines(stream, name):
            self._lines_read += 1
            if self._lines_read % _LINES_SHOWN == 0:
                self._show(self._lines_read, None, "lines")
            text = line.strip()
            if not text or text == b"{}":
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                damaged, last_line_is_damaged = damaged + 1, True
                continue
            last_line_is_damaged = False
            understood += self._read_line(value)
        if not understood:
            raise DecodeError(f"{name} has no entry of a Raft log that can be read", file=name)
        if last_line_is_damaged:
            damaged -= 1
            self.notes.append(f"{name}: the last line is cut. Later entries are missing")
        if damaged:
            self.notes.append(f"{name}: {damaged:,} lines are damaged and were left out")

    def _read_line(self, value: Any) -> int:
        """Read one line; return 1 if it says something."""
        if not isinstance(value, dict):
            return 0
        if "LogType" in value:
            self.kinds.add("Raft log")
            self.replica.apply(value)
            return 1
        events = value.get("Events")
        return sum(map(self._read_event, events if isinstance(events, list) else [value]))

    def _read_event(self, event: Any) -> int:
        """Read an event of the stream; return 1 if it is one."""
        payload = event.get("Payload") if isinstance(event, dict) else None
        if not isinstance(payload, dict):
            if isinstance(event, dict) and isinstance(event.get("ID"), str):
                return self._read_row(event)
            return 0
        self.kinds.add("event stream")
        replica = self.replica
        for name, add in (
            ("Allocation", replica.add_allocation),
            ("Evaluation", replica.add_evaluation),
            ("Deployment", replica.add_deployment),
            ("Node", replica.add_node),
            ("Job", replica.jobs.observe),
        ):
            if isinstance(payload.get(name), dict):
                add(payload[name])
        return 1

    def _read_row(self, row: dict[str, Any]) -> int:
        """Read a row of some list: what it is, its fields tell."""
        replica = self.replica
        if "TaskGroup" in row and "ClientStatus" in row:
            replica.add_allocation(row)
        elif "TriggeredBy" in row:
            replica.add_evaluation(row)
        elif "JobVersion" in row and "TaskGroups" in row:
            replica.add_deployment(row)
        elif "SchedulingEligibility" in row:
            replica.add_node(row)
        elif "JobModifyIndex" in row and "TaskGroups" in row:
            replica.jobs.observe(row)
        else:
            return 0
        self.kinds.add("list")
        return 1

    def _read_list(self, rows: Any, name: str) -> None:
        understood = [self._read_row(row) for row in rows if isinstance(row, dict)]
        if rows and not any(understood):
            raise DecodeError(f"{name} has nothing that can be recovered", file=name)

    def _read_tar(self, stream: IO[bytes], file: Path) -> None:
        """Read a debug bundle. Its members are read one after the other, and none is unpacked."""
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    parts = member.name.split("/")
                    kind = parts[-1].removesuffix(".json")
                    content = archive.extractfile(member) if member.isfile() else None
                    if content is not None:
                        self._read_member(kind, content, f"{file}: {member.name}")
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            self.notes.append(f"{file} is damaged: {error}. The rest of it is missing")
        if not self.kinds:
            raise DecodeError(f"{file} is not a Nomad debug bundle", file=str(file))

    def read_bundle_folder(self, folder: Path) -> None:
        """Read a debug bundle that was unpacked."""
        for file in sorted(folder.rglob("*.json")):
            with file.open("rb") as content:
                self._read_member(file.stem, content, str(file))

    def _read_member(self, kind: str, content: IO[bytes], name: str) -> None:
        if kind == "eventstream":
            self.kinds.add("debug bundle")
            with contextlib.suppress(DecodeError):  # it may be empty
                self._read_lines(content, name)
        elif kind in _BUNDLE_LISTS:
            self.kinds.add("debug bundle")
            for row in self._rows_of_member(content, name):
                self._read_row(row)

    def _rows_of_member(self, content: IO[bytes], name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a list, or of several objects one after the other."""
        text = content.read().decode("utf-8", "replace").strip()
        decoder, place = json.JSONDecoder(), 0
        try:
            while place < len(text):
                value, place = decoder.raw_decode(text, place)
                yield from (
                    row for row in (value if isinstance(value, list) else [value]) if isinstance(row, dict)
                )
                while place < len(text) and text[place].isspace():
                    place += 1
        except (ValueError, RecursionError):
            self.notes.append(f"{name} is damaged. The rest of it is missing")


def _rows(state: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows = state.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _looks_like_lines(head: bytes) -> bool:
    """Return whether a file is NDJSON: its first line is a whole object, or too long to end in the head."""
    line, end, _ = head.lstrip().partition(b"\n")
    if b'"LogType"' in line or b'"Topic"' in line or b'"Events"' in line[:200]:
        return True
    if not end:
        return False
    with contextlib.suppress(ValueError):
        return isinstance(json.loads(line), dict)
    return False


def _is_tar(head: bytes) -> bool:
    return head[257:262] == b"ustar"


def _decompressed(raw: IO[bytes], file: Path) -> io.BufferedReader:
    """Return the content of a file, which is compressed if it begins so."""
    start = raw.read(4)
    raw.seek(0)
    if start[:2] == b"\x1f\x8b":
        return io.BufferedReader(cast(Any, gzip.GzipFile(fileobj=raw)))
    if start == b"\x28\xb5\x2f\xfd":
        return io.BufferedReader(cast(Any, pa.CompressedInputStream(cast(Any, raw), "zstd")))
    return io.BufferedReader(cast(Any, raw))


def _lines(stream: IO[bytes], name: str) -> Iterator[bytes]:
    """Yield lines; of a compressed file that ends early, those before its end."""
    try:
        while line := stream.readline(_LONGEST_LINE):
            yield line
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        yield b"cut"  # no JSON, so that the last line counts as damaged
