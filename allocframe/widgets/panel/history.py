"""What the panel did, and the replacements that it still looks for. No widgets."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd

from ...client.client import Client
from ...errors import AllocframeError
from .execute import Result, replacement

REPLACED_WITHIN = 60.0
"""Seconds in which the replacement of a stopped allocation is looked for."""

KEPT = 1000
_LISTED = 20
_COLUMNS = {
    "time": "datetime64[ns, UTC]", "action": "str", "alloc_id": "str", "name": "str", "job_id": "str", "namespace": "str",
    "node_name": "str", "tasks": "str", "signal": "str", "modify_index": "Int64", "result": "str", "said": "str",
    "replacement_id": "str",
}  # fmt: skip


@dataclass
class Entry:
    """One result, when it came, and what came of it since."""

    result: Result
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    since: str = ""
    replacement_id: str | None = None


class History:
    """The results, newest first, as far as they are kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._awaited: dict[str, tuple[Entry, float]] = {}

    def add(self, result: Result) -> None:
        """Keep a result; where something was stopped, or may have been, its replacement is awaited."""
        entry = Entry(result)
        with self._lock:
            self._entries.appendleft(entry)
            if result.order.action == "stop" and result.result in ("done", "unknown"):
                self._awaited[result.facts.alloc_id] = (entry, time.monotonic() + REPLACED_WITHIN)

    @property
    def waits(self) -> bool:
        """Whether a replacement is looked for."""
        return bool(self._awaited)

    def seek(self, client: Client) -> bool:
        """Look once for every replacement that is awaited; return whether there is something new to show."""
        with self._lock:
            awaited = list(self._awaited.items())
        before = [entry.since for _, (entry, _) in awaited]
        for alloc_id, (entry, until) in awaited:
            late = time.monotonic() >= until
            if _found(client, alloc_id, entry, late=late) or late:
                with self._lock:
                    self._awaited.pop(alloc_id, None)
        return before != [entry.since for _, (entry, _) in awaited]

    def latest(self) -> list[Entry]:
        """Return the results to show."""
        with self._lock:
            return list(self._entries)[:_LISTED]

    def frame(self) -> pd.DataFrame:
        """Return all of it, oldest first."""
        with self._lock:
            entries = list(self._entries)[::-1]
        rows = [
            (
                entry.time, one.order.action, one.facts.alloc_id, one.facts.name, one.facts.job_id, one.facts.namespace,
                one.facts.node_name, None if one.order.action == "stop" else one.order.task or one.order.scope,
                one.order.signal or None, one.facts.modify_index, one.result, one.said, entry.replacement_id,
            )
            for entry in entries
            for one in [entry.result]
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def _found(client: Client, alloc_id: str, entry: Entry, *, late: bool) -> bool:
    """Look for a replacement, and say how it stands; return whether it need not be looked for again."""
    try:
        new = replacement(client, alloc_id)
    except AllocframeError as error:
        if late:
            entry.since = f"its replacement cannot be looked for: {error}"
        return False
    if new is None:
        if late:
            entry.since = f"no replacement within {REPLACED_WITHIN:g} s; the scheduler may have found no room"
        return False
    entry.since = f"replaced by {new.alloc_id[:8]} on {new.node_name}, {new.client_status}"
    entry.replacement_id = new.alloc_id
    return new.client_status != "pending"
