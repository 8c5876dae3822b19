"""``df.alloc``: statistics and plots on a table itself, where pandas users look for them.

A table is known by its columns, so that it stays one after filters, copies and groups, which drop pandas' attributes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

_NEEDED = {
    "events": (
        "alloc_id", "task", "seq", "type", "time", "exit_code", "signal", "oom_killed", "restart_reason", "job_id", "node_name",
    ),
    "task_states": ("alloc_id", "task", "state", "restarts"),
    "allocations": ("alloc_id", "client_status", "desired_status", "desired_description", "preempted_by"),
    "reschedules": ("alloc_id", "seq", "prev_alloc_id"),
    "resources": ("alloc_id", "cpu_mhz", "memory_mib"),
}  # fmt: skip
"""By which columns each table is known: those that only it has together, and those that are needed here."""


@pd.api.extensions.register_dataframe_accessor("alloc")
class Alloc:
    """What allocframe can say of a table: ``snap.events.alloc.restarts()``.

    Raises
    ------
    AttributeError
        The frame is no table of a snapshot, as far as its columns tell.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self.table = _table(frame)

    def __repr__(self) -> str:
        return f"<alloc of {self.table}: {len(self._frame):,} rows>"

    def explain(self) -> pd.DataFrame:
        """Add what the rows mean: of events their causes, of allocations why the servers stopped them.

        See `stats.explain_events` and `stats.explain_stops`.

        Examples
        --------
        >>> crashed = snap.events[snap.events["job_id"] == "payments-api"]
        >>> "failure" in set(crashed.alloc.explain()["cause"])
        True
        """
        from allocframe import stats

        if self.table == "allocations":
            return stats.explain_stops({"allocations": self._only("allocations")})
        explained: pd.DataFrame = stats.explain_events(self._only("events", "allocations"))
        return explained

    def restarts(self, by: str | Iterable[str] = "job_id", **window: Any) -> pd.DataFrame:
        """Count the restarts in an events table, with their rate and its interval; arguments as of `stats.restarts`.

        Examples
        --------
        >>> snap.events.alloc.restarts(by="task").columns[:3].tolist()
        ['task', 'count', 'exposure_hours']
        """
        from allocframe import stats

        return stats.restarts(self._only("events"), by, **window)

    def timeline(self, **how: Any) -> Any:
        """Draw what went wrong when, of an events table; arguments as of `plots.timeline`.

        Examples
        --------
        >>> snap.events.alloc.timeline(lanes="job").get_xlabel()
        'time (UTC)'
        """
        from allocframe import plots

        return plots.timeline(self._only("events"), **how)

    def _only(self, *wanted: str) -> pd.DataFrame:
        if self.table not in wanted:
            raise TypeError(f"this needs the {' or '.join(wanted)} table, and this frame is {self.table}")
        return self._frame


def _table(frame: pd.DataFrame) -> str:
    columns = {str(name) for name in frame.columns}
    for name, needed in _NEEDED.items():
        if columns >= set(needed):
            return name
    closest = max(_NEEDED, key=lambda name: len(columns & set(_NEEDED[name])))
    lacks = ", ".join(name for name in _NEEDED[closest] if name not in columns)
    said = f"; to be {closest} it lacks {lacks}" if columns & set(_NEEDED[closest]) else ""
    raise AttributeError(f"this frame is none of {', '.join(_NEEDED)}, nor rows of one{said}")
