"""The panel's slow work: what it reads from the cluster and sends to it, on a thread of its own."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial

from ..._utils.text import visible
from ...client.client import Client
from ...errors import AllocframeError
from ..saved_copy import SavedCopy
from .confirmation import ActionRequest, Confirmation
from .details import read_details
from .execute import execute, read_allocations
from .rows import fetch
from .saved import saved_page
from .state import PanelState
from .view import PanelView
from .worker import Worker

REFRESH_INTERVAL = 10.0
"""Seconds between two fetches of the list. It grows if a fetch takes more than a second."""

IDLE_TIMEOUT = 1800.0
"""Seconds without a click after which the list is no longer refreshed."""


class PanelWork(PanelState):
    """A panel's state, its widget, and its work. The lock is not held while that waits for the cluster."""

    def __init__(self, client: Client, namespace: str | None, expression: str | None, limit: int) -> None:
        super().__init__(read_only=client.read_only, limit=limit)
        self._client, self._namespace, self._filter = client, namespace, expression
        self._next_fetch, self._last_used = float("inf"), time.monotonic()
        where = namespace or client._session.config.namespace or "default"
        mode = " · read-only" if client.read_only else ""
        what = f"namespace {visible(where)}{mode}"
        self._saved = SavedCopy(lambda: saved_page(what, self._history.frame()))
        self.widget: PanelView = PanelView(
            heading=f"{visible(client._session.config.address)} · {what}", saved=self._saved.name
        )
        self._worker = Worker(self._tick, self._report_error, self._render)

    def _choose(self, alloc_ids: tuple[str, ...]) -> None:
        chosen = tuple(dict.fromkeys(each for each in alloc_ids if each in self._table.rows))
        if chosen == self._chosen:
            return
        self._chosen = chosen
        self._allocs = {alloc_id: alloc for alloc_id, alloc in self._allocs.items() if alloc_id in chosen}
        self._clear_question()
        self._worker.submit(partial(self._read_chosen, chosen), "the chosen allocations")

    def _set_auto(self, on: bool) -> None:
        self._auto_refresh = on
        self._render()

    def _submit_fetch(self, *, reset: bool) -> None:
        self._worker.submit(partial(self._fetch, reset=reset), "the list of allocations")

    def _fetch(self, *, reset: bool) -> None:
        started, rights = time.monotonic(), None
        self._next_fetch = started + REFRESH_INTERVAL
        try:
            rows = fetch(self._client, self._namespace, self._filter)
            rights = self._client._session.rights() if reset else None
            error_text = ""
        except AllocframeError as error:
            rows, error_text = None, f"The list could not be fetched: {error}"
        now = time.monotonic()
        with self._lock:
            if self._worker.is_given_up():
                return
            # Spend at most a tenth of the time on fetching, so that the panel does not keep a slow cluster
            # busy.
            self._next_fetch = now + max(REFRESH_INTERVAL, 10 * (now - started))
            self._fetch_error, self._rights = error_text, rights or self._rights
            if rows is not None:
                self._fetched_at = datetime.now(UTC)
                if (message := self._table.update(rows)) is not None:
                    self.widget.send(message)
                self._choose(self._chosen)  # without those that are gone
            self._render()
        self._read_chosen(self._chosen)

    def _read_chosen(self, chosen: tuple[str, ...]) -> None:
        """Read the chosen allocations, unless the choice has changed by now."""
        if not chosen or chosen != self._chosen:
            return
        allocs, _ = read_allocations(self._client, chosen[: self.limit], self._allocs)
        with self._lock:
            if chosen == self._chosen and not self._worker.is_given_up():
                self._show_chosen(allocs)

    def _prepare_question(self, request: ActionRequest, chosen: tuple[str, ...], reason: str = "") -> None:
        """Read the allocations and ask for a confirmation, unless the choice has changed by now."""
        allocs, unread = read_allocations(self._client, chosen, self._allocs)
        with self._lock:
            # Users may have changed the fields or the choice while the cluster was read.
            is_wanted = request == self._request(request.action) and set(chosen) <= set(self._chosen)
            if is_wanted and not self._worker.is_given_up():
                self._show_question(request, allocs, unread, reason)

    def _execute(self, confirmation: Confirmation) -> None:
        request, total = confirmation.request, len(confirmation.allocs)
        changed, done = [], 0
        try:
            for done, result in enumerate(execute(self._client, confirmation), 1):
                changed += [result] if result.outcome == "changed" else []
                self._history.add(result)  # also if nobody waits for it any longer: it was sent
                with self._lock:
                    if self._worker.is_given_up():
                        break
                    self._progress = f"{request.action}: {done} of {total}"
                    self._render()
        finally:
            self._end_execution(total - done)
        if changed and not self._worker.is_given_up():
            details = "; ".join(f"{visible(result.alloc.name)}: {result.detail}" for result in changed)
            alloc_ids = tuple(result.alloc.alloc_id for result in changed)
            reason = f"Please confirm again. This has changed since you looked: {details}."
            self._prepare_question(request, alloc_ids, reason)
        self._fetch(reset=False)

    def _end_execution(self, left: int) -> None:
        with self._lock:
            if not self._worker.is_given_up():
                self._executing, self._progress = False, ""
            elif left:
                self._clear_question(f"{left} of the allocations were not touched: waiting was given up.")
            self._render()
        self._saved.update()

    def _read_details(self, alloc_id: str) -> None:
        for details in read_details(self._client, alloc_id):
            with self._lock:
                wanted = self._details is not None and self._details["id"] == alloc_id
                if not wanted or self._worker.is_given_up():
                    return
                self._details = details
                self._render()

    def _connect_terminal(self, alloc_id: str, task: str) -> None:
        # Imported here, because the panel works without websockets.
        try:
            from ..terminal.terminal import Terminal

            terminal = Terminal(self._client, alloc_id, task)
        except (AllocframeError, ImportError) as error:
            with self._lock:
                self._clear_question(f"No terminal was opened: {error}")
            return
        before, self.widget.terminal = self.widget.terminal, terminal
        if before is not None:
            before.close()

    # Regular work

    def _tick(self) -> bool:
        """Do what is due. Return whether an outcome is still looked for."""
        with self._lock:
            self._check_question()
        if self._history.look(self._client):
            with self._lock:
                self._render()
            self._saved.update()
        if self._auto_refresh and time.monotonic() >= self._next_fetch:
            # A forgotten notebook must not load the cluster for days.
            if time.monotonic() - self._last_used > IDLE_TIMEOUT:
                with self._lock:
                    self._set_auto(False)
            else:
                self._next_fetch = time.monotonic() + REFRESH_INTERVAL
                self._submit_fetch(reset=False)
        return self._history.waiting

    def _report_error(self, error: Exception) -> None:
        """Show an error of the panel itself."""
        with self._lock:
            self._executing = False
            description = f"{type(error).__name__}: {error}"
            self._clear_question(f"Something went wrong in the panel itself. Please report it: {description}")

    def _render(self) -> None:
        with self._lock:
            self.widget.state = self._state()

    def _busy(self) -> tuple[str, float] | None:
        return self._worker.doing
