"""Job specifications of the simulated cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from .model import SECOND
from .specs import render_job

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@dataclass(frozen=True)
class Outcome:
    """How and when one run of a task ends. `after` is None if the task keeps running."""

    after: int | None = None
    exit_code: int = 0
    signal: int = 0
    oom: bool = False
    download_error: str = ""
    driver_error: str = ""

    @property
    def failed(self) -> bool:
        return bool(self.exit_code or self.signal or self.oom or self.download_error or self.driver_error)


RUNS_ON = Outcome()

Behaviour = Callable[["Run", Random], Outcome]
"""Decides how a run ends."""


@dataclass(frozen=True)
class Run:
    """The start of a task: the input of a `Behaviour`."""

    task: str
    job_version: int
    node_id: str
    index: int
    time: int
    attempt: int


@dataclass(frozen=True)
class Task:
    name: str
    behaviour: Behaviour = lambda run, rng: RUNS_ON
    sidecar: bool = False
    leader: bool = False
    artifact: bool = False
    cpu: int = 100
    memory: int = 256
    release: str = "1.0.0"
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RestartPolicy:
    """Nomad's restart policy. `mode` says what follows the last attempt: ``fail`` or ``delay``."""

    attempts: int = 2
    interval: int = 30 * MINUTE
    delay: int = 15 * SECOND
    mode: str = "fail"


@dataclass(frozen=True)
class ReschedulePolicy:
    """Nomad's reschedule policy: `unlimited`, or a number of `attempts` in an interval."""

    delay: int = 30 * SECOND
    function: str = "exponential"
    max_delay: int = HOUR
    unlimited: bool = True
    attempts: int = 0
    interval: int = 0

    def pause(self, past: list[int]) -> int | None:
        """Return the next delay after the `past` ones, or None if no attempt is left."""
        if not self.unlimited and len(past) >= self.attempts:
            return None
        if not past or self.function == "constant":
            return self.delay
        before = past[-2] if len(past) > 1 else past[-1]  # for Fibonacci, the other function
        delay = past[-1] * 2 if self.function == "exponential" else past[-1] + before
        return min(delay, self.max_delay)


@dataclass(frozen=True)
class Group:
    name: str
    count: int
    tasks: tuple[Task, ...]
    restart: RestartPolicy = RestartPolicy()
    reschedule: ReschedulePolicy = ReschedulePolicy()


@dataclass(frozen=True)
class Job:
    """One version of a job."""

    id: str
    namespace: str
    kind: str
    groups: tuple[Group, ...]
    version: int = 0
    canaries: int = 0
    auto_revert: bool = False
    create_index: int = 0
    modify_index: int = 0
    submit_time: int = 0
    status: str = field(default="running", compare=False)

    def next_version(self, **changes: Any) -> Job:
        """Return the next version of the job, with some fields changed."""
        return replace(self, version=self.version + 1, **changes)

    def stub(self, version: str) -> dict[str, Any]:
        """Return the job as a list shows it."""
        summary = dict.fromkeys(("Complete", "Failed", "Lost", "Queued", "Running", "Starting", "Unknown"), 0)
        answer: dict[str, Any] = {
            "CreateIndex": self.create_index,
            "Datacenters": ["dc1"],
            "ID": self.id,
            "JobModifyIndex": self.modify_index,
            "JobSummary": {
                "Children": {"Dead": 0, "Pending": 0, "Running": 0},
                "CreateIndex": self.create_index,
                "JobID": self.id,
                "ModifyIndex": self.modify_index,
                "Namespace": self.namespace,
                "Summary": {group.name: dict(summary) for group in self.groups},
            },
            "ModifyIndex": self.modify_index,
            "Multiregion": None,
            "Name": self.id,
            "Namespace": self.namespace,
            "ParameterizedJob": False,
            "ParentID": "",
            "Periodic": False,
            "Priority": 50,
            "Status": self.status,
            "StatusDescription": "",
            "Stop": False,
            "SubmitTime": self.submit_time,
            "Type": self.kind,
        }
        return answer if version == "1.3.1" else {**answer, "NodePool": "default"}

    def full(self, version: str) -> dict[str, Any]:
        """Return the job as a read of it shows it."""
        return render_job(self, version)

    struct = full
