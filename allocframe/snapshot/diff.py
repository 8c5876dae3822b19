"""What two snapshots of one cluster differ in: allocations, columns, events, and what cannot be told of the time between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd

from .._utils.text import escaped, visible
from ..tables.task_states import RING

_WHO = ["namespace", "job_id", "task_group", "node_name"]
_TASK = ["alloc_id", "task"]
_EVENT = [*_TASK, "time", "type", "nth"]
_UNTOLD = {"modify_index", "modified_at", "event_count", "events_truncated"}
"""What changes with every change, or with the ring alone."""

_QUERY = ("prefix", "filter", "reverse")


class Side(Protocol):
    """What is asked of a snapshot."""

    @property
    def info(self) -> dict[str, Any]: ...
    def _indexes(self) -> pd.Series[Any]: ...
    def _rows_of(self, name: str, ids: Iterable[str]) -> pd.DataFrame: ...


@dataclass(frozen=True, eq=False, repr=False)
class Diff:
    """What changed from one snapshot of a cluster to another; made by `Snapshot.diff`.

    Examples
    --------
    >>> snap.diff(snap)
    <Diff: 0 added, 0 removed, 0 changed allocations, 0 new events>
    """

    added: pd.DataFrame
    """Rows of `allocations` that are in the second only."""

    removed: pd.DataFrame
    """Rows of `allocations` that are in the first only."""

    changed: pd.DataFrame
    """One row for each value that differs, with namespace, job_id, task_group, node_name, alloc_id, task (missing where it is the
    allocation's), column, before, after. Values are text. Of allocations without another ModifyIndex nothing is compared."""

    new_events: pd.DataFrame
    """Rows of `events` that came after those of the first, as far as they are still there."""

    missing: pd.DataFrame
    """Tasks whose ring has lost events between the two, with alloc_id, task, since (the last that the first has, missing for
    new allocations), until (the first that the second has)."""

    notes: list[str] = field(default_factory=list)
    """What a reader must know, such as other queries, incomplete snapshots, lost events."""

    def _lines(self) -> list[str]:
        counts = self.changed["column"].value_counts()
        told = ", ".join(f"{column} {count:,}" for column, count in counts.items())
        return ([f"changed: {told}"] if told else []) + [visible(note) for note in self.notes]

    def _title(self) -> str:
        changed = self.changed["alloc_id"].nunique()
        return (
            f"{len(self.added):,} added, {len(self.removed):,} removed, {changed:,} changed allocations, "
            f"{len(self.new_events):,} new events"
        )

    def __repr__(self) -> str:
        return "\n".join([f"<Diff: {self._title()}>", *(f"  {line}" for line in self._lines())])

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{escaped(line)}</li>" for line in self._lines())
        return f"<div><strong>Diff</strong>: {escaped(self._title())}<ul>{items}</ul></div>"


def diff(before: Side, after: Side) -> Diff:
    """Return what changed from `before` to `after`."""
    was, now = before._indexes(), after._indexes()
    new, gone = now.index.difference(was.index, sort=False), was.index.difference(now.index, sort=False)
    both = now.index.intersection(was.index, sort=False)
    same = (was.reindex(both) == now.reindex(both)).fillna(value=False).to_numpy(dtype=bool)
    moved = both[~same]
    rows = after._rows_of("allocations", moved)
    changed = [_compared(before._rows_of("allocations", moved), rows, ["alloc_id"]).assign(task=_MISSING)]
    events, missing = after._rows_of("events", []), _NO_TASKS
    told = all(side.info.get("query", {}).get("task_states") != "false" for side in (before, after))
    if told:
        states = [side._rows_of("task_states", moved) for side in (before, after)]
        changed.append(_compared(states[0], states[1], _TASK))
        rings = before._rows_of("events", moved), after._rows_of("events", moved.append(new))
        events, missing = _new_events(*rings)
    return Diff(
        after._rows_of("allocations", new),
        before._rows_of("allocations", gone),
        _named(pd.concat(changed, ignore_index=True), rows),
        events,
        missing,
        [*_notes(before.info, after.info), *([] if told else [_NO_STATES]), *_lost(missing)],
    )


_MISSING = pd.array([pd.NA], dtype="str")[0]
_NO_TASKS = pd.DataFrame({"alloc_id": [], "task": []}, dtype="str").assign(
    since=pd.Series(dtype="datetime64[ns, UTC]"), until=pd.Series(dtype="datetime64[ns, UTC]")
)
_NO_STATES = "one of the two was fetched without task states: tasks and events are not compared"


def _compared(before: pd.DataFrame, after: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return one row for each value in which rows of the same key differ."""
    was, now = (frame.astype("str").drop_duplicates(keys).set_index(keys) for frame in (before, after))
    index = now.index.union(was.index, sort=False)
    was, now = was.reindex(index), now.reindex(index)
    parts = []
    for column in was.columns.difference(list(_UNTOLD), sort=False):
        one, other = was[column], now[column]
        differs = np.where(one.isna() | other.isna(), one.isna() != other.isna(), one != other)
        part = index[differs].to_frame(index=False)
        parts.append(part.assign(column=column, before=one[differs].array, after=other[differs].array))
    return pd.concat(parts, ignore_index=True).astype("str")


def _named(changed: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Say whose values these are, in the order of the allocations."""
    order = pd.Series(range(len(rows)), index=rows["alloc_id"].astype("str").to_numpy())
    place = changed["alloc_id"].map(order).to_numpy()
    who = rows[_WHO].astype("str").iloc[place].reset_index(drop=True)
    found = pd.concat([who, changed], axis=1)[[*_WHO, "alloc_id", "task", "column", "before", "after"]]
    return found.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _new_events(before: pd.DataFrame, after: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the events that came after the rings of before, and the tasks whose rings do not reach back to those."""
    old, rows = _numbered(before), _numbered(after)
    first = (
        old.groupby(_TASK, sort=False)["time"]
        .agg(["min", "max"])
        .rename(columns={"min": "first", "max": "last"})
    )
    seen = pd.MultiIndex.from_frame(rows[_EVENT]).isin(pd.MultiIndex.from_frame(old[_EVENT]))
    known = rows[_TASK].merge(first, how="left", left_on=_TASK, right_index=True)
    dropped = (rows["time"] < known["first"].to_numpy()).to_numpy()
    fresh = ~seen & ~dropped
    rows = rows.assign(seen=seen | dropped, received=rows["type"] == "Received")
    rings = rows.groupby(_TASK, sort=False).agg(
        until=("time", "min"), seen=("seen", "any"), received=("received", "any"), size=("time", "size")
    )
    cut = rings[~rings["seen"] & ~rings["received"] & (rings["size"] >= RING)].join(
        first["last"].rename("since")
    )
    return after[fresh].reset_index(drop=True), cut.reset_index()[["alloc_id", "task", "since", "until"]]


def _numbered(events: pd.DataFrame) -> pd.DataFrame:
    """Return what tells an event: its task, time and type, and its place among equal ones."""
    plain = events[["alloc_id", "task", "time", "type"]].astype(
        {"alloc_id": "str", "task": "str", "type": "str"}
    )
    return plain.assign(nth=plain.groupby(list(plain), dropna=False).cumcount())


def _notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Say what makes the comparison less than it looks."""
    first, second = (info.get("finished_at") or "" for info in (before, after))
    if first and second and second < first:
        yield f"the second is the older one ({second}, the first is of {first}): read new as gone"
    for name in ("server", "region", "namespace"):
        values = [info.get(name) for info in (before, after)]
        if None not in values and values[0] != values[1]:
            yield f"the {name} differs, {values[0]} and {values[1]}: what is new or gone may be of the other"
    queries = [{name: info.get("query", {}).get(name) for name in _QUERY} for info in (before, after)]
    for name in _QUERY:
        if "query" in before and "query" in after and queries[0][name] != queries[1][name]:
            yield f"asked for different things, {name} {queries[0][name]} and {queries[1][name]}: so is what is new or gone"
    for info, which, what in ((before, "first", "new"), (after, "second", "gone")):
        if info.get("complete") is not True:
            yield f"the {which} is not known to be complete: what is {what} may only be missing there"
        if info.get("filtered") or info.get("source") == "reads" or "reverse" in info.get("query", {}):
            yield f"the {which} holds only chosen allocations: what left that choice is {what}, too"


def _lost(missing: pd.DataFrame) -> Iterator[str]:
    if len(missing):
        yield (
            f"events between the two are lost for {len(missing):,} tasks, see .missing: Nomad keeps ten for each; "
            "an archive keeps all"
        )
