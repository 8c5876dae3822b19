"""Histories of tasks as a watch would have seen them: rings of ten events, version after version."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from tables import START, alloc, event

import allocframe as af
from allocframe.watch.change import Change, Gap

RING = 10
History = list[dict[str, Any]]


def moment(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(START + int(seconds * 1e9), tz="UTC")


def history(count: int, start: float = 0) -> History:
    """Return a task's events, a second apart: received, then started and ended in turn."""
    kinds = ["Started", "Terminated", "Restarting"]
    return [
        event("Received" if n == 0 else kinds[(n - 1) % 3], start + n, details_of=n) for n in range(count)
    ]


def ring(events: History, upto: int) -> History:
    return events[max(0, upto - RING) : upto]


class Versions:
    """Allocations in several versions, decoded once. `seen` makes the change that a watch would yield."""

    def __init__(self, folder: Path, versions: dict[tuple[str, int], dict[str, Any]]) -> None:
        rows = []
        for (identity, version), fields in versions.items():
            given = dict(fields)
            row = alloc(f"{identity}|{version}", *given.pop("events", []), **given)
            rows.append({**row, "ModifyIndex": version, "CreateIndex": given.get("CreateIndex", 1)})
        file = folder / f"versions-{len(list(folder.iterdir()))}.json"
        file.write_text(json.dumps(rows))
        with af.read_json(file) as snap:
            self._tables = {
                name: getattr(snap, name) for name in ("allocations", "task_states", "events", "reschedules")
            }

    def rows(self, name: str, wanted: Iterable[tuple[str, int]]) -> pd.DataFrame:
        table = self._tables[name]
        ids = table["alloc_id"].astype("str")
        chosen = table[ids.isin([f"{identity}|{version}" for identity, version in wanted]).to_numpy()]
        names = chosen["alloc_id"].str.split("|").str[0]
        return chosen.assign(alloc_id=names).reset_index(drop=True)

    def seen(
        self,
        at: float,
        *,
        added: Iterable[tuple[str, int]] = (),
        changed: Iterable[tuple[str, int]] = (),
        removed: Iterable[tuple[str, int]] = (),
        before: Iterable[tuple[str, int]] = (),
        gap: Gap | None = None,
        full: bool = True,
    ) -> Change:
        """Return the change seen `at` seconds after the start; `before` are the watch's earlier versions."""
        told = [*added, *changed]
        events = self.rows("events", told)
        key = ["alloc_id", "task", "time", "type", "details"]
        had = pd.MultiIndex.from_frame(self.rows("events", before)[key].astype("str"))
        fresh = ~pd.MultiIndex.from_frame(events[key].astype("str")).isin(had)
        return Change(
            at=moment(at),
            index=max((version for _, version in told), default=1),
            source="list",
            full=full,
            added=self.rows("allocations", added),
            changed=self.rows("allocations", changed),
            removed=self.rows("allocations", removed),
            task_states=self.rows("task_states", told),
            events=events,
            reschedules=self.rows("reschedules", told),
            new_events=events[fresh].reset_index(drop=True),
            gap=gap,
        )
