"""What a statistic takes: a Snapshot, a DataFrame of events, or a mapping of tables, of pandas, DuckDB or another engine.

This is the one place that knows engines apart. Everything above works on narwhals frames whose times are
whole microseconds since 1970, because no engine but pandas keeps nanoseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
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
    return tuple(replace(column, sql=column.name) for column in TABLES[table].columns if column.name in names)


TASK = "task_key"
"""One whole number for each task of each allocation, or its two names where the engine has no cheap number."""

_OOM = """CASE WHEN type = 'Terminated' THEN oom_killed OR details LIKE '%"exit_message":"OOM Killed"%' END"""
_NEEDED: dict[str, tuple[Column, ...]] = {
    "events": (
        *_columns("events", "task", "seq", "time", "type", "exit_code", "signal", "restart_reason"),
        *_columns("events", "namespace", "job_id", "job_version", "task_group", "node_name"),
        Column("alloc_id", "alloc_id", "category", "the allocation"),
        Column(
            "message", "CASE WHEN type = 'Restart Signaled' THEN message END", "category", "who asked for it"
        ),
        Column("oom_killed", _OOM, "bool", "the driver says so, in its flag or its exit message"),
    ),
    "allocations": _columns(
        "allocations",
        "alloc_id",
        "name",
        "node_id",
        "job_type",
        "client_status",
        "desired_status",
        "modified_at",
    ),
    "task_states": _columns(
        "task_states", "alloc_id", "task", "state", "restarts", "started_at", "finished_at"
    ),
}
"""What is read of a snapshot's tables; what only names a row is in categories."""

_TIMES = ("time", "created_at", "modified_at", "started_at", "finished_at")


@dataclass(frozen=True)
class Tables:
    """The tables of one source; `observed_us` is the moment up to which they tell."""

    events: nw.LazyFrame[Any]
    allocations: nw.LazyFrame[Any] | None
    task_states: nw.LazyFrame[Any] | None
    observed_us: int
    eager: bool
    narrow: bool = False
    """Whether they were made for statistics alone, so that what has been read of them may be let go."""

    @property
    def task(self) -> list[str]:
        """The columns that name one task of one allocation."""
        return [TASK] if self.eager else ["alloc_id", "task"]


def tables(source: Source, observed_at: pd.Timestamp | str | None = None) -> Tables:
    """Return the tables of `source`.

    Raises
    ------
    TypeError
        There is no events table in it, or a column is missing.
    """
    narrow = isinstance(source, Snapshot)
    frames = _narrowed(source) if narrow else _given(source)
    events = frames.get("events")
    if events is None:
        raise TypeError("give a Snapshot, an events table, or a mapping with the key 'events'")
    native = isinstance(events, pd.DataFrame)
    if narrow:
        events = _numbered(events)
    elif native:
        events = _keyed(events)
    lazy = {name: _lazy(frame) for name, frame in {**frames, "events": events}.items() if frame is not None}
    _check(lazy["events"])
    return Tables(
        lazy["events"],
        lazy.get("allocations"),
        lazy.get("task_states"),
        _observed(source, observed_at, lazy),
        native,
        narrow,
    )


def pandas_table(source: Source, name: str, *columns: str) -> pd.DataFrame:
    """Return one table of `source` as a pandas DataFrame; of a snapshot only `columns`, where they are named."""
    if isinstance(source, Snapshot):
        return source._select(name, _columns(name, *columns)) if columns else getattr(source, name)
    frame = _given(source).get(name)
    if frame is None:
        raise TypeError(f"this needs the {name} table: give a Snapshot, or a mapping with the key {name!r}")
    return frame if isinstance(frame, pd.DataFrame) else collected(nw.from_native(frame).lazy())


def has_table(source: Source, name: str) -> bool:
    """Return whether `source` holds a table."""
    return isinstance(source, Snapshot) or _given(source).get(name) is not None


def collected(frame: nw.LazyFrame[Any]) -> pd.DataFrame:
    """Return the rows of a lazy frame; Spark's by Arrow, since its own way to pandas lags behind pandas' versions."""
    if frame.implementation is nw.Implementation.PYSPARK:
        return frame.collect(backend="pyarrow").to_pandas()
    found: pd.DataFrame = frame.collect(backend="pandas").to_native()
    return found


def us(moment: pd.Timestamp | str) -> int:
    """Return a moment as microseconds since 1970; without an offset it is UTC."""
    return int(to_utc(moment).value // 1000)


def moment(value: Any) -> pd.Timestamp:
    """Return microseconds since 1970 as a time in UTC, NaT for none."""
    return pd.NaT if pd.isna(value) else pd.Timestamp(int(value), unit="us", tz="UTC")  # type: ignore[return-value]


def moments(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return microseconds since 1970 as times in UTC."""
    return pd.to_datetime(values.astype("Int64"), unit="us", utc=True).astype("datetime64[ns, UTC]")


def looked_up(keys: pd.Series[Any], table: pd.Series[Any]) -> pd.Series[Any]:
    """Return, for each key, the value that `table` holds under it; missing where it has none. Unlike `map`, it keeps the dtype."""
    return table[~table.index.duplicated()].reindex(keys.astype("str").to_numpy()).set_axis(keys.index)


def hours(durations: pd.Series[Any]) -> pd.Series[Any]:
    """Return durations in hours."""
    return durations.astype("timedelta64[ns]").dt.total_seconds() / 3600


def labels(keys: list[str], group: Any) -> dict[str, Any]:
    """Return what pandas says of one group, by its columns."""
    return dict(zip(keys, group, strict=True))


def grouped(frame: pd.DataFrame, keys: list[str]) -> Any:
    """Return the groups of a frame by its columns; by none, all rows are one group."""
    by: Any = keys or [np.zeros(len(frame))]
    return frame.groupby(by, observed=True, dropna=False)


def groups(frame: pd.DataFrame, keys: list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Yield what each group has in the columns, and its rows."""
    for group, part in grouped(frame, keys):
        yield group[: len(keys)], part


def names(by: str | Iterable[str]) -> list[str]:
    """Return the columns to group by as a list."""
    return [by] if isinstance(by, str) else list(by)


def _narrowed(snapshot: Snapshot) -> dict[str, Any]:
    """Return of each table what statistics need, which is a fraction of it: most of its memory is text that they do not read."""
    return {name: snapshot._select(name, columns) for name, columns in _NEEDED.items()}


def _given(source: Source) -> dict[str, Any]:
    if isinstance(source, Mapping):
        return dict(source)
    return {"events": source}


def _keyed(events: pd.DataFrame) -> pd.DataFrame:
    if not {"alloc_id", "task"} <= set(events.columns):
        return events
    keys = events.groupby(["alloc_id", "task"], sort=False, observed=True, dropna=False).ngroup()
    return events.assign(**{TASK: keys.to_numpy()})


def _numbered(events: pd.DataFrame) -> pd.DataFrame:
    """Number the tasks of a snapshot, whose events stand together."""
    parts = [events[name].cat.codes.to_numpy() for name in ("alloc_id", "task")]
    begins = np.zeros(len(events), dtype=np.int32)
    for codes in parts:
        begins[1:] |= codes[1:] != codes[:-1]
    return events.assign(**{TASK: np.cumsum(begins)})


def _lazy(native: Any) -> nw.LazyFrame[Any]:
    """Return a frame whose times are whole microseconds, under the same names with `_us` at the end."""
    if isinstance(native, pd.DataFrame):
        present = [name for name in _TIMES if name in native.columns]
        whole = {f"{name}_us": _whole(native[name]) for name in present}
        return nw.from_native(native.assign(**whole)).lazy()
    implementation = nw.from_native(native).implementation
    columns = list(nw.from_native(native).collect_schema().names())
    present = [name for name in _TIMES if name in columns]
    if implementation is nw.Implementation.DUCKDB:
        kinds = {name: str(kind) for name, kind in zip(native.columns, native.types, strict=True)}
        # of nanoseconds with a time zone, as Parquet files have them, DuckDB knows no epoch_us
        cast = {name: "TIMESTAMPTZ" if "Z" in kinds[name] else kinds[name] for name in present}
        more = ", ".join(f"epoch_us(CAST({name} AS {cast[name]})) AS {name}_us" for name in present)
        native = native.project(f"*, {more}") if present else native
    elif implementation is nw.Implementation.PYSPARK:
        native = native.selectExpr("*", *(f"unix_micros({name}) AS {name}_us" for name in present))
    else:
        raise TypeError(f"{implementation} is not supported: give pandas, DuckDB or Spark")
    made: nw.LazyFrame[Any] = nw.from_native(native).lazy()
    return made


def _whole(times: pd.Series[Any]) -> pd.Series[Any]:
    return (times.astype("int64") // 1000).astype("Int64").mask(times.isna())


def _check(events: nw.LazyFrame[Any]) -> None:
    needed = {
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
    missing = sorted(needed - set(events.collect_schema().names()))
    if missing:
        said = ", ".join(name.removesuffix("_us") for name in missing)
        raise TypeError(f"the events table lacks the columns {said}; give the one of a Snapshot")


def _observed(source: Source, given: pd.Timestamp | str | None, lazy: dict[str, nw.LazyFrame[Any]]) -> int:
    """Return the moment up to which the tables tell: as given, when fetched, or the last time in them."""
    if given is not None:
        return us(given)
    if isinstance(source, Snapshot) and source.info.get("finished_at"):
        return us(source.info["finished_at"])
    latest: list[Any] = [collected(lazy["events"].select(nw.col("time_us").max())).iloc[0, 0]]
    if "allocations" in lazy:
        latest.append(collected(lazy["allocations"].select(nw.col("modified_at_us").max())).iloc[0, 0])
    known = [int(value) for value in latest if not pd.isna(value)]
    return max(known, default=0)
