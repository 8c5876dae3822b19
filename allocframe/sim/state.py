"""Everything that the servers of a simulated cluster know."""

from __future__ import annotations

import threading
from collections import Counter

from .alloc import Alloc
from .jobs import Job
from .model import Deployment, Evaluation, Node


class State:
    """Everything that the servers of a cluster know at one moment."""

    def __init__(self, version: str, now_ns: int) -> None:
        self.version = version
        self.now_ns = now_ns
        self.index = 1
        self.allocs: dict[str, Alloc] = {}
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[tuple[str, str], Job] = {}
        self.evals: dict[str, Evaluation] = {}
        self.deployments: dict[str, Deployment] = {}
        self.namespaces = {"default"}
        self.changed = threading.Condition()
        self._tables: Counter[str] = Counter()

    def table_index(self, table: str) -> int:
        """Return the index of the last change to a table."""
        return self._tables[table] or 1

    def commit(self, *tables: str) -> int:
        """Take the next Raft index for a change to `tables`."""
        self.index += 1
        for table in tables:
            self._tables[table] = self.index
        return self.index
