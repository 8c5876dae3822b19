"""The state that the servers of a simulated cluster hold."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from .alloc import Alloc
from .jobs import Job
from .model import Deployment, Evaluation, Node


class State:
    """All objects of a cluster, and the Raft indexes of their changes."""

    def __init__(self, version: str, now_ns: int) -> None:
        self.version = version
        self.now_ns = now_ns
        self.index: int = 1
        self.allocs: dict[str, Alloc] = {}
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[tuple[str, str], Job] = {}
        self.job_versions: dict[tuple[str, str], list[Job]] = {}
        """The newest versions of each job, newest first."""
        self.evals: dict[str, Evaluation] = {}
        self.deployments: dict[str, Deployment] = {}
        self.namespaces: set[str] = {"default"}
        self.changed: threading.Condition = threading.Condition()
        self.has_leader = True
        self.is_live = True
        self.starts = 0
        self._tables: Counter[str] = Counter()

    def table_index(self, table: str) -> int:
        """Return the index of the last change to a table."""
        return self._tables[table] or 1

    def commit(self, *tables: str) -> int:
        """Return the next Raft index, for a change to `tables`."""
        self.index += 1
        for table in tables:
            self._tables[table] = self.index
        return self.index

    def renumber(self) -> None:
        """Renumber all indexes from 2, as after a restore into new servers. Their order stays."""
        objects: list[Any] = [
            *self.allocs.values(),
            *self.nodes.values(),
            *self.evals.values(),
            *self.deployments.values(),
        ]
        # Keep the order and the equality of indexes: ties mean changes in the same transaction.
        old = sorted({index for item in objects for index in (item.create_index, item.modify_index)})
        new = {index: number for number, index in enumerate(old, 2)}
        for item in objects:
            item.create_index, item.modify_index = new[item.create_index], new[item.modify_index]
        self.index = len(new) + 2
        self._tables = Counter(dict.fromkeys(self._tables, self.index))
