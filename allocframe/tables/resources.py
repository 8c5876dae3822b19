"""The resources table: what is reserved for each task, and for what its allocation shares."""

from __future__ import annotations

from .table import Column, Table

_PORTS = """CASE WHEN len(ports) > 0 THEN CAST(to_json(list_transform(ports,
 lambda p: {'label': p.Label, 'value': p.Value, 'to': p.To, 'host_ip': given(p.HostIP)})) AS VARCHAR) END"""

RESOURCES = Table(
    name="resources",
    key=("alloc_id", "task"),
    doc="One row for each task, and one without a task for what the allocation shares. Needs resources=True.",
    source="task_resources",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation"),
        Column("task", "task", "category", "the task; missing in the row of what the allocation shares"),
        Column("cpu_mhz", "cpu", "int", "CPU shares reserved", "MHz"),
        Column("memory_mib", "memory", "int", "memory reserved", "MiB"),
        Column(
            "memory_max_mib",
            "nullif(memory_max, 0)",
            "int",
            "memory limit, if memory is oversubscribed",
            "MiB",
        ),
        Column("disk_mib", "disk", "int", "ephemeral disk, in the row without a task", "MiB"),
        Column("ports", _PORTS, "text", "ports as JSON: label, value, to, host_ip"),
    ),
)
