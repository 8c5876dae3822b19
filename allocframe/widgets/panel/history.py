"""The panel's action log, and the search for what came of each action. No widgets here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import TypeAlias

import pandas as pd

from ...client.client import Client
from ...errors import AllocframeError
from .confirmation import ENDED, target_tasks
from .execute import ActionResult, find_replacement, read_allocation

OUTCOME_TIMEOUT = 60.0
"""Seconds to look for the replacement of a stopped allocation, and for the new runs of restarted tasks."""

SIGNAL_WATCH = 3.0
"""Seconds after which it is looked at what a signal did."""

MAX_ENTRIES = 1000
_MAX_SHOWN = 20
_COLUMNS = {
    "time": "datetime64[ns, UTC]", "action": "str", "alloc_id": "str", "name": "str", "job_id": "str",
    "namespace": "str", "node_name": "str", "tasks": "str", "signal": "str", "modify_index": "Int64",
    "result": "str", "message": "str", "replacement_id": "str", "outcome": "str",
}  # fmt: skip


@dataclass
class Entry:
    """A result, its time, and what has become of the allocation since (`follow_up`)."""

    result: ActionResult
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    follow_up: str = ""
    replacement_id: str | None = None
    done_at: float = field(default_factory=monotonic)

    @property
    def seconds(self) -> str:
        """How long ago it was done, in words."""
        seconds = monotonic() - self.done_at
        return f"{max(seconds, 0.1):.1f} s" if seconds < 3 else f"{seconds:.0f} s"


class History:
    """The newest results, up to `MAX_ENTRIES`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self._awaited: deque[tuple[Entry, Outcome]] = deque()

    def add(self, result: ActionResult) -> None:
        """Add a result. If something was done, or may have been, look from now on what comes of it."""
        entry = Entry(result)
        watch = _OUTCOMES.get(result.request.action)
        with self._lock:
            self._entries.appendleft(entry)
            if watch is not None and result.outcome in ("done", "unknown"):
                self._awaited.append((entry, watch))

    @property
    def waiting(self) -> bool:
        """Whether an outcome is still looked for."""
        return bool(self._awaited)

    def look(self, client: Client) -> bool:
        """Look once for every awaited outcome. Return whether there is something new to show."""
        with self._lock:
            awaited = list(self._awaited)
        before = [entry.follow_up for entry, _ in awaited]
        for entry, outcome in awaited:
            expired = monotonic() >= entry.done_at + OUTCOME_TIMEOUT
            if _look(client, entry, outcome, expired=expired) or expired:
                with self._lock:
                    self._awaited.remove((entry, outcome))
        return before != [entry.follow_up for entry, _ in awaited]

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
        entry.replacement_id, entry.follow_up or None,
    )  # fmt: skip


def _look(client: Client, entry: Entry, outcome: Outcome, *, expired: bool) -> bool:
    """Look for an outcome and describe it. Return whether the search is over."""
    try:
        return outcome(client, entry, expired)
    except AllocframeError as error:
        if expired:
            entry.follow_up = f"what came of it could not be read: {error}"
        return False


def _replacement(client: Client, entry: Entry, expired: bool) -> bool:
    replacement = find_replacement(client, entry.result.alloc.alloc_id)
    if replacement is None:
        if expired:
            entry.follow_up = f"no replacement within {OUTCOME_TIMEOUT:g} s; perhaps no node has room"
        return False
    status = f"on {replacement.node_name}, {replacement.client_status}"
    is_over = replacement.client_status != "pending"
    after = f" after {entry.seconds}" if is_over else ""
    entry.follow_up = f"replaced by {replacement.alloc_id[:8]} {status}{after}"
    entry.replacement_id = replacement.alloc_id
    return is_over


def _restart(client: Client, entry: Entry, expired: bool) -> bool:
    """Wait until every task that was restarted has started again. A node may take its time to say so."""
    before, request = entry.result.alloc, entry.result.request
    now = read_allocation(client, before.alloc_id)
    if now.client_status in ENDED:
        entry.follow_up = f"it is {now.client_status} now"
        return True
    states, started, earlier = dict(now.tasks), dict(now.started), dict(before.started)
    missing = [
        f"{task} is {states.get(task, 'gone')}"
        for task in target_tasks(request, before)
        if states.get(task) != "running" or started.get(task) == earlier.get(task)
    ]
    if not missing:
        entry.follow_up = f"restarted, running again after {entry.seconds}"
    elif expired:
        entry.follow_up = f"not seen running again within {OUTCOME_TIMEOUT:g} s: {', '.join(missing)}"
    return not missing


def _signal(client: Client, entry: Entry, expired: bool) -> bool:
    """Tell what a signal did: a task may handle it, end, or be restarted."""
    if monotonic() < entry.done_at + SIGNAL_WATCH and not expired:
        return False
    before, request = entry.result.alloc, entry.result.request
    now = read_allocation(client, before.alloc_id)
    states, started, earlier = dict(now.tasks), dict(now.started), dict(before.started)
    told = []
    for task in target_tasks(request, before):
        if states.get(task) != "running":
            told.append(f"{task} is {states.get(task, 'gone')} now")
        elif started.get(task) != earlier.get(task):
            told.append(f"{task} has restarted")
        else:
            told.append(f"{task} runs on")
    entry.follow_up = f"after {entry.seconds}: {', '.join(told)}"
    return True


Outcome: TypeAlias = Callable[[Client, Entry, bool], bool]
_OUTCOMES: dict[str, Outcome] = {"stop": _replacement, "restart": _restart, "signal": _signal}
"""What looks for the outcome of each action."""
