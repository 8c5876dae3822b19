"""How a snapshot describes itself: counts, the time its events cover, what is missing and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .._utils import html
from .._utils.prose import count
from .._utils.text import visible
from ..store.store import Store

BY_STATUS = """SELECT client_status, count(*) AS allocations FROM allocations WHERE client_status IS NOT NULL
    GROUP BY client_status ORDER BY allocations DESC, client_status"""


def count_rows(store: Store, schema: str) -> dict[str, int]:
    """Return the number of rows of the main tables, and of tasks whose events are truncated."""
    counts = dict.fromkeys(("allocations", "events", "task_states", "truncated"), 0)
    for name, column in (("allocations", "canary"), ("events", "seq"), ("task_states", "events_truncated")):
        for part in store.scan(name, schema, (column,)):
            counts[name] += len(part)
            if name == "task_states":
                counts["truncated"] += pc.sum(part[column]).as_py() or 0
    return counts


def find_span(store: Store, schema: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first and the last time of an event; NaT without any."""
    edges: list[int] = []
    for part in store.scan("events", schema, ("time",)):
        times: Any = pc.min_max(part["time"].cast(pa.int64()))
        edges += [edge.as_py() for edge in times.values() if edge.is_valid]
    if not edges:
        return pd.NaT, pd.NaT  # type: ignore[return-value]
    return pd.Timestamp(min(edges), tz="UTC"), pd.Timestamp(max(edges), tz="UTC")


def format_title(counts: Mapping[str, int]) -> str:
    """Return the number of rows of the main tables, in one line."""
    named = ("allocations", "task_states", "events")
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in named)


def list_remarks(
    info: Mapping[str, Any], first: pd.Timestamp, last: pd.Timestamp, conditions: Iterable[tuple[str, Any]]
) -> list[str]:
    """Return what a reader must know: the time that events cover, what is missing and why."""
    lines = []
    if not pd.isna(first):
        lines.append(f"events from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC")
    lines.append(_completeness(info))
    if info["tasks_truncated"]:
        have = "has" if info["tasks_truncated"] == 1 else "have"
        share = f"{info['tasks_truncated']:,} of {count(info['tasks'], 'tasks')}"
        lines.append(f"{share} {have} lost older events (Nomad keeps the last 10 per task)")
    if info["issues"]:
        lines.append(f"{count(info['issues'], 'values')} of the wrong type (NA in the tables; see .issues)")
    lines += [f"filtered: {column} is {visible(value)}" for column, value in conditions]
    return lines + [visible(note) for note in info.get("notes", [])]


def _completeness(info: Mapping[str, Any]) -> str:
    if info.get("complete") is None:
        return "read from files, which may not hold every allocation"
    if not info["complete"]:
        return "NOT complete"
    if info.get("source") == "reads":
        return "complete: all requested allocations were fetched"
    return "complete: all allocations visible to this token were fetched"


def render_html(title: str, by_status: pd.DataFrame, remarks: Iterable[str]) -> str:
    """Return the same for a notebook."""
    rows = [(status, f"{number:,}") for status, number in by_status.itertuples(index=False)]
    table = html.table(rows, ("client status", "allocations"), numbers={1})
    return html.summary("Snapshot", title, remarks, table)
