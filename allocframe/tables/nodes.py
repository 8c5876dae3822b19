"""The nodes table: one row for each client node."""

from __future__ import annotations

from .table import Column, Table

NODES = Table(
    name="nodes",
    key=("node_id",),
    doc="One row for each node; Nomad removes nodes that have been down for a day.",
    source="nodes",
    columns=(
        Column("node_id", "ID", "text", "the node's UUID"),
        Column("node_name", "Name", "category", "its name"),
        Column("node_class", "NodeClass", "category", "its class"),
        Column("node_pool", "NodePool", "category", "its pool (since Nomad 1.6)"),
        Column("datacenter", "Datacenter", "category", "its datacenter"),
        Column("nomad_version", "Version", "category", "version of Nomad that it runs"),
        Column("status", "Status", "category", "initializing, ready, down or disconnected"),
        Column("status_description", "StatusDescription", "text", "the reason for that status"),
        Column("status_updated_at", "status_updated_at", "time", "when that status began", "UTC"),
        Column("eligibility", "SchedulingEligibility", "category", "eligible or ineligible"),
        Column("draining", "Drain", "bool", "whether it is being drained"),
        Column("last_drain_at", "LastDrain.StartedAt", "time", "when its last drain began", "UTC"),
        Column("last_drain_status", "LastDrain.Status", "category", "draining, complete or canceled"),
        Column("create_index", "CreateIndex", "uint", "Raft index of its registration"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
    ),
)
