"""One allocation, read in full."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import pandas as pd

from .._utils import html
from .._utils.text import visible
from ..store.capture import Capture
from ..store.page_store import PageStore

_SHOWN = ("ID", "Name", "Namespace", "NodeName", "ClientStatus", "ClientDescription", "DesiredStatus")


class Allocation:
    """One allocation, read in full. Made by `Client.allocation`.

    Attributes
    ----------
    raw : dict
        Nomad's answer, with the job's specification, which may hold secrets.
    events, task_states, reschedules, placement, resources : pandas.DataFrame
        The tables of this allocation; `placement` holds the scores that the scheduler gave to nodes.
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
        """One row for each reschedule in its tracker."""
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
        names = (visible(self.raw.get(key, "?")) for key in ("ID", "Name", "ClientStatus", "NodeName"))
        return "<Allocation {} {}: {} on {}>".format(*names)

    def _repr_html_(self) -> str:
        return html.table([(key, self.raw.get(key, "")) for key in _SHOWN])
