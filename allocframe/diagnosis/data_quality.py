"""What the evidence of a snapshot covers, and what is missing from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from .. import stats
from .._utils.prose import clock, count, span
from .._utils.text import visible
from ..errors import ConfigError
from ..reports.render import Points
from ..snapshot.snapshot import Snapshot
from ..stats import explain, vocabulary

_MOST_GAPS = 8


def of_one(snapshot: Snapshot) -> None:
    """Refuse the snapshot of several clusters: what a report says of jobs and nodes, it says of those of one."""
    if snapshot.clusters:
        names = ", ".join(map(visible, snapshot.clusters))
        raise ConfigError(f"a report is of one cluster: choose one by .clusters[...] (--cluster) of {names}")


def disturbances(snapshot: Snapshot) -> pd.DataFrame:
    """Return each failure, restart on request and loss: alloc_id, task, namespace, job_id, job_version, node_name, at, cause.

    A lost allocation is one row, without a task.
    """
    events = stats.explain_events(snapshot)
    told = explain.disturbances(events).rename(columns={"time": "at"})
    allocations = snapshot.allocations
    lost = allocations[allocations["client_status"].isin(vocabulary.LOST_STATUSES)]
    lost = lost.rename(columns={"modified_at": "at"}).assign(cause=vocabulary.LOST, task=None)
    columns = ["alloc_id", "task", "namespace", "job_id", "job_version", "node_name", "at", "cause"]
    names = dict.fromkeys(("task", "namespace", "job_id", "node_name", "cause"), "str")
    both: pd.DataFrame = pd.concat([part[columns].astype(names) for part in (told, lost)], ignore_index=True)
    return both.dropna(subset=["at"]).sort_values("at", kind="stable", ignore_index=True)


def covered(snapshot: Snapshot) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first moment that the tables tell of, and the last: when they were fetched, or the last time in them."""
    times = snapshot.events["time"].dropna()
    changed = snapshot.allocations["modified_at"].dropna()
    fetched = snapshot.info.get("finished_at")
    last = pd.Timestamp(fetched) if fetched else max(times.max(), changed.max())
    return times.min(), last


def data_quality(snapshot: Snapshot) -> Points:
    """Return what a snapshot covers, and what is missing from it, in words.

    Examples
    --------
    >>> af.data_quality(snap).points[0][0]
    'What is covered'
    """
    of_one(snapshot)
    return Points([("What is covered", [_coverage(snapshot)]), ("What is missing", list(_gaps(snapshot)))])


def _coverage(snapshot: Snapshot) -> str:
    names = snapshot.allocations
    held = (
        f"{count(len(names), 'allocations')} of {count(len(names[['namespace', 'job_id']].drop_duplicates()), 'jobs')} on "
        f"{count(names['node_name'].nunique(), 'nodes')}, with {count(len(snapshot.events), 'task events')}"
    )
    if snapshot.events["time"].dropna().empty:
        return f"{held}."
    first, last = covered(snapshot)
    complete = snapshot.info.get("complete")
    whole = "It was read from files: whether they hold every allocation cannot be told."
    if complete is not None:
        whole = f"{_whose(snapshot)} is here." if complete else "The snapshot is not complete."
    return f"{held}, from {clock(first)} to {clock(last, first)} UTC. {whole}"


def _whose(snapshot: Snapshot) -> str:
    if "recorded_since" not in snapshot.info:
        return "Every allocation that the query and its token could see"
    began = pd.Timestamp(snapshot.info["recorded_since"])
    return f"Every allocation of that time which was seen by a recorder, whose archive begins at {clock(began)} UTC,"


def _gaps(snapshot: Snapshot) -> Iterator[str]:
    info: dict[str, Any] = snapshot.info
    recorded = "recorded_since" in info
    if recorded:
        yield from _of_archive(snapshot)
    elif info["tasks_truncated"]:
        yield (
            f"Older events of {info['tasks_truncated']:,} of {count(info['tasks'], 'tasks')}: Nomad keeps the last ten of each. "
            "What is counted from events is a lower bound there, and first signs may be older than they look."
        )
    broken = int(stats.reschedule_chains(snapshot)["broken"].sum())
    if broken:
        gone = (
            "they ended before that, or were not recorded"
            if recorded
            else "Nomad has removed them, with their events"
        )
        yield f"The predecessors of {count(broken, 'allocations')}: {gone}."
    if not recorded:
        yield (
            "Allocations that ended long before: servers remove them, most after about an hour. What failed earlier and was "
            "replaced may be gone without a trace."
        )
    if info["issues"]:
        yield f"{count(info['issues'], 'values')} that did not fit: they are missing in the tables; see the snapshot's issues."
    for column, value in info["filtered"]:
        yield f"All but the allocations where {column} is {value}: the snapshot was narrowed to these."
    notes = [note for note in info.get("notes", []) if note and not note.startswith("as seen at ")]
    yield from (f"{note[0].upper()}{note[1:]}." for note in notes)
    yield "The programs' own logs, metrics of nodes and tasks, and what changed from version to version: allocations do not hold these."


def _of_archive(snapshot: Snapshot) -> Iterator[str]:
    info: dict[str, Any] = snapshot.info
    since = info.get("since")
    first = max(pd.Timestamp(since or info["at"]), pd.Timestamp(info["recorded_since"]))
    yield f"Allocations that ended before {clock(first)} UTC: of those that are gone, only later ones were asked for, or recorded."
    if incomplete(snapshot):
        yield (
            f"Some events of {incomplete(snapshot):,} of {count(info['tasks'], 'tasks')}: they came before the archive began, while "
            "nobody watched, or faster than they were read. What is counted from events is a lower bound there."
        )
    dark = list(_dark(info, first, pd.Timestamp(info["finished_at"])))
    for begin, end, reason in dark[-_MOST_GAPS:]:
        why = f" ({reason})" if reason not in ("", "nobody watched") else ""
        yield f"Nobody watched from {clock(begin)} to {clock(end, begin)} UTC{why}: what came and went then may be missing."
    if len(dark) > _MOST_GAPS:
        yield f"{count(len(dark) - _MOST_GAPS, 'earlier times')} in which nobody watched."


def _dark(
    info: dict[str, Any], begin: pd.Timestamp, end: pd.Timestamp
) -> Iterator[tuple[pd.Timestamp, pd.Timestamp, str]]:
    """Return the times between two moments in which nobody watched, and why."""
    for gap in info.get("gaps", []):
        first, last = max(pd.Timestamp(gap["since"]), begin), min(pd.Timestamp(gap["until"]), end)
        if first < last:
            yield first, last, gap["reason"] or ""


def unwatched(snapshot: Snapshot, begin: pd.Timestamp, end: pd.Timestamp) -> str:
    """Return which part of a window nobody watched, as a sentence, or nothing."""
    info: dict[str, Any] = snapshot.info
    dark = list(_dark(info, begin, end))
    if "recorded_since" in info and begin < (began := pd.Timestamp(info["recorded_since"])):
        dark.insert(0, (begin, min(began, end), ""))
    if not dark:
        return ""
    told = [f"from {clock(first)} to {clock(last, first)}" for first, last, _ in dark]
    more = f", and in {count(len(told) - 3, 'more times')}" if len(told) > 3 else ""
    length = span(sum(((last - first) for first, last, _ in dark), pd.Timedelta(0)))
    return f"Nobody watched {', '.join(told[:3])} UTC{more}, {length} in all: what came and went then may be missing."


def incomplete(snapshot: Snapshot) -> int:
    """Return how many tasks lack events; what was redacted only remembers it."""
    return int(snapshot.info.get("tasks_incomplete", snapshot.info["tasks_truncated"]))


def brief_gaps(snapshot: Snapshot) -> str:
    """Return the one gap that bears on every number, as a sentence, or nothing."""
    cut, tasks = incomplete(snapshot), snapshot.info["tasks"]
    if cut and "recorded_since" in snapshot.info:
        return f"Some events of {cut:,} of {count(tasks, 'tasks')} are missing, so counts are lower bounds."
    return (
        f"Older events of {cut:,} of {count(tasks, 'tasks')} are gone, so counts are lower bounds."
        if cut
        else ""
    )
