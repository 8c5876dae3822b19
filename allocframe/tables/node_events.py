"""The node_events table: one row for each event of a node."""

from __future__ import annotations

from .table import Column, Table

NODE_EVENTS = Table(
    name="node_events",
    key=("node_id", "time", "subsystem", "message"),
    doc="One row for each event of a node; Nomad keeps the last ten per node.",
    source="node_events",
    columns=(
        Column("node_id", "node_id", "text", "the node"),
        Column("node_name", "node_name", "category", "its name"),
        Column("time", "Timestamp", "time", "when it happened, by the server's clock", "UTC"),
        Column("subsystem", "Subsystem", "category", "Cluster, Drain, Driver, Scheduler, Storage, ..."),
        Column("message", "Message", "text", "what happened"),
        Column("details", "Details", "text", "further facts, as JSON"),
        Column("create_index", "CreateIndex", "uint", "Raft index of the event; 0 for the first"),
    ),
)
