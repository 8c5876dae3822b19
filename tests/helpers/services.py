"""Allocations of a simulated cluster to act upon."""

from __future__ import annotations

from allocframe import sim
from allocframe.sim.cluster.alloc import Alloc


def services(cluster: sim.Cluster) -> list[Alloc]:
    """Return the running allocations of services with two tasks."""
    return [
        a
        for a in cluster.state.allocs.values()
        if a.job.kind == "service" and len(a.tasks) == 2 and a.client_status == "running"
    ]
