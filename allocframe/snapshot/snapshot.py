"""One moment of a cluster, as DataFrames, SQL and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import pyarrow as pa

from .._utils.memory import LARGE
from .._utils.text import without_formula
from ..errors import ConfigError
from ..store.capture import Capture
from ..store.page_store import ISSUES
from ..store.table_store import Kept
from ..tables import SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Table, Tables
from .summary import BY_STATUS, COUNTS, SPAN, as_html, remarks, title

if TYPE_CHECKING:
    from .diff import Diff


class Parts:
    """What a snapshot's methods and statistics ask of its tables."""

    _capture: Capture
    _conditions: tuple[tuple[str, Any], ...]
    _derived: Any = None
    """What statistics have computed of this snapshot (stats/_derived.py), kept as long as it is."""
    _declared: ClassVar[Mapping[str, Table]] = TABLES

    def __init__(self, store: Tables, schema: str) -> None:
        self._store = store
        self._schema = schema

    if TYPE_CHECKING:

        @property
        def events(self) -> pd.DataFrame: ...

    def _frame(self, name: str) -> pd.DataFrame:
        return self._described(self._store.frame(name, self._schema), self._declared[name])

    def _described(self, frame: pd.DataFrame, table: Table) -> pd.DataFrame:
        frame.attrs = {
            "table": table.name,
            "key": list(table.key),
            "filtered": [[column, value] for column, value in self._conditions],
            "from": self._capture.info,
        }
        return frame

    @cached_property
    def _counts(self) -> dict[str, int]:
        """How many rows there are; counted, because the tables of a large cluster take far longer to make."""
        found = self._store.query(COUNTS, self._schema)
        return {str(name): int(found[name].iloc[0]) for name in found}

    def _narrowed(self, name: str, columns: tuple[Column, ...]) -> pd.DataFrame:
        """Return what SQL makes of a table's columns, row by row: for statistics, which need far less than all of it."""
        return self._store.frame(name, self._schema, columns)

    def _events_at(self, places: np.ndarray[Any, Any], keys: pd.DataFrame) -> pd.DataFrame:
        """Return the events at these places of the table, which have these keys; of a large table it makes no other rows."""
        if "events" in self.__dict__ or self._counts["events"] <= LARGE:
            return self.events.iloc[places].reset_index(drop=True)
        wanted = pd.DataFrame({name: keys[name].astype("str") for name in keys}).astype({"seq": "int64"})
        found = self._store.frame(
            "events", self._schema, only=pa.Table.from_pandas(wanted, preserve_index=False)
        )
        order = pd.MultiIndex.from_frame(found[list(wanted)].astype("str")).get_indexer(
            pd.MultiIndex.from_frame(wanted.astype("str"))
        )
        return self._described(found.iloc[order].reset_index(drop=True), self._declared["events"])

    def _indexes(self) -> pd.Series[Any]:
        """Return the ModifyIndex of each allocation, by its ID."""
        found = self._store.query(
            "SELECT alloc_id, modify_index FROM allocations WHERE alloc_id IS NOT NULL", self._schema
        )
        return found.drop_duplicates("alloc_id").set_index("alloc_id")["modify_index"]

    def _rows_of(self, name: str, ids: Iterable[str]) -> pd.DataFrame:
        """Return the rows of a table that belong to these allocations."""
        wanted = pa.table({"alloc_id": pa.array(ids, pa.string())})
        return self._described(self._store.frame(name, self._schema, only=wanted), self._declared[name])

    def _in_parts(self, names: Iterable[str], size: int) -> Iterator[dict[str, pd.DataFrame]]:
        """Yield these tables for so many allocations at a time."""
        for schema in self._store.split(self._schema, size):
            yield {name: self._store.frame(name, schema) for name in names}


class Snapshot(Parts):
    """Every allocation that one walk over a cluster found, and what became of their tasks.

    Made by `Client.snapshot`, `load`, `read_json` and `Archive.snapshot`. Frames are made when first asked for, and kept.

    Attributes
    ----------
    allocations, task_states, events, reschedules, resources : pandas.DataFrame
        The tables. Times are UTC with nanoseconds; what is missing is NA, never 0 or "".
    issues : pandas.DataFrame
        Each value that did not fit its column: file, record, field and what was wrong.
    info : dict
        Where it comes from: server, query, index range, times, whether it is complete, and how much is truncated.
    clusters : dict
        Of several clusters together, the snapshot of each; else empty.

    Examples
    --------
    >>> import allocframe as af
    >>> with af.sim.Cluster("crash_loop", allocations=40, seed=1) as cluster:
    ...     snap = af.Client(cluster.address, token=cluster.token).snapshot(namespace="*")
    >>> len(snap) == len(snap.allocations)
    True
    """

    clusters: Mapping[str, Snapshot] = MappingProxyType({})
    _declared: ClassVar[Mapping[str, Table]] = {**TABLES, ISSUES.name: ISSUES}

    def __init__(
        self,
        capture: Capture,
        store: Tables,
        *,
        conditions: Iterable[tuple[str, Any]] = (),
        schema: str = "main",
    ) -> None:
        super().__init__(store, schema)
        self._capture = capture
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
        """One row for each task event; Nomad keeps the last ten of each task."""
        return self._frame("events")

    @cached_property
    def reschedules(self) -> pd.DataFrame:
        """One row for each reschedule that a tracker remembers."""
        return self._frame("reschedules")

    @cached_property
    def resources(self) -> pd.DataFrame:
        """One row for each task, and one for what its allocation shares; needs ``resources=True`` when fetched."""
        return self._frame("resources")

    @cached_property
    def issues(self) -> pd.DataFrame:
        """One row for each value that did not fit its column."""
        return self._described(self._store.issues(), self._declared["issues"])

    @cached_property
    def info(self) -> dict[str, Any]:
        """Where the tables come from and what they lack, as plain JSON."""
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

    def sql(self, query: str) -> pd.DataFrame:
        """Answer a SELECT over the tables `allocations`, `task_states`, `events`, `reschedules`, `resources`.

        Parameters
        ----------
        query : str
            One SELECT in DuckDB's SQL. Times are TIMESTAMP_NS in UTC, durations whole nanoseconds.

        Examples
        --------
        >>> restarting = "SELECT job_id, count(*) AS n FROM events WHERE type = 'Restarting' GROUP BY ALL"
        >>> snap.sql(restarting)["n"].sum() == (snap.events["type"] == "Restarting").sum()
        np.True_
        """
        return self._store.query(query, self._schema)

    def filter(self, **columns: Any) -> Snapshot:
        """Return the snapshot of those allocations only whose columns have the values given.

        Parameters
        ----------
        **columns
            A column of `allocations` and its value, or a list of values of which one must match.

        Examples
        --------
        >>> failed = snap.filter(client_status=["failed", "lost"])
        >>> set(failed.allocations["client_status"]) <= {"failed", "lost"}
        True
        """
        known = {column.name for column in self._declared["allocations"].columns}
        for name in columns:
            if name not in known:
                raise ValueError(f"allocations has no column {name!r}; it has: {', '.join(sorted(known))}")
        plain = {name: _plain_values(value) for name, value in columns.items()}
        schema = self._store.narrow(self._schema, plain.items())
        conditions = (*self._conditions, *plain.items())
        return Snapshot(self._capture, self._store, conditions=conditions, schema=schema)

    def diff(self, other: Snapshot) -> Diff:
        """Return what changed from this snapshot to another, later one of the same cluster.

        Both may be live, loaded, or of an archive. The cost depends on what changed: allocations whose ModifyIndex is the same
        are the same.

        Returns
        -------
        Diff
            The DataFrames `new`, `gone`, `changed` (column, before, after), `new_events`, `missing` (tasks that lost events
            between the two), and `notes` on what makes the two hard to compare.

        Examples
        --------
        >>> earlier = af.load(snap.save("before.allocframe"))
        >>> earlier.diff(snap).changed.empty
        True
        """
        from .diff import diff

        if self.clusters or other.clusters:
            raise ConfigError("only snapshots of one cluster can be compared: choose one by .clusters[...]")
        return diff(self, other)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the evidence into one compressed file: the answers as sent, and how they were got.

        `load` gives the same tables. A filtered snapshot is saved with all of its pages and its filter. One that comes from
        an archive has no answers as sent: its tables are saved.

        Examples
        --------
        >>> af.load(snap.save("outage.allocframe")).events.equals(snap.events)
        True
        """
        if isinstance(self._store, Kept) and not self._capture.pages:
            self._store.save(self._capture)
        self._capture.describe(filters=[[column, value] for column, value in self._conditions])
        return self._capture.save(path)

    def to_parquet(self, folder: str | os.PathLike[str]) -> Path:
        """Write one Parquet file for each table, and ``info.json``, into `folder`.

        Examples
        --------
        >>> sorted(path.name for path in snap.to_parquet("outage.parquet").glob("a*"))
        ['allocations.parquet']
        """
        target = self._folder(folder)
        for name, frame in self._tables():
            frame.to_parquet(target / f"{name}.parquet", index=False)
        return target

    def to_csv(self, folder: str | os.PathLike[str], *, safe: bool = True) -> Path:
        """Write one CSV file for each table, and ``info.json``, into `folder`.

        Parameters
        ----------
        safe : bool
            Put an apostrophe before text that a spreadsheet would run as a formula.

        Examples
        --------
        >>> sorted(path.name for path in snap.to_csv("outage.csv").glob("e*"))
        ['events.csv']
        """
        target = self._folder(folder)
        for name, frame in self._tables():
            shown = frame.apply(without_formula) if safe and len(frame) else frame
            shown.to_csv(target / f"{name}.csv", index=False)
        return target

    def _folder(self, folder: str | os.PathLike[str]) -> Path:
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "info.json").write_text(json.dumps(self.info, indent=1), encoding="utf-8")
        return target

    def _tables(self) -> Iterable[tuple[str, pd.DataFrame]]:
        for name in SNAPSHOT_TABLES:
            yield name, getattr(self, name)
        yield "issues", self.issues

    def close(self) -> None:
        """Let go of the database and of a temporary capture; frames already made stay."""
        self._store.close()
        self._capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._capture.keep()
        self.close()

    def __len__(self) -> int:
        return self._counts["allocations"]

    def __repr__(self) -> str:
        return "\n".join([f"<Snapshot: {self._title()}>", *(f"  {line}" for line in self._remarks())])

    def _repr_html_(self) -> str:
        return as_html(self._title(), self.sql(BY_STATUS), self._remarks())

    def _title(self) -> str:
        return title(self._counts)

    def _remarks(self) -> list[str]:
        first, last = self.sql(SPAN).iloc[0]
        return remarks(self.info, first, last, self._conditions)


def _plain_values(value: Any) -> Any:
    if isinstance(value, list | tuple | set | frozenset | pd.Series | pd.Index):
        return [_plain_values(item) for item in value]
    if hasattr(value, "item"):
        return value.item()
    return value
