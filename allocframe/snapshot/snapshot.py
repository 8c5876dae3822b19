"""One moment of a cluster, as DataFrames, SQL and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from .._utils.csv_file import write_csv
from .._utils.memory import WORTH_RETURNING
from .._utils.progress import Progress, shown
from .._utils.prose import count
from .._utils.text import visible, without_formula
from .._utils.times import to_utc
from ..errors import ConfigError
from ..store.capture import Capture
from ..store.page_store import ISSUES
from ..store.sql import in_sql, where
from ..store.store import Store
from ..tables import HISTORY, SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Table
from .diff import Diff, diff
from .history import History, put_history, take_history
from .summary import BY_STATUS, count_rows, find_span, format_title, list_remarks, render_html


class Snapshot:
    """Every allocation that one fetch found in a cluster, with its tasks and their events.

    Made by `Client.snapshot`, `load`, `read_json` and `Archive.snapshot`. A table is made when it is first
    used, and kept.

    Attributes
    ----------
    allocations, task_states, events, reschedules, resources : pandas.DataFrame
        The tables. Times are in UTC with nanoseconds. A missing value is NA, never 0 or "".
    issues : pandas.DataFrame
        Each value of the wrong type: file, record, field and what was wrong.
    info : dict
        Where the tables come from (server, query, index range, times), whether they are complete, and how
        much is truncated.
    clusters : dict
        The snapshot of each cluster, if there are several; else empty.
    history : History or None
        What changed in the cluster, if it was fetched (``history=True``), recorded or recovered. Several
        clusters have one each.

    Examples
    --------
    >>> import allocframe as af
    >>> with af.sim.Cluster("crash_loop", allocations=40, seed=1) as cluster:
    ...     snap = af.Client(cluster.address, token=cluster.token).snapshot(namespace="*")
    >>> len(snap) == len(snap.allocations)
    True
    """

    clusters: Mapping[str, Snapshot] = MappingProxyType({})
    history: History | None = None
    _declared: ClassVar[Mapping[str, Table]] = {**TABLES, ISSUES.name: ISSUES}
    _derived: Any = None
    """What statistics have computed of this snapshot (`stats._derived`); it lives as long as the snapshot."""

    def __init__(
        self,
        capture: Capture,
        store: Store,
        *,
        conditions: Iterable[tuple[str, Any]] = (),
        schema: str = "main",
    ) -> None:
        self._capture = capture
        self._store = store
        self._schema = schema
        self._conditions = tuple(conditions)

    @cached_property
    def allocations(self) -> pd.DataFrame:
        """One row for each allocation."""
        return self._frame("allocations")

    @cached_property
    def task_states(self) -> pd.DataFrame:
        """One row for each task of each allocation."""
        return self._frame("task_states")

    @cached_property
    def events(self) -> pd.DataFrame:
        """One row for each task event; Nomad keeps the last 10 per task."""
        return self._frame("events")

    @cached_property
    def reschedules(self) -> pd.DataFrame:
        """One row for each reschedule in an allocation's tracker."""
        return self._frame("reschedules")

    @cached_property
    def resources(self) -> pd.DataFrame:
        """One row for each task, and one for what its allocation shares. Fetch with ``resources=True``."""
        return self._frame("resources")

    @cached_property
    def issues(self) -> pd.DataFrame:
        """One row for each value of the wrong type."""
        return self._describe(self._store.issues(), self._declared["issues"])

    @cached_property
    def info(self) -> dict[str, Any]:
        """Where the tables come from and what is missing in them, as plain JSON."""
        counts = self._counts
        tasks, truncated = counts["task_states"], counts["truncated"]
        return {
            **self._capture.info,
            "allocations": len(self),
            "tasks": tasks,
            "tasks_truncated": truncated,
            "truncated_share": truncated / tasks if tasks else None,
            "issues": len(self.issues),
            "filtered": [[column, value] for column, value in self._conditions],
        }

    def sql(self, query: str, *, allow_files: bool = False) -> pd.DataFrame:
        """Answer a SELECT over the tables `allocations`, `task_states`, `events`, `reschedules`, `resources`.

        Parameters
        ----------
        query : str
            One SELECT in DuckDB's SQL. Times are TIMESTAMP_NS in UTC, durations whole nanoseconds.
        allow_files : bool
            The query may also read files and URLs, and write files. Only for queries that you wrote yourself.

        Examples
        --------
        >>> restarting = "SELECT job_id, count(*) AS n FROM events WHERE type = 'Restarting' GROUP BY ALL"
        >>> snap.sql(restarting)["n"].sum() == (snap.events["type"] == "Restarting").sum()
        np.True_
        """
        return self._store.query(query, self._schema, allow_files=allow_files)

    def filter(self, **columns: Any) -> Snapshot:
        """Return a snapshot of only those allocations that have the given values.

        Parameters
        ----------
        **columns
            A column of `allocations` and its value, or several values (a list, array or column) of which one
            must match. None matches what is missing. Each run of a periodic or parameterized job has its own
            job ID: filter by ``parent_job_id`` for all of them.

        Raises
        ------
        ValueError
            The table has no such column, or the value of a time column is not a time.

        Examples
        --------
        >>> failed = snap.filter(client_status=["failed", "lost"])
        >>> set(failed.allocations["client_status"]) <= {"failed", "lost"}
        True
        """
        declared = {column.name: column for column in self._declared["allocations"].columns}
        for name in columns:
            if name not in declared:
                raise ValueError(f"allocations has no column {name!r}; it has: {', '.join(sorted(declared))}")
        plain = {name: _plain_values(value, declared[name]) for name, value in columns.items()}
        schema = self._store.narrow(self._schema, plain.items())
        conditions = (*self._conditions, *plain.items())
        filtered = Snapshot(self._capture, self._store, conditions=conditions, schema=schema)
        filtered.history = self.history
        return filtered

    def diff(self, other: Snapshot) -> Diff:
        """Return what changed from this snapshot to a later one of the same cluster.

        Both may be live, loaded or from an archive. Only allocations with another ModifyIndex are compared,
        so few changes cost little.

        Returns
        -------
        Diff
            The DataFrames `added`, `removed`, `changed` (column, before, after), `new_events` and `missing`
            (tasks that lost events between the two), and `notes` on what makes the two hard to compare.

        Examples
        --------
        >>> earlier = af.load(snap.save("before.allocframe"))
        >>> earlier.diff(snap).changed.empty
        True
        """
        if self.clusters or other.clusters:
            raise ConfigError("diff must compare snapshots of one cluster. Choose one from .clusters")
        return diff(self, other)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the evidence to one compressed file: Nomad's answers as sent, and the queries.

        `load` gives the same tables. A filtered snapshot is saved with all of its pages and its filter. A
        snapshot from an archive or a watch has no answers as sent; its tables are saved instead, as is a
        `history`.

        Examples
        --------
        >>> af.load(snap.save("outage.allocframe")).events.equals(snap.events)
        True
        """
        if not self._capture.pages:
            self._store.save(self._capture)
        self._capture.describe(filters=[[column, value] for column, value in self._conditions])
        if self.history is None:
            return self._capture.save(path)
        put_history(self._capture, self.history)
        try:
            return self._capture.save(path)
        finally:
            take_history(self._capture)  # these pages are not answers of Nomad

    def to_parquet(self, folder: str | os.PathLike[str]) -> Path:
        """Write each table as a Parquet file, and ``info.json``, to `folder`.

        Examples
        --------
        >>> sorted(path.name for path in snap.to_parquet("outage.parquet").glob("a*"))
        ['allocations.parquet']
        """
        target = self._make_folder(folder)
        for name, frame in self._iter_tables():
            frame.to_parquet(target / f"{name}.parquet", index=False)
        return _protect(target)

    def to_csv(self, folder: str | os.PathLike[str], *, safe: bool = True, progress: Progress = None) -> Path:
        """Write each table as a CSV file, and ``info.json``, to `folder`.

        Parameters
        ----------
        safe : bool
            Put an apostrophe before text that a spreadsheet would run as a formula.
        progress : bool or callable, optional
            Whether to show which table is being written; by default after a second, on a terminal or in a
            notebook. A function is called with the number of tables that are written and of all.

        Examples
        --------
        >>> sorted(path.name for path in snap.to_csv("outage.csv").glob("e*"))
        ['events.csv']
        """
        target = self._make_folder(folder)
        with shown(progress) as show:
            total = len(SNAPSHOT_TABLES) + 1 + (0 if self.history is None else len(HISTORY))
            for number, (name, frame) in enumerate(self._iter_tables()):
                show(number, total, f"writing {name}")
                written = frame.apply(without_formula) if safe and len(frame) else frame
                write_csv(written, target / f"{name}.csv")
        return _protect(target)

    def _make_folder(self, folder: str | os.PathLike[str]) -> Path:
        target = Path(folder)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(mode=0o700)  # evidence holds names and messages
        (target / "info.json").write_text(json.dumps(self.info, indent=1), encoding="utf-8")
        return target

    def _iter_tables(self) -> Iterable[tuple[str, pd.DataFrame]]:
        for name in SNAPSHOT_TABLES:
            yield name, getattr(self, name)
        yield "issues", self.issues
        if self.history is not None:
            for name in HISTORY:
                yield name, getattr(self.history, name)

    def close(self) -> None:
        """Close the database and remove temporary files. Tables that were already used stay."""
        self._store.close()
        self._capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._capture.keep()
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Snapshot cannot be pickled or copied: it holds a database. Save it with snap.save(path), and "
            "open that file with af.load(path). Its DataFrames can be pickled"
        )

    def __len__(self) -> int:
        return self._counts["allocations"]

    def __repr__(self) -> str:
        return "\n".join([f"<Snapshot: {self._title()}>", *(f"  {line}" for line in self._remarks())])

    def _repr_html_(self) -> str:
        return render_html(self._title(), self.sql(BY_STATUS), self._remarks())

    # The rest is for statistics, comparisons and the archive.

    def _frame(self, name: str) -> pd.DataFrame:
        return self._describe(self._store.frame(name, self._schema), self._declared[name])

    def _describe(self, frame: pd.DataFrame, table: Table) -> pd.DataFrame:
        """Note in a frame's attributes what it is and where it comes from."""
        frame.attrs = {
            "table": table.name,
            "key": list(table.key),
            "filtered": [[column, value] for column, value in self._conditions],
            "from": self._capture.info,
        }
        return frame

    @cached_property
    def _counts(self) -> dict[str, int]:
        """The number of rows, by table. Counting is far cheaper than making the tables of a large cluster."""
        return count_rows(self._store, self._schema)

    @cached_property
    def _span(self) -> tuple[pd.Timestamp, pd.Timestamp]:
        """The first and the last time of an event."""
        return find_span(self._store, self._schema)

    def _select(self, name: str, columns: tuple[Column, ...]) -> pd.DataFrame:
        """Return only `columns`, made from those of a table; statistics need far less than all of it."""
        return self._store.frame(name, self._schema, columns)

    def _select_parts(
        self, name: str, columns: tuple[Column, ...], rows: int
    ) -> Iterator[tuple[pd.DataFrame, np.ndarray[Any, Any]]]:
        """Yield `columns` of a table in parts of whole allocations, and each row's place by creation."""
        return self._store.parts(name, self._schema, columns, rows)

    def _events_at(self, places: np.ndarray[Any, Any], keys: pd.DataFrame) -> pd.DataFrame:
        """Return the events at `places` of the table, which have `keys`.

        If the table is large and was not made yet, only these rows are made.
        """
        if "events" in self.__dict__ or self._counts["events"] <= WORTH_RETURNING:
            return self.events.iloc[places].reset_index(drop=True)
        keys = pd.DataFrame({name: keys[name].astype("str") for name in keys}).astype({"seq": "int64"})
        rows = self._store.frame(
            "events", self._schema, only=pa.Table.from_pandas(keys, preserve_index=False)
        )
        # The store yields them in its own order.
        order = pd.MultiIndex.from_frame(rows[list(keys)].astype("str")).get_indexer(
            pd.MultiIndex.from_frame(keys.astype("str"))
        )
        return self._describe(rows.iloc[order].reset_index(drop=True), self._declared["events"])

    def _modify_indexes(self) -> pd.Series[Any]:
        """Return the ModifyIndex of each allocation, by its ID."""
        rows = self._store.query(
            "SELECT alloc_id, modify_index FROM allocations WHERE alloc_id IS NOT NULL", self._schema
        )
        return rows.drop_duplicates("alloc_id").set_index("alloc_id")["modify_index"]

    def _rows_by_id(self, name: str, ids: Iterable[str]) -> pd.DataFrame:
        """Return a table's rows of these allocations."""
        keys = pa.table({"alloc_id": pa.array(ids, pa.string())})
        return self._describe(self._store.frame(name, self._schema, only=keys), self._declared[name])

    def _iter_parts(self, names: Iterable[str], size: int) -> Iterator[dict[str, pd.DataFrame]]:
        """Yield the named tables for `size` allocations at a time."""
        for schema in self._store.split(self._schema, size):
            yield {name: self._store.frame(name, schema) for name in names}

    def _title(self) -> str:
        return format_title(self._counts)

    def _remarks(self) -> list[str]:
        first, last = self._span
        history = [] if self.history is None else self.history.describe()
        return [*list_remarks(self.info, first, last, self._conditions), *history, *self._hint_at_runs()]

    def _hint_at_runs(self) -> Iterator[str]:
        """Point to the runs of a periodic or parameterized job, if the filter asked for the job itself."""
        jobs = [value for column, value in self._conditions if column == "job_id"]
        if not jobs or len(self):
            return
        conditions = [
            ("parent_job_id" if name == "job_id" else name, value) for name, value in self._conditions
        ]
        query = f"SELECT count(*) AS n FROM allocations WHERE {where(conditions)}"
        if runs := int(self._store.query(query, "main")["n"].iloc[0]):
            job = visible(repr(jobs[-1]))
            yield f"{count(runs, 'allocations')} in runs of that job: use filter(parent_job_id={job})"


def _plain_values(value: Any, column: Column) -> Any:
    """Return a value of a filter, or a list of values, as JSON holds it."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain_values(item, column) for item in value]
    if pd.isna(value):
        return None
    if column.kind == "time":
        return in_sql(to_utc(value, column.name))
    return value.item() if hasattr(value, "item") else value


def _protect(folder: Path) -> Path:
    """Make the files of a private folder private, too: somebody may move them."""
    if not folder.stat().st_mode & 0o077:
        for file in folder.iterdir():
            file.chmod(0o600)
    return folder
