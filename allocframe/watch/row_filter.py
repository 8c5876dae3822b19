"""Which rows of a history are known, so that only news are reported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ..tables import HISTORY

MAX_ROWS = 200_000
"""Rows of one table that are remembered. One that was forgotten may be reported twice, without harm."""

_NOT_COMPARED = {
    # A node's index changes whenever an allocation of it does.
    "nodes": ("modify_index",),
    # What a version differs in depends on which ones before it are known: the first answer counts.
    "job_versions": ("changed_fields", "same_as"),
    # Hashes of secrets differ each time.
    "job_changes": ("kind", "old", "new", "sensitive"),
    "changes": ("version_before", "detail"),
}
_INDEX = {"deployments": "modify_index", "nodes": "modify_index", "evaluations": "modify_index"}


class RowFilter:
    """Remembers rows of the tables of a history, each as a number, and tells new ones from known ones."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in HISTORY}
        self._node_indexes: dict[str, int] = {}
        self._job_indexes: dict[tuple[str, str], int] = {}

    def new_rows(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
        """Return the rows that are new, or differ from the known ones, and remember them.

        A row with a lower index than the known one is old news. Nodes get the column `gone`.
        """
        new = {}
        for name, rows in frames.items():
            frame = rows if name != "nodes" or "gone" in rows else rows.assign(gone=False)
            if len(frame):
                chosen = [self._is_new(name, *row) for row in _numbered(name, frame)]
                if any(chosen):
                    new[name] = frame[chosen].reset_index(drop=True)
                if name == "nodes":
                    self._node_indexes |= dict(zip(frame["node_id"], frame["modify_index"], strict=True))
                if name == "job_versions":
                    listed = frame.dropna(subset="job_modify_index").sort_values("job_modify_index")
                    jobs = zip(listed["namespace"], listed["job_id"], strict=True)
                    self._job_indexes |= dict(zip(jobs, listed["job_modify_index"], strict=True))
        return new

    def _is_new(self, name: str, key: int, value: int, index: int) -> bool:
        rows = self._rows[name]
        before = rows.get(key)
        if before is not None and (before[1] == value or index < before[0]):
            return False
        rows[key] = index, value
        if len(rows) > MAX_ROWS:
            for old in list(rows)[: MAX_ROWS // 2]:
                del rows[old]
        return True

    def has_node(self, node: Mapping[str, Any]) -> bool:
        """Return whether a node, as Nomad lists it, is known in this version."""
        return self._node_indexes.get(str(node.get("ID"))) == node.get("ModifyIndex")

    def jobs(self) -> dict[tuple[str, str], int]:
        """Return the JobModifyIndex of the newest known version of each job."""
        return self._job_indexes


def _numbered(name: str, frame: pd.DataFrame) -> Iterable[tuple[int, int, int]]:
    """Yield for each row a number of its key, one of what is compared, and its index."""
    columns: dict[str, list[Any]] = {
        column: frame[column].astype("object").where(frame[column].notna(), None).tolist()
        for column in frame.columns
    }
    compared = [values for column, values in columns.items() if column not in _NOT_COMPARED.get(name, ())]
    keys = [columns[column] for column in HISTORY[name].key]
    index = columns[_INDEX[name]] if name in _INDEX else [0] * len(frame)
    for key, row, number in zip(zip(*keys, strict=True), zip(*compared, strict=True), index, strict=True):
        yield hash(key), hash(row), number or 0
