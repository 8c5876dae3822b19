"""A raw-socket server of a short allocation list and of event streams that do exactly what a test says."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from faultserver import FaultServer, good, http

Script = Callable[[socket.socket], None]


class StreamServer(FaultServer):
    """Serves `rows` at `index`, and `streams` in turn, the last one again and again.

    `headers` are those of a list; `forbidden` makes every read a refusal.
    """

    def __init__(self, rows: list[dict[str, Any]], *streams: Script, index: int = 10) -> None:
        self.rows = {row["ID"]: row for row in rows}
        self.index = index
        self.headers: dict[str, str] | None = None
        self.forbidden = False
        self.streams = list(streams)
        self.asked: list[str] = []
        super().__init__(b"")

    def now(self, *rows: dict[str, Any], index: int) -> None:
        """Change what is listed."""
        self.rows = {row["ID"]: row for row in rows}
        self.index = index

    def count(self, path: str) -> int:
        return sum(urlsplit(target).path == path for target in list(self.asked))

    def _answer(self, connection: socket.socket) -> bool:
        request = self._request(connection)
        if not request:
            return False
        target = request.split()[1].decode()
        self.asked.append(target)
        path = urlsplit(target).path
        if path == "/v1/event/stream":
            stream = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
            stream(connection)
        elif self.forbidden:
            connection.sendall(http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain"))
        elif path == "/v1/allocations":
            connection.sendall(self._list(target))
        elif path.removeprefix("/v1/allocation/") in self.rows:
            row = self.rows[path.removeprefix("/v1/allocation/")]
            job = {
                "Type": row["JobType"],
                "Version": row["JobVersion"],
                "Meta": {"password": "canary-of-job"},
            }
            connection.sendall(good(json.dumps({**row, "Job": job}).encode()))
        else:
            text = b"alloc not found" if "/allocation/" in path else b""
            connection.sendall(http(text, "404 Not Found", length=len(text), kind="text/plain"))
        return True

    def _list(self, target: str) -> bytes:
        query = parse_qs(urlsplit(target).query)
        rows = [row for row in self.rows.values() if row["ID"].startswith(query.get("prefix", [""])[0])]
        if query.get("task_states") == ["false"]:
            rows = [{**row, "TaskStates": None} for row in rows]
        if query.get("per_page") == ["1"]:
            rows = rows[:1]
        headers = {"X_Nomad_Index": str(self.index)} if self.headers is None else self.headers
        return good(json.dumps(rows).encode(), **headers)


class Hold:
    """In the place of a line: the stream stays open until the client or the test ends it."""


HOLD = Hold()


def told(*lines: dict[str, Any] | bytes | Hold | threading.Event) -> Script:
    """Return a stream that sends these lines, waits for the events between them, and then just closes."""

    def script(connection: socket.socket) -> None:
        connection.sendall(http(b""))
        for line in lines:
            if isinstance(line, Hold):
                connection.recv(1)
            elif isinstance(line, threading.Event):
                line.wait(60)
            else:
                connection.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    return script


def batch(index: int, *rows: dict[str, Any]) -> dict[str, Any]:
    """Return a line with allocations as streams send them: at that index, without their job."""
    left_out = ("JobType", "JobVersion")
    allocations = [
        {key: value for key, value in row.items() if key not in left_out} | {"ModifyIndex": index}
        for row in rows
    ]
    events = [
        {
            "Topic": "Allocation", "Type": "AllocationUpdated", "Key": row["ID"],
            "Namespace": row["Namespace"], "Index": index,
            "Payload": {"Allocation": row},
        }
        for row in allocations
    ]  # fmt: skip
    return {"Index": index, "Events": events}
