"""The details of one allocation: facts, tasks, events with their meaning, log lines, usage, and its chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from ... import stats
from ..._utils.text import visible
from ...client.client import Client
from ...errors import AllocframeError
from ...snapshot.allocation import Allocation
from .state import legible

_LOG_LINES = 15
_MOST_EVENTS = 40


def read_details(client: Client, alloc_id: str) -> Iterator[dict[str, Any]]:
    """Yield the details of an allocation, with more in them each time: logs and usage may take long."""
    details: dict[str, Any] = {"id": alloc_id, "short": alloc_id[:8], "reading": "the allocation"}
    yield dict(details)
    try:
        one = client.allocation(alloc_id)
    except AllocframeError as error:
        yield {**details, "reading": "", "error": legible(str(error))}
        return
    details |= _of_allocation(one)
    running = one.task_states["state"].eq("running").any()
    parts: list[tuple[str, Callable[[], Any]]] = [("logs", lambda: _logs(client, one, alloc_id))]
    if running:
        parts.append(("usage", lambda: _usage(client, alloc_id)))
    for name, read in parts:
        yield {**details, "reading": f"the {name}"}
        details[name] = read()
    yield {**details, "reading": ""}


def _of_allocation(one: Allocation) -> dict[str, Any]:
    raw = one.raw
    facts = {
        "allocation": raw.get("ID"),
        "job": f"{raw.get('Namespace')}/{raw.get('JobID')}",
        "version": (raw.get("Job") or {}).get("Version"),
        "node": raw.get("NodeName"),
        "status": raw.get("ClientStatus"),
        "wanted": raw.get("DesiredStatus"),
        "why": raw.get("ClientDescription") or raw.get("DesiredDescription"),
    }
    return {
        "facts": [[name, visible(value)] for name, value in facts.items() if value not in (None, "")],
        "tasks": _tasks(one.task_states),
        "events": _events(one.events),
        "events_total": len(one.events),
        "chain": _chain(one),
    }


def _tasks(tasks: pd.DataFrame) -> list[list[str]]:
    return [
        [
            visible(row["task"]),
            visible(row["state"]) + (", failed" if row["failed"] is True else ""),
            str(row["restarts"]) if not pd.isna(row["restarts"]) else "",
            _moment(row["started_at"]),
        ]
        for row in tasks.to_dict("records")
    ]


def _events(events: pd.DataFrame) -> list[list[str]]:
    """Return the newest events with what they mean."""
    explained = stats.explain_events(events).sort_values("time", kind="stable").tail(_MOST_EVENTS)
    rows = []
    for row in explained.to_dict("records"):
        meaning = [row[name] for name in ("exit_meaning", "cause", "decision") if isinstance(row[name], str)]
        plain = [
            text for text in dict.fromkeys(meaning) if text not in ("ok", "error", "unknown", "completed")
        ]
        message = "" if pd.isna(row["message"]) else str(row["message"])
        rows.append(
            [
                _moment(row["time"]),
                visible(row["task"]),
                visible(row["type"]),
                legible(message),
                ", ".join(plain),
            ]
        )
    return rows


def _chain(one: Allocation) -> list[str]:
    """Return the allocations before and after it, as its reschedule tracker and its links tell."""
    raw, steps = one.raw, []
    tracker = (raw.get("RescheduleTracker") or {}).get("Events") or []
    for event in tracker:
        at = pd.Timestamp(int(event.get("RescheduleTime") or 0), tz="UTC")
        steps.append(f"{_moment(at)} rescheduled from {visible(str(event.get('PrevAllocID'))[:8])}")
    if not steps and raw.get("PreviousAllocation"):
        steps.append(f"it replaced {visible(str(raw['PreviousAllocation'])[:8])}")
    if raw.get("NextAllocation"):
        steps.append(f"it was replaced by {visible(str(raw['NextAllocation'])[:8])}")
    return steps


def _logs(client: Client, one: Allocation, alloc_id: str) -> list[list[str]]:
    """Return the end of each task's logs, or why there is none."""
    told = []
    for task in one.task_states["task"].astype("str"):
        try:
            logs = client.logs(alloc_id, task, lines=_LOG_LINES)
        except AllocframeError as error:
            told.append([visible(task), legible(str(error))])
            continue
        told.append([visible(task), repr(logs) if len(logs) or logs.notes else "The task wrote nothing."])
    return told


def _usage(client: Client, alloc_id: str) -> list[list[str]] | str:
    try:
        usage = client.usage([alloc_id])
    except AllocframeError as error:
        return legible(str(error))
    if len(usage.errors):
        return legible(str(usage.errors["error"].iloc[0]))
    return [
        [
            visible(row["task"]),
            _of(row["memory_mib"], row["memory_requested_mib"], "MiB"),
            _of(row["cpu_mhz"], row["cpu_requested_mhz"], "MHz"),
        ]
        for row in usage.samples.to_dict("records")
    ]


def _of(used: Any, requested: Any, unit: str) -> str:
    if pd.isna(used):
        return "not measured"
    return f"{used:,.0f} {unit}" if pd.isna(requested) else f"{used:,.0f} of {requested:,.0f} {unit}"


def _moment(moment: Any) -> str:
    return "" if pd.isna(moment) else f"{moment:%d %b %H:%M:%S}".lstrip("0")
