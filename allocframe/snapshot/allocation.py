"""One allocation, read in full."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import pandas as pd

from .._utils.text import escaped, visible
from ..store.capture import Capture
from ..store.page_store import PageStore


class Allocation:
    """One allocation, read in full.

    Attributes
    ----------
    raw : dict
        The answer as it was sent, with the job's specification; mind that it may hold secrets.
    events, task_states, reschedules, placement, resources : pandas.DataFrame
        The tables of this allocation; `placement` says how the scheduler scored nodes for it.
    """

    def __init__(self, capture: Capture, store: PageStore) -> None:
        self._capture = capture
        self._store = store
        self.raw: dict[str, Any] = json.loads(capture.file(capture.pages[0]).read_bytes())

    @cached_property
    def task_states(self) -> pd.DataFrame:
        """One row for each task."""
        return self._store.frame("task_states")

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row for each task event."""
        return self._store.frame("events")

    @cached_property
    def reschedules(self) -> pd.DataFrame:
        """One row for each reschedule that its tracker remembers."""
        return self._store.frame("reschedules")

    @cached_property
    def placement(self) -> pd.DataFrame:
        """One row for each node that the scheduler scored."""
        return self._store.frame("placement")

    @cached_property
    def resources(self) -> pd.DataFrame:
        """One row for each task, and one for what the allocation shares."""
        return self._store.frame("resources")

    def __repr__(self) -> str:
        said = (visible(self.raw.get(key, "?")) for key in ("ID", "Name", "ClientStatus", "NodeName"))
        return "<Allocation {} {}: {} on {}>".format(*said)

    def _repr_html_(self) -> str:
        names = ("ID", "Name", "Namespace", "NodeName", "ClientStatus", "ClientDescription", "DesiredStatus")
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{name}</th><td {left}>{escaped(self.raw.get(name, ''))}</td></tr>"
            for name in names
        )
        return f"<table>{rows}</table>"
