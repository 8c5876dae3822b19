"""The panel's state, how it is shown, and which actions it allows. Nothing here contacts the cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ..._utils.text import visible
from ...nomad.acl import Rights
from . import render
from .allocation_list import AllocationList
from .confirmation import ALL, TASK, ActionRequest, AllocationState, Confirmations, objection
from .controls import ROWS, SCOPES, Controls
from .history import History

SETTLE_TIME = 0.4
"""Seconds after a reordering in which a click may still mean the row that was there before."""


class PanelState(Controls):
    """The state of a panel, behind one lock. Messages from the front end are checked against it."""

    def __init__(self, *, read_only: bool, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._read_only = read_only
        # Re-entrant, because setting a field calls observers that take the lock again.
        self._lock = threading.RLock()
        self._muted = self._executing = False
        self._list, self._history, self._confirmations = AllocationList(), History(), Confirmations()
        self._rights = Rights()
        self._allocs: dict[str, AllocationState] = {}
        self._progress = self._fetch_error = ""
        self._reordered_at = 0.0

    def _choice_changed(self) -> None:
        raise NotImplementedError

    def _chosen(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(alloc_id for alloc_id in self.select.value if alloc_id in self._list.shown)

    def _request(self, action: str) -> ActionRequest:
        """Return the request that the fields describe now, without fields that the action does not use."""
        scope, task = self.task.value if action != "stop" else SCOPES[0][1]
        signal = self.signal.value if action == "signal" else ""
        return ActionRequest(action, scope, task, signal, self.dry_run.value)

    def _exec_task(self) -> str | None:
        """Return the chosen task, or the only running one."""
        scope, task = self.task.value
        running = [name for alloc in self._allocs.values() for name in alloc.task_names(running=True)]
        return task if scope == TASK else running[0] if len(running) == 1 else None

    def _disabled_reason(self, action: str) -> str:
        """Return why an action is not available, or "" if it is."""
        chosen, scope = self._chosen(), self.task.value[0]
        capability = "alloc-exec" if action == "exec" else "alloc-lifecycle"
        namespaces = {self._list.namespace(alloc_id) for alloc_id in chosen}
        forbidden = sorted(
            visible(name) for name in namespaces if name and self._rights.may(capability, name) is False
        )
        # In order of importance: the first reason that applies is shown.
        reasons = {
            "this client is read-only": self._read_only,
            "another action is running": self._executing,
            "no allocation is chosen": not chosen,
            f"the token lacks {capability} in namespace {', '.join(forbidden)}": bool(forbidden),
            "choose one allocation": action == "exec" and len(chosen) != 1,
            f"{len(chosen)} allocations are chosen, the limit is {self.limit}": len(chosen) > self.limit,
            "no signal is chosen": action == "signal" and not self.signal.value,
            "signals reach only running tasks": action == "signal" and scope == ALL,
            "choose one task": action == "exec" and self._exec_task() is None,
        }
        return next((reason for reason, applies in reasons.items() if applies), "")

    def _choose(self, alloc_ids: tuple[str, ...], message: str = "") -> None:
        with self._without_callbacks():
            self.select.value = alloc_ids
        self._choice_changed()
        self._clear_question(message)

    def _selection_changed(self) -> None:
        """Handle a choice in the front end.

        It sends positions in its list, which may still be the list from before a reordering.
        """
        if self.select.value and time.monotonic() - self._reordered_at < SETTLE_TIME:
            self._choose((), "The list had only just changed. Please choose again.")
        else:
            self._choice_changed()

    def _request_changed(self) -> None:
        self._clear_question()
        self._render()

    def _show_question(
        self,
        request: ActionRequest,
        allocs: list[AllocationState],
        left_out: list[tuple[AllocationState, str]],
        reason: str,
    ) -> None:
        """Show what will happen and ask for a confirmation. A `reason` means that it asks again."""
        self._allocs |= {alloc.alloc_id: alloc for alloc in allocs}
        left_out = left_out + [(alloc, why) for alloc in allocs if (why := objection(request, alloc))]
        ready = [alloc for alloc in allocs if objection(request, alloc) is None]
        self._render()
        if not ready:
            reasons = "; ".join(f"{alloc.name}: {why}" for alloc, why in left_out)
            self._clear_question(f"{reason} There is nothing to do. {reasons}.".strip())
            return
        confirmation = self._confirmations.ask(request, ready, repeated=bool(reason))
        self._question_box.value = render.question(confirmation, reason, left_out)
        tone = "danger" if request.action == "stop" else "warning"
        self.confirm_button.button_style = "" if request.dry_run else tone
        self._show_countdown()

    def _show_countdown(self) -> None:
        seconds, pending = self._confirmations.seconds_left(), self._confirmations.pending
        if pending is None or seconds <= 0:
            self._clear_question("Nothing was done: the confirmation was not given in time.")
            return
        action = f"{'dry run of ' if pending.request.dry_run else ''}{pending.request.action}"
        self.confirm_button.description = f"Confirm {action} ({seconds:.0f} s)"
        self.confirm_button.disabled = not self._confirmations.is_valid()
        self.cancel_button.disabled = False

    def _clear_question(self, message: str = "") -> None:
        """Withdraw the question, if there is one, and show a message instead."""
        self._confirmations.cancel()
        self._question_box.value = render.warning(message) if message else render.note(render.IDLE_TEXT)
        self.confirm_button.description, self.confirm_button.button_style = "Confirm", ""
        self.confirm_button.disabled = self.cancel_button.disabled = True

    @contextmanager
    def _without_callbacks(self) -> Iterator[None]:
        """Let the block change fields without handling that as a user's change."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def _show_list(self) -> None:
        before, options = self.select.value, self._list.options()
        if options != list(self.select.options):
            rows_before = tuple(alloc_id for _, alloc_id in self.select.options)
            if self._list.shown[: len(rows_before)] != rows_before:
                self._reordered_at = time.monotonic()
            # Send options and value together: in between, the choice would not fit the options.
            with self._without_callbacks(), self.select.hold_sync():
                self.select.options, self.select.rows = options, max(len(options), ROWS)
                self.select.value = tuple(alloc_id for alloc_id in before if alloc_id in self._list.shown)
        summary = f"{self._list.summary()} · {datetime.now(UTC):%H:%M:%S} UTC"
        error = self._fetch_error
        self._summary_box.value = render.warning(error) if error else render.note(summary)
        if self.select.value != before:
            self._choice_changed()
        self._render()

    def _show_chosen(self, allocs: Iterable[AllocationState]) -> None:
        """Show the chosen allocations, and offer the tasks that all of them have."""
        self._allocs = {alloc.alloc_id: alloc for alloc in allocs}
        names = [set(dict(alloc.tasks)) for alloc in self._allocs.values()]
        common = sorted(set.intersection(*names)) if names else []
        options = [*SCOPES, *((visible(name), (TASK, name)) for name in common)]
        if options != list(self.task.options):
            before = self.task.value
            with self._without_callbacks(), self.task.hold_sync():
                self.task.options = options
                self.task.value = before if before in dict(options).values() else SCOPES[0][1]
            if self.task.value != before:
                self._clear_question()
        self._render()

    def _render(self) -> None:
        chosen = self._chosen()
        allocs = [self._allocs[alloc_id] for alloc_id in chosen if alloc_id in self._allocs]
        self._chosen_box.value = render.chosen_table(allocs, len(chosen))
        self.choose_button.disabled = not 0 < self._list.matching <= self.limit
        disabled: dict[str, list[str]] = {}
        for action, button in self._buttons().items():
            reason = self._disabled_reason(action)
            button.disabled = bool(reason)
            if reason:
                disabled.setdefault(reason, []).append(button.description)
        notes = [f"{', '.join(names)} ({reason})" for reason, names in disabled.items()]
        self._notes_box.value = render.note(f"Not available: {'; '.join(notes)}." if notes else "")
        self._show_results()

    def _show_results(self) -> None:
        self._results_box.value = render.result_table(self._history.latest(), self._progress)
