"""The panel's action log, and the search for replacements of stopped allocations. No widgets here."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd

from ...client.client import Client
from ...errors import AllocframeError
from .execute import ActionResult, find_replacement

REPLACEMENT_TIMEOUT = 60.0
"""Seconds to look for the replacement of a stopped allocation."""

MAX_ENTRIES = 1000
_MAX_SHOWN = 20
_COLUMNS = {
    "time": "datetime64[ns, UTC]", "action": "str", "alloc_id": "str", "name": "str", "job_id": "str",
    "namespace": "str", "node_name": "str", "tasks": "str", "signal": "str", "modify_index": "Int64",
    "result": "str", "message": "str", "replacement_id": "str",
}  # fmt: skip


@dataclass
class Entry:
    """A result, its time, and what has become of the allocation since (`follow_up`)."""

    result: ActionResult
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    follow_up: str = ""
    replacement_id: str | None = None


class History:
    """The newest results, up to `MAX_ENTRIES`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self._awaited: dict[str, tuple[Entry, float]] = {}

    def add(self, result: ActionResult) -> None:
        """Add a result. If it stopped the allocation, or may have, look for a replacement from now on."""
        entry = Entry(result)
        with self._lock:
            self._entries.appendleft(entry)
            if result.request.action == "stop" and result.outcome in ("done", "unknown"):
                deadline = time.monotonic() + REPLACEMENT_TIMEOUT
                self._awaited[result.alloc.alloc_id] = (entry, deadline)

    @property
    def waiting(self) -> bool:
        """Whether a replacement is still looked for."""
        return bool(self._awaited)

    def look_for_replacements(self, client: Client) -> bool:
        """Look once for every awaited replacement. Return whether there is something new to show."""
        with self._lock:
            awaited = list(self._awaited.items())
        before = [entry.follow_up for _, (entry, _) in awaited]
        for alloc_id, (entry, deadline) in awaited:
            expired = time.monotonic() >= deadline
            if _update(client, alloc_id, entry, expired=expired) or expired:
                with self._lock:
                    self._awaited.pop(alloc_id, None)
        return before != [entry.follow_up for _, (entry, _) in awaited]

    def latest(self) -> list[Entry]:
        """Return the entries to show, newest first."""
        with self._lock:
            return list(self._entries)[:_MAX_SHOWN]

    def frame(self) -> pd.DataFrame:
        """Return all entries as a frame, oldest first."""
        with self._lock:
            entries = list(self._entries)[::-1]
        return pd.DataFrame(map(_row, entries), columns=list(_COLUMNS)).astype(_COLUMNS)


def _row(entry: Entry) -> tuple[object, ...]:
    result, request, alloc = entry.result, entry.result.request, entry.result.alloc
    tasks = None if request.action == "stop" else request.task or request.scope
    return (
        entry.time, request.action, alloc.alloc_id, alloc.name, alloc.job_id, alloc.namespace,
        alloc.node_name, tasks, request.signal or None, alloc.modify_index, result.outcome, result.detail,
        entry.replacement_id,
    )  # fmt: skip


def _update(client: Client, alloc_id: str, entry: Entry, *, expired: bool) -> bool:
    """Look for a replacement and describe its state. Return whether the search is over."""
    try:
        replacement = find_replacement(client, alloc_id)
    except AllocframeError as error:
        if expired:
            entry.follow_up = f"its replacement could not be read: {error}"
        return False
    if replacement is None:
        if expired:
            entry.follow_up = f"no replacement within {REPLACEMENT_TIMEOUT:g} s; perhaps no node has room"
        return False
    status = f"on {replacement.node_name}, {replacement.client_status}"
    entry.follow_up = f"replaced by {replacement.alloc_id[:8]} {status}"
    entry.replacement_id = replacement.alloc_id
    return replacement.client_status != "pending"
