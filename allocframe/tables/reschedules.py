"""The reschedules table: one row for each reschedule in an allocation's tracker."""

from __future__ import annotations

from .rows import extra, nanoseconds, parent, repeated, text, whole
from .table import Column, Table

RESCHEDULES = Table(
    name="reschedules",
    key=("alloc_id", "seq"),
    doc="One row for each reschedule in an allocation's tracker; Nomad keeps about 5, not the full history.",
    source="reschedules",
    columns=(
        Column("alloc_id", parent("ID", text("ID")), "text", "the allocation with the tracker"),
        Column("seq", extra("seq"), "int", "position in the tracker, from 0, oldest first"),
        Column("prev_alloc_id", repeated("PrevAllocID"), "text", "the allocation that failed"),
        Column("prev_node_id", repeated("PrevNodeID"), "category", "the node on which it failed"),
        Column(
            "time", nanoseconds("RescheduleTime"), "time", "when it happened, by the server's clock", "UTC"
        ),
        Column("delay", whole("Delay"), "duration", "delay before the reschedule", "ns"),
    ),
)
