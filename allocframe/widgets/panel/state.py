"""What the panel shows, as plain data, and which actions it allows. Nothing here contacts the cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from ..._utils.text import visible
from ...nomad import actions
from ...nomad.acl import Rights
from .confirmation import (
    ALL,
    RUNNING,
    TASK,
    ActionRequest,
    AllocationState,
    Confirmations,
    describe,
    objection,
)
from .history import Entry, History
from .rows import AllocationTable

IDLE_TEXT = "Nothing happens without your confirmation. What an action will do appears here first."

_PIECE = 150
_MAX_LENGTH = 6000
"""Characters of one text that are shown."""

_SCOPES = [("all running tasks", RUNNING, ""), ("all tasks, also ended ones (restart only)", ALL, "")]
_ACTIONS = ("stop", "restart", "signal", "exec")


def legible(text: str) -> str:
    """Make control characters visible, in pieces: `visible` would cut a sentence at the length of a name."""
    return "".join(
        visible(text[start : start + _PIECE]) for start in range(0, min(len(text), _MAX_LENGTH), _PIECE)
    )


class PanelState:
    """The state of a panel, behind one lock. Messages from the page are checked against it."""

    def __init__(self, *, read_only: bool, limit: int) -> None:
        self.limit = limit
        # Re-entrant, because what changes the state also shows it.
        self._lock = threading.RLock()
        self._read_only = read_only
        self._executing = False
        self._table, self._history, self._confirmations = AllocationTable(), History(), Confirmations()
        self._rights = Rights()
        self._chosen: tuple[str, ...] = ()
        self._allocs: dict[str, AllocationState] = {}
        self._scope, self._task, self._signal, self._dry_run = RUNNING, "", "", False
        self._auto_refresh = True
        self._question: dict[str, Any] | None = None
        self._message, self._is_warning = IDLE_TEXT, False
        self._progress = self._fetch_error = ""
        self._fetched_at: datetime | None = None
        self._details: dict[str, Any] | None = None

    # What is asked and allowed

    def _request(self, action: str) -> ActionRequest:
        """Return the request that the fields describe now, without fields that the action does not use."""
        scope, task = (self._scope, self._task) if action != "stop" else (RUNNING, "")
        signal = self._signal if action == "signal" else ""
        return ActionRequest(action, scope, task, signal, self._dry_run)

    def _exec_task(self) -> str | None:
        """Return the chosen task, or the only running one."""
        running = [name for alloc in self._allocs.values() for name in alloc.task_names(running=True)]
        return self._task if self._scope == TASK else running[0] if len(running) == 1 else None

    def _capabilities(self, action: str) -> list[str]:
        """Return the capabilities that an action needs; a raw_exec task needs one more for exec."""
        if action != "exec":
            return ["alloc-lifecycle"]
        task = self._exec_task()
        drivers = {
            driver for alloc in self._allocs.values() for name, driver in alloc.drivers if name == task
        }
        return ["alloc-exec", *(["alloc-node-exec"] if "raw_exec" in drivers else [])]

    def _forbidden(self, action: str) -> str:
        """Return what the token lacks for an action on the chosen allocations, "" if nothing is known."""
        namespaces = sorted({name for each in self._chosen if (name := self._table.namespace(each))})
        for capability in self._capabilities(action):
            lacking = [name for name in namespaces if self._rights.may(capability, name) is False]
            if lacking:
                return f"the token lacks {capability} in namespace {', '.join(lacking)}"
        return ""

    def _disabled_reason(self, action: str) -> str:
        """Return why an action is not available, or "" if it is."""
        chosen, forbidden = self._chosen, self._forbidden(action)
        # In order of importance: the first reason that applies is shown.
        reasons = {
            "this client is read-only": self._read_only,
            "another action is running": self._executing,
            "no allocation is chosen": not chosen,
            forbidden: bool(forbidden),
            "choose one allocation": action == "exec" and len(chosen) != 1,
            f"{len(chosen)} allocations are chosen, the limit is {self.limit}": len(chosen) > self.limit,
            "no signal is chosen": action == "signal" and not self._signal,
            "signals reach only running tasks": action == "signal" and self._scope == ALL,
            "choose one task": action == "exec" and self._exec_task() is None,
        }
        return next((reason for reason, applies in reasons.items() if applies), "")

    # Questions

    def _show_question(
        self,
        request: ActionRequest,
        allocs: list[AllocationState],
        left_out: list[tuple[AllocationState, str]],
        reason: str,
    ) -> None:
        """Show what will happen and ask for a confirmation. A `reason` means that it asks again."""
        self._allocs |= {alloc.alloc_id: alloc for alloc in allocs if alloc.alloc_id in self._chosen}
        left_out = left_out + [(alloc, why) for alloc in allocs if (why := objection(request, alloc))]
        ready = [alloc for alloc in allocs if objection(request, alloc) is None]
        if not ready:
            reasons = "; ".join(f"{visible(alloc.name)}: {why}" for alloc, why in left_out)
            self._clear_question(f"{reason} There is nothing to do. {reasons}.".strip())
            return
        confirmation = self._confirmations.ask(request, ready, repeated=bool(reason))
        self._question = {
            "number": confirmation.number,
            "action": request.action,
            "dry_run": request.dry_run,
            "reason": legible(reason),
            "items": [legible(describe(request, alloc)) for alloc in ready],
            "left_out": [legible(f"Not {visible(alloc.name)}: {why}") for alloc, why in left_out],
        }
        self._render()

    def _clear_question(self, message: str = "") -> None:
        """Withdraw the question, if there is one, and show a message instead."""
        self._confirmations.cancel()
        self._question = None
        self._message, self._is_warning = legible(message) or IDLE_TEXT, bool(message)
        self._render()

    def _check_question(self) -> None:
        """Withdraw a question that was not answered in time."""
        if self._confirmations.pending is not None and self._confirmations.seconds_left() <= 0:
            self._clear_question("Nothing was done: the confirmation was not given in time.")

    @property
    def question(self) -> str:
        """What the panel asks or says now, as text."""
        question = self._question
        if question is None:
            return self._message
        first = "Dry run. Everything but sending this:" if question["dry_run"] else "This will happen:"
        lines = [question["reason"], first, *question["items"], *question["left_out"]]
        return "\n".join(line for line in lines if line)

    # What is shown

    def _show_chosen(self, allocs: Iterable[AllocationState]) -> None:
        """Take the chosen allocations as they were read, and offer the tasks that all of them have."""
        self._allocs = {alloc.alloc_id: alloc for alloc in allocs}
        if self._scope == TASK and self._task not in self._common_tasks():
            self._scope, self._task = RUNNING, ""
            self._clear_question()
        self._render()

    def _common_tasks(self) -> list[str]:
        names = [set(dict(alloc.tasks)) for alloc in self._allocs.values()]
        return sorted(set.intersection(*names)) if names else []

    def _render(self) -> None:
        """Show the state on the page."""
        raise NotImplementedError

    def _state(self) -> dict[str, Any]:
        """Return everything that the page shows, but the rows."""
        busy = self._busy()
        return {
            "limit": self.limit,
            "total": len(self._table.rows),
            "read_only": self._read_only,
            "fetched": f"{self._fetched_at:%H:%M:%S} UTC" if self._fetched_at else "",
            "error": legible(self._fetch_error),
            "auto": self._auto_refresh,
            "chosen": list(self._chosen),
            "names": [self._chosen_name(each) for each in self._chosen[: self.limit]],
            "scopes": [[label, scope, task] for label, scope, task in self._scopes()],
            "scope": [self._scope, self._task],
            "signals": sorted(actions.SIGNALS),
            "signal": self._signal,
            "dry_run": self._dry_run,
            "disabled": {action: self._disabled_reason(action) for action in _ACTIONS},
            "question": self._question and {**self._question, **self._timing()},
            "message": self._message,
            "warning": self._is_warning,
            "progress": self._progress,
            "busy": busy and {"what": busy[0], "seconds": busy[1]},
            "results": [_result(entry) for entry in self._history.latest()],
            "details": self._details,
        }

    def _busy(self) -> tuple[str, float] | None:
        raise NotImplementedError

    def _scopes(self) -> list[tuple[str, str, str]]:
        return [*_SCOPES, *((visible(name), TASK, name) for name in self._common_tasks())]

    def _timing(self) -> dict[str, float]:
        """Return how long the question can still be answered, and when first."""
        return {
            "left": self._confirmations.seconds_left(),
            "wait": self._confirmations.seconds_to_wait(),
        }

    def _chosen_name(self, alloc_id: str) -> str:
        alloc = self._allocs.get(alloc_id)
        if alloc is None:
            return alloc_id[:8]
        return f"{visible(alloc.name)} on {visible(alloc.node_name)} ({visible(alloc.client_status)})"


def _result(entry: Entry) -> dict[str, str]:
    result = entry.result
    return {
        "time": f"{entry.time:%H:%M:%S}",
        "outcome": result.outcome,
        "action": result.request.action,
        "name": visible(result.alloc.name),
        "id": visible(result.alloc.alloc_id[:8]),
        "detail": legible(result.detail),
        "follow_up": legible(entry.follow_up),
    }
