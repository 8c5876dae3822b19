"""The snapshots of several clusters as one; every table has a column `cluster`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from .._utils.interrupts import away_from_signals
from .._utils.text import visible
from .._utils.validate import check_name
from ..errors import ConfigError
from ..store.capture import Capture
from ..store.page_store import ISSUES
from ..store.sql import quote
from ..store.store import Store
from ..store.table_store import TableStore
from ..tables import SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Table
from .snapshot import Snapshot

CLUSTER = Column("cluster", "cluster", "category", "the cluster that the row comes from")


def _with_cluster(table: Table) -> Table:
    return replace(table, key=(CLUSTER.name, *table.key), columns=(CLUSTER, *table.columns))


DECLARED = {name: _with_cluster(table) for name, table in {**TABLES, ISSUES.name: ISSUES}.items()}
"""The tables of several clusters. The cluster is part of every key: IDs in two clusters may be equal."""


class MultiClusterStore(TableStore):
    """The tables of several snapshots in one database, each row with its cluster."""

    declared: ClassVar[Mapping[str, Table]] = DECLARED

    def __init__(self, snapshots: Mapping[str, Snapshot]) -> None:
        super().__init__()
        self._snapshots = snapshots
        try:
            # DuckDB makes an error of its own of a Ctrl-C that comes while it reads rows from Python
            away_from_signals(self._copy, self._con.interrupt)
        except BaseException:
            self.close()
            raise

    def _copy(self) -> None:
        """Copy the rows of every cluster."""
        for name in SNAPSHOT_TABLES:
            for place, (cluster, snapshot) in enumerate(self._snapshots.items()):
                with snapshot._store.stream(name, snapshot._schema) as rows:
                    self._con.register("more", rows)
                    write = f"CREATE TABLE {name} AS" if place == 0 else f"INSERT INTO {name}"
                    self._con.execute(f"{write} SELECT {quote(cluster)} AS cluster, * FROM more")
                    self._con.unregister("more")

    def issues(self) -> pd.DataFrame:
        """Return the values of the wrong type in every cluster."""
        table = self.declared["issues"]
        rows: list[dict[str, Any]] = [
            {CLUSTER.name: cluster, **{str(name): value for name, value in row.items()}}
            for cluster, snapshot in self._snapshots.items()
            for row in snapshot.issues.astype(object).where(snapshot.issues.notna(), None).to_dict("records")
        ]
        data = pa.Table.from_pylist(rows, schema=table.schema())
        return table.frame(dict(zip(data.column_names, data.columns, strict=True)))


class MultiSnapshot(Snapshot):
    """The snapshots of several clusters as one. Whatever takes a `Snapshot` takes it; clusters never mix.

    Made by `Fleet.snapshot`, `combine` and `load`. It owns its clusters' snapshots: closing it closes them.
    """

    _declared: ClassVar[Mapping[str, Table]] = DECLARED

    def __init__(
        self,
        snapshots: Mapping[str, Snapshot],
        capture: Capture,
        store: Store,
        *,
        conditions: Iterable[tuple[str, Any]] = (),
        schema: str = "main",
    ) -> None:
        super().__init__(capture, store, conditions=conditions, schema=schema)
        self._snapshots = snapshots

    @cached_property
    def clusters(self) -> Mapping[str, Snapshot]:  # type: ignore[override]
        """The snapshot of each fetched cluster, by its name, with the same filter as this one."""
        inside = [(column, value) for column, value in self._conditions if column != CLUSTER.name]
        filters = [_as_list(value) for column, value in self._conditions if column == CLUSTER.name]
        chosen = [name for name in self._snapshots if all(name in names for names in filters)]
        clusters = {}
        # If the filter leaves out every cluster, keep all without rows: statistics need their columns.
        for name in chosen or self._snapshots:
            snapshot = self._snapshots[name]
            for column, value in inside if chosen else [("alloc_id", [])]:
                snapshot = snapshot.filter(**{column: value})
            clusters[name] = snapshot
        return clusters

    def filter(self, **columns: Any) -> MultiSnapshot:
        """Return a snapshot of only those allocations that have the given values; see `Snapshot.filter`.

        Examples
        --------
        >>> two = af.combine({"eu": snap, "us": snap})
        >>> len(two.filter(cluster="us", client_status="failed")) == len(snap.filter(client_status="failed"))
        True
        """
        filtered = super().filter(**columns)
        return MultiSnapshot(
            self._snapshots,
            self._capture,
            self._store,
            conditions=filtered._conditions,
            schema=filtered._schema,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the evidence of every cluster to one compressed file; `load` gives the same tables.

        Examples
        --------
        >>> two = af.combine({"eu": snap, "us": snap})
        >>> sorted(af.load(two.save("fleet.allocframe")).clusters)
        ['eu', 'us']
        """
        capture = Capture.create()
        try:
            for name, snapshot in self._snapshots.items():
                page = capture.add(b"", kind="cluster", path=name, params={})
                snapshot.save(capture.file(page))
                capture.update_size(page)
            filters = [[column, value] for column, value in self._conditions]
            capture.describe(filters=filters, failed=self._capture.info["failed"])
            return capture.save(path)
        finally:
            capture.close()

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            for snapshot in self._snapshots.values():
                snapshot._capture.keep()
        super().__exit__(kind, *rest)

    def close(self) -> None:
        """Close the database and the snapshots of the clusters."""
        super().close()
        for snapshot in self._snapshots.values():
            snapshot.close()

    def _remarks(self) -> list[str]:
        counts = {
            name: info["allocations"] for name, info in self.info["clusters"].items() if not info["error"]
        }
        clusters = ", ".join(f"{visible(name)} ({count:,})" for name, count in counts.items())
        return [f"allocations fetched from {clusters}", *super()._remarks()]


def combine(snapshots: Mapping[str, Snapshot]) -> MultiSnapshot:
    """Combine the snapshots of several clusters into one whose tables have a column `cluster`.

    Statistics, findings and plots of it never mix clusters: a job in two clusters counts as two jobs.

    Parameters
    ----------
    snapshots : dict
        Snapshots by the name of their cluster: live, loaded or from an `Archive`. The result owns them, and
        its `close` closes them.

    Raises
    ------
    ConfigError
        There is no snapshot, a name cannot be used, or a snapshot already holds several clusters.

    Examples
    --------
    >>> two = af.combine({"eu": snap, "us": snap})
    >>> table = af.stats.restarts(two, by=["cluster", "job_id"])
    >>> table["count"].sum() == 2 * (snap.events["type"] == "Restarting").sum()
    np.True_
    """
    return combine_available(snapshots, {})


def combine_available(
    snapshots: Mapping[str, Snapshot], failed: Mapping[str, Mapping[str, str]]
) -> MultiSnapshot:
    """Combine snapshots; `failed` has the server and error of each cluster that could not be fetched."""
    snapshots = {name: snapshots[name] for name in sorted(map(check_name, snapshots))}
    if not snapshots:
        raise ConfigError("combine needs the snapshot of at least one cluster, got none")
    for name, snapshot in snapshots.items():
        if not isinstance(snapshot, Snapshot) or isinstance(snapshot, MultiSnapshot):
            raise ConfigError(f"{name} must be the snapshot of one cluster, got {type(snapshot).__name__}")
    capture = Capture.create()
    # The capture's own facts, not `info`, which would make the tables.
    infos = {
        name: {**snapshot._capture.info, "allocations": len(snapshot)} for name, snapshot in snapshots.items()
    }
    capture.describe(**_combine_infos(infos, failed))
    try:
        return MultiSnapshot(snapshots, capture, MultiClusterStore(snapshots))
    except BaseException:
        capture.close()
        raise


def _combine_infos(
    infos: Mapping[str, dict[str, Any]], failed: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    clusters: dict[str, Any] = {name: {**info, "error": None} for name, info in infos.items()}
    for name, failure in failed.items():
        clusters[name] = {"server": failure["server"], "complete": False, "error": failure["error"]}
    notes = [f"{name} is missing: {failure['error']}" for name, failure in failed.items()]
    notes += [f"{name}: {note}" for name, info in infos.items() for note in info.get("notes", [])]
    complete = [info.get("complete") for info in clusters.values()]
    times = {
        name: [info[name] for info in infos.values() if info.get(name)]
        for name in ("started_at", "finished_at")
    }
    return {
        "source": "several clusters",
        "started_at": min(times["started_at"], default=None),
        "finished_at": max(times["finished_at"], default=None),
        "complete": False if False in complete else None if None in complete else True,
        "clusters": clusters,
        "failed": {name: dict(failure) for name, failure in failed.items()},
        "notes": notes,
    }


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
