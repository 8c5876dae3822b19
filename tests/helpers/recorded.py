"""Allocations of real agents, read from captures, and edits that make another incident of them."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

INCIDENTS = Path(__file__).parents[1] / "data" / "incidents"
SECOND = 10**9
Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    """Return the allocations of a capture, such as "lab/nomad-2.0.5-crashfast", as the server sent them."""
    rows: list[Row] = []
    with zipfile.ZipFile(INCIDENTS / f"{name}.allocframe") as file:
        for page in json.loads(file.read("manifest.json"))["pages"]:
            if page["kind"] == "list":
                packed = pa.BufferReader(file.read(f"pages/{page['number']:06}.json.zst"))
                rows += json.loads(pa.CompressedInputStream(packed, "zstd").read())
    return rows


def edited(rows: Iterable[Row], *edits: Callable[[Row], None]) -> list[Row]:
    """Return copies of allocations with each edit applied to each."""
    result = copy.deepcopy(list(rows))
    for row in result:
        for edit in edits:
            edit(row)
    return result


def in_namespace(name: str) -> Callable[[Row], None]:
    """Return an edit that moves allocations to another namespace, with IDs of their own."""

    def edit(row: Row) -> None:
        row["Namespace"] = name
        for link in ("ID", "NextAllocation", "PreviousAllocation"):
            if row.get(link):
                row[link] = f"{row[link]}-{name}"

    return edit


def node(name: str) -> Callable[[Row], None]:
    """Return an edit that places allocations on a node."""

    def edit(row: Row) -> None:
        row["NodeID"], row["NodeName"] = f"id-of-{name}", name

    return edit


def events(row: Row) -> list[Row]:
    """Return the events of all tasks of an allocation."""
    return [event for state in (row["TaskStates"] or {}).values() for event in state["Events"]]


def clock(seconds: float) -> Callable[[Row], None]:
    """Return an edit that sets the clock of the allocations' nodes ahead; servers keep theirs."""

    def edit(row: Row) -> None:
        for event in events(row):
            event["Time"] += int(seconds * SECOND)
        for state in (row["TaskStates"] or {}).values():
            for name in ("StartedAt", "FinishedAt", "LastRestart"):
                if state.get(name):
                    state[name] = _moved(state[name], seconds)

    return edit


def later(seconds: float) -> Callable[[Row], None]:
    """Return an edit that moves allocations in time."""
    move_clock = clock(seconds)

    def edit(row: Row) -> None:
        move_clock(row)
        for name in ("CreateTime", "ModifyTime"):
            row[name] += int(seconds * SECOND)
        status = row.get("DeploymentStatus")
        if status and status.get("Timestamp"):
            status["Timestamp"] = _moved(status["Timestamp"], seconds)

    return edit


def _moved(time: str, seconds: float) -> str:
    return (pd.Timestamp(time) + pd.Timedelta(seconds=seconds)).isoformat()
