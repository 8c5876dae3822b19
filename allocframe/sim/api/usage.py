"""Resource usage of simulated tasks, calculated from their names and the time of the read."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from typing import Any

from ..cluster.alloc import Alloc
from ..cluster.jobs import Task
from ..cluster.model import SECOND

_MIB = 1 << 20
_CPU = ["Throttled Periods", "Throttled Time", "Percent"]
_MEMORY = ["RSS", "Cache", "Swap", "Usage"]
_CORE_MHZ = 2000.0


def resource_usage(alloc: Alloc, only: str | None, now_ns: int) -> dict[str, Any]:
    """Return the usage of an allocation's running tasks (zeros if there are none), measured once a second."""
    sampled_at = now_ns // SECOND * SECOND
    running = [
        task
        for task in alloc.group.tasks
        if alloc.tasks[task.name].state == "running" and only in (None, "", task.name)
    ]
    usage = {task.name: _task_usage(alloc, task, sampled_at) for task in running}
    cpu_total, memory_total = (
        sum(cpu for cpu, _ in usage.values()),
        sum(memory for _, memory in usage.values()),
    )
    return {
        "ResourceUsage": _usage_json(cpu_total, memory_total, [], measured=bool(running)),
        "Tasks": {
            name: {
                "Pids": {
                    str(1000 + zlib.crc32(name.encode()) % 30000): _usage_json(
                        cpu, memory, None, measured=True
                    )
                },
                "ResourceUsage": _usage_json(cpu, memory, None, measured=True),
                "Timestamp": sampled_at,
            }
            for name, (cpu, memory) in usage.items()
        },
        "Timestamp": sampled_at if running else 0,
    }


def node_usage(allocs: Iterable[Alloc], total: int, now_ns: int) -> dict[str, Any]:
    """Return the usage of a node with some allocations and `total` bytes of memory."""
    tasks = [
        _task_usage(alloc, task, now_ns)
        for alloc in allocs
        for task in alloc.group.tasks
        if alloc.tasks[task.name].state == "running"
    ]
    cpu, memory = sum(cpu for cpu, _ in tasks), int(sum(used for _, used in tasks))
    disk = {"Available": 150 << 30, "Device": "/dev/vda", "InodesUsedPercent": 5.0, "Mountpoint": "/"}
    disk |= {"Size": 200 << 30, "Used": 50 << 30, "UsedPercent": 25.0}
    return {
        "AllocDirStats": disk,
        "CPU": [],
        "CPUTicksConsumed": float(cpu),
        "DeviceStats": None,
        "DiskStats": [disk],
        "Memory": {"Available": total - memory, "Free": total - memory, "Total": total, "Used": memory},
        "Timestamp": now_ns,
        "Uptime": 86_400,
    }


def _task_usage(alloc: Alloc, task: Task, time: int) -> tuple[float, float]:
    """Return MHz and bytes: a level that depends on the job, and a wave of one minute around it."""
    level = zlib.crc32(f"{alloc.job.id}/{task.name}".encode()) % 1000 / 1000
    phase = zlib.crc32(alloc.id.encode()) % 60
    wave = math.sin(2 * math.pi * (time // SECOND + phase) / 60)
    cpu = task.cpu * (0.05 + 0.6 * level) * (1 + 0.3 * wave)
    memory = task.memory * _MIB * (0.15 + 0.75 * level) * (1 + 0.05 * wave)
    return cpu, memory


def _usage_json(cpu: float, memory: float, devices: list[Any] | None, *, measured: bool) -> dict[str, Any]:
    return {
        "CpuStats": {
            "Measured": _CPU if measured else None, "Percent": 100 * cpu / _CORE_MHZ, "SystemMode": 0.0,
            "ThrottledPeriods": 0, "ThrottledTime": 0, "TotalTicks": float(cpu), "UserMode": 0.0,
        },
        "DeviceStats": devices,
        "MemoryStats": {
            "Cache": 0, "KernelMaxUsage": 0, "KernelUsage": 0, "MappedFile": 0, "MaxUsage": 0,
            "Measured": _MEMORY if measured else None, "RSS": int(memory), "Swap": 0, "Usage": int(memory),
        },
    }  # fmt: skip
