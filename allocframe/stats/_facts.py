"""What every statistic starts from, made once for each snapshot: explained events, attempts, tasks and spans."""

from __future__ import annotations

import weakref
from functools import cached_property
from typing import Any

import narwhals as nw
import pandas as pd

from ..snapshot import Snapshot
from . import _attempts, _meaning, _spans
from ._input import Source, Tables, collected, tables


class Facts:
    """The lazy frames of one source; those of a snapshot are kept as long as it is."""

    def __init__(self, given: Tables) -> None:
        self.given = given

    @cached_property
    def _both(self) -> tuple[nw.LazyFrame[Any], nw.LazyFrame[Any]]:
        """Events and attempts, made together: what they are made of is large, and needed no longer."""
        marked = _attempts.marked(self.given)
        attempts = _attempts.attempts(self.given, marked)
        on = [*self.given.task, _attempts.ATTEMPT]
        facts = attempts.select(*on, "killed_by_nomad", "cause_code")
        helpers = [name for name in marked.collect_schema().names() if name.startswith("_") and name != "_oom"]
        joined = marked.drop(*helpers).join(facts, on=on, how="left")
        events = _meaning.with_meaning(joined)
        if self.given.eager:  # a category takes a byte, a text twenty
            for name in _meaning.TEXTS:
                events = events.with_columns(nw.col(name).cast(nw.Categorical))
        return events, attempts

    @property
    def events(self) -> nw.LazyFrame[Any]:
        """The events with what they mean."""
        return self._both[0]

    @property
    def attempts(self) -> nw.LazyFrame[Any]:
        """One row for each attempt of each task."""
        return self._both[1]

    @cached_property
    def tasks(self) -> nw.LazyFrame[Any]:
        """One row for each task of each allocation."""
        return _spans.tasks(self.given)

    @cached_property
    def spans(self) -> nw.LazyFrame[Any]:
        """One row for each attempt that ran."""
        return _spans.spans(self.given, self.attempts, self.tasks)

    @cached_property
    def began_us(self) -> int:
        """The first moment that the tables tell of."""
        run: Any = collected(self.spans.select(nw.col("start_us").min())).iloc[0, 0]
        event: Any = collected(self.given.events.select(nw.col("time_us").min())).iloc[0, 0]
        known: list[Any] = [value for value in (run, event) if not pd.isna(value)]
        return int(min(known, default=self.given.observed_us))


_KEPT: weakref.WeakKeyDictionary[Snapshot, Facts] = weakref.WeakKeyDictionary()


def facts(source: Source, observed_at: pd.Timestamp | str | None = None) -> Facts:
    """Return the facts of `source`, up to `observed_at`."""
    if not isinstance(source, Snapshot) or observed_at is not None:
        return Facts(tables(source, observed_at))
    if source not in _KEPT:
        _KEPT[source] = Facts(tables(source))
    return _KEPT[source]
