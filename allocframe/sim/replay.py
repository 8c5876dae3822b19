"""The state of a recorded cluster, for the simulated server to serve."""

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
    """One recorded object: its row of a list, and its full read if that was recorded too."""

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
    """The state of a recorded cluster. It has the attributes of `State` that the server reads."""

    def __init__(self, source: str | os.PathLike[str] | Iterable[JSON], version: str) -> None:
        self.version = version
        self.changed: threading.Condition = threading.Condition()
        self.index: int = 1
        self.has_leader = True
        self.is_live = False
        self.starts = 0
        self.allocs: dict[str, Recorded] = {}
        self.nodes: dict[str, Recorded] = {}
        self.jobs: dict[tuple[str | None, str], Recorded] = {}
        self.job_versions: dict[tuple[str, str], list[Recorded]] = {}
        self.evals: dict[str, Recorded] = {}
        self.deployments: dict[str, Recorded] = {}
        if isinstance(source, str | os.PathLike):
            for exchange in _exchanges(Path(source)):
                self._add_exchange(exchange)
        else:
            self.allocs = {row["ID"]: Recorded(row) for row in source}
        named = (alloc.namespace for alloc in self.allocs.values() if alloc.namespace)
        self.namespaces: set[str] = {"default", *named}
        self.index = max([self.index, *(alloc.modify_index for alloc in self.allocs.values())])

    def table_index(self, table: str) -> int:
        """Return the newest index in the recording."""
        return self.index

    def _add_exchange(self, exchange: JSON) -> None:
        path, _, query = exchange["request"]["path"].partition("?")
        body = exchange.get("json")
        # Recorded errors and actions are not state.
        if exchange.get("status") != 200 or body is None or exchange["request"]["method"] != "GET":
            return
        self.index = max(self.index, int(exchange["headers"].get("X-Nomad-Index", 1)))
        if path == "/v1/allocations":
            for row in body:
                self._add_row(row, with_states="task_states=false" not in query)
        elif path.startswith("/v1/allocation/"):
            self.allocs.setdefault(body["ID"], Recorded(_as_row(body))).read = body
        elif path.startswith("/v1/job/") and path.endswith("/versions"):
            versions = [Recorded(spec) for spec in body["Versions"] or []]
            if versions:
                self.job_versions[versions[0].namespace or "default", versions[0].id] = versions
        elif path.startswith("/v1/node/"):
            self.nodes.setdefault(body["ID"], Recorded(body)).read = body
        for table, (listed, _) in _TABLES.items():
            if path == listed:
                for row in body:
                    key = (row.get("Namespace"), row["ID"]) if table == "jobs" else row["ID"]
                    getattr(self, table)[key] = Recorded(row)

    def _add_row(self, row: JSON, *, with_states: bool) -> None:
        """Add a row, or merge it with an earlier one of the same allocation.

        Some lists were recorded without task states or resources: those fields come from the other row.
        """
        earlier = self.allocs.get(row["ID"])
        if earlier is None:
            self.allocs[row["ID"]] = Recorded(row)
            return
        fields = {
            name: earlier.row[name] for name in _OPTIONAL if earlier.row.get(name) and not row.get(name)
        }
        if not with_states:
            fields["TaskStates"] = earlier.row.get("TaskStates")
        newest = row if row["ModifyIndex"] >= earlier.modify_index else earlier.row
        merged = Recorded({**newest, **fields})
        merged.read = earlier.read
        self.allocs[row["ID"]] = merged


def _exchanges(folder: Path) -> Iterator[JSON]:
    """Yield the recorded exchanges, lists before reads."""
    for file in sorted(folder.glob("*.json"), key=lambda file: (not file.name.startswith("list"), file.name)):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list):
            yield from content


def _as_row(read: JSON) -> JSON:
    """Return a full read in the shape of a list row."""
    job = read.get("Job") or {}
    return {**read, "JobVersion": job.get("Version", 0), "JobType": job.get("Type", ""), "Job": None}
