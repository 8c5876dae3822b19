"""How two snapshots of one cluster differ: allocations, values, events, and the events that nobody saw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from .._utils import html
from .._utils.text import visible
from ..tables.task_states import MAX_EVENTS

_OWNER = ["namespace", "job_id", "task_group", "node_name"]
_TASK = ["alloc_id", "task"]
_EVENT = [*_TASK, "time", "type", "nth"]
_NOT_COMPARED = {"modify_index", "modified_at", "event_count", "events_truncated"}
"""Columns that differ after every change, or only because Nomad dropped events."""

_QUERY = ("prefix", "filter", "reverse")


class Side(Protocol):
    """What a comparison needs of a snapshot."""

    @property
    def info(self) -> dict[str, Any]: ...
    def _modify_indexes(self) -> pd.Series[Any]: ...
    def _rows_by_id(self, name: str, ids: Iterable[str]) -> pd.DataFrame: ...


@dataclass(frozen=True, eq=False, repr=False)
class Diff:
    """What changed from one snapshot of a cluster to another. Made by `Snapshot.diff`.

    Examples
    --------
    >>> snap.diff(snap)
    <Diff: 0 added, 0 removed, 0 changed allocations, 0 new events>
    """

    added: pd.DataFrame
    """Rows of `allocations` that only the second snapshot has."""

    removed: pd.DataFrame
    """Rows of `allocations` that only the first snapshot has."""

    changed: pd.DataFrame
    """One row for each value that differs, with the columns namespace, job_id, task_group, node_name,
    alloc_id, task, column, before, after.

    The values are text; task is missing for a value of the allocation itself. Allocations with the same
    ModifyIndex are not compared."""

    new_events: pd.DataFrame
    """Rows of `events` that came after those of the first snapshot and that Nomad still had."""

    missing: pd.DataFrame
    """Tasks that lost events between the two, with the columns alloc_id, task, since (the last event of the
    first snapshot; missing for new allocations), until (the first event of the second)."""

    notes: list[str] = field(default_factory=list)
    """What makes the two hard to compare, such as different queries, incomplete snapshots or lost events."""

    def _remarks(self) -> list[str]:
        counts = self.changed["column"].value_counts()
        columns = ", ".join(f"{column} {count:,}" for column, count in counts.items())
        return ([f"changed: {columns}"] if columns else []) + [visible(note) for note in self.notes]

    def _title(self) -> str:
        changed = self.changed["alloc_id"].nunique()
        return (
            f"{len(self.added):,} added, {len(self.removed):,} removed, {changed:,} changed allocations, "
            f"{len(self.new_events):,} new events"
        )

    def __repr__(self) -> str:
        return "\n".join([f"<Diff: {self._title()}>", *(f"  {line}" for line in self._remarks())])

    def _repr_html_(self) -> str:
        return html.summary("Diff", self._title(), self._remarks())


def diff(before: Side, after: Side) -> Diff:
    """Return what changed from `before` to `after`."""
    old, new = before._modify_indexes(), after._modify_indexes()
    added, removed = new.index.difference(old.index, sort=False), old.index.difference(new.index, sort=False)
    common = new.index.intersection(old.index, sort=False)
    same = (old.reindex(common) == new.reindex(common)).fillna(value=False).to_numpy(dtype=bool)
    modified = common[~same]
    rows = after._rows_by_id("allocations", modified)
    changes = [
        _compare_values(before._rows_by_id("allocations", modified), rows, ["alloc_id"]).assign(task=_MISSING)
    ]
    events, missing = after._rows_by_id("events", []), _NO_TASKS
    with_states = all(side.info.get("query", {}).get("task_states") != "false" for side in (before, after))
    if with_states:
        states = [side._rows_by_id("task_states", modified) for side in (before, after)]
        changes.append(_compare_values(states[0], states[1], _TASK))
        old_events = before._rows_by_id("events", modified)
        events, missing = _compare_events(old_events, after._rows_by_id("events", modified.append(added)))
    return Diff(
        after._rows_by_id("allocations", added),
        before._rows_by_id("allocations", removed),
        _add_owners(pd.concat(changes, ignore_index=True), rows),
        events,
        missing,
        [
            *_note_doubts(before.info, after.info),
            *([] if with_states else [_WITHOUT_STATES]),
            *_note_lost_events(missing),
        ],
    )


_MISSING = pd.array([pd.NA], dtype="str")[0]
_NO_TASKS = pd.DataFrame({"alloc_id": [], "task": []}, dtype="str").assign(
    since=pd.Series(dtype="datetime64[ns, UTC]"), until=pd.Series(dtype="datetime64[ns, UTC]")
)
_WITHOUT_STATES = "one of the two was fetched without task states: tasks and events are not compared"


def _compare_values(before: pd.DataFrame, after: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return one row for each value in which rows of the same key differ."""
    old, new = (frame.astype("str").drop_duplicates(keys).set_index(keys) for frame in (before, after))
    index = new.index.union(old.index, sort=False)
    old, new = old.reindex(index), new.reindex(index)
    parts = []
    for column in old.columns.difference(list(_NOT_COMPARED), sort=False):
        first, second = old[column], new[column]
        # NA differs from every value, but not from NA.
        differs = np.where(first.isna() | second.isna(), first.isna() != second.isna(), first != second)
        part = index[differs].to_frame(index=False)
        parts.append(part.assign(column=column, before=first[differs].array, after=second[differs].array))
    return pd.concat(parts, ignore_index=True).astype("str")


def _add_owners(changes: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the job, group and node of each changed value, and sort them as the allocations are."""
    order = pd.Series(range(len(rows)), index=rows["alloc_id"].astype("str").to_numpy())
    place = changes["alloc_id"].map(order).to_numpy()
    owners = rows[_OWNER].astype("str").iloc[place].reset_index(drop=True)
    columns = [*_OWNER, "alloc_id", "task", "column", "before", "after"]
    return (
        pd.concat([owners, changes], axis=1)[columns]
        .iloc[np.argsort(place, kind="stable")]
        .reset_index(drop=True)
    )


def _compare_events(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the events that are new in `after`, and the tasks that lost events between the two.

    Nomad keeps only the last events of a task. If none of them was there before, and they are not the task's
    first, then others came and went in between.
    """
    old, rows = _number_equal_events(before), _number_equal_events(after)
    known = (
        old.groupby(_TASK, sort=False)["time"]
        .agg(["min", "max"])
        .rename(columns={"min": "first", "max": "last"})
    )
    seen = pd.MultiIndex.from_frame(rows[_EVENT]).isin(pd.MultiIndex.from_frame(old[_EVENT]))
    # An archive remembers more than Nomad: events older than the first snapshot's are not new.
    first_known = rows[_TASK].merge(known, how="left", left_on=_TASK, right_index=True)["first"]
    older = (rows["time"] < first_known.to_numpy()).to_numpy()
    new = ~seen & ~older
    rows = rows.assign(seen=seen | older, received=rows["type"] == "Received")
    tasks = rows.groupby(_TASK, sort=False).agg(
        until=("time", "min"), seen=("seen", "any"), received=("received", "any"), size=("time", "size")
    )
    lost = tasks[~tasks["seen"] & ~tasks["received"] & (tasks["size"] >= MAX_EVENTS)].join(
        known["last"].rename("since")
    )
    return after[new].reset_index(drop=True), lost.reset_index()[["alloc_id", "task", "since", "until"]]


def _number_equal_events(events: pd.DataFrame) -> pd.DataFrame:
    """Return what identifies an event: its task, time and type, and its number among equal ones."""
    plain = events[["alloc_id", "task", "time", "type"]].astype(
        {"alloc_id": "str", "task": "str", "type": "str"}
    )
    return plain.assign(nth=plain.groupby(list(plain), dropna=False).cumcount())


def _note_doubts(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Say what makes the comparison less reliable than it looks."""
    first, second = (info.get("finished_at") or "" for info in (before, after))
    if first and second and second < first:
        yield f"the second snapshot is older ({second}) than the first ({first}): read added as removed"
    for name, values in _find_differences(before, after):
        yield (
            f"the {name} differs ({values[0]}, then {values[1]}): "
            "allocations may count as added or removed for that alone"
        )
    for info, which, effect in ((before, "first", "added"), (after, "second", "removed")):
        if info.get("complete") is not True:
            yield f"the {which} snapshot may be incomplete: {effect} allocations may only be missing in it"
        if info.get("filtered") or info.get("source") == "reads" or "reverse" in info.get("query", {}):
            yield f"the {which} snapshot holds only chosen allocations: the others count as {effect}"


def _find_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for name in ("server", "region", "namespace"):
        values = [info.get(name) for info in (before, after)]
        if None not in values and values[0] != values[1]:
            yield name, values
    if "query" in before and "query" in after:
        for name in _QUERY:
            values = [info["query"].get(name) for info in (before, after)]
            if values[0] != values[1]:
                yield name, values


def _note_lost_events(missing: pd.DataFrame) -> Iterator[str]:
    if len(missing):
        yield (
            f"{len(missing):,} tasks lost events between the two (see .missing): "
            "Nomad keeps the last 10 per task, an archive keeps all"
        )
