"""What the tasks of a simulated cluster have written: made of their events when it is asked for, so that it costs no memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from ..cluster.alloc import Alloc
from ..cluster.model import SECOND, Event, TaskState, rfc3339

FRAME = 64 << 10
_EVERY = 60 * SECOND
_MOST = 40
_LAST_WORDS = {
    "oom": ["WARN  memory: heap at 98 % of the limit, collecting", "WARN  memory: allocation of 16777216 bytes delayed"],
    "78": ["ERROR config: unknown key \"pool_sise\" in /local/app.toml", "FATAL config: cannot start with this configuration"],
    "143": ["INFO  signal: SIGTERM received, draining connections"],
}  # fmt: skip
_CRASH = [
    "ERROR worker: request failed: connection to database lost",
    "panic: runtime error: invalid memory address",
]
_TRACE = ["goroutine 1 [running]:", "\tmain.handle(0xc000112000)", "\t\t/src/handler.go:42 +0x1d"]


def written(alloc: Alloc, task: str, stream: str, now_ns: int) -> bytes:
    """Return a stream of a task, as far back as its events go; stdout has its times and stderr its last words."""
    state = alloc.tasks[task]
    runs = list(_runs(state, now_ns))
    lines = (line for run in runs for line in (_talk(alloc, *run) if stream == "stdout" else _words(*run)))
    return "".join(f"{line}\n" for line in lines).encode()


def _runs(state: TaskState, now_ns: int) -> Iterator[tuple[int, int, Event | None]]:
    """Yield start, end and ending of each run whose start is still among the events."""
    start = None
    for event in state.events:
        kind, time, _ = event
        if kind == "Started":
            start = time
        elif kind == "Terminated" and start is not None:
            yield start, time, event
            start = None
    if start is not None:
        yield start, now_ns, None


def _talk(alloc: Alloc, start: int, end: int, ending: Event | None) -> Iterator[str]:
    yield f"{rfc3339(start)} INFO  {alloc.job.id} version {alloc.job.version} starting on {alloc.node.name}"
    for minute in range(max((end - start) // _EVERY - _MOST, 0) + 1, (end - start) // _EVERY + 1):
        yield f"{rfc3339(start + minute * _EVERY)} INFO  served {minute * 60 + alloc.slot} requests"


def _words(start: int, end: int, ending: Event | None) -> Iterator[str]:
    details = (ending[2] if ending else None) or {}
    code = details.get("exit_code", "0")
    if code == "0":
        return
    key = "oom" if details.get("oom_killed") == "true" else code
    at = rfc3339(max(end - SECOND // 50, start))
    yield from (f"{at} {word}" for word in _LAST_WORDS.get(key, _CRASH))
    yield from () if key in _LAST_WORDS else _TRACE


def framed(data: bytes, file: str, start: int) -> bytes:
    """Return data as nodes send it: frames of 64 KiB, whose offset is where the first piece of the file ends, and more by each."""
    first = min(FRAME, len(data))
    pieces = [
        {
            "Data": base64.b64encode(data[place : place + FRAME]).decode(),
            "File": f"alloc/logs/{file}",
            "Offset": start + first + place,
        }
        for place in range(0, len(data), FRAME)
    ]
    return "".join(json.dumps(piece, separators=(",", ":")) for piece in pieces).encode()
