"""What every statistic starts from, made once for each snapshot: explained events, attempts, tasks and spans."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from .._utils.memory import release_memory
from ..snapshot.snapshot import Snapshot
from . import _attempts, _classify
from ._source import TASK, Source, Tables, collected, tables


class Facts:
    """The lazy frames of one source; those of a snapshot are kept as long as it is."""

    def __init__(self, given: Tables) -> None:
        self.given = given

    @cached_property
    def _both(self) -> tuple[nw.LazyFrame[Any], nw.LazyFrame[Any]]:
        """Events and attempts, made together: what they are made of is large, and needed no longer."""
        if not self.given.eager:
            return _explained(self.given)
        events, attempts = list[pd.DataFrame](), list[pd.DataFrame]()
        for part in _parts(self.given.events):
            explained = _explained(replace(self.given, events=part))
            for made, kept in zip(explained, (events, attempts), strict=True):
                kept.append(made.to_native())
        if not self.given.narrow:
            return _lazy(events), _lazy(attempts)
        try:
            self._let_go("events")
            self.given = replace(self.given, events=_lazy(events))
            return self.given.events, _lazy(attempts)
        except BaseException:  # interrupted between the two: these facts are no longer whole
            for snapshot in [one for one, kept in _KEPT.items() if kept is self]:
                del _KEPT[snapshot]
            raise

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
        found = _attempts.tasks(self.given)
        if self.given.narrow:
            self._let_go("allocations", "task_states")
        return found

    @cached_property
    def spans(self) -> nw.LazyFrame[Any]:
        """One row for each attempt that ran."""
        if not self.given.narrow:
            return _attempts.spans(self.given, self.attempts, self.tasks)
        parts = _parts(self.attempts)
        return _lazy([_attempts.spans(self.given, part, self.tasks).to_native() for part in parts])

    def _let_go(self, *names: str) -> None:
        """Keep of these tables no more than that they were there."""
        frames = {name: getattr(self.given, name) for name in names}
        self.given = replace(
            self.given, **{name: frame.head(0) for name, frame in frames.items() if frame is not None}
        )
        release_memory()

    @cached_property
    def began_us(self) -> int:
        """The first moment that the tables tell of."""
        run: Any = collected(self.spans.select(nw.col("start_us").min())).iloc[0, 0]
        event: Any = collected(self.given.events.select(nw.col("time_us").min())).iloc[0, 0]
        known: list[Any] = [value for value in (run, event) if not pd.isna(value)]
        return int(min(known, default=self.given.observed_us))


PART = 500_000
"""Events, or attempts, that are taken at a time: what is needed on the way takes as much memory again as all else."""

_SMALL = {"seq": "Int32", TASK: "int32", "attempt": "int32", "cause_code": "float32"}
_SMALL_ATTEMPTS = {
    TASK: "int32",
    "attempt": "int32",
    "cause_code": "float32",
    "events": "int32",
    "_oom": "float32",
    "_next": "float32",
    "delayed": "int8",
    "received": "int8",
}
_READ = ("exit_code", "signal", "restart_reason", "message", "oom_killed", "time", "_oom")
_READ_ATTEMPTS = (
    "_terminated_seq", "_killing_seq", "_asked", "_start_failed", "_ended_by", "first_seq", "killed_by_nomad",
)  # fmt: skip
"""What is read of a snapshot's events and attempts to explain them, and not after that."""


def _explained(given: Tables) -> tuple[nw.LazyFrame[Any], nw.LazyFrame[Any]]:
    marked = _attempts.marked(given)
    attempts = _attempts.attempts(given, marked)
    on = [*given.task, _attempts.ATTEMPT]
    facts = attempts.select(*on, "killed_by_nomad", "cause_code")
    helpers = [name for name in marked.collect_schema().names() if name.startswith("_") and name != "_oom"]
    events = _classify.with_meaning(marked.drop(*helpers).join(facts, on=on, how="left"))
    if given.eager:
        native = events.to_native()
        for name in _classify.TEXTS:  # a category takes a byte, a text twenty
            native[name] = native[name].astype("category")
        if given.narrow:
            native = native.drop(columns=list(_READ)).astype(_SMALL)
            short = attempts.to_native().drop(columns=list(_READ_ATTEMPTS)).astype(_SMALL_ATTEMPTS)
            attempts = nw.from_native(short).lazy()
        events = nw.from_native(native).lazy()
    return events, attempts


def _parts(rows: nw.LazyFrame[Any]) -> Iterator[nw.LazyFrame[Any]]:
    """Yield so many rows at a time, and all of a task together, where they are in the order of tasks."""
    frame = rows.to_native()
    keys = frame[TASK].to_numpy()
    start = 0
    ordered = bool(np.all(keys[:-1] <= keys[1:]))
    while ordered and len(keys) - start > PART:
        end = int(np.searchsorted(keys, keys[start + PART]))
        if end == start:
            break  # one task has more than that
        yield nw.from_native(frame.iloc[start:end]).lazy()
        release_memory()
        start = end
    yield nw.from_native(frame.iloc[start:] if start else frame).lazy()


def _lazy(frames: list[pd.DataFrame]) -> nw.LazyFrame[Any]:
    """Return parts as one frame, in which a category of any part is one; each column is taken out of them."""
    if len(frames) == 1:
        return nw.from_native(frames[0]).lazy()
    columns = {}
    for name in list(frames[0]):
        parts = [frame.pop(str(name)) for frame in frames]
        if isinstance(parts[0].dtype, pd.CategoricalDtype):
            columns[name] = pd.Series(union_categoricals(parts, sort_categories=True))
        else:
            columns[name] = pd.concat(parts, ignore_index=True)
    return nw.from_native(pd.DataFrame(columns, copy=False)).lazy()


_KEPT: weakref.WeakKeyDictionary[Snapshot, Facts] = weakref.WeakKeyDictionary()


def facts(source: Source, observed_at: pd.Timestamp | str | None = None) -> Facts:
    """Return the facts of `source`, up to `observed_at`."""
    if not isinstance(source, Snapshot) or observed_at is not None:
        return Facts(tables(source, observed_at))
    if source not in _KEPT:
        _KEPT[source] = Facts(tables(source))
    return _KEPT[source]
