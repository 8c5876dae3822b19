"""Serve a recording of a real cluster as if it were alive."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

JSON = dict[str, Any]
_OPTIONAL = ("AllocatedResources", "TaskStates")
_TABLES = {
    "nodes": ("/v1/nodes", "nodes"),
    "jobs": ("/v1/jobs", "jobs"),
    "evals": ("/v1/evaluations", "evaluations"),
    "deployments": ("/v1/deployments", "deployments"),
}


class Recorded:
    """One recorded thing: the row of a list, and the full read where it was recorded."""

    def __init__(self, row: JSON) -> None:
        self.row = row
        self.read: JSON | None = None
        self.id: str = row["ID"]
        self.namespace: str | None = row.get("Namespace")
        self.job_id: str | None = row.get("JobID")
        self.create_index: int = row["CreateIndex"]
        self.modify_index: int = row["ModifyIndex"]

    def stub(self, version: str, *, task_states: bool = True, resources: bool = False) -> JSON:
        row = dict(self.row)
        if not task_states and "TaskStates" in row:
            row["TaskStates"] = None
        if not resources:
            row.pop("AllocatedResources", None)
        return row

    def full(self, version: str) -> JSON:
        return self.row if self.read is None else self.read

    def struct(self, version: str) -> JSON:
        return {**self.row, **(self.read or {})}

    def field(self, name: str) -> Any:
        return self.struct("")[name]


class Recording:
    """The state of a recorded cluster, of the shape that the server answers from."""

    def __init__(self, source: str | os.PathLike[str] | Iterable[JSON], version: str) -> None:
        self.version = version
        self.changed = threading.Condition()
        self.index = 1
        self.has_leader = True
        self.starts = 0
        self.allocs: dict[str, Recorded] = {}
        self.nodes: dict[str, Recorded] = {}
        self.jobs: dict[tuple[str | None, str], Recorded] = {}
        self.evals: dict[str, Recorded] = {}
        self.deployments: dict[str, Recorded] = {}
        if isinstance(source, str | os.PathLike):
            for exchange in _exchanges(Path(source)):
                self._take(exchange)
        else:
            self.allocs = {row["ID"]: Recorded(row) for row in source}
        self.namespaces = {thing.namespace for thing in self.allocs.values() if thing.namespace} | {"default"}
        self.index = max([self.index, *(thing.modify_index for thing in self.allocs.values())])

    def table_index(self, table: str) -> int:
        """Return the newest index in the recording."""
        return self.index

    def _take(self, exchange: JSON) -> None:
        path, _, query = exchange["request"]["path"].partition("?")
        body = exchange.get("json")
        if exchange.get("status") != 200 or body is None or exchange["request"]["method"] != "GET":
            return
        self.index = max(self.index, int(exchange["headers"].get("X-Nomad-Index", 1)))
        if path == "/v1/allocations":
            for row in body:
                self._row(row, with_states="task_states=false" not in query)
        elif path.startswith("/v1/allocation/"):
            self.allocs.setdefault(body["ID"], Recorded(_as_row(body))).read = body
        for table, (listed, _) in _TABLES.items():
            if path == listed:
                for row in body:
                    key = (row.get("Namespace"), row["ID"]) if table == "jobs" else row["ID"]
                    getattr(self, table)[key] = Recorded(row)

    def _row(self, row: JSON, *, with_states: bool) -> None:
        known = self.allocs.get(row["ID"])
        if known is None:
            self.allocs[row["ID"]] = Recorded(row)
            return
        kept = {name: known.row[name] for name in _OPTIONAL if known.row.get(name) and not row.get(name)}
        newest = row if row["ModifyIndex"] >= known.modify_index else known.row
        fresh = Recorded(
            {**newest, **kept, **({} if with_states else {"TaskStates": known.row.get("TaskStates")})}
        )
        fresh.read = known.read
        self.allocs[row["ID"]] = fresh


def _exchanges(folder: Path) -> Iterator[JSON]:
    """Yield the recorded exchanges, lists before reads."""
    for file in sorted(folder.glob("*.json"), key=lambda file: (not file.name.startswith("list"), file.name)):
        recorded = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(recorded, list):
            yield from recorded


def _as_row(read: JSON) -> JSON:
    """Return a full read as a list would show it."""
    job = read.get("Job") or {}
    return {**read, "JobVersion": job.get("Version", 0), "JobType": job.get("Type", ""), "Job": None}
