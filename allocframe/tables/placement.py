"""The placement table: how the scheduler scored nodes for an allocation. Only full reads have it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from .rows import TEXT, Reader, Rows, encode, parent, real, repeated, text, whole
from .table import Column, Table


def _as_json(name: str) -> Reader:
    """Read a map as JSON."""

    def read(rows: Rows) -> Any:
        texts = [
            json.dumps(value, separators=(",", ":"), ensure_ascii=False) if value else None
            for value in rows.field(name)
        ]
        return encode(pa.array(texts, TEXT)) if any(texts) else None

    return read


PLACEMENT = Table(
    name="placement",
    key=("alloc_id", "node_id"),
    doc="One row for each node that the scheduler scored for an allocation, and counts of those ruled out.",
    source="scored_nodes",
    columns=(
        Column("alloc_id", parent("ID", text("ID")), "text", "the allocation"),
        Column("node_id", repeated("node.NodeID"), "category", "the node; missing if no node was scored"),
        Column("norm_score", real("node.NormScore"), "float", "final score; the highest wins"),
        Column(
            "scores",
            _as_json("node.Scores"),
            "text",
            "the parts of the score, as JSON",
        ),
        Column(
            "nodes_evaluated", whole("metrics.NodesEvaluated"), "int", "nodes that the scheduler looked at"
        ),
        Column("nodes_filtered", whole("metrics.NodesFiltered"), "int", "nodes that a constraint ruled out"),
        Column("nodes_exhausted", whole("metrics.NodesExhausted"), "int", "nodes without enough resources"),
        Column(
            "constraint_filtered",
            _as_json("metrics.ConstraintFiltered"),
            "text",
            "nodes ruled out by each constraint, as JSON",
        ),
        Column(
            "class_filtered",
            _as_json("metrics.ClassFiltered"),
            "text",
            "nodes ruled out by node class, as JSON",
        ),
        Column(
            "dimension_exhausted",
            _as_json("metrics.DimensionExhausted"),
            "text",
            "nodes short of each resource, as JSON",
        ),
        Column(
            "coalesced_failures",
            whole("metrics.CoalescedFailures"),
            "int",
            "further failed placements of the same group",
        ),
        Column(
            "allocation_time",
            whole("metrics.AllocationTime"),
            "duration",
            "time that the scheduler took",
            "ns",
        ),
    ),
)
