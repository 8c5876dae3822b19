"""The tables, one file for each. `TABLES` holds them in the order in which they are shown."""

from __future__ import annotations

from .allocations import ALLOCATIONS
from .evaluations import EVALUATIONS, evaluations_frame
from .events import EVENTS
from .placement import PLACEMENT
from .reschedules import RESCHEDULES
from .resources import RESOURCES
from .table import Table
from .task_states import TASK_STATES

TABLES: dict[str, Table] = {
    table.name: table for table in (ALLOCATIONS, TASK_STATES, EVENTS, RESCHEDULES, RESOURCES, PLACEMENT)
}

SNAPSHOT_TABLES = ("allocations", "task_states", "events", "reschedules", "resources")
"""The tables that Nomad's list of allocations fills. `placement` needs full reads, and evaluations another
list."""

__all__ = [
    "ALLOCATIONS",
    "EVALUATIONS",
    "EVENTS",
    "PLACEMENT",
    "RESCHEDULES",
    "RESOURCES",
    "SNAPSHOT_TABLES",
    "TABLES",
    "TASK_STATES",
    "evaluations_frame",
]
