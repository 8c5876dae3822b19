"""The tables, one file for each. `TABLES` holds those of a snapshot, `HISTORY` those of a history."""

from __future__ import annotations

from .allocations import ALLOCATIONS
from .changes import CHANGES
from .deployments import DEPLOYMENTS
from .evaluations import EVALUATIONS, evaluations_frame
from .events import EVENTS
from .job_changes import JOB_CHANGES
from .job_versions import JOB_VERSIONS
from .json_rows import frame_of_rows
from .node_events import NODE_EVENTS
from .nodes import NODES
from .placement import PLACEMENT
from .reschedules import RESCHEDULES
from .resources import RESOURCES
from .table import Table
from .task_states import TASK_STATES

TABLES: dict[str, Table] = {
    table.name: table for table in (ALLOCATIONS, TASK_STATES, EVENTS, RESCHEDULES, RESOURCES, PLACEMENT)
}
"""In the order in which they are shown."""

SNAPSHOT_TABLES = ("allocations", "task_states", "events", "reschedules", "resources")
"""The tables that Nomad's list of allocations fills. `placement` needs full reads, and evaluations another
list."""

HISTORY: dict[str, Table] = {
    table.name: table
    for table in (CHANGES, JOB_VERSIONS, JOB_CHANGES, DEPLOYMENTS, NODES, NODE_EVENTS, EVALUATIONS)
}
"""What changed in the cluster: the tables of `History`."""

__all__ = [
    "ALLOCATIONS",
    "CHANGES",
    "DEPLOYMENTS",
    "EVALUATIONS",
    "EVENTS",
    "HISTORY",
    "JOB_CHANGES",
    "JOB_VERSIONS",
    "NODES",
    "NODE_EVENTS",
    "PLACEMENT",
    "RESCHEDULES",
    "RESOURCES",
    "SNAPSHOT_TABLES",
    "TABLES",
    "TASK_STATES",
    "evaluations_frame",
    "frame_of_rows",
]
