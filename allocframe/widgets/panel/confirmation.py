"""What may be ordered of allocations: in words, with what speaks against it, and the confirmation that it needs. No widgets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..._utils.text import visible
from ...nomad import actions
from ...nomad.actions import Action

RUNNING, ALL, TASK = "running", "all", "task"
"""Which tasks are meant: those that run, those that have ended too, or one by name."""

CONFIRM_WITHIN = 20.0
"""Seconds in which a confirmation has to be given: enough to read ten lines."""

AGAIN_AFTER = 1.5
"""Seconds before which a question that came by itself cannot be confirmed: the click may have been for the one before."""

_TERMINAL = ("complete", "failed", "lost")
_ENDS = {
    "SIGKILL": "They end at once, and their restart policy decides what follows.",
    "SIGSTOP": "They stand still until they get SIGCONT.",
}


@dataclass(frozen=True)
class Order:
    """One thing to do: stop, signal or restart, of which tasks, with which signal, or only as a dry run."""

    action: str
    scope: str = RUNNING
    task: str = ""
    signal: str = ""
    dry_run: bool = False


@dataclass(frozen=True)
class Facts:
    """How an allocation was when it was read."""

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

    @classmethod
    def of(cls, read: dict[str, Any]) -> Facts:
        """Take the facts from a full read, which leaves out what is empty."""
        states = read.get("TaskStates") or {}
        tasks = sorted((str(name), str((state or {}).get("State", ""))) for name, state in states.items())
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
        )

    @classmethod
    def nothing(cls, alloc_id: str) -> Facts:
        """Return what is known of an allocation that was never read."""
        return cls(alloc_id, alloc_id, "", "", "", "", "", 0)

    def in_state(self, running: bool) -> list[str]:
        """Return the names of the tasks that run, or of those that do not."""
        return [name for name, state in self.tasks if (state == "running") is running]


def meant(order: Order, facts: Facts) -> list[str]:
    """Return the tasks that an order would reach."""
    if order.scope == TASK:
        return [order.task]
    return facts.in_state(running=True) + (facts.in_state(running=False) if order.scope == ALL else [])


def objection(order: Order, facts: Facts) -> str | None:
    """Say why nothing is to be ordered of an allocation; None where nothing speaks against it."""
    if facts.client_status in _TERMINAL:
        more = "; a stop would only make another evaluation" if order.action == "stop" else ""
        return f"it is {facts.client_status} already{more}"
    if facts.desired_status != "run":
        return "it is being stopped already"
    if order.action == "stop":
        return None
    if order.scope == TASK and order.task not in facts.in_state(running=True):
        known = order.task in facts.in_state(running=False)
        return (
            f"its task {visible(order.task)} does not run"
            if known
            else f"it has no task {visible(order.task)}"
        )
    return None if meant(order, facts) else "none of its tasks runs"


def sentence(order: Order, facts: Facts) -> str:
    """Say what will happen to an allocation, each name safe to look at and cut where it is long."""
    tasks = ", ".join(map(visible, meant(order, facts)))
    what = f"{visible(facts.name)} (on {visible(facts.node_name)}, {visible(facts.client_status)})"
    if order.action == "stop":
        running = ", ".join(map(visible, facts.in_state(running=True))) or "none"
        return f"Stop {what}: its running tasks ({running}) end, and a new allocation replaces it, on this node or another."
    if order.action == "restart":
        also = ", those that have ended too" if order.scope == ALL else ""
        return f"Restart {tasks} of {what} in place{also}: same allocation, same node."
    return f"Send {order.signal} to {tasks} of {what}. {_ENDS.get(order.signal, '')}".strip()


def changes(before: Facts, after: Facts) -> str:
    """Say what has changed between two readings."""
    found = [
        f"{said} was {visible(old)}, is {visible(new)}"
        for said, old, new in (
            ("status", before.client_status, after.client_status),
            ("wanted", before.desired_status, after.desired_status),
            ("node", before.node_name, after.node_name),
        )
        if old != new
    ]
    known = dict(before.tasks)
    found += [
        f"task {visible(name)} was {visible(known.get(name) or 'not there')}, is {visible(state)}"
        for name, state in after.tasks
        if known.get(name) != state
    ]
    return "; ".join([*found, f"ModifyIndex was {before.modify_index}, is {after.modify_index}"])


def requests(order: Order, facts: Facts) -> list[tuple[str | None, Action]]:
    """Return what will be sent, and for which task: one signal for each task that is meant."""
    if order.action == "stop":
        return [(None, actions.stop(facts.alloc_id, no_shutdown_delay=False))]
    if order.action == "restart":
        task = order.task if order.scope == TASK else None
        return [(task, actions.restart(facts.alloc_id, task, all_tasks=order.scope == ALL))]
    return [(task, actions.signal(facts.alloc_id, order.signal, task)) for task in meant(order, facts)]


@dataclass(frozen=True)
class Confirmation:
    """Bound to one order, and to each allocation as it was read."""

    order: Order
    facts: tuple[Facts, ...]
    earliest: float
    until: float


class NotConfirmed(Exception):
    """Says why nothing is done."""


class Confirmations:
    """Gives out one confirmation at a time; each is good once, for a while, and for what was shown."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: Confirmation | None = None

    @property
    def pending(self) -> Confirmation | None:
        """What waits to be confirmed."""
        return self._pending

    def ask(self, order: Order, facts: Sequence[Facts], *, again: bool = False) -> Confirmation:
        """Take the place of any confirmation asked for before; one that is asked `again` is no use to a second click at once."""
        now = self._clock()
        asked = Confirmation(order, tuple(facts), now + (AGAIN_AFTER if again else 0.0), now + CONFIRM_WITHIN)
        with self._lock:
            self._pending = asked
        return asked

    def left(self) -> float:
        """Return the seconds in which the pending confirmation may still be given."""
        pending = self._pending
        return max(pending.until - self._clock(), 0.0) if pending else 0.0

    def ready(self) -> bool:
        """Return whether the pending confirmation may be given by now."""
        pending = self._pending
        return pending is not None and pending.earliest <= self._clock() < pending.until

    def void(self) -> None:
        """Take back what was asked."""
        with self._lock:
            self._pending = None

    def take(self, order: Order, chosen: Collection[str]) -> Confirmation:
        """Use up the pending confirmation, for the order and allocations that are chosen at this moment.

        Raises
        ------
        NotConfirmed
            There is none, it came too late, or something else is chosen now.
        """
        with self._lock:
            taken, self._pending = self._pending, None
        if taken is None:
            raise NotConfirmed("nothing waits to be confirmed")
        if self._clock() < taken.earliest:
            raise NotConfirmed("the question had only just come up")
        if self._clock() >= taken.until:
            raise NotConfirmed(f"the confirmation came after more than {CONFIRM_WITHIN:g} s")
        if order != taken.order or not {facts.alloc_id for facts in taken.facts} <= set(chosen):
            raise NotConfirmed("what is chosen now is not what was asked about")
        return taken
