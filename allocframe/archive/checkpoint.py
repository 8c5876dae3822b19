"""Where a recorder continues: what the archive saw last, and what a full list changes against it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from ..store.sql import where
from ..tables import ALLOCATIONS
from ..tables.table import Column, Table
from ..watch.change import Change, Gap
from .views import Connection, derive, read_frame

RECORDERS = Table(
    name="recorders",
    key=("recorder",),
    doc="One row per recorder: its last observation.",
    source="recorders",
    columns=(
        Column("recorder", "recorder", "category", "name of the recorder"),
        Column("seen_at", "seen_at", "time", "time of the observation, by the recorder's clock", "UTC"),
        Column("index_to", "index_to", "int", "Raft index that the cluster had reached"),
        Column("source", "source", "category", "list, stream or blocking"),
        Column("whole", "whole", "bool", "every allocation was compared"),
    ),
)
LIVE = Table(
    name="live",
    key=("alloc_id",),
    doc="One row per allocation that existed at the last observation.",
    source="allocations",
    columns=tuple(
        column
        for column in ALLOCATIONS.columns
        if column.name in ("alloc_id", "namespace", "modify_index", "modified_at")
    ),
)


@dataclass(frozen=True)
class ArchiveState:
    """What an archive saw last."""

    at: pd.Timestamp | None
    """The time of the last observation, by the recorder's clock; None if there is none."""

    index: int | None
    """The Raft index of the cluster at that time."""

    live: pd.DataFrame
    """`alloc_id`, `namespace`, `modify_index` and `modified_at` of each live allocation."""

    recorders: pd.DataFrame
    """The last observation of each recorder."""


EMPTY_STATE = ArchiveState(None, None, LIVE.empty(), RECORDERS.empty())


def read_state(connection: Connection) -> ArchiveState:
    """Return what the archive saw last."""
    derive(connection, until="allocations")
    live = read_frame(connection, LIVE, "FROM seen.allocations WHERE gone_at IS NULL ORDER BY alloc_id")
    last = "QUALIFY row_number() OVER (PARTITION BY recorder ORDER BY seen_at DESC, position DESC) = 1"
    recorders = read_frame(connection, RECORDERS, f"FROM stored.snapshots {last} ORDER BY seen_at")
    if recorders.empty:
        return EMPTY_STATE
    latest = recorders.iloc[-1]
    return ArchiveState(
        latest["seen_at"], None if pd.isna(latest["index_to"]) else int(latest["index_to"]), live, recorders
    )


def read_live(connection: Connection, namespace: str) -> tuple[pd.DataFrame, pd.Timestamp | None]:
    """Return the live allocations of a namespace, as last seen, and the time of the last observation."""
    derive(connection, until="allocations")
    within = "true" if namespace == "*" else where([("namespace", namespace)])
    rows = read_frame(
        connection, ALLOCATIONS, f"FROM seen.allocations WHERE gone_at IS NULL AND {within} ORDER BY alloc_id"
    )
    at = connection.sql("SELECT max(seen_at) FROM stored.observations").fetchall()[0][0]
    return rows, None if at is None else pd.Timestamp(at).tz_localize("UTC")


def changes_since(change: Change, known: pd.DataFrame, at: pd.Timestamp) -> Change:
    """Return a full change, reduced to what differs from the rows that were known at the last observation."""
    listed = pd.concat(
        [part for part in (change.added, change.changed) if len(part)] or [change.added], ignore_index=True
    )
    # The time as well as the index: after a restore, a cluster uses the same indexes again.
    version = ["alloc_id", "modify_index", "modified_at"]
    is_same = pd.MultiIndex.from_frame(listed[version]).isin(pd.MultiIndex.from_frame(known[version]))
    was_known = listed["alloc_id"].isin(known["alloc_id"]).to_numpy()
    ids = set(listed["alloc_id"][~is_same])
    tables = {
        name: part[part["alloc_id"].isin(ids).to_numpy()].reset_index(drop=True)
        for name in ("task_states", "events", "reschedules")
        for part in [getattr(change, name)]
    }
    gap = change.gap if change.gap and change.gap.since is not None else Gap(at, change.at, "no recorder ran")
    return replace(
        change,
        added=listed[~was_known].reset_index(drop=True),
        changed=listed[was_known & ~is_same].reset_index(drop=True),
        removed=known[~known["alloc_id"].isin(listed["alloc_id"])].reset_index(drop=True),
        new_events=tables["events"],
        gap=gap,
        **tables,
    )
