"""The control panel: choose allocations, stop, signal or restart them, and see the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pandas as pd

from ..._utils.text import visible
from ..._utils.validate import check_count
from ...client.client import Client
from ...errors import AllocframeError, ConfigError
from . import render
from .allocation_list import fetch
from .confirmation import ActionRequest, Confirmation, NotConfirmed
from .execute import execute, read_allocations
from .state import PanelState
from .worker import Worker

REFRESH_INTERVAL = 10.0
"""Seconds between two fetches of the list. It grows if a fetch takes more than a second."""

IDLE_TIMEOUT = 1800.0
"""Seconds without a click after which the list is no longer refreshed."""


class ControlPanel(PanelState):
    """A panel to stop, signal or restart allocations, or to open a terminal in one.

    It is shown as the last expression of a cell. Nothing happens without a confirmation. It says what will
    happen, is valid once and for 20 seconds, and only for the allocations as they were read. Each allocation
    is read again just before the action. One that has changed is left alone, and the panel asks again. The
    kernel stays free meanwhile. Every action is in `log` and in the audit log (`read_audit`).

    Parameters
    ----------
    client : Client
        With a read-only client, the panel offers no actions.
    namespace : str, optional
        ``"*"`` for every namespace that the token may read. By default, the client's namespace, or
        ``default``.
    filter : str, optional
        A Nomad filter expression, such as ``'JobID == "web"'``, for the allocations to choose from.
    limit : int
        Most allocations in one action. It can be changed later.

    Attributes
    ----------
    choose_button, refresh_button, stop_button, restart_button, signal_button, exec_button
        Buttons, for `click()` without a front end.
    confirm_button, cancel_button
        The buttons that answer a question.
    filter, select, task, signal, dry_run, auto_refresh
        Fields, with their ``value``.
    log : pandas.DataFrame
    widget : ipywidgets.VBox
        The whole panel, for a layout of your own.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         panel = af.ControlPanel(client, namespace="*")
    ...         panel.wait()
    ...         panel.choose([panel.select.options[0][1]])
    ...         panel.stop_button.click()  # asks for a confirmation
    ...         panel.wait()
    ...         panel.confirm_button.click()  # stops it
    ...         panel.wait()
    ...         panel.close()
    >>> panel.log[["action", "result"]].values.tolist()
    [['stop', 'done']]
    """

    def __init__(
        self,
        client: Client,
        *,
        namespace: str | None = None,
        filter: str | None = None,  # noqa: A002 - Nomad calls it so
        limit: int = 10,
    ) -> None:
        super().__init__(read_only=client.read_only, limit=check_count("limit", limit))
        self._client, self._namespace, self._filter = client, namespace, filter
        self._next_fetch, self._last_used = float("inf"), time.monotonic()
        self._connect_callbacks()
        mode = " · read-only" if client.read_only else ""
        where = namespace or client._session.config.namespace or "default"
        self._heading.value = render.heading(client._session.config.address, where, mode)
        self._request_changed()
        self._worker = Worker(self._tick, self._report_error)
        self._worker.submit(partial(self._fetch, reset=True))

    def _connect_callbacks(self) -> None:
        for action, button in self._buttons().items():
            handler = self._open_terminal if action == "exec" else partial(self._ask, action)
            button.on_click(partial(self._clicked, handler))
        self.choose_button.on_click(partial(self._clicked, self._choose_matching))
        self.confirm_button.on_click(partial(self._clicked, self._confirm))
        self.cancel_button.on_click(partial(self._clicked, self._cancel))
        self.refresh_button.on_click(
            partial(self._clicked, lambda: self._worker.submit(partial(self._fetch, reset=True)))
        )
        self.filter.observe(partial(self._field_changed, self._search), "value")
        self.select.observe(partial(self._field_changed, self._selection_changed), "value")
        for control in (self.task, self.signal, self.dry_run):
            control.observe(partial(self._field_changed, self._request_changed), "value")

    # What users do. Callbacks come on any thread, even for a disabled button: only the state here counts.

    def _clicked(self, handler: Callable[[], None], _: Any) -> None:
        with self._lock:
            self._last_used = time.monotonic()
            handler()

    def _field_changed(self, handler: Callable[[], None], _: Any) -> None:
        with self._lock:
            if not self._muted:
                self._last_used = time.monotonic()
                handler()

    def choose(self, alloc_ids: Iterable[str]) -> None:
        """Choose allocations, as clicks in the list do.

        Raises
        ------
        ConfigError
            If one of them is not in the list that is shown.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.wait()
        >>> panel.choose([panel.select.options[0][1]])
        >>> panel.close()
        """
        alloc_ids = tuple(alloc_ids)
        with self._lock:
            missing = [visible(alloc_id) for alloc_id in alloc_ids if alloc_id not in self._list.shown]
            if missing:
                names = ", ".join(missing[:5])
                raise ConfigError(
                    f"alloc_ids must be in the list that is shown, got {names}. Change the filter."
                )
            self._choose(alloc_ids)

    def _search(self) -> None:
        self._list.search(self.filter.value)
        self._show_list()

    def _choose_matching(self) -> None:
        """Choose all that match: the way without a mouse, as JupyterLab keeps the arrow keys from lists."""
        self._search()
        if 0 < self._list.matching <= self.limit:
            self._choose(self._list.shown)

    def _choice_changed(self) -> None:
        self._request_changed()
        chosen = self._chosen()
        self._allocs = {alloc_id: alloc for alloc_id, alloc in self._allocs.items() if alloc_id in chosen}
        self._render()
        self._worker.submit(partial(self._read_chosen, chosen))

    def _ask(self, action: str) -> None:
        reason = self._disabled_reason(action)
        if reason:
            self._clear_question(f"Not possible: {reason}.")
            return
        self._clear_question()
        self._question_box.value = render.note("Reading the chosen allocations …")
        self._worker.submit(partial(self._prepare_question, self._request(action), self._chosen()))

    def _confirm(self) -> None:
        action = pending.request.action if (pending := self._confirmations.pending) else ""
        try:
            confirmation = self._confirmations.accept(self._request(action), self._chosen())
            if reason := self._disabled_reason(action):
                raise NotConfirmed(reason)
        except NotConfirmed as reason:
            self._clear_question(f"Nothing was done: {reason}.")
            return
        self._executing, self._progress = True, f"{action}: 0 of {len(confirmation.allocs)}"
        self._clear_question()
        self._render()
        self._worker.submit(partial(self._execute, confirmation))

    def _cancel(self) -> None:
        if self._confirmations.pending:
            self._clear_question("Cancelled. Nothing was done.")

    # Slow work, on the worker's thread. The lock is not held while it waits for the cluster.

    def _fetch(self, *, reset: bool) -> None:
        started, rights = time.monotonic(), None
        self._next_fetch = started + REFRESH_INTERVAL
        try:
            table = fetch(self._client, self._namespace, self._filter)
            rights = self._client._session.rights() if reset else None
            message = ""
        except AllocframeError as error:
            table, message = None, f"The list could not be fetched: {error}"
        now = time.monotonic()
        with self._lock:
            # Spend at most a tenth of the time on fetching, so that the panel does not keep a slow cluster
            # busy.
            self._next_fetch = now + max(REFRESH_INTERVAL, 10 * (now - started))
            self._fetch_error, self._rights = message, rights or self._rights
            if table is not None:
                self._list.update(table, self.filter.value, reset=reset)
            self._show_list()
        self._read_chosen(self._chosen())

    def _read_chosen(self, chosen: tuple[str, ...]) -> None:
        """Read the chosen allocations, unless the choice has changed by now."""
        if not chosen or chosen != self._chosen():
            return
        allocs, _ = read_allocations(self._client, chosen[: self.limit], self._allocs)
        with self._lock:
            if chosen == self._chosen():
                self._show_chosen(allocs)

    def _prepare_question(self, request: ActionRequest, chosen: tuple[str, ...], reason: str = "") -> None:
        """Read the allocations and ask for a confirmation, unless the choice has changed by now."""
        allocs, unread = read_allocations(self._client, chosen, self._allocs)
        with self._lock:
            # Users may have changed the fields or the choice while the cluster was read.
            if request == self._request(request.action) and set(chosen) <= set(self._chosen()):
                self._show_question(request, allocs, unread, reason)

    def _execute(self, confirmation: Confirmation) -> None:
        request, total = confirmation.request, len(confirmation.allocs)
        changed = []
        try:
            for number, result in enumerate(execute(self._client, confirmation), 1):
                changed += [result] if result.outcome == "changed" else []
                self._history.add(result)
                with self._lock:
                    self._progress = f"{request.action}: {number} of {total}"
                    self._show_results()
        finally:
            with self._lock:
                self._executing, self._progress = False, ""
                self._render()
        if changed:
            details = "; ".join(f"{result.alloc.name}: {result.detail}" for result in changed)
            alloc_ids = tuple(result.alloc.alloc_id for result in changed)
            reason = f"Please confirm again. This has changed since you looked: {details}."
            self._prepare_question(request, alloc_ids, reason)
        self._fetch(reset=False)

    def _open_terminal(self) -> None:
        reason, task = self._disabled_reason("exec"), self._exec_task()
        if reason or task is None:
            self._clear_question(f"No terminal was opened: {reason}.")
            return
        self._worker.submit(partial(self._connect_terminal, self._chosen()[0], task))

    def _connect_terminal(self, alloc_id: str, task: str) -> None:
        try:
            # Imported here, because the panel works without anywidget.
            from ..terminal.terminal import Terminal

            terminal = Terminal(self._client, alloc_id, task)
        except (AllocframeError, ImportError) as error:
            with self._lock:
                self._clear_question(f"No terminal was opened: {error}")
            return
        with self._lock:
            before, self._terminal_box.children = self._terminal_box.children, (terminal,)
        for widget in before:
            widget.close()

    # Regular work

    def _tick(self) -> bool:
        """Do what is due. Return whether a replacement is still looked for."""
        with self._lock:
            if self._confirmations.pending:
                self._show_countdown()
        if self._history.look_for_replacements(self._client):
            with self._lock:
                self._show_results()
        if self.auto_refresh.value and time.monotonic() >= self._next_fetch:
            # A forgotten notebook must not load the cluster for days.
            if time.monotonic() - self._last_used > IDLE_TIMEOUT:
                self.auto_refresh.value = False
            else:
                self._fetch(reset=False)
        return self._history.waiting

    def _report_error(self, error: Exception) -> None:
        """Show an error of the panel itself."""
        with self._lock:
            self._executing = False
            description = f"{type(error).__name__}: {error}"
            self._clear_question(f"Something went wrong in the panel itself. Please report it: {description}")

    # For programs

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until all reads, actions and searches for replacements are done.

        Parameters
        ----------
        timeout : float
            Seconds.

        Raises
        ------
        TimeoutError
            If they are not done in time.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.wait()
        >>> len(panel.select.options) > 0
        True
        >>> panel.close()
        """
        if not self._worker.wait(timeout):
            raise TimeoutError(f"the panel was still busy after {timeout:g} s")

    @property
    def log(self) -> pd.DataFrame:
        """The last 1,000 actions of this panel, oldest first, with one row per allocation.

        Columns: time (UTC), action, alloc_id, name, job_id, namespace, node_name, tasks, signal, modify_index
        (before the action), result (done, refused, failed, unknown, changed or dry run), message (details of
        the result), replacement_id (missing if there is none).
        """
        return self._history.frame()

    def close(self) -> None:
        """End the panel's thread and remove it from the page. The client stays open."""
        self._worker.close()
        for widget in (*self._terminal_box.children, self.widget):
            widget.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return {**(self.widget._repr_mimebundle_(**options) or {}), "text/plain": repr(self)}

    def __repr__(self) -> str:
        mode = ", read-only" if self._client.read_only else ""
        summary = f"{self._list.summary()}, {len(self._chosen())} chosen"
        return f"<ControlPanel of {self._client._session.config.address}{mode}: {summary}>"
