"""The logs of simulated tasks, made from their events on each read so that they need no memory."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from ..cluster.alloc import Alloc
from ..cluster.model import SECOND, Event, TaskState, rfc3339

FRAME = 64 << 10
_INTERVAL = 60 * SECOND
_MAX_LINES = 40
"""Regular lines of a run; older ones are left out."""
_LAST_LINES = {
    "oom": [
        "WARN  memory: heap at 98 % of the limit, collecting",
        "WARN  memory: allocation of 16777216 bytes delayed",
    ],
    "78": [
        'ERROR config: unknown key "pool_sise" in /local/app.toml',
        "FATAL config: cannot start with this configuration",
    ],
    "143": ["INFO  signal: SIGTERM received, draining connections"],
}
_CRASH = [
    "ERROR worker: request failed: connection to database lost",
    "panic: runtime error: invalid memory address",
]
_TRACE = ["goroutine 1 [running]:", "\tmain.handle(0xc000112000)", "\t\t/src/handler.go:42 +0x1d"]


def task_log(alloc: Alloc, task: str, stream: str, now_ns: int) -> bytes:
    """Return the stdout or stderr of a task, as far back as its events go."""
    runs = list(_runs(alloc.tasks[task], now_ns))
    lines = (
        line
        for start, end, termination in runs
        for line in (_stdout(alloc, start, end) if stream == "stdout" else _stderr(start, end, termination))
    )
    return "".join(f"{line}\n" for line in lines).encode()


def _runs(state: TaskState, now_ns: int) -> Iterator[tuple[int, int, Event | None]]:
    """Yield start, end and termination event of each run whose start is still in the ring."""
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


def _stdout(alloc: Alloc, start: int, end: int) -> Iterator[str]:
    yield f"{rfc3339(start)} INFO  {alloc.job.id} version {alloc.job.version} starting on {alloc.node.name}"
    minutes = (end - start) // _INTERVAL
    for minute in range(max(minutes - _MAX_LINES, 0) + 1, minutes + 1):
        yield f"{rfc3339(start + minute * _INTERVAL)} INFO  served {minute * 60 + alloc.slot} requests"


def _stderr(start: int, end: int, termination: Event | None) -> Iterator[str]:
    details = (termination[2] if termination else None) or {}
    code = details.get("exit_code", "0")
    if code == "0":
        return
    key = "oom" if details.get("oom_killed") == "true" else code
    # The last lines come just before the end of the run.
    at = rfc3339(max(end - SECOND // 50, start))
    yield from (f"{at} {line}" for line in _LAST_LINES.get(key, _CRASH))
    yield from () if key in _LAST_LINES else _TRACE


def framed(data: bytes, file: str, start: int) -> bytes:
    """Return data in frames of 64 KiB, as nodes send it.

    As in Nomad, the offset of a frame is not where it begins: the first has the offset of its own end.
    """
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
