"""The control panel: choose allocations, stop, signal or restart them, see what became of it."""

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
from .confirmation import Confirmation, NotConfirmed, Order
from .execute import carry_out, read_all
from .state import View
from .worker import Worker

EVERY = 10.0
"""Seconds between two fetches of the list; more where a fetch takes over a second."""

UNUSED = 1800.0
"""Seconds without a click after which the list is no longer fetched by itself."""


class ControlPanel(View):
    """Choose allocations and stop, signal or restart them, or open a terminal; as the last expression of a cell it is shown.

    Nothing happens without a confirmation, which says what will happen, is good once and for 20 seconds, and for the allocations as
    they were read. Each is read again just before; one that has changed is left alone, and the question is asked again. The kernel
    stays free meanwhile. What is done is in `log` and in the audit log (`read_audit`).

    Parameters
    ----------
    client : Client
        A read-only one shows, and offers no actions.
    namespace : str, optional
        ``"*"`` for every namespace that the token may read; else the client's, else ``default``.
    filter : str, optional
        A filter expression of Nomad, such as ``'JobID == "web"'``: what there is to choose from.
    limit : int
        Allocations that one order may reach; can be changed later.

    Attributes
    ----------
    choose_button, refresh_button, stop_button, restart_button, signal_button, exec_button, confirm_button, cancel_button
        Buttons, for `click()` without a front end.
    filter, select, task, signal, dry_run, auto_refresh
        Fields, with their ``value``.
    log : pandas.DataFrame
    widget : ipywidgets.VBox
        All of it, for a layout of your own.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         panel = af.ControlPanel(client, namespace="*")
    ...         panel.wait()
    ...         panel.choose([panel.select.options[0][1]])
    ...         panel.stop_button.click()  # asks
    ...         panel.wait()
    ...         panel.confirm_button.click()  # does it
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
        filter: str | None = None,  # noqa: A002 - Nomad's name for it
        limit: int = 10,
    ) -> None:
        super().__init__(read_only=client.read_only, limit=check_count("limit", limit))
        self._client, self._namespace, self._filter = client, namespace, filter
        self._due, self._used = float("inf"), time.monotonic()
        self._connect()
        mode = " · read-only" if client.read_only else ""
        where = namespace or client._session.config.namespace or "default"
        self._heading.value = render.heading(client._session.config.address, where, mode)
        self._order_changed()
        self._worker = Worker(self._tick, self._broke)
        self._worker.submit(partial(self._fetch, anew=True))

    def _connect(self) -> None:
        for name, button in self._buttons().items():
            button.on_click(
                partial(self._clicked, self._open_terminal if name == "exec" else partial(self._ask, name))
            )
        self.choose_button.on_click(partial(self._clicked, self._choose_these))
        self.confirm_button.on_click(partial(self._clicked, self._confirm))
        self.cancel_button.on_click(partial(self._clicked, self._cancel))
        self.refresh_button.on_click(
            partial(self._clicked, lambda: self._worker.submit(partial(self._fetch, anew=True)))
        )
        self.filter.observe(partial(self._altered, self._find), "value")
        self.select.observe(partial(self._altered, self._picked), "value")
        for control in (self.task, self.signal, self.dry_run):
            control.observe(partial(self._altered, self._order_changed), "value")

    # What people do. Callbacks may come on any thread, even for a button that is off: what counts is the state kept here.

    def _clicked(self, act: Callable[[], None], _: Any) -> None:
        with self._lock:
            self._used = time.monotonic()
            act()

    def _altered(self, act: Callable[[], None], _: Any) -> None:
        with self._lock:
            if not self._muted:
                self._used = time.monotonic()
                act()

    def choose(self, alloc_ids: Iterable[str]) -> None:
        """Choose allocations, as a click into the list does.

        Raises
        ------
        ConfigError
            One of them is not in the list that is shown.

        Examples
        --------
        >>> panel = af.ControlPanel(client, namespace="*")
        >>> panel.wait()
        >>> panel.choose([panel.select.options[0][1]])
        >>> panel.close()
        """
        wanted = tuple(alloc_ids)
        with self._lock:
            missing = [visible(one) for one in wanted if one not in self._listing.shown]
            if missing:
                raise ConfigError(
                    f"not in the list that is shown: {', '.join(missing[:5])}; change the filter"
                )
            self._choose(wanted)

    def _find(self) -> None:
        self._listing.find(self.filter.value)
        self._show_list()

    def _choose_these(self) -> None:
        """Choose all that match: the way without a mouse, for JupyterLab keeps the arrow keys from lists."""
        self._find()
        if 0 < self._listing.matching <= self.limit:
            self._choose(self._listing.shown)

    def _choice_changed(self) -> None:
        self._order_changed()
        chosen = self._chosen()
        self._facts = {name: facts for name, facts in self._facts.items() if name in chosen}
        self._render()
        self._worker.submit(partial(self._describe, chosen))

    def _ask(self, action: str) -> None:
        self._void(f"Nothing was asked for: {off}." if (off := self._off(action)) else "")
        if off:
            return
        self._question.value = render.note("Reading what is chosen …")
        self._worker.submit(partial(self._prepare, self._order(action), self._chosen()))

    def _confirm(self) -> None:
        action = pending.order.action if (pending := self._confirmations.pending) else ""
        try:
            confirmed = self._confirmations.take(self._order(action), self._chosen())
            if off := self._off(action):
                raise NotConfirmed(off)
        except NotConfirmed as why:
            self._void(f"Nothing was done: {why}.")
            return
        self._running, self._progress = True, f"{action}: 0 of {len(confirmed.facts)}"
        self._void()
        self._render()
        self._worker.submit(partial(self._carry, confirmed))

    def _cancel(self) -> None:
        if self._confirmations.pending:
            self._void("Cancelled; nothing was done.")

    # What takes longer: on the worker's thread, without the lock while it waits for the cluster

    def _fetch(self, *, anew: bool) -> None:
        began, rights = time.monotonic(), None
        self._due = began + EVERY
        try:
            table = fetch(self._client, self._namespace, self._filter)
            rights = self._client._session.rights() if anew else None
            trouble = ""
        except AllocframeError as error:
            table, trouble = None, f"The list could not be fetched: {error}"
        now = time.monotonic()
        with self._lock:
            self._due = now + max(EVERY, 10 * (now - began))
            self._trouble, self._rights = trouble, rights or self._rights
            if table is not None:
                self._listing.take(table, self.filter.value, anew=anew)
            self._show_list()
        self._describe(self._chosen())

    def _describe(self, chosen: tuple[str, ...]) -> None:
        """Read what is chosen, unless something else is by now."""
        if not chosen or chosen != self._chosen():
            return
        found, _ = read_all(self._client, chosen[: self.limit], self._facts)
        with self._lock:
            if chosen == self._chosen():
                self._show_facts(found)

    def _prepare(self, order: Order, chosen: tuple[str, ...], why: str = "") -> None:
        """Say what will happen and ask for the confirmation, unless something else is chosen by now."""
        found, unread = read_all(self._client, chosen, self._facts)
        with self._lock:
            if order == self._order(order.action) and set(chosen) <= set(self._chosen()):
                self._pose(order, found, unread, why)

    def _carry(self, confirmed: Confirmation) -> None:
        order, total = confirmed.order, len(confirmed.facts)
        changed = []
        try:
            for number, result in enumerate(carry_out(self._client, confirmed), 1):
                changed += [result] if result.result == "changed" else []
                self._history.add(result)
                with self._lock:
                    self._progress = f"{order.action}: {number} of {total}"
                    self._show_results()
        finally:
            with self._lock:
                self._running, self._progress = False, ""
                self._render()
        if changed:
            said = "; ".join(f"{one.facts.name}: {one.said}" for one in changed)
            again = tuple(one.facts.alloc_id for one in changed)
            self._prepare(order, again, f"Asked again, for it has changed since you looked. {said}.")
        self._fetch(anew=False)

    def _open_terminal(self) -> None:
        off, task = self._off("exec"), self._exec_task()
        if off or task is None:
            self._void(f"No terminal was opened: {off}.")
            return
        self._worker.submit(partial(self._connect_terminal, self._chosen()[0], task))

    def _connect_terminal(self, alloc_id: str, task: str) -> None:
        try:
            from ..terminal.terminal import Terminal

            terminal = Terminal(self._client, alloc_id, task)
        except (AllocframeError, ImportError) as error:
            with self._lock:
                self._void(f"No terminal was opened: {error}")
            return
        with self._lock:
            before, self._slot.children = self._slot.children, (terminal,)
        for widget in before:
            widget.close()

    # What is due now and then

    def _tick(self) -> bool:
        with self._lock:
            if self._confirmations.pending:
                self._count_down()
        if self._history.seek(self._client):
            with self._lock:
                self._show_results()
        if self.auto_refresh.value and time.monotonic() >= self._due:
            if time.monotonic() - self._used > UNUSED:
                self.auto_refresh.value = False
            else:
                self._fetch(anew=False)
        return self._history.waits

    def _broke(self, error: Exception) -> None:
        """Say that something went wrong in here, rather than fall silent."""
        with self._lock:
            self._running = False
            self._void(
                f"Something went wrong in the panel itself, please report it: {type(error).__name__}: {error}"
            )

    # For programs

    def wait(self, timeout: float = 60.0) -> None:
        """Wait until nothing is being read or done, and no replacement is looked for.

        Parameters
        ----------
        timeout : float
            Seconds.

        Raises
        ------
        TimeoutError
            Something still is.

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
        """What this panel did, oldest first, at most the last 1,000, a row for each allocation.

        time (UTC), action, alloc_id, name, job_id, namespace, node_name, tasks, signal, modify_index (before), result (done, refused,
        failed, unknown, changed or dry run), said, replacement_id (missing where there is none).
        """
        return self._history.frame()

    def close(self) -> None:
        """End the panel's thread and take it off the page; the client stays open."""
        self._worker.close()
        for widget in (*self._slot.children, self.widget):
            widget.close()

    def _repr_mimebundle_(self, **given: Any) -> Any:
        return {**(self.widget._repr_mimebundle_(**given) or {}), "text/plain": repr(self)}

    def __repr__(self) -> str:
        mode = ", read-only" if self._client.read_only else ""
        counted = self._listing.counted()
        return f"<ControlPanel of {self._client._session.config.address}{mode}: {counted}, {len(self._chosen())} chosen>"
