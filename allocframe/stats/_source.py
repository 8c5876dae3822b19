"""What a statistic takes: a Snapshot, a DataFrame of events, or a mapping of tables.

This is the one place that tells engines (pandas, DuckDB, Spark) apart. The code above it works on narwhals
frames whose times are whole microseconds since 1970, because pandas alone keeps nanoseconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import narwhals as nw
import numpy as np
import pandas as pd

from .._utils.times import to_utc
from ..snapshot.snapshot import Snapshot
from ..tables import TABLES
from ..tables.table import Column

Source: TypeAlias = Any
"""A `Snapshot`; the events table as a DataFrame of any engine; or a mapping of table names to such frames."""


def _columns(table: str, *names: str) -> tuple[Column, ...]:
    return tuple(
        replace(column, source=column.name) for column in TABLES[table].columns if column.name in names
    )


TASK = "task_key"
"""Column that numbers the tasks of allocations in pandas: cheaper to group by than two texts."""

_OOM = """CASE WHEN type = 'Terminated' THEN oom_killed OR details LIKE '%"exit_message":"OOM Killed"%' END"""
_MESSAGE = """CASE WHEN type IN ('Restart Signaled', 'Setup Failure', 'Task hook failed')
  OR type IN ('Killing', 'Killed') AND (fails_task OR message = 'allocation exceeded max_run_duration')
  THEN message END"""
_NEEDED: dict[str, tuple[Column, ...]] = {
    "events": (
        *_columns("events", "task", "seq", "time", "type", "exit_code", "signal", "restart_reason"),
        *_columns("events", "namespace", "job_id", "job_version", "task_group", "node_name"),
        Column("alloc_id", "alloc_id", "category", "the allocation"),
        Column("message", _MESSAGE, "category", "who asked for it, or why it was killed or did not start"),
        *_columns("events", "task_signal"),
        Column("fails_task", "fails_task", "bool", "whether this event fails the task"),
        Column("oom_killed", _OOM, "bool", "whether the driver reports it, by its flag or its exit message"),
    ),
    "allocations": _columns(
        "allocations",
        "alloc_id",
        "name",
        "node_id",
        "parent_job_id",
        "job_type",
        "client_status",
        "desired_status",
        "created_at",
        "modified_at",
    ),
    "task_states": _columns(
        "task_states", "alloc_id", "task", "state", "restarts", "started_at", "finished_at"
    ),
}
"""Columns read from a snapshot. Most of a snapshot's memory is text that no statistic reads.

Columns that only name a row are categories, which take a byte or two per row.
"""

_TIMES = ("time", "created_at", "modified_at", "started_at", "finished_at")
_REQUIRED = {
    "alloc_id",
    "task",
    "seq",
    "type",
    "time_us",
    "exit_code",
    "signal",
    "oom_killed",
    "restart_reason",
}


class SourceTables:
    """Reads the tables of one source as narwhals frames.

    The tables of a snapshot are read anew at each call and not kept, so that the caller decides when their
    memory is freed. Frames that the user gave are converted once.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables

    Raises
    ------
    TypeError
        There is no events table, it lacks a column, or its engine is not supported.
    ValueError
        A table holds a row twice, as after joining two snapshots.
    """

    def __init__(self, source: Source) -> None:
        self._frames: dict[str, nw.LazyFrame[Any]] = {}
        self._snapshot: weakref.ref[Snapshot] | None = None
        if isinstance(source, Snapshot):
            # not a strong reference: in a cycle, the snapshot and its files would outlive their last use
            self._snapshot = weakref.ref(source)
            self.eager = True
            return
        frames = _frames(source)
        events = frames.get("events")
        if events is None:
            raise TypeError(
                "source must be a Snapshot, an events table, or a mapping of tables with the key 'events'"
            )
        self.eager = isinstance(events, pd.DataFrame)
        if self.eager:
            frames["events"] = _number_tasks(events)
        self._frames = {name: _in_microseconds(frame) for name, frame in frames.items() if frame is not None}
        _require_columns(self._frames["events"])
        _refuse_duplicates(self._frames)

    @property
    def from_snapshot(self) -> bool:
        """Whether the tables come from a snapshot: only then is memory freed on the way."""
        return self._snapshot is not None

    @property
    def task_columns(self) -> list[str]:
        """The columns that identify one task of one allocation."""
        return [TASK] if self.eager else ["alloc_id", "task"]

    @property
    def fetched_us(self) -> int | None:
        """When the snapshot was fetched, if that is known."""
        snapshot = self._snapshot() if self._snapshot else None
        finished_at = snapshot.info.get("finished_at") if snapshot is not None else None
        return us(finished_at) if finished_at else None

    def read(self, name: str) -> nw.LazyFrame[Any] | None:
        """Return one table, or None if the source has none of that name."""
        if self._snapshot is None:
            return self._frames.get(name)
        snapshot = self._snapshot()
        if snapshot is None:
            raise ReferenceError("the snapshot of these statistics is gone")
        frame = snapshot._select(name, _NEEDED[name])
        return _in_microseconds(_number_adjacent_tasks(frame) if name == "events" else frame)


def pandas_table(source: Source, name: str, *columns: str) -> pd.DataFrame:
    """Return one table of `source` as a pandas DataFrame; of a snapshot only `columns`, if any are named."""
    if isinstance(source, Snapshot):
        return source._select(name, _columns(name, *columns)) if columns else getattr(source, name)
    frame = _frames(source).get(name)
    if frame is None:
        raise TypeError(
            f"source must hold the table {name!r}: pass a Snapshot, or a mapping with the key {name!r}"
        )
    return frame if isinstance(frame, pd.DataFrame) else collect(nw.from_native(frame).lazy())


def has_table(source: Source, name: str) -> bool:
    """Return whether `source` holds a table."""
    return isinstance(source, Snapshot) or _frames(source).get(name) is not None


def collect(frame: nw.LazyFrame[Any]) -> pd.DataFrame:
    """Return the rows of a lazy frame as a pandas DataFrame."""
    if frame.implementation is nw.Implementation.PYSPARK:
        # by way of Arrow: Spark's own toPandas lags behind the versions of pandas
        return frame.collect(backend="pyarrow").to_pandas()
    rows: pd.DataFrame = frame.collect(backend="pandas").to_native()
    return rows


def us(moment: pd.Timestamp | str) -> int:
    """Return a time as microseconds since 1970; a time without an offset is UTC."""
    return int(to_utc(moment).value // 1000)


def from_us(value: Any) -> pd.Timestamp:
    """Return microseconds since 1970 as a time in UTC; NaT for a missing value."""
    if pd.isna(value):
        return pd.NaT  # type: ignore[return-value]
    return pd.Timestamp(int(value), unit="us", tz="UTC")


def times_from_us(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return microseconds since 1970 as times in UTC."""
    return pd.to_datetime(values.astype("Int64"), unit="us", utc=True).astype("datetime64[ns, UTC]")


def look_up(keys: pd.Series[Any], table: pd.Series[Any]) -> pd.Series[Any]:
    """Return the value of `table` under each key, or missing. Unlike `map` it keeps the dtype."""
    return table[~table.index.duplicated()].reindex(keys.astype("str").to_numpy()).set_axis(keys.index)


def hours(durations: pd.Series[Any]) -> pd.Series[Any]:
    """Return durations in hours."""
    return durations.astype("timedelta64[ns]").dt.total_seconds() / 3600


def labels(keys: list[str], group: Any) -> dict[str, Any]:
    """Return the values of one group by the columns it was grouped by."""
    return dict(zip(keys, group, strict=True))


def group_rows(frame: pd.DataFrame, keys: list[str]) -> Any:
    """Group a frame by columns; without any, all rows are one group."""
    by: Any = keys or [np.zeros(len(frame))]
    return frame.groupby(by, observed=True, dropna=False)


def groups(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Yield the values and the rows of each group."""
    for group, part in group_rows(frame, keys):
        yield group[: len(keys)], part


def names(by: str | Iterable[str]) -> list[str]:
    """Return the columns to group by as a list."""
    return [by] if isinstance(by, str) else list(by)


def _frames(source: Source) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    return {"events": source}


def _number_tasks(events: pd.DataFrame) -> pd.DataFrame:
    if not {"alloc_id", "task"} <= set(events.columns):
        return events
    keys = events.groupby(["alloc_id", "task"], sort=False, observed=True, dropna=False).ngroup()
    return events.assign(**{TASK: keys.to_numpy()})


def _number_adjacent_tasks(events: pd.DataFrame) -> pd.DataFrame:
    """Number the tasks of a snapshot, whose events stand task by task: comparing neighbours is enough."""
    starts = np.zeros(len(events), dtype=np.int32)
    for name in ("alloc_id", "task"):
        codes = events[name].cat.codes.to_numpy()
        starts[1:] |= codes[1:] != codes[:-1]
    return events.assign(**{TASK: np.cumsum(starts)})


def _in_microseconds(native: Any) -> nw.LazyFrame[Any]:
    """Return a frame with its times also as whole microseconds, under their names with `_us` at the end."""
    if isinstance(native, pd.DataFrame):
        times = [name for name in _TIMES if name in native.columns]
        return nw.from_native(
            native.assign(**{f"{name}_us": _whole_us(native[name]) for name in times})
        ).lazy()
    implementation = nw.from_native(native).implementation
    columns = list(nw.from_native(native).collect_schema().names())
    times = [name for name in _TIMES if name in columns]
    if implementation is nw.Implementation.DUCKDB:
        types = {name: str(type_) for name, type_ in zip(native.columns, native.types, strict=True)}
        # DuckDB has no epoch_us for nanoseconds with a time zone, which Parquet files hold
        cast = {name: "TIMESTAMPTZ" if "Z" in types[name] else types[name] for name in times}
        in_us = ", ".join(f"epoch_us(CAST({name} AS {cast[name]})) AS {name}_us" for name in times)
        native = native.project(f"*, {in_us}") if times else native
    elif implementation is nw.Implementation.PYSPARK:
        native = native.selectExpr("*", *(f"unix_micros({name}) AS {name}_us" for name in times))
    else:
        raise TypeError(f"source must be of pandas, DuckDB or Spark, got {implementation}")
    frame: nw.LazyFrame[Any] = nw.from_native(native).lazy()
    return frame


def _whole_us(times: pd.Series[Any]) -> pd.Series[Any]:
    return (times.astype("int64") // 1000).astype("Int64").mask(times.isna())


def _require_columns(events: nw.LazyFrame[Any]) -> None:
    missing = sorted(_REQUIRED - set(events.collect_schema().names()))
    if missing:
        listed = ", ".join(name.removesuffix("_us") for name in missing)
        raise TypeError(f"the events table lacks the columns {listed}; pass the events of a Snapshot")


_KEYS = {
    "events": ["alloc_id", "task", "seq"],
    "allocations": ["alloc_id"],
    "task_states": ["alloc_id", "task"],
}


def _refuse_duplicates(frames: dict[str, nw.LazyFrame[Any]]) -> None:
    """Raise an error if a table holds a key twice: everything would count twice, and joins multiply it."""
    for name, keys in _KEYS.items():
        frame = frames.get(name)
        if frame is None or not set(keys) <= set(frame.collect_schema().names()):
            continue
        counts = frame.select(*keys).group_by(*keys).agg(nw.len().alias("n")).filter(nw.col("n") > 1)
        twice = collect(counts.head(1))
        if len(twice):
            key = ", ".join(str(value) for value in twice.iloc[0][keys])
            raise ValueError(
                f"{name} must hold each row once, got {key} twice. Do not join the tables of two snapshots; "
                "tables of several clusters need a column 'cluster'"
            )
