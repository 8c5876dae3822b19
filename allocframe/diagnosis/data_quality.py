"""What a snapshot covers, what is missing, and what that could hide, as facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .._utils.prose import Points
from .._utils.text import visible
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ..stats.replacements import count_broken_links
from ..tables import TABLES
from . import data_sentences as sentences
from ._tables import is_recorded
from .finding import json_facts, plain, plain_facts

_MOST_UNWATCHED = 8
"""Unwatched times that are listed; earlier ones are counted."""


@dataclass(frozen=True)
class Coverage:
    """What the tables of one cluster hold.

    Attributes
    ----------
    facts : dict
        allocations, jobs, nodes, events, first and last (times), complete (None if it cannot be known),
        recorded_since (of an archive).
    cluster : str, optional
        The cluster, if the snapshot is of several.
    """

    facts: dict[str, Any]
    cluster: str | None = None


@dataclass(frozen=True)
class DataGap:
    """One thing that is missing.

    Attributes
    ----------
    kind : str
        Such as "events truncated", "predecessors removed", "unwatched".
    facts : dict
        Its numbers and times.
    cluster : str, optional
        The cluster, if the snapshot is of several.
    """

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    cluster: str | None = None


@dataclass(frozen=True)
class DataQuality:
    """What a snapshot covers, and what is missing from it; a notebook shows it in words.

    Attributes
    ----------
    coverage : list of Coverage
        One for each cluster.
    gaps : list of DataGap
    """

    coverage: list[Coverage]
    gaps: list[DataGap]

    @property
    def points(self) -> list[tuple[str, list[str]]]:
        """Headings, each with its sentences."""
        return self._as_points().points

    def _as_points(self) -> Points:
        return Points(
            [
                ("What is covered", [sentences.coverage(part.facts, part.cluster) for part in self.coverage]),
                (
                    "What is missing",
                    [sentences.data_gap(gap.kind, gap.facts, gap.cluster) for gap in self.gaps],
                ),
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "coverage": [{"cluster": each.cluster, **json_facts(each.facts)} for each in self.coverage],
            "gaps": [
                {
                    "kind": each.kind,
                    "cluster": each.cluster,
                    **json_facts(each.facts),
                    "text": sentences.data_gap(each.kind, each.facts, each.cluster),
                }
                for each in self.gaps
            ],
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row per gap: kind, and what it hides in words.

        Examples
        --------
        >>> af.data_quality(snap).to_frame().columns.tolist()
        ['kind', 'summary']
        """
        rows = [(gap.kind, sentences.data_gap(gap.kind, gap.facts, gap.cluster)) for gap in self.gaps]
        return pd.DataFrame(rows, columns=["kind", "summary"]).astype("str")

    def __repr__(self) -> str:
        return repr(self._as_points())

    def _repr_html_(self) -> str:
        return self._as_points()._repr_html_()

    def _repr_markdown_(self) -> str:
        return self._as_points()._repr_markdown_()


def data_quality(snapshot: Snapshot) -> DataQuality:
    """Return what a snapshot covers, and what is missing from it.

    Examples
    --------
    >>> af.data_quality(snap).points[0][0]
    'What is covered'
    """
    if not snapshot.clusters:
        return DataQuality([_coverage(snapshot)], list(_gaps(snapshot)))
    coverage = [Coverage(_coverage(member).facts, name) for name, member in snapshot.clusters.items()]
    missing = [
        DataGap("cluster missing", {"error": info["error"]}, name)
        for name, info in snapshot.info["clusters"].items()
        if info["error"]
    ]
    gaps = [
        DataGap(gap.kind, gap.facts, name)
        for name, member in snapshot.clusters.items()
        for gap in _gaps(member)
    ]
    return DataQuality(coverage, [*missing, *gaps])


def require_one_cluster(snapshot: Snapshot) -> None:
    """Refuse a snapshot of several clusters: equal names in two of them are different things."""
    if snapshot.clusters:
        names = ", ".join(map(visible, snapshot.clusters))
        raise ConfigError(
            f"a report covers one cluster, got a snapshot of {len(snapshot.clusters)} ({names}). "
            "Choose one with .clusters[NAME], or --cluster NAME"
        )


def covered_window(snapshot: Snapshot) -> tuple[pd.Timestamp, pd.Timestamp]:
    """Return the first time in the tables, and when they were fetched (or the last time in them)."""
    first_event, last_event = snapshot._span
    if fetched := snapshot.info.get("finished_at"):
        return first_event, pd.Timestamp(fetched)
    return first_event, max(last_event, _allocations(snapshot, "modified_at")["modified_at"].max())


def _allocations(snapshot: Snapshot, *columns: str) -> pd.DataFrame:
    """Return some columns of the allocations: the whole table of a million takes a gigabyte, and stays."""
    chosen = tuple(column for column in TABLES["allocations"].columns if column.name in columns)
    return snapshot._select("allocations", chosen)


def tasks_without_all_events(snapshot: Snapshot) -> int:
    """Return how many tasks lack events; a redacted snapshot of an archive has only this number of them."""
    return int(snapshot.info.get("tasks_incomplete", snapshot.info["tasks_truncated"]))


def lower_bound_note(snapshot: Snapshot) -> str:
    """Return the sentence on lost events, which bear on every count; empty if none are lost."""
    facts = {"tasks_truncated": tasks_without_all_events(snapshot), "tasks": snapshot.info["tasks"]}
    return sentences.lower_bounds(facts, is_recorded(snapshot)) if facts["tasks_truncated"] else ""


def unwatched_note(snapshot: Snapshot, start: pd.Timestamp, end: pd.Timestamp) -> str:
    """Return the sentence on the part of a window that nobody watched; empty if all was watched."""
    times = [(first, last) for first, last, _ in _unwatched(snapshot, start, end)]
    if is_recorded(snapshot):
        recorded_since = pd.Timestamp(snapshot.info["recorded_since"])
        if start < recorded_since:
            times.insert(0, (start, min(recorded_since, end)))
    return sentences.unwatched_window(times) if times else ""


def _coverage(snapshot: Snapshot) -> Coverage:
    rows = _allocations(snapshot, "namespace", "job_id", "node_name")
    first, last = covered_window(snapshot)
    recorded_since = snapshot.info.get("recorded_since")
    return Coverage(
        plain_facts(
            {
                "allocations": len(snapshot),
                "jobs": rows.groupby(["namespace", "job_id"], observed=True, dropna=False).ngroups,
                "nodes": rows["node_name"].nunique(),
                "events": snapshot._counts["events"],
                "first": first,
                "last": last if plain(first) is not None else None,
                "complete": snapshot.info.get("complete"),
                "recorded_since": pd.Timestamp(recorded_since) if recorded_since else None,
            }
        )
    )


def _gaps(snapshot: Snapshot) -> Iterator[DataGap]:
    info: dict[str, Any] = snapshot.info
    recorded = is_recorded(snapshot)
    if recorded:
        yield from _gaps_of_archive(snapshot)
    elif info["tasks_truncated"]:
        yield DataGap(
            "events truncated", {"tasks_truncated": info["tasks_truncated"], "tasks": info["tasks"]}
        )
    broken = count_broken_links(snapshot)
    if broken:
        yield DataGap("predecessors removed", {"allocations": broken, "recorded": recorded})
    if not recorded:
        yield DataGap("ended long before")
    if info["issues"]:
        yield DataGap("values missing", {"values": info["issues"]})
    for column, value in info["filtered"]:
        yield DataGap("filtered", {"column": column, "value": value})
    for note in info.get("notes", []):
        if note and not note.startswith("as seen at "):
            yield DataGap("note", {"note": note})
    yield DataGap("not in allocations", {"changes_known": snapshot.history is not None})


def _gaps_of_archive(snapshot: Snapshot) -> Iterator[DataGap]:
    info: dict[str, Any] = snapshot.info
    asked_from = pd.Timestamp(info.get("since") or info["at"])
    first = max(asked_from, pd.Timestamp(info["recorded_since"]))
    yield DataGap("before the archive", {"first": first})
    truncated = tasks_without_all_events(snapshot)
    if truncated:
        yield DataGap("events unseen", {"tasks_truncated": truncated, "tasks": info["tasks"]})
    times = list(_unwatched(snapshot, first, pd.Timestamp(info["finished_at"])))
    for start, end, reason in times[-_MOST_UNWATCHED:]:
        yield DataGap("unwatched", {"start": start, "end": end, "reason": reason})
    if len(times) > _MOST_UNWATCHED:
        yield DataGap("unwatched earlier", {"times": len(times) - _MOST_UNWATCHED})


def _unwatched(
    snapshot: Snapshot, start: pd.Timestamp, end: pd.Timestamp
) -> Iterator[tuple[pd.Timestamp, pd.Timestamp, str]]:
    """Yield the times of a window in which nobody watched, and why."""
    for gap in snapshot.info.get("gaps", []):
        first, last = max(pd.Timestamp(gap["since"]), start), min(pd.Timestamp(gap["until"]), end)
        if first < last:
            yield first, last, gap["reason"] or ""
