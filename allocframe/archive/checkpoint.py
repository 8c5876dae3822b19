"""What a recorder needs to know to go on: what the archive last saw, and what a first answer changed against that."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from ..store.sql import where
from ..tables import ALLOCATIONS
from ..tables.table import Column, Table
from ..watch.change import Change, Gap
from .views import Connection, derive, frame

RECORDERS = Table(
    name="recorders",
    key=("recorder",),
    doc="One row for each recorder: its last observation.",
    source="recorders",
    columns=(
        Column("recorder", "recorder", "category", "who"),
        Column("seen_at", "seen_at", "time", "when, by its clock", "UTC"),
        Column("index_to", "index_to", "int", "Raft index that the cluster had reached"),
        Column("source", "source", "category", "list, stream or blocking"),
        Column("whole", "whole", "bool", "every allocation was compared"),
    ),
)
LIVE = Table(
    name="live",
    key=("alloc_id",),
    doc="One row for each allocation that was there when last looked.",
    source="allocations",
    columns=tuple(
        column
        for column in ALLOCATIONS.columns
        if column.name in ("alloc_id", "namespace", "modify_index", "modified_at")
    ),
)


@dataclass(frozen=True)
class State:
    """What an archive last saw."""

    at: pd.Timestamp | None
    """The last observation, by the recorder's clock; None where there is none."""

    index: int | None
    """The Raft index that the cluster had then reached."""

    live: pd.DataFrame
    """`alloc_id`, `namespace`, `modify_index` and `modified_at` of each allocation that was still there."""

    recorders: pd.DataFrame
    """The last observation of each recorder."""


NOTHING = State(None, None, LIVE.empty(), RECORDERS.empty())


def state(connection: Connection) -> State:
    """Return what the archive last saw."""
    derive(connection, tasks=False)
    live = frame(connection, LIVE, "FROM seen.allocations WHERE gone_at IS NULL ORDER BY alloc_id")
    last = "QUALIFY row_number() OVER (PARTITION BY recorder ORDER BY seen_at DESC, position DESC) = 1"
    recorders = frame(connection, RECORDERS, f"FROM stored.snapshots {last} ORDER BY seen_at")
    if recorders.empty:
        return NOTHING
    latest = recorders.iloc[-1]
    return State(
        latest["seen_at"], None if pd.isna(latest["index_to"]) else int(latest["index_to"]), live, recorders
    )


def known(connection: Connection, namespace: str) -> tuple[pd.DataFrame, pd.Timestamp | None]:
    """Return the allocations of a namespace that were still there, as last seen, and when that was."""
    derive(connection, tasks=False)
    within = "true" if namespace == "*" else where([("namespace", namespace)])
    rows = frame(
        connection, ALLOCATIONS, f"FROM seen.allocations WHERE gone_at IS NULL AND {within} ORDER BY alloc_id"
    )
    at = connection.sql("SELECT max(seen_at) FROM stored.observations").fetchall()[0][0]
    return rows, None if at is None else pd.Timestamp(at).tz_localize("UTC")


def caught_up(change: Change, known: pd.DataFrame, at: pd.Timestamp) -> Change:
    """Return what is new in a first, whole answer against the rows that were known `at` the last observation."""
    sent = pd.concat(
        [part for part in (change.added, change.changed) if len(part)] or [change.added], ignore_index=True
    )
    version = ["alloc_id", "modify_index", "modified_at"]
    was = pd.MultiIndex.from_frame(known[version])
    same = pd.MultiIndex.from_frame(sent[version]).isin(was)
    met = sent["alloc_id"].isin(known["alloc_id"]).to_numpy()
    ids = set(sent["alloc_id"][~same])
    tell = {
        name: part[part["alloc_id"].isin(ids).to_numpy()].reset_index(drop=True)
        for name in ("task_states", "events", "reschedules")
        for part in [getattr(change, name)]
    }
    gap = change.gap if change.gap and change.gap.since is not None else Gap(at, change.at, "no recorder ran")
    return replace(
        change, added=sent[~met].reset_index(drop=True), changed=sent[met & ~same].reset_index(drop=True),
        removed=known[~known["alloc_id"].isin(sent["alloc_id"])].reset_index(drop=True),
        new_events=tell["events"], gap=gap, **tell,
    )  # fmt: skip
