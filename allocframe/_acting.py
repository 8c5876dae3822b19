"""What the client changes: stop, signal and restart, each asked for once."""

from __future__ import annotations

import signal as numbers
from typing import Any

from . import _actions
from ._actions import Action, StopResult
from ._errors import AllocframeError, ResultUnknown, Unsupported
from ._transport import Transport, parsed


class Acting:
    """The part of a client that changes allocations. `read_only=True` refuses it all."""

    _transport: Transport
    _region: str | None

    def _whole_id(self, alloc_id: str) -> str:
        raise NotImplementedError

    def stop(self, alloc_id: str, *, no_shutdown_delay: bool = False) -> StopResult:
        """Stop one allocation; its job places a replacement elsewhere. Needs alloc-lifecycle.

        Stopping it again makes another evaluation. To end a job for good, stop the job.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        no_shutdown_delay : bool
            Do not wait for the group's and tasks' ``shutdown_delay``.

        Returns
        -------
        StopResult
            ``eval_id`` and ``index`` of the evaluation that will place the replacement.

        Raises
        ------
        NotFound, PermissionDenied
            Nothing was stopped.
        ResultUnknown
            The answer was lost; the message says how the allocation stands.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         len(client.stop(running["alloc_id"][0]).eval_id)
        36
        """
        identity = self._whole_id(alloc_id)
        answer = self._act(identity, _actions.stop(identity, no_shutdown_delay=no_shutdown_delay))
        return StopResult(str(answer.get("EvalID", "")), int(answer.get("Index", 0)))

    def signal(self, alloc_id: str, signal: str | numbers.Signals, *, task: str | None = None) -> None:
        """Send a signal to one task, or to every task. Needs alloc-lifecycle.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        signal : str or signal.Signals
            "SIGHUP", "HUP" or ``signal.SIGHUP``. Names that no driver knows are refused: servers would send SIGINT.
        task : str, optional
            Which task; else all of them, which fails where one of them does not run.

        Raises
        ------
        ConfigError
            There is no such signal; nothing was sent.
        Conflict
            A task does not run, or is not there. Others may have got the signal.
        ResultUnknown
            The answer was lost.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.signal(running["alloc_id"][0], "SIGHUP")
        """
        name = _actions.check_signal(signal)
        identity = self._whole_id(alloc_id)
        self._act(identity, _actions.signal(identity, name, task))

    def restart(self, alloc_id: str, *, task: str | None = None, all_tasks: bool = False) -> None:
        """Restart one task, all running tasks, or all tasks, in place. Needs alloc-lifecycle.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        task : str, optional
            Which task; else all that run.
        all_tasks : bool
            Those that have ended, too (Nomad 1.3.4 and newer).

        Raises
        ------
        ConfigError
            Both `task` and `all_tasks` were given.
        Unsupported
            This server is too old for `all_tasks`; nothing was sent.
        Conflict
            A task does not run, or is not there. Others may have been restarted.
        ResultUnknown
            The answer was lost.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.restart(running["alloc_id"][0])
        """
        identity = self._whole_id(alloc_id)
        action = _actions.restart(identity, task, all_tasks=all_tasks)
        if all_tasks and not _actions.knows_all_tasks(version := self._transport.server_version()):
            said = (
                f"Nomad {version} restarts running tasks only"
                if version
                else "the server's version cannot be read"
            )
            raise Unsupported(
                0, said, method="POST", path=action.path, hint="all_tasks=True needs 1.3.4; nothing was sent"
            )
        self._act(identity, action)

    def _act(self, identity: str, action: Action) -> dict[str, Any]:
        params = {**action.params, **({"region": self._region} if self._region else {})}
        try:
            answer = self._transport.post(action.path, params, action.body)
        except ResultUnknown as lost:
            raise ResultUnknown(f"{lost}. {self._standing(identity)}") from None
        return answer if isinstance(answer, dict) else {}

    def _standing(self, identity: str) -> str:
        """Say how an allocation stands after an answer was lost."""
        params = {"region": self._region} if self._region else {}
        try:
            now = self._transport.get(f"/v1/allocation/{identity}", params, check=parsed)
        except AllocframeError as error:
            return f"It may or may not have been done, and the allocation cannot be read: {error}"
        return (
            "It may or may not have been done: read again, the allocation is "
            f"{now.get('ClientStatus')}, wanted {now.get('DesiredStatus')}, ModifyIndex {now.get('ModifyIndex')}. "
            "It was not asked for twice; look before you do"
        )
