"""Turns facts about the quality of the data into English."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from .._utils.prose import clock, count, span


def coverage(facts: dict[str, Any], cluster: str | None = None) -> str:
    """Return what a snapshot holds, from when to when, and whether it is complete."""
    held = (
        f"{count(facts['allocations'], 'allocations')} of {count(facts['jobs'], 'jobs')} "
        f"on {count(facts['nodes'], 'nodes')}, with {count(facts['events'], 'task events')}"
    )
    text = f"{held}."
    if facts["first"] is not None:
        text = f"{held}, from {clock(facts['first'])} to {clock(facts['last'], facts['first'])} UTC."
        text += f" {_completeness(facts)}"
    return f"{cluster}: {text}" if cluster else text


def _completeness(facts: dict[str, Any]) -> str:
    if facts["complete"] is None:
        return "It was read from files, which do not say if they hold all allocations."
    if not facts["complete"]:
        return "The snapshot is incomplete."
    if facts["recorded_since"] is None:
        return "Complete: all allocations visible to this token were fetched."
    return (
        "Complete as far as a recorder saw allocations; "
        f"its archive begins at {clock(facts['recorded_since'])} UTC."
    )


def data_gap(kind: str, facts: dict[str, Any], cluster: str | None = None) -> str:
    """Return what is missing, and what that could hide."""
    text = _GAPS[kind](facts)
    return f"{cluster}: {text}" if cluster else text


def _lost_events(facts: dict[str, Any]) -> str:
    truncated, total = facts["tasks_truncated"], count(facts["tasks"], "tasks")
    return f"{truncated:,} of {total} {'has' if truncated == 1 else 'have'} lost older events"


def _truncated_events(facts: dict[str, Any]) -> str:
    return (
        f"{_lost_events(facts)} (Nomad keeps the last 10 per task). "
        "Counts from events are lower bounds there, and problems may have begun earlier than they seem to."
    )


def _unseen_events(facts: dict[str, Any]) -> str:
    truncated, total = facts["tasks_truncated"], count(facts["tasks"], "tasks")
    return (
        f"{truncated:,} of {total} {'lacks' if truncated == 1 else 'lack'} events, which came "
        "before the archive began, while nobody watched, or too fast. "
        "Counts from events are lower bounds there."
    )


def _predecessors(facts: dict[str, Any]) -> str:
    fate = (
        "ended earlier, or were not recorded"
        if facts["recorded"]
        else "were removed by Nomad, with their events"
    )
    return f"The predecessors of {count(facts['allocations'], 'allocations')} {fate}."


def _unwatched(facts: dict[str, Any]) -> str:
    start, end, reason = facts["start"], facts["end"], facts["reason"]
    because = f" ({reason})" if reason not in ("", "nobody watched") else ""
    return (
        f"Nobody watched from {clock(start)} to {clock(end, start)} UTC{because}: "
        "allocations that came and went then may be missing."
    )


def _before_archive(facts: dict[str, Any]) -> str:
    return f"Allocations that ended before {clock(facts['first'])} UTC were not recorded, or not selected."


def _note(facts: dict[str, Any]) -> str:
    note = facts["note"]
    return f"{note[0].upper()}{note[1:]}."


_GAPS: dict[str, Callable[[dict[str, Any]], str]] = {
    "cluster missing": lambda facts: f"the cluster was not fetched: {facts['error']}",
    "events truncated": _truncated_events,
    "events unseen": _unseen_events,
    "predecessors removed": _predecessors,
    "ended long before": lambda facts: (
        "Allocations that ended long ago: servers remove most of them after about an hour. "
        "Earlier failures that were replaced may have left no trace."
    ),
    "values missing": lambda facts: (
        f"{count(facts['values'], 'values')} of an unexpected type are missing from the tables; "
        "see snapshot.issues."
    ),
    "filtered": lambda facts: (
        f"The snapshot was narrowed to allocations with {facts['column']} = {facts['value']}."
    ),
    "note": _note,
    "before the archive": _before_archive,
    "unwatched": _unwatched,
    "unwatched earlier": lambda facts: f"Nobody watched {count(facts['times'], 'times')} before that.",
    "not in allocations": lambda facts: (
        "Logs of programs and metrics of nodes and tasks are not part of the evidence."
        if facts.get("changes_known")
        else "Logs of programs, metrics of nodes and tasks, and changes between job versions "
        "are not part of allocations."
    ),
}


def lower_bounds(facts: dict[str, Any], recorded: bool) -> str:
    """Return that events are lost, which makes every count a lower bound."""
    if not recorded:
        return f"{_lost_events(facts)}, so counts are lower bounds."
    truncated, total = facts["tasks_truncated"], count(facts["tasks"], "tasks")
    lack = "lacks" if truncated == 1 else "lack"
    return f"{truncated:,} of {total} {lack} some events, so counts are lower bounds."


def unwatched_window(times: Sequence[tuple[pd.Timestamp, pd.Timestamp]]) -> str:
    """Return which parts of a window nobody watched."""
    named = ", ".join(f"from {clock(first)} to {clock(last, first)}" for first, last in times[:3])
    more = f", and {count(len(times) - 3, 'more times')}" if len(times) > 3 else ""
    length = span(sum((last - first for first, last in times), pd.Timedelta(0)))
    return (
        f"Nobody watched {named} UTC{more}, {length} in all. "
        "Allocations that came and went then may be missing."
    )
