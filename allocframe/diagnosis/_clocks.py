"""Clocks: events have the time of their node, allocations that of the servers; here they become one.

A node receives an allocation after the servers created it, and tells of an event before the servers write it
down. What contradicts that is a clock that is off, and by how much.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ._tables import EVENTS_AT_ONCE, NEVER, Array, categories

_ROUNDING = 2 * 10**9
"""Clocks that differ by less are taken for equal: updates travel that long."""


def set_clocks(allocations: pd.DataFrame, tasks: pd.DataFrame, events: pd.DataFrame) -> None:
    """Put the events and task states of nodes whose clock is off onto the servers' time, in place."""
    node, names = categories(
        allocations["node_id"].where(allocations["node_id"].notna(), allocations["node_name"])
    )
    offset = _offsets(allocations, tasks, events, node, len(names))
    offset[-1] = 0  # allocations without a node
    if not offset.any():
        return
    by_task = offset[node][tasks["alloc"].to_numpy()]
    for name in ("last_restart", "started", "finished"):
        tasks[name] = _moved(tasks[name].to_numpy(), by_task)
    events["time"] = _moved(events["time"].to_numpy(), by_task[events["owner"].to_numpy()])


def _moved(times: Array, offset: Array) -> Array:
    return np.where(times == NEVER, NEVER, times - offset)


def _offsets(
    allocations: pd.DataFrame, tasks: pd.DataFrame, events: pd.DataFrame, node: Array, nodes: int
) -> Array:
    """Return how far the clock of each node is ahead of the servers' (negative: behind), in nanoseconds."""
    # at most: the quickest that an allocation was received
    most = np.full(nodes, np.iinfo(np.int64).max)
    # at least: an event that the servers knew of before it happened
    least = np.full(nodes, np.iinfo(np.int64).min)
    of_tasks = tasks["alloc"].to_numpy()
    for start in range(0, len(events), EVENTS_AT_ONCE):
        part = events.iloc[start : start + EVENTS_AT_ONCE]
        alloc, time = of_tasks[part["owner"].to_numpy()], part["time"].to_numpy()
        created, modified = (allocations[name].to_numpy()[alloc] for name in ("created_at", "modified_at"))
        received = part["type"].eq("Received").to_numpy(dtype=bool) & (created != NEVER) & (time != NEVER)
        np.minimum.at(most, node[alloc[received]], time[received] - created[received])
        known = (modified != NEVER) & (time != NEVER)
        np.maximum.at(least, node[alloc[known]], time[known] - modified[known])
    both = most != np.iinfo(np.int64).max
    behind = both & (most < -_ROUNDING)
    # a slow start looks like a clock that is ahead: only an event out of the future proves it
    ahead = least > _ROUNDING
    result: Array = np.select([behind, ahead & both & (most >= least), ahead], [most, most, least], default=0)
    return result
