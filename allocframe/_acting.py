"""What the client does to allocations: stop, signal, restart and exec, each asked for once."""

from __future__ import annotations

import json
import signal as numbers
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd

from ._utils.text import visible
from .client import audit_log
from .errors import AllocframeError, ConfigError, ExecError, ResultUnknown, Unsupported
from .nomad import acl, actions
from .nomad import exec as _exec
from .nomad.actions import Action, StopResult
from .nomad.config import Config
from .nomad.connection import check_workers
from .nomad.exec import ExecRequest, ExecResult
from .nomad.transport import Transport, parse_json, request_pool


class Acting:
    """The part of a client that changes allocations. `read_only=True` refuses it all; the audit log has the rest."""

    read_only: bool
    _config: Config
    _transport: Transport
    _region: str | None
    _accessor: str | None = None

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
        answer = self._act("stop", identity, actions.stop(identity, no_shutdown_delay=no_shutdown_delay))
        index = answer.get("Index")
        return StopResult(str(answer.get("EvalID", "")), index if isinstance(index, int) else 0)

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
        name = actions.check_signal(signal)
        identity = self._whole_id(alloc_id)
        self._act("signal", identity, actions.signal(identity, name, task))

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
        action = actions.restart(identity, task, all_tasks=all_tasks)
        if all_tasks and not actions.knows_all_tasks(version := self._transport.server_version()):
            said = (
                f"Nomad {version} restarts running tasks only"
                if version
                else "the server's version cannot be read"
            )
            raise Unsupported(
                0, said, method="POST", path=action.path, hint="all_tasks=True needs 1.3.4; nothing was sent"
            )
        self._act("restart", identity, action)

    def exec(
        self,
        alloc_id: str,
        command: Sequence[str],
        *,
        task: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command inside a task, to its end. Needs alloc-exec.

        Its stdin is closed when `stdin` is through, at once without any: no server says before that a command has ended.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        command : list of str
            Program and arguments; no shell looks at them. Servers log them: put no secrets there.
        task : str, optional
            Which task; needed where there are several.
        stdin : bytes or str, optional
            What the command reads.
        timeout : float, optional
            Seconds to wait for its end. Giving up does not stop it.

        Returns
        -------
        ExecResult
            ``stdout``, ``stderr`` (bytes), ``exit_code``, and ``text``: stdout as text.

        Raises
        ------
        ExecError
            The command could not be started, or had not ended in time, or the session was lost; holds what came.
        PermissionDenied, NotFound, Conflict
            Nomad refused; nothing was run.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.exec(running["alloc_id"][0], ["echo", "hello"]).text
        'hello\\n'
        """
        from .nomad import websocket

        target = self._exec_target(alloc_id, command, task)
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        with self._audited_exec(target) as outcome:
            done = websocket.run_command(self._config, target, data, timeout, self._transport.sockets.holding)
            outcome.said = f"exit code {done.exit_code}"
        return done

    def exec_many(
        self,
        alloc_ids: Iterable[str],
        command: Sequence[str],
        *,
        task: str | None = None,
        timeout: float | None = None,
        workers: int = 4,
    ) -> pd.DataFrame:
        """Run a command in many allocations, a few at a time; one that fails does not stop the others.

        Parameters
        ----------
        alloc_ids : iterable of str
        command, task, timeout
            See `exec`.
        workers : int
            Commands at the same time, at most 8.

        Returns
        -------
        pandas.DataFrame
            One row for each allocation in the order given: alloc_id, task, exit_code (missing where it failed), stdout, stderr (text),
            error (missing where it did not), duration (timedelta).

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.exec_many(running["alloc_id"][:3], ["uname"])["exit_code"].tolist()
        [0, 0, 0]
        """
        check_workers(workers)
        _exec.check_command(command)

        def one(alloc_id: str) -> dict[str, Any]:
            started = time.perf_counter()
            row: dict[str, Any] = {"alloc_id": alloc_id, "task": task}
            try:
                done = self.exec(alloc_id, command, task=task, timeout=timeout)
                row |= {
                    "exit_code": done.exit_code,
                    "stdout": done.text,
                    "stderr": done.stderr.decode("utf-8", "replace"),
                }
            except ExecError as error:
                row |= {"error": str(error), "stdout": error.stdout.decode("utf-8", "replace")}
            except AllocframeError as error:
                row["error"] = str(error)
            return {**row, "duration": pd.Timedelta(seconds=time.perf_counter() - started)}

        with request_pool(self._transport, workers) as pool:
            rows = list(pool.map(one, alloc_ids))
        texts = ("alloc_id", "task", "exit_code", "stdout", "stderr", "error")
        columns = {**dict.fromkeys(texts, "str"), "exit_code": "Int64"}
        found = pd.DataFrame(rows, columns=[*columns, "duration"]).astype(columns)
        return found.astype({"duration": "timedelta64[ns]"})

    def _exec_target(
        self, alloc_id: str, command: Sequence[str], task: str | None, *, tty: bool = False
    ) -> ExecRequest:
        """Return what an exec asks for; everything that can be wrong with it here is refused here."""
        _exec.check_command(command)
        self._may_change()
        identity = self._whole_id(alloc_id)
        alloc = self._read(identity) if tty or task is None else {}
        named = task if task is not None else _only_task(identity, alloc)
        title = f"{named} of {alloc.get('Name')} ({identity[:8]}) on {alloc.get('NodeName')}"
        return _exec.exec_request(identity, command, named, tty=tty, region=self._region, title=title)

    def _where(self) -> dict[str, str]:
        return {"region": self._region} if self._region else {}

    def _json(self, path: str) -> Any:
        return self._transport.get(path, self._where(), check=parse_json)

    def _read(self, identity: str) -> dict[str, Any]:
        answer = self._json(f"/v1/allocation/{identity}")
        return answer if isinstance(answer, dict) else {}

    def _rights(self) -> acl.Rights:
        """Return what this client's token may do, as far as it may be read."""
        return acl.read_rights(self._json)

    def _known_accessor(self) -> str | None:
        """Return the token's accessor, which tells who it was and lets nobody in; None where it cannot be read."""
        if self._accessor is None:
            self._accessor = acl.read_accessor(self._json)
        return self._accessor

    def _may_change(self) -> None:
        if self.read_only:
            raise AllocframeError("nothing was done: this client is read-only (read_only=True)")
        self._transport.check_usable()

    def _audited(
        self, action: str, identity: str, arguments: dict[str, Any]
    ) -> AbstractContextManager[audit_log.Outcome]:
        """Let an action happen between its two lines in the audit log; every change goes through here."""
        self._may_change()
        address, secret = self._config.address, self._config.token.reveal
        return audit_log.audited(
            action, identity, arguments, address=address, accessor=self._known_accessor, secret=secret
        )

    def _audited_exec(self, target: ExecRequest) -> AbstractContextManager[audit_log.Outcome]:
        command, task, tty = (target.params[name] for name in ("command", "task", "tty"))
        arguments = {"command": json.loads(command), "task": task, "tty": tty == "true"}
        return self._audited("exec", target.path.split("/")[-2], arguments)

    def _act(self, name: str, identity: str, action: Action) -> dict[str, Any]:
        with self._audited(name, identity, {**action.params, **action.body}) as outcome:
            try:
                answer = self._transport.post(action.path, action.params | self._where(), action.body)
            except ResultUnknown as lost:
                raise ResultUnknown(f"{lost}. {self._standing(identity)}") from None
            answer = answer if isinstance(answer, dict) else {}
            if "EvalID" in answer:
                outcome.said = f"evaluation {visible(answer['EvalID'])}"
        return answer

    def _standing(self, identity: str) -> str:
        """Say how an allocation stands after an answer was lost."""
        try:
            now = self._read(identity)
        except AllocframeError as error:
            return f"It may or may not have been done, and the allocation cannot be read: {error}"
        return (
            "It may or may not have been done: read again, the allocation is "
            f"{now.get('ClientStatus')}, wanted {now.get('DesiredStatus')}, ModifyIndex {now.get('ModifyIndex')}. "
            "It was not asked for twice; look before you do"
        )


def _only_task(identity: str, alloc: dict[str, Any]) -> str:
    """Return the task of an allocation that has only one."""
    states = alloc.get("TaskStates") or {}
    if len(states) != 1:
        named = ", ".join(sorted(visible(name) for name in states)) or "none that has started"
        raise ConfigError(f"say which task=: allocation {identity} has {named}")
    return str(next(iter(states)))
