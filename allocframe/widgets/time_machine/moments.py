"""The state of every allocation at any time, as segments of time. No widgets here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ... import stats
from ..._utils.text import visible
from ..._utils.times import to_utc
from ...diagnosis.data_quality import covered_window
from ...snapshot.snapshot import Snapshot
from ...stats import vocabulary

STATES = (
    "running", "between runs", "pending", "failed", "lost", "not known", "replaced", "complete",
)  # fmt: skip
"""What an allocation can be at a time.

"between runs": its tasks have run and wait to be restarted. "not known": it existed, and the events that
would tell are gone from its ring. "replaced": it failed or was lost, and another has taken its place.
"""

_RUNNING, _BETWEEN, _PENDING, _FAILED, _LOST, _UNKNOWN, _REPLACED, _COMPLETE = range(len(STATES))
_FINAL = {"failed": _FAILED, "lost": _LOST, "unknown": _LOST, "complete": _COMPLETE}
_FOREVER = np.iinfo(np.int64).max


class Moments:
    """The allocations of a snapshot and their segments: from, to, and the state between."""

    def __init__(self, snapshot: Snapshot) -> None:
        allocs = snapshot.allocations
        self.allocs: pd.DataFrame = allocs[["alloc_id", "namespace", "job_id", "name", "node_name"]].astype(
            "str"
        )
        if "cluster" in allocs.columns:
            cluster = allocs["cluster"].astype("str") + ": "
            self.allocs = self.allocs.assign(
                job_id=cluster + self.allocs["job_id"], node_name=cluster + self.allocs["node_name"]
            )
        self.jobs: np.ndarray[Any, Any]
        self.job_names: pd.Index[Any]
        self.nodes: np.ndarray[Any, Any]
        self.node_names: pd.Index[Any]
        namespace = self.allocs["namespace"].fillna("unknown")  # else its jobs would be left out
        self.jobs, self.job_names = pd.factorize(namespace + "/" + self.allocs["job_id"])
        self.nodes, self.node_names = pd.factorize(self.allocs["node_name"])
        self.end: pd.Timestamp = _last_moment(snapshot)
        self._position, self._begin, self._until, self._state = _segments(snapshot, allocs, self.end.value)
        known = self._begin[self._begin > 0]
        first = int(known.min()) if len(known) else self.end.value
        self.begin: pd.Timestamp = pd.Timestamp(min(first, self.end.value), tz="UTC")

    def states(self, at: pd.Timestamp | str) -> Any:
        """Return the state of each allocation at a time, as positions in `STATES`; -1 before its creation."""
        moment = to_utc(at, "at").value
        here = (self._begin <= moment) & (moment < self._until)
        found = np.full(len(self.allocs), -1, dtype=np.int8)
        found[self._position[here]] = self._state[here]
        return found

    def table(self, at: pd.Timestamp | str, states: Any = None) -> pd.DataFrame:
        """Return the number of allocations of each job in each state at a time, those in trouble first."""
        return self._count(self.jobs, self.job_names, "job", self.states(at) if states is None else states)

    def by_node(self, at: pd.Timestamp | str, states: Any = None) -> pd.DataFrame:
        """Return the number of allocations on each node in each state at a time."""
        return self._count(self.nodes, self.node_names, "node", self.states(at) if states is None else states)

    def _count(self, codes: Any, names: Any, title: str, states: Any) -> pd.DataFrame:
        existing = (states >= 0) & (codes >= 0)
        width = len(STATES)
        flat = np.bincount(codes[existing] * width + states[existing], minlength=len(names) * width)
        counts = flat.reshape(-1, width)
        trouble = counts[:, [_BETWEEN, _PENDING, _FAILED, _LOST]].sum(axis=1)
        order = np.lexsort((np.arange(len(names)), -counts.sum(axis=1), -trouble))
        order = order[counts.sum(axis=1)[order] > 0]
        frame = pd.DataFrame(counts[order], columns=list(STATES))
        frame.insert(0, title, [visible(names[number]) for number in order])
        return frame


def _last_moment(snapshot: Snapshot) -> pd.Timestamp:
    parts = list(snapshot.clusters.values()) or [snapshot]
    return max(covered_window(part)[1] for part in parts)


def _segments(snapshot: Snapshot, allocs: pd.DataFrame, observed: int) -> tuple[Any, Any, Any, Any]:
    """Return the allocation, begin, end and state of every segment; times are in nanoseconds."""
    index = pd.Index(_key(allocs))
    created = _nanoseconds(allocs["created_at"], 0)
    ended = _ends(snapshot, allocs, index, observed)
    runs = stats.runs(snapshot)
    alloc = index.get_indexer(pd.Index(_key(runs)))
    known = alloc >= 0
    runs, alloc = runs[known], alloc[known]
    begin, until = _nanoseconds(runs["started_at"], 0), _nanoseconds(runs["ended_at"], observed)
    # A node's clock may be ahead: what had ended when it was read had ended by then.
    until = np.where((runs["end"] == "running").to_numpy(), _FOREVER, np.minimum(until, observed))
    order = np.lexsort((begin, alloc))
    alloc, begin, until = alloc[order], begin[order], until[order]
    cut = np.zeros(len(allocs), dtype=bool)
    cut[alloc] = False
    cut[alloc[(runs["left_truncated"] | runs["cut"]).to_numpy(bool)[order]]] = True
    alloc, begin, until = _merge(alloc, begin, until)
    first = np.r_[True, alloc[1:] != alloc[:-1]] if len(alloc) else np.zeros(0, bool)
    last = np.r_[first[1:], True] if len(alloc) else first
    over = np.maximum(ended[alloc[last]], until[last])
    replaced = _replaced_at(allocs, index, created)
    ran = np.zeros(len(allocs), dtype=bool)
    ran[alloc] = True
    final = allocs["client_status"].astype("str").map(_FINAL).fillna(_BETWEEN).to_numpy(dtype=np.int8)
    final = np.where(~ran & (final == _BETWEEN), _PENDING, final)
    parts = [
        (alloc, begin, until, np.full(len(alloc), _RUNNING)),
        # before the first run that is known
        (alloc[first], created[alloc[first]], begin[first], np.where(cut[alloc[first]], _UNKNOWN, _PENDING)),
        # between two runs
        (alloc[~last], until[~last], np.r_[begin[1:], 0][~last], np.full((~last).sum(), _BETWEEN)),
        # after the last run until the end of the allocation, and after that
        (alloc[last], until[last], over, np.full(last.sum(), _BETWEEN)),
        *_after(alloc[last], over, final, replaced),
    ]  # fmt: skip
    never = np.flatnonzero(~ran)
    over = np.maximum(ended[never], created[never])
    parts += [
        (never, created[never], over, np.full(len(never), _PENDING)),
        *_after(never, over, final, replaced),
    ]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    real = columns[1] < columns[2]
    return tuple(column[real] for column in columns)  # type: ignore[return-value]


def _key(rows: pd.DataFrame) -> pd.Series[Any]:
    ids = rows["alloc_id"].astype("str")
    return rows["cluster"].astype("str") + "/" + ids if "cluster" in rows.columns else ids


def _after(alloc: Any, over: Any, final: Any, replaced: Any) -> list[tuple[Any, Any, Any, Any]]:
    """Return the segments after the end of allocations: as they ended, and since when they are replaced."""
    state = final[alloc]
    is_trouble = (state == _FAILED) | (state == _LOST)
    since = np.where(is_trouble, np.maximum(replaced[alloc], over), _FOREVER)
    return [
        (alloc, over, since, state),
        (alloc, since, np.full(len(alloc), _FOREVER), np.full(len(alloc), _REPLACED)),
    ]


def _replaced_at(allocs: pd.DataFrame, index: pd.Index, created: Any) -> Any:
    """Return when the replacement of each allocation was created."""
    at = np.full(len(allocs), _FOREVER)
    place = np.arange(len(allocs))
    for link, is_next in (("next_alloc_id", True), ("previous_alloc_id", False)):
        linked = index.get_indexer(pd.Index(_key(allocs.assign(alloc_id=allocs[link]))))
        here, there = place[linked >= 0], linked[linked >= 0]
        old, new = (here, there) if is_next else (there, here)
        np.minimum.at(at, old, created[new])
    return at


def _nanoseconds(times: pd.Series[Any], missing: int) -> Any:
    stamps = times.astype("datetime64[ns, UTC]")
    return np.where(stamps.isna(), missing, stamps.astype("int64").to_numpy())


def _ends(snapshot: Snapshot, allocs: pd.DataFrame, index: pd.Index, observed: int) -> Any:
    """Return when each allocation ended: when its last task finished, else when it last changed."""
    tasks = snapshot.task_states
    finished = _nanoseconds(tasks["finished_at"], 0)
    latest = np.zeros(len(allocs), dtype="int64")
    position = index.get_indexer(pd.Index(_key(tasks)))
    np.maximum.at(latest, position[position >= 0], finished[position >= 0])
    changed = _nanoseconds(allocs["modified_at"], observed)
    is_over = allocs["client_status"].isin([*vocabulary.FINISHED_STATUSES, "unknown"]).to_numpy()
    return np.where(is_over, np.minimum(np.where(latest > 0, latest, changed), observed), _FOREVER)


def _merge(alloc: Any, begin: Any, until: Any) -> tuple[Any, Any, Any]:
    """Join runs of an allocation's tasks that overlap; they are sorted by allocation and begin."""
    if not len(alloc):
        return alloc, begin, until
    # The latest end so far within the allocation: a running maximum that starts anew at each.
    new = np.r_[True, alloc[1:] != alloc[:-1]]
    reach = pd.Series(until).groupby(np.cumsum(new)).cummax().to_numpy()
    opens = np.r_[True, new[1:] | (begin[1:] > reach[:-1])]
    closes = np.r_[opens[1:], True]
    return alloc[opens], begin[opens], reach[closes]
