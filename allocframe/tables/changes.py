"""The changes table, a ledger: one row for each thing that somebody or something changed."""

from __future__ import annotations

from .table import Column, Table

CHANGES = Table(
    name="changes",
    key=("kind", "at", "namespace", "job_id", "node_name", "alloc_id", "version_after", "source"),
    doc="One row for each change, in order of time: what was different from then on.",
    source="changes",
    columns=(
        Column(
            "kind",
            "kind",
            "category",
            "job version, deployment, scale, drain, eligibility, node down, node up, operator restart, "
            "operator stop, dispatch or purge",
        ),
        Column("at", "at", "time", "when it happened; missing if not known", "UTC"),
        Column("namespace", "namespace", "category", "namespace of the job; missing for nodes"),
        Column("job_id", "job_id", "category", "the job; missing for nodes"),
        Column("node_name", "node_name", "category", "the node; missing for jobs"),
        Column("alloc_id", "alloc_id", "text", "the allocation that an operator restarted or stopped"),
        Column("version_before", "version_before", "uint", "version of the job before the change"),
        Column("version_after", "version_after", "uint", "version of the job after the change"),
        Column("source", "source", "category", "the table that it was read from"),
        Column("detail", "detail", "text", "further facts, as JSON"),
    ),
)
