"""Everything that the servers of a simulated cluster know."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

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
        self.has_leader = True
        self.starts = 0
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

    def renumber(self) -> None:
        """Count indexes anew from low numbers, as after a restore into new servers; what stands keeps its order."""
        things: list[Any] = [
            *self.allocs.values(),
            *self.nodes.values(),
            *self.evals.values(),
            *self.deployments.values(),
        ]
        old = sorted({index for thing in things for index in (thing.create_index, thing.modify_index)})
        new = {index: number for number, index in enumerate(old, 2)}
        for thing in things:
            thing.create_index, thing.modify_index = new[thing.create_index], new[thing.modify_index]
        self.index = len(new) + 2
        self._tables = Counter(dict.fromkeys(self._tables, self.index))
