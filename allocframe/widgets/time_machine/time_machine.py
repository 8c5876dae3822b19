"""The time machine: a slider that shows the state of the cluster at any time of a snapshot or an archive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import anywidget
import pandas as pd
import traitlets

from ..._utils.html import table
from ..._utils.text import escaped, visible
from ...snapshot.snapshot import Snapshot
from ..timeline.changes import change_row, read_changes
from ..timeline.page import STATIC
from .moments import STATES, Moments

if TYPE_CHECKING:
    from ...archive.archive import Archive

_MOST_JOBS = 100
_MOST_NODES = 40
_MOST_CHANGES = 8

_Text: TypeAlias = "traitlets.Unicode[str, str | bytes]"


class TimeMachine(anywidget.AnyWidget):
    """The state of a cluster at any time: a slider in a notebook, and tables for programs.

    Parameters
    ----------
    source : Archive or Snapshot
        An archive knows all that its recorder saw. A snapshot knows what servers still had: allocations that
        they had removed are missing, and what a ring of events has lost is "not known".
    since : time, optional
        Of an archive: include the allocations that existed at this time or later. Default: a week before
        its end.

    Attributes
    ----------
    begin, end : Timestamp
        The first and the last time that it knows.

    Raises
    ------
    TypeError
        The source is neither.

    Examples
    --------
    >>> machine = af.TimeMachine(snap)
    >>> machine.jobs(machine.end).columns[:3].tolist()
    ['job', 'running', 'between runs']
    """

    _esm = STATIC / "time_machine.js"
    _css = STATIC / "time_machine.css"

    frame: _Text = traitlets.Unicode(read_only=True).tag(sync=True)

    def __init__(self, source: Archive | Snapshot, *, since: pd.Timestamp | str | None = None) -> None:
        super().__init__()
        snapshot = _open(source, since)
        self._moments = Moments(snapshot)
        self._changes, notes = read_changes(snapshot, (), None)
        self.begin: pd.Timestamp = self._moments.begin
        self.end: pd.Timestamp = self._moments.end
        if isinstance(source, Snapshot):
            notes.append("Allocations that servers had removed before are missing.")
        frame = {
            "begin": self.begin.value // 1_000_000,
            "end": self.end.value // 1_000_000,
            "states": STATES,
            "counts": self._overview(),
            "notes": notes,
            "first": self.step(self.end),
        }
        self.set_trait("frame", json.dumps(frame))
        self.on_msg(self._on_message)

    def at(self, time: pd.Timestamp | str) -> pd.DataFrame:
        """Return the allocations that existed at a time, with their state then.

        Columns: alloc_id, namespace, job_id, name, node_name, state (running, between runs, pending, failed,
        lost, replaced, complete or not known).

        Examples
        --------
        >>> machine = af.TimeMachine(snap)
        >>> bool((machine.at(machine.end)["state"] == "running").any())
        True
        """
        states = self._moments.states(time)
        existing = states >= 0
        rows = self._moments.allocs[existing].reset_index(drop=True)
        found: pd.DataFrame = rows.assign(
            state=pd.Series([STATES[code] for code in states[existing]], dtype="str")
        )
        return found

    def jobs(self, time: pd.Timestamp | str) -> pd.DataFrame:
        """Return how many allocations of each job were in each state at a time, those in trouble first.

        Examples
        --------
        >>> machine = af.TimeMachine(snap)
        >>> len(machine.jobs(machine.end)) > 0
        True
        """
        return self._moments.table(time)

    def nodes(self, time: pd.Timestamp | str) -> pd.DataFrame:
        """Return how many allocations on each node were in each state at a time.

        Examples
        --------
        >>> machine = af.TimeMachine(snap)
        >>> len(machine.nodes(machine.end)) > 0
        True
        """
        return self._moments.by_node(time)

    def step(self, time: pd.Timestamp | str) -> dict[str, Any]:
        """Return what the page shows of a time, as plain JSON.

        Examples
        --------
        >>> machine = af.TimeMachine(snap)
        >>> machine.step(machine.end)["totals"]["running"] > 0
        True
        """
        states = self._moments.states(time)
        jobs, nodes = self._moments.table(time, states), self._moments.by_node(time, states)
        moment = pd.Timestamp(time) if isinstance(time, str) else time
        moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment
        return {
            "at": moment.value // 1_000_000,
            "totals": {name: int(jobs[name].sum()) for name in STATES},
            "jobs": _rows(jobs, _MOST_JOBS),
            "jobs_total": len(jobs),
            "nodes": _rows(nodes, _MOST_NODES),
            "nodes_total": len(nodes),
            "changes": self._changes_before(moment),
        }

    def _changes_before(self, moment: pd.Timestamp) -> list[list[str]]:
        before = self._changes[self._changes["at"] <= moment].tail(_MOST_CHANGES)
        rows = [change_row(row, pd.Timestamp, {}) for row in before.to_dict("records")]
        return [
            [f"{row['at']:%d %b %H:%M:%S}".lstrip("0"), row["title"], "; ".join(row["lines"])]
            for row in rows[::-1]
        ]

    def _overview(self) -> list[list[int]]:
        """Return the totals at 120 times, for the picture beneath the slider."""
        times = pd.date_range(self.begin, self.end, periods=120)
        totals = []
        for time in times:
            states = self._moments.states(time)
            totals.append([int((states == code).sum()) for code in range(len(STATES))])
        return totals

    def _on_message(self, _: object, content: object, buffers: object) -> None:
        if not isinstance(content, Mapping):
            return
        if content.get("type") == "ping" and isinstance(content.get("number"), int):
            self.send({"type": "pong", "number": content["number"]})
        if content.get("type") != "at":
            return
        at = content.get("at")
        if isinstance(at, bool) or not isinstance(at, int | float):
            return
        first, last = self.begin.value // 1_000_000, self.end.value // 1_000_000
        moment = pd.Timestamp(int(min(max(at, first), last)), unit="ms", tz="UTC")
        self.send({"type": "state", **self.step(moment)})

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """Return the widget, and the last state as a table for saved notebooks."""
        bundle = super()._repr_mimebundle_(**options)
        data, *metadata = bundle if isinstance(bundle, tuple) else (bundle or {},)
        jobs = self.jobs(self.end)
        hidden = len(jobs) - _MOST_JOBS
        more = f"<p>and {hidden:,} more jobs</p>" if hidden > 0 else ""
        cells = table(_rows(jobs, _MOST_JOBS), list(jobs.columns), numbers=range(1, len(jobs.columns)))
        still = (
            f'<div class="tex2jax_ignore mathjax_ignore"><p><b>Time machine</b>: the cluster at '
            f"{escaped(f'{self.end:%Y-%m-%d %H:%M:%S}')} UTC</p>"
            f"{cells}{more}</div>"
        )
        data = {**data, "text/html": still}
        return (data, *metadata) if metadata else data


def _rows(frame: pd.DataFrame, most: int) -> list[list[Any]]:
    return [
        [visible(row[0]), *map(int, row[1:])] for row in frame.head(most).itertuples(index=False, name=None)
    ]


def _open(source: object, since: pd.Timestamp | str | None) -> Snapshot:
    if isinstance(source, Snapshot):
        return source
    from ...archive.archive import Archive  # it needs an extra that snapshots do not

    if not isinstance(source, Archive):
        raise TypeError(f"source must be an Archive or a Snapshot, got {type(source).__name__}")
    if since is None:
        since = pd.Timestamp(source.snapshot().info["finished_at"]) - pd.Timedelta("7D")
    return source.snapshot(since=since)
