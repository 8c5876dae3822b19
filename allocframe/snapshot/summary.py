"""What a snapshot says of itself: counts, the window covered, what is missing and why; as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from .._utils.text import escaped, visible

COUNTS = """SELECT (SELECT count(*) FROM allocations) AS allocations, (SELECT count(*) FROM events) AS events,
    count(*) AS task_states, count(*) FILTER (events_truncated) AS truncated FROM task_states"""
BY_STATUS = """SELECT client_status, count(*) AS allocations FROM allocations WHERE client_status IS NOT NULL
    GROUP BY client_status ORDER BY allocations DESC, client_status"""
SPAN = "SELECT min(time) AS first, max(time) AS last FROM events"


def title(counts: Mapping[str, int]) -> str:
    """Return how much there is, in a line."""
    named = ("allocations", "task_states", "events")
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in named)


def remarks(
    info: Mapping[str, Any], first: pd.Timestamp, last: pd.Timestamp, conditions: Iterable[tuple[str, Any]]
) -> list[str]:
    """Say what a reader must know: what is covered, what is missing and why."""
    found = []
    if not pd.isna(first):
        found.append(f"events from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC")
    complete = info.get("complete")
    if complete:
        asked = "was asked for" if info.get("source") == "reads" else "this query and token can see"
        found.append(f"complete: every allocation that {asked} is here")
    elif complete is None:
        found.append("read from files: whether they hold every allocation cannot be told")
    else:
        found.append("NOT complete")
    if info["tasks_truncated"]:
        share = f"{info['tasks_truncated']:,} of {info['tasks']:,} tasks"
        found.append(f"older events are gone for {share}: Nomad keeps ten for each task")
    if info["issues"]:
        found.append(f"{info['issues']:,} values did not fit and are NA; see .issues")
    found += [f"only where {column} is {visible(value)}" for column, value in conditions]
    return found + [visible(note) for note in info.get("notes", [])]


def as_html(said: str, by_status: pd.DataFrame, lines: Iterable[str]) -> str:
    """Return the same for a notebook."""
    cells = "".join(
        f"<tr><td style='text-align:left'>{escaped(status)}</td><td>{count:,}</td></tr>"
        for status, count in by_status.itertuples(index=False)
    )
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    head = "<tr><th>client status</th><th>allocations</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{cells}</tbody></table>"
    return f"<div><strong>Snapshot</strong>: {escaped(said)}{table}<ul>{items}</ul></div>"
