"""The reschedules table: one row for each reschedule in an allocation's tracker."""

from __future__ import annotations

from .table import Column, Table

RESCHEDULES = Table(
    name="reschedules",
    key=("alloc_id", "seq"),
    doc="One row for each reschedule in an allocation's tracker; Nomad keeps about 5, not the full history.",
    source="reschedule_events",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation with the tracker"),
        Column("seq", "seq", "int", "position in the tracker, from 0, oldest first"),
        Column("prev_alloc_id", "given(r.PrevAllocID)", "text", "the allocation that failed"),
        Column("prev_node_id", "given(r.PrevNodeID)", "category", "the node on which it failed"),
        Column("time", "at_ns(r.RescheduleTime)", "time", "when it happened, by the server's clock", "UTC"),
        Column("delay", "r.Delay", "duration", "delay before the reschedule", "ns"),
    ),
)
