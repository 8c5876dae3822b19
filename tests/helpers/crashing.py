"""A cluster in which tasks crash when a test says so, and events as plain values to compare."""

from __future__ import annotations

import pandas as pd

import allocframe as af
from allocframe.sim.cluster.jobs import Outcome

Key = tuple[str, str, str, int]
"""Allocation, task, type and time."""


def keys(events: pd.DataFrame) -> list[Key]:
    columns = (events["alloc_id"], events["task"], events["type"], events["time"].astype("int64"))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def crash(cluster: af.sim.Cluster, times: int = 1, which: int = 0) -> None:
    """Crash a running service task and let it start again."""
    engine = cluster.engine
    for _ in range(times):
        with engine.state.changed:
            running = [a for a in engine.live() if a.client_status == "running" and a.job.kind == "service"]
            engine.runner.crash(running[which], Outcome(exit_code=1))
        engine.advance(30)
