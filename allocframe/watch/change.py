"""Changes of a cluster: what a watch yields and an archive stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from .._utils.text import visible

LOST_RIGHTS = "the token can no longer read"
"""How the reason of a gap begins in which a policy hid namespaces."""


@dataclass(frozen=True)
class Gap:
    """A time in which nobody watched. What came and went in it may be missing."""

    since: pd.Timestamp | None
    """When the cluster was last seen, or a little earlier; None if never."""

    until: pd.Timestamp
    reason: str


@dataclass(frozen=True, repr=False)
class Change:
    """What has changed since the previous change.

    `task_states`, `events` and `reschedules` hold every row of the allocations in `added` and `changed`. So
    `events` are complete rings: up to ten per task, including those that were known before. If a change
    combines several updates, the events that came and went between them precede the ring.
    """

    at: pd.Timestamp
    """The change includes everything that happened before this time, by this machine's clock, in UTC."""

    index: int | None
    """The Raft index that the cluster had reached; None for all but the last part of a long list."""

    source: Literal["list", "stream", "blocking"]
    full: bool
    """Every allocation was compared, so `removed` is complete up to `at`."""

    added: pd.DataFrame
    changed: pd.DataFrame
    removed: pd.DataFrame
    """Rows of `allocations`.

    Removed ones are as they were last seen. If they are known only from a `Checkpoint`, only `alloc_id` and
    `modify_index` are set.
    """

    task_states: pd.DataFrame
    events: pd.DataFrame
    reschedules: pd.DataFrame
    new_events: pd.DataFrame
    """The rows of `events` that were not known before."""

    gap: Gap | None = None

    def __len__(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)

    def __repr__(self) -> str:
        gap = f"; {self.gap.reason} before" if self.gap is not None else ""
        return (
            f"<Change at {self.at:%Y-%m-%d %H:%M:%S} UTC ({self.source}): {len(self.added):,} added, "
            f"{len(self.changed):,} changed, {len(self.removed):,} removed, {len(self.new_events):,} new "
            f"events{visible(gap)}>"
        )


@dataclass(frozen=True, repr=False)
class HistoryChange:
    """New rows of the tables of a history: versions of jobs, deployments, nodes, evaluations."""

    at: pd.Timestamp
    """The rows include everything that changed before this time, by this machine's clock, in UTC."""

    frames: Mapping[str, pd.DataFrame]
    """New and changed rows, by the name of their table. `nodes` may have the column `gone`."""

    gap_since: pd.Timestamp | None = None
    """Since when nobody had followed these tables; None if nothing can be missing.

    What Nomad still knew afterwards is among the rows.
    """

    notes: Sequence[str] = ()
    """What could not be read, and why."""

    def __len__(self) -> int:
        return sum(map(len, self.frames.values()))

    def __repr__(self) -> str:
        rows = ", ".join(f"{len(frame):,} {name}" for name, frame in self.frames.items())
        return f"<HistoryChange at {self.at:%Y-%m-%d %H:%M:%S} UTC: {rows or 'nothing new'}>"


@dataclass(frozen=True)
class Checkpoint:
    """How far an earlier watch got. A new watch continues from there."""

    index: int | None = None
    at: pd.Timestamp | None = None
    modify_index: Mapping[str, int] = field(default_factory=dict)
    """ModifyIndex of each live allocation, by ID."""

    namespace: Mapping[str, str] = field(default_factory=dict)
    """Namespace of each live allocation, by ID. It tells a lost permission from removed allocations."""
