"""What a statistic takes: a Snapshot, a DataFrame of events, or a mapping of tables.

This is the one place that tells engines (pandas, DuckDB, Spark) apart. The code above it works on narwhals
frames whose times are whole microseconds since 1970, because pandas alone keeps nanoseconds.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeAlias

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .._utils.times import to_utc
from ..snapshot.snapshot import Snapshot
from ..tables import TABLES
from ..tables.table import Column
from . import vocabulary

Array: TypeAlias = np.ndarray[Any, Any]

Source: TypeAlias = Any
"""A `Snapshot`; the events table as a DataFrame of any engine; or a mapping of table names to such frames."""


def _columns(table: str, *names: str) -> tuple[Column, ...]:
    return tuple(
        replace(column, source=column.name) for column in TABLES[table].columns if column.name in names
    )


TASK = "task_key"
"""Column that numbers the tasks of allocations in pandas: cheaper to group by than two texts."""

NS = "ns"
"""Column with the nanoseconds of a snapshot's times beyond whole microseconds."""

_OOM = f"CASE WHEN type = 'Terminated' THEN oom_killed OR details LIKE '%{vocabulary.OOM_DETAIL}%' END"
_MESSAGE = f"""CASE WHEN type IN ('Restart Signaled', 'Setup Failure', 'Task hook failed')
  OR type IN ('Killing', 'Killed') AND (fails_task OR message = '{vocabulary.RUN_DURATION}')
  THEN message END"""
_ALLOC_ID = Column("alloc_id", "alloc_id", "text", "the allocation")
_NEEDED: dict[str, tuple[Column, ...]] = {
    "events": (
        *_columns("events", "task", "seq", "time", "type", "exit_code", "signal", "restart_reason"),
        *_columns("events", "namespace", "job_id", "job_version", "task_group", "node_name"),
        Column("message", _MESSAGE, "category", "who asked for it, or why it was killed or did not start"),
        *_columns("events", "task_signal"),
        Column("fails_task", "fails_task", "bool", "whether this event fails the task"),
        Column("oom_killed", _OOM, "bool", "whether the driver reports it, by its flag or its exit message"),
    ),
    "allocations": _columns(
        "allocations",
        "node_id",
        "parent_job_id",
        "job_type",
        "client_status",
        "desired_status",
        "created_at",
        "modified_at",
    ),
    "task_states": _columns("task_states", "task", "state", "restarts", "started_at", "finished_at"),
}
"""Columns read from a snapshot. Most of a snapshot's memory is text that no statistic reads.

Columns that only name a row are categories, which take a byte or two per row. The IDs of allocations come
from their places, see `_all_ids`.
"""

_TIMES = ("time", "created_at", "modified_at", "started_at", "finished_at")
FETCHED_ROWS = 1_000_000
"""Up to this many events are fetched from DuckDB or Spark and computed on here. For more, the engine does it.

For fewer, an engine takes longer to plan the queries than pandas to answer them, and plans them again for
each result.
"""

_NULLABLE = {
    pa.int32(): pd.Int64Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}
"""Dtypes that keep whole numbers whole where some are missing."""

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
    fetch : bool
        Fetch small tables of DuckDB or Spark. Otherwise they stay in their engine, whatever their size.

    Raises
    ------
    TypeError
        There is no events table, it lacks a column, or its engine is not supported.
    ValueError
        A table holds a row twice, as after joining two snapshots.
    """

    def __init__(self, source: Source, *, fetch: bool = True) -> None:
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
        lazy = {name: _in_microseconds(frame) for name, frame in frames.items() if frame is not None}
        _require_columns(lazy["events"])
        if fetch and not isinstance(events, pd.DataFrame) and _is_small(lazy["events"]):
            lazy = {name: _fetch(lazy[name], name) for name in _NEEDED if name in lazy}
        self.eager = lazy["events"].implementation is nw.Implementation.PANDAS
        self._frames = lazy
        _refuse_duplicates(self._frames)
        if self.eager:
            self._frames["events"] = _number_tasks(lazy["events"].collect().to_native())

    @property
    def from_snapshot(self) -> bool:
        """Whether the tables come from a snapshot: only then is memory freed on the way."""
        return self._snapshot is not None

    @property
    def task_columns(self) -> list[str]:
        """The columns that identify one task of one allocation."""
        return [TASK] if self.eager else ["alloc_id", "task"]

    @property
    def all_ids(self) -> pd.Index[Any] | None:
        """The IDs of the allocations of a snapshot, which are the categories of all its tables."""
        return None if self._snapshot is None else self._all_ids[0].categories

    @property
    def fetched_us(self) -> int | None:
        """When the snapshot was fetched, if that is known."""
        snapshot = self._snapshot() if self._snapshot else None
        # not `info`, which counts the rows, too
        finished_at = snapshot._capture.info.get("finished_at") if snapshot is not None else None
        return us(finished_at) if finished_at else None

    def read(self, name: str) -> nw.LazyFrame[Any] | None:
        """Return one table, or None if the source has none of that name.

        The events of a snapshot come in parts alone, see `read_event_parts`.
        """
        if self._snapshot is None:
            return self._frames.get(name)
        parts = self.snapshot._select_parts(name, _NEEDED[name], sys.maxsize)
        frame, places = next(parts)
        frame["alloc_id"] = self._ids_at(places)
        return _in_microseconds(frame)

    def read_event_parts(self, rows: int) -> Iterator[tuple[pd.DataFrame, Array]]:
        """Yield the events of a snapshot in parts of about `rows` rows that split no task.

        In each part the tasks are numbered. With it comes, for each task, its allocation's place by creation.
        """
        count = 0
        for frame, places in self.snapshot._select_parts("events", _NEEDED["events"], rows):
            # tasks are together in their allocation, so comparing neighbours is enough
            begins = np.ones(len(frame), dtype=bool)
            tasks = frame["task"].cat.codes.to_numpy()
            begins[1:] = (tasks[1:] != tasks[:-1]) | (places[1:] != places[:-1])
            numbers = np.cumsum(begins, dtype=np.int32) + np.int32(count - 1)
            count += int(begins.sum())
            frame[TASK] = numbers
            frame["alloc_id"] = self._ids_at(places)
            frame[NS] = (frame["time"].astype("int64") % 1000).astype("int16")
            yield _with_microseconds(frame), places[begins]

    @cached_property
    def _all_ids(self) -> tuple[Any, Array]:
        """The categories of all allocations' IDs, and the number of the ID at each place by creation."""
        snapshot = self.snapshot
        rows, places = next(snapshot._select_parts("allocations", (_ALLOC_ID,), sys.maxsize))
        different: Any = pc.unique(_as_text(rows["alloc_id"]).drop_null())
        texts = different.take(pc.array_sort_indices(different))
        codes = np.full(int(places.max(initial=-1)) + 1, -1, dtype=np.int32)
        codes[places] = find_texts(rows["alloc_id"], texts)[:-1]
        ids = pd.Index(_ALLOC_ID.array(pa.chunked_array([texts])))
        # they are known to differ: to check it, pandas would make an object of each, and keep them all
        make_dtype: Any = getattr(pd.CategoricalDtype, "_from_fastpath", pd.CategoricalDtype)
        return make_dtype(ids), codes

    def _ids_at(self, places: Array) -> pd.Categorical:
        """Return the IDs of the allocations at these places by creation: each text is kept once."""
        all_ids, codes = self._all_ids
        return pd.Categorical.from_codes(codes[places], dtype=all_ids, validate=False)

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot that the tables come from."""
        snapshot = self._snapshot() if self._snapshot else None
        if snapshot is None:
            raise ReferenceError("the snapshot of these statistics is gone")
        return snapshot


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


def of_pandas(source: Source) -> bool:
    """Return whether `source` holds a table of events that is a DataFrame of pandas."""
    return isinstance(_frames(source).get("events"), pd.DataFrame)


def column_names(frame: Any) -> list[str]:
    """Return the columns of a frame of any engine, or of narwhals."""
    # narwhals would ask DuckDB for the types, too, and each time for its time zone
    native = frame.to_native() if isinstance(frame, nw.LazyFrame) else frame
    return [str(name) for name in native.columns]


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


def exact_times(rows: pd.DataFrame) -> pd.Series[Any]:
    """Return the times of events, with nanoseconds if the rows have them."""
    ns = rows["time_us"].astype("Int64") * 1000 + (rows[NS].astype("Int64") if NS in rows else 0)
    return pd.to_datetime(ns, unit="ns", utc=True).astype("datetime64[ns, UTC]")


def look_up(keys: pd.Series[Any], table: pd.Series[Any]) -> pd.Series[Any]:
    """Return the first value of `table` under each key, or missing. Unlike `map` it keeps the dtype."""
    if isinstance(keys.dtype, pd.CategoricalDtype) and keys.cat.categories.array is table.index.array:
        places = keys.cat.codes.to_numpy()  # both have the IDs of all allocations
    elif isinstance(keys.dtype, pd.CategoricalDtype):
        places = find_texts(keys.cat.categories, table.index)[keys.cat.codes.to_numpy()]
    else:
        places = find_texts(keys.astype("str"), table.index)[:-1]
    return table.reset_index(drop=True).reindex(places).set_axis(keys.index)


def take_rows(frame: pd.DataFrame, order: Array, columns: Iterable[Any] = ()) -> pd.DataFrame:
    """Return columns (default: all) of rows in another order, taken out of `frame` one by one.

    So one of them at most is in memory twice.
    """
    names = list(map(str, columns or frame))
    return pd.DataFrame({name: frame.pop(name).array.take(order) for name in names}, copy=False)


def find_texts(texts: Any, among: Any) -> Array:
    """Return the place of each text, and last that of a missing one; -1 if it is not there.

    pandas would make an object of each text and keep them all with the index.
    """
    known = _as_text(among)
    places: Any = pc.index_in(_as_text(texts), value_set=known)
    of_missing = pc.index(known.is_null(), True).as_py() if known.null_count else -1
    found: Array = np.append(places.fill_null(-1).to_numpy(), np.int32(of_missing))
    return found


def are_among(texts: pd.Series[Any], others: Any) -> Array:
    """Return which texts are among others, that are known.

    `Series.isin` of pandas takes forty times as long for texts. For categories, it makes an object of each,
    and keeps them all.
    """
    if isinstance(texts.dtype, pd.CategoricalDtype):
        return np.asarray(find_texts(texts.cat.categories, others)[texts.cat.codes.to_numpy()] >= 0)
    return np.asarray(find_texts(texts.astype("str"), others)[:-1] >= 0)


def rank_texts(texts: pd.Series[Any]) -> Array:
    """Return the place of each text in the alphabet of the different ones; -1 for a missing one.

    pandas would make an object of each text to sort them.
    """
    encoded: Any = pc.dictionary_encode(_as_text(texts.astype("str")))
    one: Any = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    rank = np.full(len(one.dictionary) + 1, -1, dtype=np.int32)
    rank[pc.array_sort_indices(one.dictionary).to_numpy()] = np.arange(len(one.dictionary))
    found: Array = rank[one.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return found


def _as_text(texts: Any) -> Any:
    values: Any = pa.array(texts, from_pandas=True)
    return values.cast(pa.large_string())


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


def _number_tasks(events: pd.DataFrame) -> nw.LazyFrame[Any]:
    keys = events.groupby(["alloc_id", "task"], sort=False, observed=True, dropna=False).ngroup()
    frame: nw.LazyFrame[Any] = nw.from_native(events.assign(**{TASK: keys.to_numpy()})).lazy()
    return frame


def _with_microseconds(frame: pd.DataFrame) -> pd.DataFrame:
    times = [name for name in _TIMES if name in frame.columns]
    return frame.assign(**{f"{name}_us": _whole_us(frame[name]) for name in times})


def _in_microseconds(native: Any) -> nw.LazyFrame[Any]:
    """Return a frame with its times also as whole microseconds, under their names with `_us` at the end."""
    if isinstance(native, pd.DataFrame):
        return nw.from_native(_with_microseconds(native)).lazy()
    implementation = nw.from_native(native).implementation
    columns = column_names(native)
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


def _is_small(events: nw.LazyFrame[Any]) -> bool:
    return int(collect(events.select(nw.len().alias("rows")))["rows"].iloc[0]) <= FETCHED_ROWS


def _fetch(frame: nw.LazyFrame[Any], table: str) -> nw.LazyFrame[Any]:
    """Return those columns of a table in another engine that statistics need, as a frame of pandas."""
    have = set(column_names(frame))
    if "details" in have:
        in_message = nw.col("details").str.contains(vocabulary.OOM_DETAIL, literal=True)
        flag = nw.col("oom_killed").fill_null(value=False) | in_message.fill_null(value=False)
        frame = frame.with_columns(oom_killed=flag)
    columns = {
        f"{column.name}_us" if column.name in _TIMES else column.name: column
        for column in (_ALLOC_ID, *_NEEDED[table])
    }
    rows: Any = (
        frame.select(*(name for name in columns if name in have)).collect(backend="pyarrow").to_native()
    )
    found: pd.DataFrame = rows.to_pandas(types_mapper=_NULLABLE.get)
    repeated = [name for name, column in columns.items() if column.kind == "category" and name in found]
    fetched: nw.LazyFrame[Any] = nw.from_native(found.astype(dict.fromkeys(repeated, "category"))).lazy()
    return fetched


def _whole_us(times: pd.Series[Any]) -> pd.Series[Any]:
    return (times.astype("int64") // 1000).astype("Int64").mask(times.isna())


def _require_columns(events: nw.LazyFrame[Any]) -> None:
    missing = sorted(_REQUIRED - set(column_names(events)))
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
        if frame is None or not set(keys) <= set(column_names(frame)):
            continue
        if frame.implementation is nw.Implementation.PANDAS:
            rows = frame.collect().to_native()
            twice = rows[rows.duplicated(keys)].head(1)
        else:
            counts = frame.select(*keys).group_by(*keys).agg(nw.len().alias("n")).filter(nw.col("n") > 1)
            twice = collect(counts.head(1))
        if len(twice):
            key = ", ".join(str(value) for value in twice.iloc[0][keys])
            raise ValueError(
                f"{name} must hold each row once, got {key} twice. Do not join the tables of two snapshots; "
                "tables of several clusters need a column 'cluster'"
            )
