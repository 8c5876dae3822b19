"""Stories of the simulated cluster as snapshots, at a fixed time, and under other names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import allocframe as af
from allocframe.sim.scenarios import Truth, run_story

NOW = 1_795_516_200_000_000_000
"""2026-11-24 10:30 UTC, the end of every story here."""

Rename = Callable[[str, str], str]


def rows_of(
    name: str, *, seed: int = 3, allocations: int = 150, version: str = "2.0.5"
) -> tuple[Truth, list[dict[str, Any]]]:
    engine, truth = run_story(name, allocations=allocations, seed=seed, version=version, now_ns=NOW)
    return truth, [json.loads(json.dumps(alloc.stub(version))) for alloc in engine.state.allocs.values()]


def read(folder: Path, rows: Iterable[dict[str, Any]]) -> af.Snapshot:
    file = folder / "allocations.json"
    file.write_text(json.dumps(list(rows)))
    return af.read_json(file)


def captured(folder: Path, name: str, **options: Any) -> tuple[Truth, af.Snapshot]:
    """Return the truth about a story, and its snapshot out of a saved capture."""
    truth, rows = rows_of(name, **options)
    return truth, af.load(read(folder, rows).save(folder / f"{name}.allocframe"))


def renamed(rows: list[dict[str, Any]], rename: Rename) -> list[dict[str, Any]]:
    """Return allocations with every name and text of the cluster replaced by `rename(kind, name)`."""
    return [_allocation(row, rename) for row in rows]


def _allocation(row: dict[str, Any], rename: Rename) -> dict[str, Any]:
    job, group = rename("job", row["JobID"]), rename("group", row["TaskGroup"])
    tasks = {rename("task", task): _state(state, rename) for task, state in (row["TaskStates"] or {}).items()}
    return {
        **row,
        "JobID": job,
        "TaskGroup": group,
        "Name": f"{job}.{group}[{row['Name'].rpartition('[')[2]}",
        "Namespace": rename("namespace", row["Namespace"]),
        "NodeName": rename("node", row["NodeName"]),
        "ClientDescription": rename("text", row["ClientDescription"]),
        "TaskStates": tasks,
    }


_FIXED_DETAILS = ("exit_code", "signal", "oom_killed", "restart_reason", "start_delay", "fails_task")
_TEXTS = ("DisplayMessage", "DownloadError", "DriverError", "DriverMessage", "KillReason", "SetupError")


def _state(state: dict[str, Any], rename: Rename) -> dict[str, Any]:
    events = [
        {
            **event,
            **{name: rename("text", event[name]) for name in _TEXTS if event.get(name)},
            "Details": {
                name: text if name in _FIXED_DETAILS else rename("text", text)
                for name, text in (event["Details"] or {}).items()
            },
        }
        for event in state["Events"]
    ]  # fmt: skip
    return {**state, "Events": events}
