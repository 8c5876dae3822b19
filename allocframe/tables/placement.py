"""The placement table: how the scheduler scored nodes for an allocation. Only full reads have it."""

from __future__ import annotations

from .table import Column, Table

PLACEMENT = Table(
    name="placement",
    key=("alloc_id", "node_id"),
    doc="One row for each node that the scheduler scored for an allocation, and counts of those ruled out.",
    source="scored_nodes",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation"),
        Column("node_id", "given(s.NodeID)", "category", "the node; missing if no node was scored"),
        Column("norm_score", "s.NormScore", "float", "final score; the highest wins"),
        Column(
            "scores",
            "CASE WHEN cardinality(s.Scores) > 0 THEN CAST(to_json(s.Scores) AS VARCHAR) END",
            "text",
            "the parts of the score, as JSON",
        ),
        Column("nodes_evaluated", "m.NodesEvaluated", "int", "nodes that the scheduler looked at"),
        Column("nodes_filtered", "m.NodesFiltered", "int", "nodes that a constraint ruled out"),
        Column("nodes_exhausted", "m.NodesExhausted", "int", "nodes without enough resources"),
        Column(
            "constraint_filtered",
            "CASE WHEN cardinality(m.ConstraintFiltered) > 0 "
            "THEN CAST(to_json(m.ConstraintFiltered) AS VARCHAR) END",
            "text",
            "nodes ruled out by each constraint, as JSON",
        ),
        Column(
            "class_filtered",
            "CASE WHEN cardinality(m.ClassFiltered) > 0 THEN CAST(to_json(m.ClassFiltered) AS VARCHAR) END",
            "text",
            "nodes ruled out by node class, as JSON",
        ),
        Column(
            "dimension_exhausted",
            "CASE WHEN cardinality(m.DimensionExhausted) > 0 "
            "THEN CAST(to_json(m.DimensionExhausted) AS VARCHAR) END",
            "text",
            "nodes short of each resource, as JSON",
        ),
        Column(
            "coalesced_failures",
            "m.CoalescedFailures",
            "int",
            "further failed placements of the same group",
        ),
        Column("allocation_time", "m.AllocationTime", "duration", "time that the scheduler took", "ns"),
    ),
)
