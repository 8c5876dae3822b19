"""The intermediate results that statistics share, computed in stages.

    source ─1 explain─▶ events, attempts ─2 describe─▶ tasks ─3 cut─▶ spans ─4 name─▶ runs

Each stage is computed on first use and kept. Each reads the raw tables that it needs and drops them when it
ends, so that the raw rows of two stages are never in memory at once. `runs`, made by
`runs.build_runs`, names rows by categories: a byte or two for each, where text takes twenty.

The results for a snapshot are an attribute of it and are freed with it; those for other sources last for one
call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals

from .._utils.memory import MANY_ROWS, release_memory
from ..snapshot.snapshot import Snapshot
from . import _attempts, _classify, _expressions, _spans
from ._arrays import Arrays
from ._expressions import InEngine
from ._source import TASK, Array, Source, SourceTables, collect, column_names, us


class _Explained(NamedTuple):
    """Result of the first stage."""

    events: nw.LazyFrame[Any]
    attempts: nw.LazyFrame[Any]
    rings: nw.LazyFrame[Any] | None
    """One row for each task: what its events say of it. The next stage adds columns, and drops it."""


class _Described(NamedTuple):
    """Result of the second stage."""

    tasks: nw.LazyFrame[Any]
    changed_us: int | None
    """The last change of any allocation."""
    has_task_states: bool


class Part(NamedTuple):
    """Some tasks, with the rows of the other results that are theirs."""

    tasks: nw.LazyFrame[Any]
    events: nw.LazyFrame[Any]
    attempts: nw.LazyFrame[Any]
    spans: nw.LazyFrame[Any]


class Derived:
    """The staged results for one source, as lazy frames.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    observed_at : time, optional
        End of observation, default: when the tables were fetched, or the latest time in them.
    """

    def __init__(self, source: Source, observed_at: pd.Timestamp | str | None = None) -> None:
        self._tables = SourceTables(source)
        self._observed_at = observed_at
        self.eager = self._tables.eager
        self.task_columns = self._tables.task_columns

    @property
    def all_ids(self) -> pd.Index[Any] | None:
        """The IDs of all allocations of a snapshot; rows of tasks name theirs by a position in it."""
        return self._tables.all_ids

    def at(self, observed_at: pd.Timestamp | str) -> Derived:
        """Return these results as of another moment: stages 1 and 2 are shared, spans are cut anew."""
        self._explained, self._described  # noqa: B018 - computed here, so that the copy shares them
        if _ATTEMPTS_OF_SPANS[0] not in column_names(self.attempts):  # what spans are cut of was given back
            return Derived(self._tables.snapshot, observed_at)
        other = copy.copy(self)
        other._observed_at = observed_at
        for name in ("observed_us", "began_us", "spans", "runs"):
            other.__dict__.pop(name, None)
        return other

    # Stage 1: reads the events.

    @cached_property
    def _explained(self) -> _Explained:
        if self._tables.from_snapshot:
            return _explain_snapshot(self._tables)
        raw = self._raw_events()
        rings = _narwhals(_attempts.describe_rings(_computed(raw), self.task_columns))
        if not self.eager:
            explained, attempted = _explain(_computed(raw), self.task_columns)
            return _Explained(_narwhals(explained), _narwhals(attempted), rings)
        parts = [_explain_part(_computed(part)) for part in _in_parts(raw)]
        events, attempts = ([part[place] for part in parts] for place in (0, 1))
        del parts
        return _Explained(_join_parts(events), _join_parts(attempts), rings)

    @property
    def events(self) -> nw.LazyFrame[Any]:
        """The events with their explanation (see `stats.explain_events`).

        Those of a snapshot lack the columns that tasks have, see `name_tasks`.
        """
        return self._explained.events

    def name_tasks(self, rows: nw.LazyFrame[Any], *columns: str) -> nw.LazyFrame[Any]:
        """Return rows of events or spans with these columns of their tasks, if they lack them."""
        have = column_names(rows)
        missing = [name for name in columns if name not in have]
        if not missing:
            return rows
        named = self.tasks.select(*self.task_columns, *missing)
        return rows.join(named, on=self.task_columns, how="left")

    @property
    def attempts(self) -> nw.LazyFrame[Any]:
        """One row for each attempt of each task."""
        return self._explained.attempts

    # Stage 2: reads allocations and task states.

    @cached_property
    def _described(self) -> _Described:
        rings = self._explained.rings
        if rings is None:
            raise AssertionError("the tasks are described only once")
        allocations, task_states = self._tables.read("allocations"), self._tables.read("task_states")
        described = _attempts.describe_tasks(
            _computed(rings),
            None if allocations is None else _computed(allocations),
            None if task_states is None else _computed(task_states),
        )
        attempts: Any = _computed(self.attempts)
        tasks = _narwhals(_attempts.add_known_from(described, attempts, self.task_columns))
        changed_us = _extreme(allocations, "modified_at_us", nw.Expr.max)
        has_task_states = task_states is not None
        del allocations, task_states, rings
        if self._tables.from_snapshot:
            self._explained = self._explained._replace(rings=None)
            release_memory()
        return _Described(tasks, changed_us, has_task_states)

    @property
    def tasks(self) -> nw.LazyFrame[Any]:
        """One row for each task of each allocation."""
        return self._described.tasks

    @property
    def has_task_states(self) -> bool:
        """Whether the source holds task states, and with them the nodes' own count of restarts."""
        return self._described.has_task_states

    # Stage 3: reads no raw table.

    @cached_property
    def spans(self) -> nw.LazyFrame[Any]:
        """One row for each attempt that ran. Those of a snapshot lack names, see `name_tasks`."""
        if not self._tables.from_snapshot:
            attempts, tasks = _computed(self.attempts), _computed(self.tasks)
            return _narwhals(_spans.cut_spans(attempts, tasks, self.task_columns, self.observed_us))
        tasks = _computed(self.tasks.select(TASK, *_OF_SPANS))
        parts: Iterator[Any] = (
            _spans.cut_spans(_computed(attempts), tasks, self.task_columns, self.observed_us)
            for attempts in _in_parts(self.attempts)
        )
        frames = [part.drop(*_DROPPED_SPAN_COLUMNS, strict=False).to_pandas() for part in parts]
        spans = _join_parts(frames)
        if sum(map(len, frames)) > MANY_ROWS:
            release_memory()
            slim = self.attempts.drop(*_ATTEMPTS_OF_SPANS, strict=False)
            self._explained = self._explained._replace(attempts=slim)
        return spans

    def split(self) -> Iterator[Part]:
        """Yield the tasks of a snapshot in parts, each with what is theirs; those of other sources together.

        Of a million allocations, what is filtered or joined at once takes half a gigabyte.
        """
        whole = Part(self.tasks, self.events, self.attempts, self.spans)
        if not self._tables.from_snapshot:
            yield whole
            return
        frames = [each.to_native() for each in whole]
        keys = [frame[TASK].to_numpy() for frame in frames]  # in order, from 0
        for first in range(0, max(len(frames[0]), 1), PART_ROWS):
            edges = [np.searchsorted(key, [first, first + PART_ROWS]) for key in keys]
            rows = (frame.iloc[slice(*edge)] for frame, edge in zip(frames, edges, strict=True))
            yield Part(*(nw.from_native(part).lazy() for part in rows))

    runs: pd.DataFrame
    """The rows of `stats.runs`; `runs.build_runs` makes them on first use, and of very many for each call."""

    slot_by_id: tuple[pd.Series[Any], pd.Series[Any]]
    """The slots of allocations by ID, and those of runs, folded; `runs.find_slots` makes them."""

    @cached_property
    def observed_us(self) -> int:
        """The end of observation, in microseconds since 1970."""
        if self._observed_at is not None:
            return us(self._observed_at)
        if self._tables.fetched_us is not None:
            return self._tables.fetched_us
        times = (_extreme(self._kept_events, "time_us", nw.Expr.max), self._described.changed_us)
        return max((time for time in times if time is not None), default=0)

    @cached_property
    def began_us(self) -> int:
        """The beginning of observation, in microseconds since 1970."""
        times = (
            _extreme(self.spans, "start_us", nw.Expr.min),
            _extreme(self._kept_events, "time_us", nw.Expr.min),
        )
        return min((time for time in times if time is not None), default=self.observed_us)

    def _raw_events(self) -> nw.LazyFrame[Any]:
        events = self._tables.read("events")
        if events is None:
            raise TypeError("the source has no events")  # SourceTables has refused it before
        return events

    @property
    def _kept_events(self) -> nw.LazyFrame[Any]:
        """The events that are in memory anyway: a snapshot's raw ones are not; the user keeps others."""
        return self.events if self._tables.from_snapshot else self._raw_events()


_SHARED: ContextVar[dict[Any, Any] | None] = ContextVar("derived", default=None)


@contextmanager
def share_derived() -> Iterator[None]:
    """Compute the results for a source once in this block, however many statistics call each other in it."""
    if _SHARED.get() is not None:
        yield
        return
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def share(key: Any, make: Callable[[], Any]) -> Any:
    """Return what `make` returns, which is kept until the statistic that is being computed returns."""
    shared = _SHARED.get()
    if shared is None:
        return make()
    if key not in shared:
        shared[key] = make()
    return shared[key]


def derive(source: Source, observed_at: pd.Timestamp | str | None = None) -> Derived:
    """Return the staged results for `source` as of `observed_at`.

    Those for a snapshot are kept with it, those for other sources and moments until the statistic returns.
    """
    shared = _SHARED.get()
    key = (id(source), None if observed_at is None else us(observed_at))
    # the source is kept beside its results, so that no other can get its identity meanwhile
    if shared is not None and key in shared:
        found: Derived = shared[key][1]
        return found
    derived = _derive(source, observed_at)
    if shared is not None and not (isinstance(source, Snapshot) and observed_at is None):
        shared[key] = (source, derived)
    return derived


def _derive(source: Source, observed_at: pd.Timestamp | str | None) -> Derived:
    if observed_at is not None:
        return derive(source).at(observed_at)
    if not isinstance(source, Snapshot):
        return Derived(source)
    if source._derived is None:
        source._derived = Derived(source)
    derived: Derived = source._derived
    return derived


PART_ROWS = 100_000
"""Events, or attempts, taken at a time: the intermediate columns of all of them would double the peak."""

_SMALL = {TASK: "int32", "cause_code": "float16"}
_SMALLEST = ("seq", "attempt")
"""Columns of events that a byte holds, unless a history is long."""

_SMALL_ATTEMPTS = {
    TASK: "int32",
    "attempt": "int32",
    "cause_code": "float32",
    "events": "int32",
    "_next": "float32",
    "again": "int8",
    "delayed": "int8",
    "received": "int8",
}
"""Narrower dtypes that hold the same values: at ten million rows each column of eight bytes costs 80 MB."""

_DROPPED_COLUMNS = (
    "exit_code", "signal", "restart_reason", "message", "oom_killed", "fails_task", "time", "_oom",
    "_decides", "_failed", "_killed_for_seq", "_hook_failed_seq", "alloc_id", "task", "task_signal",
    *_attempts.DIMENSIONS,
)  # fmt: skip
_DROPPED_ATTEMPT_COLUMNS = (
    "_terminated_seq", "_killing_seq", "_asked", "_requested", "_start_failed", "_hook_failed",
    "_hook_failed_seq", "_ended_by", "_killed_for", "_killed_for_seq", "first_seq", "killed_by_nomad",
    "_signal_sent", "_signaled", "_signaled_by", "signal", "_oom",
)  # fmt: skip
_ATTEMPTS_OF_SPANS = (
    "first_us", "terminated_us", "killed_us", "restored_us", "again", "received", "events",
)  # fmt: skip
"""Columns of attempts that nothing but spans is made of."""

_DROPPED_SPAN_COLUMNS = ("exit_code", "signal", "_oom", "_end", "_ended", "client_status")
"""Columns of a snapshot's events, attempts and spans that nothing reads later, or that their tasks have."""

_OF_SPANS = (
    "state", "client_status", "started_at_us", "finished_at_us", "modified_at_us", "known_from_us",
)  # fmt: skip
"""Columns of tasks that tell when their last run began and ended."""


def _computed(frame: nw.LazyFrame[Any]) -> Any:
    """Return a frame that computes the rules' expressions: of arrays for pandas, else by its engine."""
    native = frame.to_native()
    return Arrays.of(native) if isinstance(native, pd.DataFrame) else InEngine(frame)


def _narwhals(frame: Any) -> nw.LazyFrame[Any]:
    """Return what the rules have computed as a frame of narwhals."""
    lazy: nw.LazyFrame[Any]
    lazy = frame.frame if isinstance(frame, InEngine) else nw.from_native(frame.to_pandas()).lazy()
    return lazy


def _explain(events: Any, task_columns: list[str]) -> tuple[Any, Any]:
    """Number the attempts of events and say what each event means; return events and attempts."""
    marked: Any = _attempts.mark_events(events, task_columns)
    attempts: Any = _attempts.group_attempts(marked, task_columns)
    on = [*task_columns, _attempts.ATTEMPT]
    causes = attempts.select(
        *on,
        "killed_by_nomad",
        "cause_code",
        "_killed_for_seq",
        "_hook_failed_seq",
        _failed=_expressions.col("failed"),
    )
    kept = ("_oom", "_decides")
    helpers = [name for name in marked.collect_schema().names() if name.startswith("_") and name not in kept]
    return _classify.explain(marked.drop(*helpers).join(causes, on=on, how="left")), attempts


def explain_in_engine(source: Source) -> nw.LazyFrame[Any]:
    """Return the explained events of DuckDB or Spark as a frame that their engine computes, however few."""
    tables = SourceTables(source, fetch=False)
    events = tables.read("events")
    if events is None:
        raise TypeError("the source has no events")  # SourceTables has refused it before
    return _narwhals(_explain(_computed(events), tables.task_columns)[0])


_CODES = ("cause_code", "_oom", "_next")
"""Small numbers that may be missing: floats, as those of a snapshot."""


def _explain_part(part: Arrays) -> tuple[pd.DataFrame, ...]:
    """Explain some of the events of pandas."""
    events, attempts = (rows.to_pandas() for rows in _explain(part, [TASK]))
    return tuple(
        rows.astype({name: "float64" for name in _CODES if name in rows}) for rows in (events, attempts)
    )


def _explain_snapshot(tables: SourceTables) -> _Explained:
    """Explain the events of a snapshot while they are read: their raw rows are never all in memory."""
    parts: tuple[list[pd.DataFrame], ...] = ([], [], [])
    places: list[Array] = []
    many = tables.snapshot._counts["events"]
    release_memory()  # a fetch leaves hundreds of megabytes
    for raw, place in tables.read_event_parts(PART_ROWS):
        arrays: Any = Arrays.of(raw)
        events, attempts = _explain(arrays, [TASK])
        rings: Any = _attempts.describe_rings(arrays, [TASK])
        parts[0].append(_shrink(events.drop(*_DROPPED_COLUMNS).to_pandas()))
        parts[1].append(attempts.drop(*_DROPPED_ATTEMPT_COLUMNS).to_pandas().astype(_SMALL_ATTEMPTS))
        parts[2].append(rings.to_pandas().astype({TASK: "int32"}))
        places.append(place)
        del raw, arrays, events, attempts, rings
        _release(many)
    order = np.argsort(np.concatenate(places), kind="stable")
    return _Explained(*(_join_parts(frames, order) for frames in parts))


def _shrink(events: pd.DataFrame) -> pd.DataFrame:
    numbers = {name: pd.to_numeric(events[name], downcast="integer") for name in _SMALLEST}
    return events.assign(**numbers).astype(_SMALL)


def _in_parts(rows: nw.LazyFrame[Any]) -> Iterator[nw.LazyFrame[Any]]:
    """Yield about `PART_ROWS` rows at a time without splitting a task; all rows if tasks are not in order."""
    frame = rows.to_native()
    keys = frame[TASK].to_numpy()
    start = 0
    ordered = bool(np.all(keys[:-1] <= keys[1:]))
    while ordered and len(keys) - start > PART_ROWS:
        end = int(np.searchsorted(keys, keys[start + PART_ROWS]))
        if end == start:
            break  # a single task has more rows than that
        yield nw.from_native(frame.iloc[start:end]).lazy()
        _release(len(keys))
        start = end
    yield nw.from_native(frame.iloc[start:]).lazy()


def _join_parts(frames: list[pd.DataFrame], task_order: Array | None = None) -> nw.LazyFrame[Any]:
    """Join parts by columns, each taken out of its part, so that one column at most is in memory twice.

    `task_order` sorts their tasks, which are numbered anew; the rows of a task stand together.
    """
    order = None
    if task_order is not None and np.any(task_order[1:] < task_order[:-1]):
        counts = np.bincount(np.concatenate([frame[TASK] for frame in frames]), minlength=len(task_order))
        start, counts = (np.cumsum(counts) - counts)[task_order], counts[task_order]
        order = np.repeat(start - (np.cumsum(counts) - counts), counts)
        order += np.arange(len(order))
    if len(frames) == 1 and order is None:
        return nw.from_native(frames[0]).lazy()
    columns, rows = {}, sum(map(len, frames))
    for name, column in pop_columns(frames):
        if order is not None and name == TASK:
            column = pd.Series(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        elif order is not None:
            column = column.take(order).reset_index(drop=True)
        columns[name] = column
        del column
        _release(rows)  # what a column has left would come on top of the next one
    return nw.from_native(pd.DataFrame(columns, copy=False)).lazy()


def _release(rows: int) -> None:
    """Give memory back between two steps if they are about very many rows; for fewer it only takes time."""
    if rows > MANY_ROWS:
        release_memory()


def pop_columns(frames: list[pd.DataFrame]) -> Iterator[tuple[str, pd.Series[Any]]]:
    """Yield the columns of parts, joined and taken out of them: one of them at most is in memory twice."""
    for name in map(str, list(frames[0])):
        yield name, _join_column([frame.pop(name) for frame in frames])


def _join_column(parts: list[pd.Series[Any]]) -> pd.Series[Any]:
    """Return the parts of a column as one; categories are joined, in the order of the alphabet."""
    dtype = parts[0].dtype
    if not isinstance(dtype, pd.CategoricalDtype):
        return pd.concat(parts, ignore_index=True)
    if any(part.cat.categories is not dtype.categories for part in parts):
        return pd.Series(union_categoricals(parts, sort_categories=True))
    # pandas would make an object of each category to compare them
    codes = np.concatenate([part.cat.codes for part in parts])
    return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype, validate=False))


def _extreme(frame: nw.LazyFrame[Any] | None, column: str, reduce: Any) -> int | None:
    """Return the smallest or largest value of a column; None if there is no such column or no value."""
    if frame is None or column not in column_names(frame):
        return None
    value: Any = collect(frame.select(reduce(nw.col(column)))).iloc[0, 0]
    return None if pd.isna(value) else int(value)
