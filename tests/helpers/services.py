"""Allocations of a simulated cluster for tests that act on them."""

from __future__ import annotations

from allocframe import sim
from allocframe.sim.cluster.alloc import Alloc


def services(cluster: sim.Cluster) -> list[Alloc]:
    """Return the running allocations of services with two tasks."""
    return [
        alloc
        for alloc in cluster.state.allocs.values()
        if alloc.job.kind == "service" and len(alloc.tasks) == 2 and alloc.client_status == "running"
    ]
