"""What one answer of a watched cluster changed: what a watch yields, and an archive keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class Gap:
    """A time in which nobody watched: what came and went in it may be missing."""

    since: pd.Timestamp | None
    """When the cluster was last seen, or a little before; None where it had never been."""

    until: pd.Timestamp
    reason: str


@dataclass(frozen=True)
class Change:
    """What is new since the change before it.

    `task_states`, `events` and `reschedules` hold every row of the allocations in `added` and `changed`, so `events` are whole
    rings: up to ten for each task, with those that were known before. Where one change stands for several answers, they
    also hold, before the ring, the events that came and went between them.
    """

    at: pd.Timestamp
    """Up to when it tells of the cluster, by this machine's clock, in UTC. What happened later, this or a later one tells."""

    index: int | None
    """The Raft index that the cluster had reached."""

    source: Literal["list", "stream", "blocking"]
    full: bool
    """Whether every allocation was compared, so that `removed` is complete up to `at`."""

    added: pd.DataFrame
    changed: pd.DataFrame
    removed: pd.DataFrame
    """Rows of `allocations`; those that are gone as they were last seen: only `alloc_id` and `modify_index` of what is
    known from `Checkpoint` alone."""

    task_states: pd.DataFrame
    events: pd.DataFrame
    reschedules: pd.DataFrame
    new_events: pd.DataFrame
    """The rows of `events` that were not in the rings before."""

    gap: Gap | None = None

    def __len__(self) -> int:
        return len(self.added) + len(self.changed) + len(self.removed)


@dataclass(frozen=True)
class Checkpoint:
    """Up to where a watch before this one has got: what a recorder goes on from."""

    index: int | None = None
    at: pd.Timestamp | None = None
    modify_index: Mapping[str, int] = field(default_factory=dict)
    """By allocation, for those that were not gone."""
