"""Small tables made by hand: tasks as lists of events, read as Nomad's JSON would be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

import allocframe as af
from allocframe.stats._derived import share_derived

START = 1_790_000_000_000_000_000
SECOND = 1_000_000_000


def event(kind: str, at: float, display: str = "", **details: Any) -> dict[str, Any]:
    """Return an event `at` seconds after the start."""
    said = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in details.items()
    }
    return {"Type": kind, "Time": START + int(at * SECOND), "Details": said, "DisplayMessage": display}


def started(at: float) -> dict[str, Any]:
    return event("Started", at)


def ended(at: float, code: int = 1, signal: int = 0, **more: Any) -> dict[str, Any]:
    return event("Terminated", at, exit_code=code, signal=signal, **{"oom_killed": False, **more})


def restarting(at: float, reason: str = "Restart within policy") -> dict[str, Any]:
    return event("Restarting", at, restart_reason=reason, start_delay=0)


def gave_up(at: float) -> dict[str, Any]:
    return event(
        "Not Restarting",
        at,
        restart_reason='Exceeded allowed attempts 2 in interval 30m0s and mode is "fail"',
    )


def alloc(identity: str, *events: dict[str, Any], task: str = "server", **fields: Any) -> dict[str, Any]:
    """Return an allocation with one task; `state` and `restarts` are those of the task."""
    state = fields.pop("state", "running")
    restarts = fields.pop("restarts", sum(e["Type"] == "Restarting" for e in events))
    times = [e["Time"] for e in events] or [START]
    job = fields.get("JobID", "web")
    return {
        "ID": identity, "Namespace": "default", "JobID": job, "JobVersion": 0, "JobType": "service",
        "TaskGroup": "app", "Name": f"{job}.app[0]", "NodeID": "n1", "NodeName": "node-1",
        "ClientStatus": "running", "DesiredStatus": "run", "CreateTime": min(times), "ModifyTime": max(times),
        "CreateIndex": 1, "ModifyIndex": 2,
        "TaskStates": {task: {"State": state, "Restarts": restarts, "Events": list(events)}},
        **fields,
    }  # fmt: skip


def snapshot(folder: Path, *rows: dict[str, Any]) -> af.Snapshot:
    file = folder / f"{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps(list(rows)))
    return af.read_json(file)


def at(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(START + int(seconds * SECOND), tz="UTC")


def as_duckdb(snap: af.Snapshot) -> dict[str, Any]:
    """Return the tables of a snapshot as relations of a DuckDB database."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return {
        name: connection.from_df(getattr(snap, name)) for name in ("events", "allocations", "task_states")
    }


def as_frames(snap: af.Snapshot) -> dict[str, pd.DataFrame]:
    return {name: getattr(snap, name) for name in ("events", "allocations", "task_states")}


@contextmanager
def engines(snap: af.Snapshot) -> Iterator[tuple[dict[str, pd.DataFrame], dict[str, Any]]]:
    """Yield the tables as frames and as relations; what statistics derive from them is derived once."""
    with share_derived():
        yield as_frames(snap), as_duckdb(snap)


def plain(frame: pd.DataFrame, *order: str) -> list[tuple[Any, ...]]:
    """Return rows as plain values in an order of their own, so that engines can be compared."""
    found = frame.astype(object).where(frame.notna(), None)
    rows = [tuple(_plain(value) for value in row) for row in found.itertuples(index=False)]
    places = [list(frame.columns).index(name) for name in order]
    return sorted(rows, key=lambda row: [str(row[place]) for place in places]) if places else rows


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        # Engines add in orders of their own: the last digits of a sum differ.
        return int(value) if value.is_integer() else float(f"{value:.10g}")
    return value.item() if hasattr(value, "item") else value
