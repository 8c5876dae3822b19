"""Allocations of known truth, as JSON that Nomad could have sent. Nothing here imports allocframe.

A world is a set of jobs. Each of its tasks crashes at random with a hazard that is known, restarts after a
pause, and keeps the last ten of its events, as Nomad's clients do. What the servers have removed is left out.
Everything that a statistic estimates is returned beside the JSON, computed from what happened and not from
what is left of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RING = 10
SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND
HOUR = 3600.0

Draw = Callable[[np.random.Generator], float]
JSON = dict[str, Any]


@dataclass
class Life:
    """What one task did: its runs (start, end, how it ended), in seconds before and up to now, which is 0."""

    born: float
    runs: list[tuple[float, float, str]] = field(default_factory=list)

    @property
    def up(self) -> float:
        return sum(end - start for start, end, _ in self.runs)

    @property
    def failures(self) -> int:
        return sum(kind == "failure" for *_, kind in self.runs)


def live(
    rng: np.random.Generator, born: float, draw: Draw, *, pause: float = 15.0, latency: float = 1.0
) -> Life:
    """Return the life of a task that is born at `born` (seconds, negative) and restarts whenever it fails."""
    life, time = Life(born), born + latency
    while time < 0:
        length = draw(rng)
        if time + length >= 0:
            life.runs.append((time, 0.0, "running"))
            break
        life.runs.append((time, time + length, "failure"))
        time += length + pause
    return life


def exponential(rate: float) -> Draw:
    """Return a draw of run lengths in seconds, for a constant hazard by the hour."""
    return lambda rng: float(rng.exponential(HOUR / rate)) if rate > 0 else math.inf


def events_of(life: Life) -> list[JSON]:
    """Return all the events of a life, as a client would have sent them."""
    events = [event("Received", life.born), event("Task Setup", life.born + 0.5)]
    for start, end, kind in life.runs:
        events.append(event("Started", start))
        if kind == "failure":
            details = {"exit_code": "1", "signal": "0", "oom_killed": "false"}
            events.append(event("Terminated", end, **details))
            events.append(
                event("Restarting", end + 0.001, restart_reason="Restart within policy", start_delay="0")
            )
    return events


def event(kind: str, at: float, **details: str) -> JSON:
    return {"Type": kind, "Time": NOW + round(at * SECOND), "Details": details, "DisplayMessage": kind}


def allocation(
    number: int, life: Life, *, job: str, index: int, node: str = "n0", ring: int = RING, **fields: Any
) -> JSON:
    """Return the allocation of a life, with what is left of its events."""
    events = events_of(life)
    restarts = sum(one["Type"] == "Restarting" for one in events)
    last = life.runs[-1] if life.runs else None
    return {
        "ID": f"{number:08x}-0000-4000-8000-000000000000",
        "Namespace": "default",
        "JobID": job,
        "JobVersion": 0,
        "JobType": "service",
        "TaskGroup": "g",
        "Name": f"{job}.g[{index}]",
        "NodeID": node,
        "NodeName": node,
        "ClientStatus": "running",
        "DesiredStatus": "run",
        "CreateTime": NOW + round(life.born * SECOND),
        "ModifyTime": NOW,
        "CreateIndex": 1,
        "ModifyIndex": 2,
        "TaskStates": {
            "t": {
                "State": "running" if last and last[2] == "running" else "pending",
                "Failed": False,
                "Restarts": restarts,
                "Events": events[-ring:] if ring else events,
                "StartedAt": iso(last[0]) if last else None,
                "FinishedAt": None,
            }
        },
        **fields,
    }


def iso(at: float) -> str:
    return str(np.datetime64(NOW + round(at * SECOND), "ns")) + "Z"


def fleet(
    rng: np.random.Generator,
    tasks: int,
    rate: float,
    hours: float,
    *,
    job: str,
    first: int = 0,
    mixed: bool = False,
    ring: int = RING,
    ages: str = "equal",
) -> tuple[list[JSON], list[Life], float]:
    """Return the allocations of one job, their lives, and the mean hazard by the hour that running tasks had.

    `mixed`: half of the tasks have a ninth of the others' hazard, with the same mean.
    """
    rows, lives, weight, exposure = [], [], 0.0, 0.0
    for index in range(tasks):
        own = rate * (1.8 if index % 2 else 0.2) if mixed else rate
        born = -hours * HOUR if ages == "equal" else -hours * HOUR * float(rng.random())
        life = live(rng, born, exponential(own))
        rows.append(allocation(first + index, life, job=job, index=index, ring=ring))
        lives.append(life)
        weight, exposure = weight + own * life.up, exposure + life.up
    return rows, lives, weight / exposure if exposure else rate
