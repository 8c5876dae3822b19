"""What the panel shows of its state, and which actions that state allows. Nothing here asks the cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ..._utils.text import visible
from ...nomad.acl import Rights
from . import render
from .allocation_list import Listing
from .confirmation import ALL, TASK, Confirmations, Facts, Order, objection
from .controls import ROWS, SCOPES, Controls
from .history import History

SETTLED_AFTER = 0.4
"""Seconds in which a place in the list may still mean what stood there before."""


class View(Controls):
    """The state of a panel behind one lock. What the front end sends is only ever held against it."""

    def __init__(self, *, read_only: bool, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._read_only = read_only
        self._lock = threading.RLock()
        self._muted = self._running = False
        self._listing, self._history, self._confirmations = Listing(), History(), Confirmations()
        self._rights = Rights()
        self._facts: dict[str, Facts] = {}
        self._progress = self._trouble = ""
        self._moved = 0.0

    def _choice_changed(self) -> None:
        raise NotImplementedError

    def _chosen(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(one for one in self.select.value if one in self._listing.shown)

    def _order(self, action: str) -> Order:
        """Return what the fields say at this moment, as far as it matters for an action."""
        scope, task = self.task.value if action != "stop" else SCOPES[0][1]
        signal = self.signal.value if action == "signal" else ""
        return Order(action, scope, task, signal, self.dry_run.value)

    def _exec_task(self) -> str | None:
        """Return the task that is chosen, or the only one that runs."""
        scope, task = self.task.value
        running = [name for facts in self._facts.values() for name in facts.in_state(running=True)]
        return task if scope == TASK else running[0] if len(running) == 1 else None

    def _off(self, action: str) -> str:
        """Say why an action is not offered; nothing where it is."""
        chosen, scope = self._chosen(), self.task.value[0]
        needed = "alloc-exec" if action == "exec" else "alloc-lifecycle"
        spaces = {self._listing.namespace(one) for one in chosen}
        lacking = sorted(visible(one) for one in spaces if one and self._rights.may(needed, one) is False)
        reasons = {
            "this client is read-only": self._read_only,
            "an order is being carried out": self._running,
            "nothing is chosen": not chosen,
            f"the token lacks {needed} in namespace {', '.join(lacking)}": bool(lacking),
            "it takes one allocation": action == "exec" and len(chosen) != 1,
            f"{len(chosen)} are chosen, and limit is {self.limit}": len(chosen) > self.limit,
            "no signal is chosen": action == "signal" and not self.signal.value,
            "it reaches only tasks that run": action == "signal" and scope == ALL,
            "it takes one task": action == "exec" and self._exec_task() is None,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def _choose(self, alloc_ids: tuple[str, ...], said: str = "") -> None:
        with self._quietly():
            self.select.value = alloc_ids
        self._choice_changed()
        self._void(said)

    def _picked(self) -> None:
        """Take in a choice from the front end, which sends places in a list, maybe in the one from before it was reordered."""
        if self.select.value and time.monotonic() - self._moved < SETTLED_AFTER:
            self._choose((), "The list had only just changed: choose again.")
        else:
            self._choice_changed()

    def _order_changed(self) -> None:
        self._void()
        self._render()

    def _pose(self, order: Order, found: list[Facts], left_out: list[tuple[Facts, str]], why: str) -> None:
        """Say what will happen, and let it be confirmed."""
        self._facts |= {one.alloc_id: one for one in found}
        left_out = left_out + [(one, said) for one in found if (said := objection(order, one))]
        ready = [one for one in found if objection(order, one) is None]
        self._render()
        if not ready:
            said = "; ".join(f"{facts.name}: {reason}" for facts, reason in left_out)
            self._void(f"{why} There is nothing to do. {said}.".strip())
            return
        asked = self._confirmations.ask(order, ready, again=bool(why))
        self._question.value = render.question(asked, why, left_out)
        tone = "danger" if order.action == "stop" else "warning"
        self.confirm_button.button_style = "" if order.dry_run else tone
        self._count_down()

    def _count_down(self) -> None:
        left, pending = self._confirmations.left(), self._confirmations.pending
        if pending is None or left <= 0:
            self._void("Nothing was done: the confirmation was not given in time.")
            return
        what = f"{'dry run of ' if pending.order.dry_run else ''}{pending.order.action}"
        self.confirm_button.description = f"Confirm {what} ({left:.0f} s)"
        self.confirm_button.disabled = not self._confirmations.ready()
        self.cancel_button.disabled = False

    def _void(self, said: str = "") -> None:
        """Take back the question, if there is one."""
        self._confirmations.void()
        self._question.value = render.told(said) if said else render.note(render.QUIET)
        self.confirm_button.description, self.confirm_button.button_style = "Confirm", ""
        self.confirm_button.disabled = self.cancel_button.disabled = True

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Change fields without taking it for a person's doing."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def _show_list(self) -> None:
        before, options = self.select.value, self._listing.options()
        if options != list(self.select.options):
            known = tuple(identity for _, identity in self.select.options)
            if self._listing.shown[: len(known)] != known:
                self._moved = time.monotonic()
            with self._quietly(), self.select.hold_sync():
                self.select.options, self.select.rows = options, max(len(options), ROWS)
                self.select.value = tuple(one for one in before if one in self._listing.shown)
        counted = f"{self._listing.counted()} · {datetime.now(UTC):%H:%M:%S} UTC"
        self._counted.value = render.told(self._trouble) if self._trouble else render.note(counted)
        if self.select.value != before:
            self._choice_changed()
        self._render()

    def _show_facts(self, facts: Iterable[Facts]) -> None:
        """Show what is chosen, and offer the tasks that all of it has."""
        self._facts = {one.alloc_id: one for one in facts}
        names = [set(dict(one.tasks)) for one in self._facts.values()]
        common = sorted(set.intersection(*names)) if names else []
        options = [*SCOPES, *((visible(name), (TASK, name)) for name in common)]
        if options != list(self.task.options):
            before = self.task.value
            with self._quietly(), self.task.hold_sync():
                self.task.options = options
                self.task.value = before if before in dict(options).values() else SCOPES[0][1]
            if self.task.value != before:
                self._void()
        self._render()

    def _render(self) -> None:
        chosen = self._chosen()
        shown = [self._facts[one] for one in chosen if one in self._facts]
        self._chosen_box.value = render.chosen(shown, len(chosen))
        self.choose_button.disabled = not 0 < self._listing.matching <= self.limit
        off: dict[str, list[str]] = {}
        for name, button in self._buttons().items():
            reason = self._off(name)
            button.disabled = bool(reason)
            if reason:
                off.setdefault(reason, []).append(button.description)
        said = [f"{', '.join(names)}: {reason}" for reason, names in off.items()]
        self._notes.value = render.note(f"Off: {'; '.join(said)}." if said else "")
        self._show_results()

    def _show_results(self) -> None:
        self._results_box.value = render.results(self._history.latest(), self._progress)
