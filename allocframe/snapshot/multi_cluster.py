"""Several clusters together: their snapshots as one, in which every table says which cluster a row is of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from .._utils.text import visible
from .._utils.validate import check_name
from ..errors import ConfigError
from ..store.capture import Capture
from ..store.page_store import ISSUES
from ..store.sql import quoted
from ..store.store import Store
from ..store.table_store import TableStore
from ..tables import SNAPSHOT_TABLES, TABLES
from ..tables.table import Column, Table
from .snapshot import Snapshot

CLUSTER = Column("cluster", "cluster", "category", "the cluster that the row is of")


def _of_several(table: Table) -> Table:
    return replace(table, key=(CLUSTER.name, *table.key), columns=(CLUSTER, *table.columns))


DECLARED = {name: _of_several(table) for name, table in {**TABLES, ISSUES.name: ISSUES}.items()}
"""The tables of several clusters: equal IDs in different clusters are different allocations."""


class MultiClusterStore(TableStore):
    """The tables of several snapshots in one database, each row with its cluster."""

    declared: ClassVar[Mapping[str, Table]] = DECLARED

    def __init__(self, members: Mapping[str, Snapshot]) -> None:
        super().__init__()
        self._members = members
        try:
            for name in SNAPSHOT_TABLES:
                for place, (cluster, member) in enumerate(members.items()):
                    with member._store.stream(name, member._schema) as rows:
                        self._con.register("more", rows)
                        make = f"CREATE TABLE {name} AS" if place == 0 else f"INSERT INTO {name}"
                        self._con.execute(f"{make} SELECT {quoted(cluster)} AS cluster, * FROM more")
                        self._con.unregister("more")
        except BaseException:
            self.close()
            raise

    def issues(self) -> pd.DataFrame:
        """Return what did not fit, of every cluster."""
        table = self.declared["issues"]
        noted: list[dict[str, Any]] = [
            {CLUSTER.name: cluster, **{str(name): value for name, value in row.items()}}
            for cluster, member in self._members.items()
            for row in member.issues.astype(object).where(member.issues.notna(), None).to_dict("records")
        ]
        data = pa.Table.from_pylist(noted, schema=table.schema())
        return table.frame(dict(zip(data.column_names, data.columns, strict=True)))


class MultiSnapshot(Snapshot):
    """The snapshots of several clusters as one; whatever takes a `Snapshot` takes it, and keeps clusters apart.

    Made by `Fleet.snapshot`, `combine` and `load`. It owns the snapshots that it is made of: closing it closes them.
    """

    _declared: ClassVar[Mapping[str, Table]] = DECLARED

    def __init__(
        self,
        members: Mapping[str, Snapshot],
        capture: Capture,
        store: Store,
        *,
        conditions: Iterable[tuple[str, Any]] = (),
        schema: str = "main",
    ) -> None:
        super().__init__(capture, store, conditions=conditions, schema=schema)
        self._members = members

    @cached_property
    def clusters(self) -> Mapping[str, Snapshot]:  # type: ignore[override]
        """The snapshot of each cluster that could be had, by its name, narrowed as this one is."""
        inside = [(column, value) for column, value in self._conditions if column != CLUSTER.name]
        named = [_listed(value) for column, value in self._conditions if column == CLUSTER.name]
        chosen = [name for name in self._members if all(name in names for names in named)]
        found = {}
        for name in chosen or self._members:
            member = self._members[name]
            for column, value in inside if chosen else [("alloc_id", [])]:
                member = member.filter(**{column: value})
            found[name] = member
        return found

    def filter(self, **columns: Any) -> MultiSnapshot:
        """Return the snapshot of those allocations only whose columns have the values given; see `Snapshot.filter`.

        Examples
        --------
        >>> two = af.combine({"eu": snap, "us": snap})
        >>> len(two.filter(cluster="us", client_status="failed")) == len(snap.filter(client_status="failed"))
        True
        """
        found = super().filter(**columns)
        return MultiSnapshot(
            self._members, self._capture, self._store, conditions=found._conditions, schema=found._schema
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the evidence of every cluster into one compressed file; `load` gives the same tables.

        Examples
        --------
        >>> two = af.combine({"eu": snap, "us": snap})
        >>> sorted(af.load(two.save("fleet.allocframe")).clusters)
        ['eu', 'us']
        """
        capture = Capture.create()
        try:
            for name, member in self._members.items():
                page = capture.add(b"", kind="cluster", path=name, params={})
                member.save(capture.file(page))
                capture.measure(page)
            filters = [[column, value] for column, value in self._conditions]
            capture.describe(filters=filters, failed=self._capture.info["failed"])
            return capture.save(path)
        finally:
            capture.close()

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            for member in self._members.values():
                member._capture.keep()
        super().__exit__(kind, *rest)

    def close(self) -> None:
        """Let go of the database, and of the snapshots of the clusters."""
        super().close()
        for member in self._members.values():
            member.close()

    def _remarks(self) -> list[str]:
        told = {name: one["allocations"] for name, one in self.info["clusters"].items() if not one["error"]}
        names = ", ".join(f"{visible(name)} ({count:,})" for name, count in told.items())
        return [f"allocations as fetched from {names}", *super()._remarks()]


def combine(snapshots: Mapping[str, Snapshot]) -> MultiSnapshot:
    """Put the snapshots of several clusters together: one snapshot, whose tables have a column `cluster`.

    Statistics, findings and plots of it never mix clusters: a job of the same name is another one in another cluster.

    Parameters
    ----------
    snapshots : dict
        Each by the name of its cluster: live, loaded, or of an `Archive`. They belong to what is returned, whose `close` closes them.

    Raises
    ------
    ConfigError
        There is none, or a name cannot be used, or one is itself of several clusters.

    Examples
    --------
    >>> two = af.combine({"eu": snap, "us": snap})
    >>> table = af.stats.restarts(two, by=["cluster", "job_id"])
    >>> table["count"].sum() == 2 * (snap.events["type"] == "Restarting").sum()
    np.True_
    """
    return joined(snapshots, {})


def joined(snapshots: Mapping[str, Snapshot], failed: Mapping[str, Mapping[str, str]]) -> MultiSnapshot:
    """Return snapshots as one; `failed` says of clusters that could not be had where they are and why."""
    members = {name: snapshots[name] for name in sorted(map(check_name, snapshots))}
    if not members:
        raise ConfigError("give the snapshot of at least one cluster")
    for name, member in members.items():
        if not isinstance(member, Snapshot) or isinstance(member, MultiSnapshot):
            raise ConfigError(f"{name} must be the snapshot of one cluster, not {type(member).__name__}")
    capture = Capture.create()
    capture.describe(**_facts({name: _told(member) for name, member in members.items()}, failed))
    try:
        return MultiSnapshot(members, capture, MultiClusterStore(members))
    except BaseException:
        capture.close()
        raise


def _told(member: Snapshot) -> dict[str, Any]:
    """Return what is known of one snapshot without making its frames."""
    return {**member._capture.info, "allocations": len(member)}


def _facts(told: Mapping[str, dict[str, Any]], failed: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    clusters: dict[str, Any] = {name: {**info, "error": None} for name, info in told.items()}
    for name, why in failed.items():
        clusters[name] = {"server": why["server"], "complete": False, "error": why["error"]}
    notes = [f"{name} is missing: {why['error']}" for name, why in failed.items()]
    notes += [f"{name}: {note}" for name, info in told.items() for note in info.get("notes", [])]
    whole = [one.get("complete") for one in clusters.values()]
    times = {
        name: [info[name] for info in told.values() if info.get(name)]
        for name in ("started_at", "finished_at")
    }
    return {
        "source": "several clusters",
        "started_at": min(times["started_at"], default=None),
        "finished_at": max(times["finished_at"], default=None),
        "complete": False if False in whole else None if None in whole else True,
        "clusters": clusters,
        "failed": {name: dict(why) for name, why in failed.items()},
        "notes": notes,
    }


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
