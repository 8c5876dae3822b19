"""The resources table: what is reserved for each task, and for what its allocation shares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .rows import TEXT, Rows, encode, extra, numbers, parent, text, whole
from .table import Column, Table


def _ports(rows: Rows) -> Any:
    texts = [_to_json(ports) if ports else None for ports in rows.field("ports")]
    return encode(pa.array(texts, TEXT)) if any(texts) else None


def _to_json(ports: Sequence[Any]) -> str:
    fields = [
        {"label": port.Label, "value": port.Value, "to": port.To, "host_ip": port.HostIP or None}
        for port in ports
        if port is not None
    ]
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


def _memory_max(rows: Rows) -> Any:
    return numbers([value or None for value in rows.field("memory_max")], pa.int64())


RESOURCES = Table(
    name="resources",
    key=("alloc_id", "task"),
    doc="One row for each task, and one without a task for what the allocation shares. Needs resources=True.",
    source="resources",
    columns=(
        Column("alloc_id", parent("ID", text("ID")), "text", "the allocation"),
        Column(
            "task", extra("task"), "category", "the task; missing in the row of what the allocation shares"
        ),
        Column("cpu_mhz", whole("cpu"), "int", "CPU shares reserved", "MHz"),
        Column("memory_mib", whole("memory"), "int", "memory reserved", "MiB"),
        Column(
            "memory_max_mib",
            _memory_max,
            "int",
            "memory limit, if memory is oversubscribed",
            "MiB",
        ),
        Column("disk_mib", whole("disk"), "int", "ephemeral disk, in the row without a task", "MiB"),
        Column("ports", _ports, "text", "ports as JSON: label, value, to, host_ip"),
    ),
)
