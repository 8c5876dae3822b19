"""The control panel: choose allocations, stop, signal or restart them, and see what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pandas as pd

from ..._utils.text import visible
from ..._utils.validate import check_count
from ...client.client import Client
from ...errors import ConfigError
from ...nomad import actions
from . import messages
from .confirmation import ALL, RUNNING, TASK, NotConfirmed
from .work import PanelWork

DOUBLE_CLICK = 1.0
"""Seconds within which the same click again is the second of a double click."""


class ControlPanel(PanelWork):
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
    rows : pandas.DataFrame
        The allocations to choose from.
    chosen : tuple of str
        IDs of the chosen allocations.
    question : str
        What the panel asks or says now.
    log : pandas.DataFrame
    widget : anywidget.AnyWidget
        The whole panel, for a layout of your own.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         panel = af.ControlPanel(client, namespace="*")
    ...         panel.wait()
    ...         running = panel.rows[panel.rows["status"] == "running"]
    ...         panel.choose(running["alloc_id"].head(1))
    ...         panel.ask("stop")  # asks for a confirmation
    ...         panel.wait()
    ...         panel.confirm()  # stops it
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
        super().__init__(client, namespace, filter, check_count("limit", limit))
        self._last_ask: tuple[object, float] = (None, 0.0)
        self.ignored: int = 0
        """Number of invalid messages from pages."""
        self.widget.on_msg(self._on_message)
        self._submit_fetch(reset=True)

    # From the page. Messages come on any thread, even from buttons that are off: only the state here counts.

    def _on_message(self, _: object, content: object, buffers: object) -> None:
        message = messages.parse(content)
        if message is None:
            self.ignored += 1
            return
        if message.kind == "ping":
            self.widget.send({"type": "pong", "number": message.number})
            return
        with self._lock:
            self._last_used = time.monotonic()
            try:
                self._handle(message)
            except ConfigError:  # a task or signal that the page cannot have offered
                self.ignored += 1

    def _handle(self, message: messages.Message) -> None:
        if message.kind == "hello":
            self.widget.send(self._table.message())
            self._render()
        elif message.kind in ("ask", "confirm"):
            self._on_click(message)
        else:
            self._on_field(message)

    def _on_click(self, message: messages.Message) -> None:
        """Ask or confirm, unless it is the second click of two."""
        if message.kind == "confirm":
            if not self._confirmations.was_accepted(message.number):
                self._confirm(message.number)
            return
        ask, now = (self._request(message.action), self._chosen), time.monotonic()
        is_double = self._last_ask[0] == ask and now - self._last_ask[1] < DOUBLE_CLICK
        self._last_ask = (ask, now)
        if not is_double:
            self.ask(message.action)

    def _on_field(self, message: messages.Message) -> None:
        handlers: dict[str, Callable[[], None]] = {
            "choose": lambda: self._choose(message.alloc_ids),
            "tasks": lambda: self._choose_tasks(message.scope, message.task),
            "signal": lambda: self._choose_signal(message.signal),
            "dry run": lambda: self._choose_dry_run(message.flag),
            "auto": lambda: self._set_auto(message.flag),
            "cancel": self.cancel,
            "refresh": self.refresh,
            "details": lambda: self._show_details(message.alloc_id),
            "give up": self.give_up,
        }
        handlers[message.kind]()

    # What people and programs do

    def choose(self, alloc_ids: Iterable[str]) -> None:
        """Choose allocations, as clicks in the table do.

        Raises
        ------
        ConfigError
            If one of them is not in the table.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.wait()
        >>> panel.choose(panel.rows["alloc_id"].head(1))
        >>> panel.close()
        """
        alloc_ids = tuple(alloc_ids)
        with self._lock:
            missing = [visible(alloc_id) for alloc_id in alloc_ids if alloc_id not in self._table.rows]
            if missing:
                names = ", ".join(missing[:5])
                raise ConfigError(f"alloc_ids must be in the panel's table, got {names}. See panel.rows")
            self._choose(alloc_ids)

    @property
    def chosen(self) -> tuple[str, ...]:
        """IDs of the chosen allocations."""
        return self._chosen

    def ask(
        self,
        action: str,
        *,
        task: str | None = None,
        all_tasks: bool | None = None,
        signal: str | None = None,
        dry_run: bool | None = None,
    ) -> None:
        """Ask for an action on the chosen allocations, as a click on its button does.

        Parameters
        ----------
        action : str
            "stop", "restart", "signal", or "exec", which opens a terminal at once.
        task : str, optional
            One task of them; "" for all running tasks.
        all_tasks : bool, optional
            Also those that have ended, of a restart.
        signal : str, optional
            Such as ``SIGHUP``.
        dry_run : bool, optional
            Do everything but send the request.

        Raises
        ------
        ConfigError
            There is no such action, task or signal.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.wait()
        >>> panel.choose(panel.rows["alloc_id"].head(1))
        >>> panel.ask("signal", signal="SIGHUP", dry_run=True)
        >>> panel.close()
        """
        if action not in ("stop", "restart", "signal", "exec"):
            raise ConfigError(f"action must be stop, restart, signal or exec, got {action!r}")
        with self._lock:
            if task is not None:
                self._choose_tasks(TASK if task else RUNNING, task)
            if all_tasks is not None:
                self._choose_tasks(ALL if all_tasks else RUNNING, "")
            if signal is not None:
                self._choose_signal(signal)
            if dry_run is not None:
                self._choose_dry_run(dry_run)
            reason = self._disabled_reason(action)
            if reason:
                self._clear_question(f"Not possible: {reason}.")
            elif action == "exec":
                self._open_terminal()
            else:
                self._clear_question()
                self._message = "Reading the chosen allocations …"
                self._render()
                job = partial(self._prepare_question, self._request(action), self._chosen)
                self._worker.submit(job, "the chosen allocations")

    def confirm(self) -> None:
        """Confirm the question, as a click on its button does. Once, and within 20 seconds.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.confirm()
        >>> panel.question
        'Nothing was done: there is nothing to confirm.'
        >>> panel.close()
        """
        with self._lock:
            pending = self._confirmations.pending
            self._confirm(pending.number if pending else -1)

    def cancel(self) -> None:
        """Withdraw the question.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.cancel()
        >>> panel.close()
        """
        with self._lock:
            if self._confirmations.pending:
                self._clear_question("Cancelled. Nothing was done.")

    def refresh(self) -> None:
        """Fetch the allocations anew.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.refresh()
        >>> panel.close()
        """
        self._submit_fetch(reset=True)

    def give_up(self) -> None:
        """Wait no longer for an answer of the cluster. An action that was sent may still happen.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.give_up()
        >>> panel.close()
        """
        with self._lock:
            was_executing, self._executing = self._executing, False
            if not self._worker.give_up():
                self._executing = was_executing
                return
            self._progress = ""
            more = (
                " What was sent may still happen; it is listed when its answer comes."
                if was_executing
                else ""
            )
            self._clear_question(f"No longer waiting for the cluster.{more}")

    # What changes the request

    def _choose_tasks(self, scope: str, task: str) -> None:
        if scope == TASK and task not in self._common_tasks():
            raise ConfigError(f"task must be one of all chosen allocations, got {visible(task)!r}")
        self._change((scope, task if scope == TASK else ""), (self._scope, self._task))
        self._scope, self._task = scope, task if scope == TASK else ""
        self._render()

    def _choose_signal(self, signal: str) -> None:
        if signal and signal not in actions.SIGNALS:
            raise ConfigError(f"signal must be one that Nomad knows, got {visible(signal)!r}")
        self._change(signal, self._signal)
        self._signal = signal
        self._render()

    def _choose_dry_run(self, on: bool) -> None:
        self._change(on, self._dry_run)
        self._dry_run = on
        self._render()

    def _change(self, new: object, old: object) -> None:
        """Withdraw the question: it was for another request."""
        if new != old:
            self._clear_question()

    def _confirm(self, number: int) -> None:
        if number >= 0 and not self._confirmations.is_pending(number):
            return  # the page has shown meanwhile why it was withdrawn
        action = pending.request.action if (pending := self._confirmations.pending) else ""
        try:
            confirmation = self._confirmations.accept(self._request(action), self._chosen)
            if reason := self._disabled_reason(action):
                raise NotConfirmed(reason)
        except NotConfirmed as reason:
            self._clear_question(f"Nothing was done: {reason}.")
            return
        self._executing, self._progress = True, f"{action}: 0 of {len(confirmation.allocs)}"
        self._clear_question()
        self._worker.submit(partial(self._execute, confirmation), f"the {action}")

    def _show_details(self, alloc_id: str) -> None:
        if not alloc_id or alloc_id not in self._table.rows:
            self._details = None
            self._render()
            return
        self._details = {"id": alloc_id, "short": alloc_id[:8], "reading": "the allocation"}
        self._render()
        self._worker.submit(partial(self._read_details, alloc_id), "the details")

    def _open_terminal(self) -> None:
        task = self._exec_task()
        self._worker.submit(partial(self._connect_terminal, self._chosen[0], str(task)), "the terminal")

    # For programs

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until all reads, actions and searches for their outcome are done.

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
        >>> len(panel.rows) > 0
        True
        >>> panel.close()
        """
        if not self._worker.wait(timeout):
            raise TimeoutError(f"the panel was still busy after {timeout:g} s")

    @property
    def rows(self) -> pd.DataFrame:
        """The allocations to choose from, as last fetched.

        Columns: alloc_id, namespace, job, name, status (its client status, or stopping, restarting or
        replaced), tasks (how they run), restarts, exit (how the last run ended), created (UTC), version,
        node.
        """
        return self._table.frame()

    @property
    def log(self) -> pd.DataFrame:
        """The last 1,000 actions of this panel, oldest first, with one row per allocation.

        Columns: time (UTC), action, alloc_id, name, job_id, namespace, node_name, tasks, signal, modify_index
        (before the action), result (done, refused, failed, unknown, changed or dry run), message (details of
        the result), replacement_id (missing if there is none), outcome (what came of it).
        """
        return self._history.frame()

    def close(self) -> None:
        """End the panel's thread and remove it from the page. The client stays open."""
        self._worker.close()
        self._saved.update()
        if self.widget.terminal is not None:
            self.widget.terminal.close()
        self.widget.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = self.widget._repr_mimebundle_(**options)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        return {**(data or {}), "text/plain": repr(self)}

    def _ipython_display_(self) -> None:
        # Without the text form, which has the cluster's address: notebooks are shared.
        bundle = self._repr_mimebundle_()
        self._saved.display({**bundle, "text/plain": "ControlPanel: run the cell to use it."})

    def __repr__(self) -> str:
        mode = ", read-only" if self._client.read_only else ""
        summary = f"{len(self._table.rows):,} allocations, {len(self._chosen)} chosen"
        return f"<ControlPanel of {self._client._session.config.address}{mode}: {summary}>"
