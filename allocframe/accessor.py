"""``df.alloc``: statistics and plots on a table itself.

The accessor recognises a table by its columns, because pandas drops its attributes in filters and copies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

_REQUIRED = {
    "events": (
        "alloc_id", "task", "seq", "type", "time", "exit_code", "signal", "oom_killed", "restart_reason",
        "job_id", "node_name",
    ),
    "task_states": ("alloc_id", "task", "state", "restarts"),
    "allocations": ("alloc_id", "client_status", "desired_status", "desired_description", "preempted_by"),
    "reschedules": ("alloc_id", "seq", "prev_alloc_id"),
    "resources": ("alloc_id", "cpu_mhz", "memory_mib"),
}  # fmt: skip
"""The columns that identify each table, and those that its methods use."""


@pd.api.extensions.register_dataframe_accessor("alloc")
class Alloc:
    """Statistics and plots of a table: ``snap.events.alloc.restarts()``.

    Raises
    ------
    AttributeError
        The DataFrame lacks the columns of every table.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self.table: str = _identify(frame)

    def __repr__(self) -> str:
        return f"<alloc of {self.table}: {len(self._frame):,} rows>"

    def explain(self) -> pd.DataFrame:
        """Add the meaning of the rows: the cause of an event, or why the servers stopped an allocation.

        See `stats.explain_events` and `stats.explain_stops`.

        Examples
        --------
        >>> crashed = snap.events[snap.events["job_id"] == "payments-api"]
        >>> "failure" in set(crashed.alloc.explain()["cause"])
        True
        """
        from allocframe import stats

        if self.table == "allocations":
            return stats.explain_stops({"allocations": self._require("allocations")})
        explained: pd.DataFrame = stats.explain_events(self._require("events", "allocations"))
        return explained

    def restarts(self, by: str | Iterable[str] = "job_id", **window: Any) -> pd.DataFrame:
        """Count the restarts in an events table, with their rate and its interval.

        The arguments are those of `stats.restarts`.

        Examples
        --------
        >>> snap.events.alloc.restarts(by="task").columns[:3].tolist()
        ['task', 'count', 'counted']
        """
        from allocframe import stats

        return stats.restarts(self._require("events"), by, **window)

    def timeline(self, **options: Any) -> Any:
        """Draw the incidents in an events table over time. The arguments are those of `plots.timeline`.

        Examples
        --------
        >>> snap.events.alloc.timeline(lanes="job").get_xlabel()
        'time (UTC)'
        """
        from allocframe import plots

        return plots.timeline(self._require("events"), **options)

    def _require(self, *tables: str) -> pd.DataFrame:
        if self.table not in tables:
            raise TypeError(
                f"this method needs the {' or '.join(tables)} table, but this DataFrame is {self.table}"
            )
        return self._frame


def _identify(frame: pd.DataFrame) -> str:
    """Return the name of the table that a DataFrame holds."""
    columns = {str(name) for name in frame.columns}
    for name, required in _REQUIRED.items():
        if columns >= set(required):
            return name
    closest = max(_REQUIRED, key=lambda name: len(columns & set(_REQUIRED[name])))
    missing = ", ".join(name for name in _REQUIRED[closest] if name not in columns)
    hint = f" For {closest} it lacks {missing}." if columns & set(_REQUIRED[closest]) else ""
    raise AttributeError(f"this DataFrame is none of the tables {', '.join(_REQUIRED)}.{hint}")
