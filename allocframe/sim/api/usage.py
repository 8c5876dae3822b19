"""What the tasks of a simulated cluster use: made of their names and the time when it is asked for."""

from __future__ import annotations

import math
import zlib
from typing import Any

from ..cluster.alloc import Alloc
from ..cluster.jobs import Task
from ..cluster.model import SECOND

_MIB = 1 << 20
_CPU = ["Throttled Periods", "Throttled Time", "Percent"]
_MEMORY = ["RSS", "Cache", "Swap", "Usage"]
_CORE_MHZ = 2000.0


def measured(alloc: Alloc, only: str | None, now_ns: int) -> dict[str, Any]:
    """Return what a node says of an allocation: of each task that runs, once a second; zeros where none does."""
    moment = now_ns // SECOND * SECOND
    running = [
        task
        for task in alloc.group.tasks
        if alloc.tasks[task.name].state == "running" and only in (None, "", task.name)
    ]
    shares = {task.name: _shares(alloc, task, moment) for task in running}
    return {
        "ResourceUsage": _usage(sum(cpu for cpu, _ in shares.values()), sum(ram for _, ram in shares.values()), [], known=bool(running)),
        "Tasks": {
            name: {
                "Pids": {str(1000 + zlib.crc32(name.encode()) % 30000): _usage(cpu, memory, None, known=True)},
                "ResourceUsage": _usage(cpu, memory, None, known=True),
                "Timestamp": moment,
            }
            for name, (cpu, memory) in shares.items()
        },
        "Timestamp": moment if running else 0,
    }  # fmt: skip


def _shares(alloc: Alloc, task: Task, moment: int) -> tuple[float, float]:
    """Return MHz and bytes: a level that belongs to the job, and what moves around it."""
    level = zlib.crc32(f"{alloc.job.id}/{task.name}".encode()) % 1000 / 1000
    phase = zlib.crc32(alloc.id.encode()) % 60
    moves = math.sin(2 * math.pi * (moment // SECOND + phase) / 60)
    cpu = task.cpu * (0.05 + 0.6 * level) * (1 + 0.3 * moves)
    memory = task.memory * _MIB * (0.15 + 0.75 * level) * (1 + 0.05 * moves)
    return cpu, memory


def _usage(cpu: float, memory: float, devices: list[Any] | None, *, known: bool) -> dict[str, Any]:
    return {
        "CpuStats": {
            "Measured": _CPU if known else None, "Percent": 100 * cpu / _CORE_MHZ, "SystemMode": 0.0, "ThrottledPeriods": 0,
            "ThrottledTime": 0, "TotalTicks": float(cpu), "UserMode": 0.0,
        },
        "DeviceStats": devices,
        "MemoryStats": {
            "Cache": 0, "KernelMaxUsage": 0, "KernelUsage": 0, "MappedFile": 0, "MaxUsage": 0, "Measured": _MEMORY if known else None,
            "RSS": int(memory), "Swap": 0, "Usage": int(memory),
        },
    }  # fmt: skip
