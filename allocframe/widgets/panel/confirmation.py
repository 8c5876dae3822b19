"""Action requests: their description, the reasons against them, and their confirmation. No widgets here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..._utils.text import visible
from ...nomad import actions
from ...nomad.actions import Action

RUNNING, ALL, TASK = "running", "all", "task"
"""Which tasks a request is for: the running ones, all of them, or one by name."""

CONFIRM_TIMEOUT = 20.0
"""Seconds to confirm a request: enough to read ten lines."""

REPEAT_DELAY = 1.5
"""Seconds before a repeated question can be confirmed: an earlier click may have been for the first one."""

ENDED = ("complete", "failed", "lost")
"""Client statuses of an allocation that no longer runs."""
_SIGNAL_EFFECTS = {
    "SIGKILL": "They end at once. Their restart policy decides what follows.",
    "SIGSTOP": "They are suspended until they get SIGCONT.",
}


@dataclass(frozen=True)
class ActionRequest:
    """What to do: stop, signal or restart; for which tasks; with which signal; or only as a dry run."""

    action: str
    scope: str = RUNNING
    task: str = ""
    signal: str = ""
    dry_run: bool = False


@dataclass(frozen=True)
class AllocationState:
    """An allocation as it was when it was read."""

    alloc_id: str
    name: str
    job_id: str
    namespace: str
    node_name: str
    client_status: str
    desired_status: str
    modify_index: int
    tasks: tuple[tuple[str, str], ...] = ()
    next_alloc_id: str = ""
    started: tuple[tuple[str, str], ...] = ()
    """When each task last started, as the node wrote it: another text is another run."""
    drivers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> AllocationState:
        """Return the state from a full read. Nomad leaves empty fields out."""
        states = read.get("TaskStates") or {}
        tasks = sorted((str(name), str((state or {}).get("State", ""))) for name, state in states.items())
        started = sorted(
            (str(name), str((state or {}).get("StartedAt") or "")) for name, state in states.items()
        )
        return cls(
            alloc_id=str(read.get("ID") or ""),
            name=str(read.get("Name") or ""),
            job_id=str(read.get("JobID") or ""),
            namespace=str(read.get("Namespace") or ""),
            node_name=str(read.get("NodeName") or ""),
            client_status=str(read.get("ClientStatus") or ""),
            desired_status=str(read.get("DesiredStatus") or ""),
            modify_index=int(read.get("ModifyIndex") or 0),
            tasks=tuple(tasks),
            next_alloc_id=str(read.get("NextAllocation") or ""),
            started=tuple(started),
            drivers=tuple(_drivers(read)),
        )

    @classmethod
    def unread(cls, alloc_id: str) -> AllocationState:
        """Return the state of an allocation that could never be read: only its ID."""
        return cls(alloc_id, alloc_id, "", "", "", "", "", 0)

    def task_names(self, *, running: bool) -> list[str]:
        """Return the names of the running tasks, or of the others."""
        return [name for name, state in self.tasks if (state == "running") is running]


def _drivers(read: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name and driver of each task of the allocation's group."""
    for group in (read.get("Job") or {}).get("TaskGroups") or []:
        if group.get("Name") == read.get("TaskGroup"):
            for task in group.get("Tasks") or []:
                yield str(task.get("Name")), str(task.get("Driver"))


def target_tasks(request: ActionRequest, alloc: AllocationState) -> list[str]:
    """Return the tasks that a request reaches."""
    if request.scope == TASK:
        return [request.task]
    ended = alloc.task_names(running=False) if request.scope == ALL else []
    return alloc.task_names(running=True) + ended


def objection(request: ActionRequest, alloc: AllocationState) -> str | None:
    """Return why a request makes no sense for an allocation, or None if it does."""
    if alloc.client_status in ENDED:
        more = "; a stop would only create an evaluation" if request.action == "stop" else ""
        return f"it is {alloc.client_status} already{more}"
    if alloc.desired_status != "run":
        return "it is being stopped already"
    if request.action == "stop":
        return None
    if request.scope == TASK and request.task not in alloc.task_names(running=True):
        exists = request.task in alloc.task_names(running=False)
        task = visible(request.task)
        return f"its task {task} is not running" if exists else f"it has no task {task}"
    return None if target_tasks(request, alloc) else "none of its tasks is running"


def describe(request: ActionRequest, alloc: AllocationState) -> str:
    """Describe what a request will do to an allocation. Names are escaped and cut if they are long."""
    tasks = ", ".join(map(visible, target_tasks(request, alloc)))
    target = f"{visible(alloc.name)} (on {visible(alloc.node_name)}, {visible(alloc.client_status)})"
    if request.action == "stop":
        running = ", ".join(map(visible, alloc.task_names(running=True))) or "none"
        return (
            f"Stop {target}. Its running tasks ({running}) end. "
            "A new allocation replaces it, on this node or another."
        )
    if request.action == "restart":
        also = ", including ended tasks" if request.scope == ALL else ""
        return f"Restart {tasks} of {target} in place{also}. Same allocation, same node."
    effect = _SIGNAL_EFFECTS.get(request.signal, "")
    return f"Send {request.signal} to {tasks} of {target}. {effect}".strip()


def describe_changes(before: AllocationState, after: AllocationState) -> str:
    """Describe what has changed between two reads of an allocation."""
    fields = [
        ("status", before.client_status, after.client_status),
        ("desired status", before.desired_status, after.desired_status),
        ("node", before.node_name, after.node_name),
    ]
    old_states = dict(before.tasks)
    fields += [
        (f"task {visible(name)}", old_states.get(name, "absent"), state) for name, state in after.tasks
    ]
    changes = [f"{field}: {visible(old)} → {visible(new)}" for field, old, new in fields if old != new]
    return "; ".join([*changes, f"ModifyIndex: {before.modify_index} → {after.modify_index}"])


def nomad_actions(request: ActionRequest, alloc: AllocationState) -> list[tuple[str | None, Action]]:
    """Return the actions to send, each with its task: one signal per task, one stop or restart for all."""
    if request.action == "stop":
        return [(None, actions.stop(alloc.alloc_id, no_shutdown_delay=False))]
    if request.action == "restart":
        task = request.task if request.scope == TASK else None
        return [(task, actions.restart(alloc.alloc_id, task, all_tasks=request.scope == ALL))]
    return [
        (task, actions.signal(alloc.alloc_id, request.signal, task)) for task in target_tasks(request, alloc)
    ]


@dataclass(frozen=True)
class Confirmation:
    """A confirmation of one request, for these allocations as they were read."""

    request: ActionRequest
    allocs: tuple[AllocationState, ...]
    valid_from: float
    valid_until: float
    number: int = 0
    """Counts the questions of a panel, so that a click is for the question that was on the page."""


class NotConfirmed(Exception):
    """The confirmation is not valid. The text says why."""


class Confirmations:
    """Holds one confirmation at a time. It is valid once, for a while, and for what was shown."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: Confirmation | None = None
        self._asked = 0
        self._accepted: set[int] = set()

    @property
    def pending(self) -> Confirmation | None:
        """The confirmation that can be given now, or None."""
        return self._pending

    def ask(
        self, request: ActionRequest, allocs: Sequence[AllocationState], *, repeated: bool = False
    ) -> Confirmation:
        """Ask for a confirmation, in place of any earlier one.

        A `repeated` question cannot be confirmed at once, so that a double click does not confirm it by
        accident.
        """
        now = self._clock()
        valid_from = now + (REPEAT_DELAY if repeated else 0.0)
        with self._lock:
            self._asked += 1
            confirmation = Confirmation(
                request, tuple(allocs), valid_from, now + CONFIRM_TIMEOUT, self._asked
            )
            self._pending = confirmation
        return confirmation

    def was_accepted(self, number: int) -> bool:
        """Return whether the question with this number was confirmed: another click is a double click."""
        return number in self._accepted

    def is_pending(self, number: int) -> bool:
        """Return whether the question with this number is the one that can be answered."""
        pending = self._pending
        return pending is not None and pending.number == number

    def seconds_left(self) -> float:
        """Return the seconds until the pending confirmation expires."""
        pending = self._pending
        return max(pending.valid_until - self._clock(), 0.0) if pending else 0.0

    def seconds_to_wait(self) -> float:
        """Return the seconds until the pending confirmation can be given."""
        pending = self._pending
        return max(pending.valid_from - self._clock(), 0.0) if pending else 0.0

    def is_valid(self) -> bool:
        """Return whether the pending confirmation can be given now."""
        pending = self._pending
        return pending is not None and pending.valid_from <= self._clock() < pending.valid_until

    def cancel(self) -> None:
        """Withdraw the question."""
        with self._lock:
            self._pending = None

    def accept(self, request: ActionRequest, chosen: Collection[str]) -> Confirmation:
        """Use up the pending confirmation, for the request and allocations that are chosen now.

        Raises
        ------
        NotConfirmed
            If there is none, it has expired, or something else is chosen now.
        """
        with self._lock:
            confirmation, self._pending = self._pending, None
        if confirmation is None:
            raise NotConfirmed("there is nothing to confirm")
        if self._clock() < confirmation.valid_from:
            raise NotConfirmed("the question had only just appeared")
        if self._clock() >= confirmation.valid_until:
            raise NotConfirmed(f"the confirmation came after more than {CONFIRM_TIMEOUT:g} s")
        if request != confirmation.request or not {a.alloc_id for a in confirmation.allocs} <= set(chosen):
            raise NotConfirmed("the choice has changed since the question was asked")
        self._accepted.add(confirmation.number)
        return confirmation
