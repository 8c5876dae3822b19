"""Stop, signal, restart and exec: each is written to the audit log first, and never repeated blindly."""

from __future__ import annotations

import json
import signal as signals
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd

from .._utils.text import visible
from ..errors import AllocframeError, ConfigError, Conflict, ExecError, ResultUnknown, Unsupported
from ..nomad import actions as nomad_actions
from ..nomad import exec as nomad_exec
from ..nomad.actions import Action, StopResult
from ..nomad.connection import check_workers
from ..nomad.exec import ExecRequest, ExecResult
from ..nomad.transport import request_pool
from . import audit_log
from .session import Session

_EXEC_COLUMNS = {
    "alloc_id": "str", "task": "str", "exit_code": "Int64", "stdout": "str", "stderr": "str", "error": "str",
    "duration": "timedelta64[ns]",
}  # fmt: skip


_ENDED = ("complete", "failed", "lost")


def stop(
    session: Session, alloc_id: str, *, no_shutdown_delay: bool = False, reschedule: bool = False
) -> StopResult:
    """Stop one allocation; see `Client.stop`."""
    session.check_may_change()
    identity = session.resolve_id(alloc_id)
    action = nomad_actions.stop(identity, no_shutdown_delay=no_shutdown_delay, reschedule=reschedule)
    # Nomad takes the stop of an allocation that has ended, makes an evaluation, and stops nothing.
    status = session.read_allocation(identity).get("ClientStatus")
    if status in _ENDED:
        raise Conflict(
            0, f"it has already ended ({status})", method="POST", path=action.path, hint="Nothing was sent"
        )
    if reschedule:
        _check_version(session, action, "reschedule=True", nomad_actions.RESCHEDULE_SINCE)
    answer = _post(session, "stop", identity, action)
    index = answer.get("Index")
    return StopResult(str(answer["EvalID"]), index if isinstance(index, int) else 0)


def signal(
    session: Session, alloc_id: str, signal: str | signals.Signals, *, task: str | None = None
) -> None:
    """Send a signal to one task, or to every task; see `Client.signal`."""
    name = nomad_actions.check_signal(signal)
    identity = session.resolve_id(alloc_id)
    _post(session, "signal", identity, nomad_actions.signal(identity, name, task))


def restart(session: Session, alloc_id: str, *, task: str | None = None, all_tasks: bool = False) -> None:
    """Restart tasks in place; see `Client.restart`."""
    identity = session.resolve_id(alloc_id)
    action = nomad_actions.restart(identity, task, all_tasks=all_tasks)
    if all_tasks:
        _check_version(session, action, "all_tasks=True", nomad_actions.ALL_TASKS_SINCE)
    _post(session, "restart", identity, action)


def _check_version(session: Session, action: Action, argument: str, first: tuple[int, int, int]) -> None:
    """Refuse what an older server would ignore without saying so.

    Raises
    ------
    Unsupported
        The server is older than `first`, or its version cannot be read.
    """
    version = session.transport.server_version()
    if not nomad_actions.is_since(version, first):
        reason = f"Nomad {version} ignores {argument}" if version else "the server's version is unknown"
        hint = f"{argument} needs {'.'.join(map(str, first))}; nothing was sent"
        raise Unsupported(0, reason, method="POST", path=action.path, hint=hint)


def exec_command(
    session: Session,
    alloc_id: str,
    command: Sequence[str],
    *,
    task: str | None = None,
    stdin: bytes | str | None = None,
    timeout: float | None = None,
) -> ExecResult:
    """Run a command inside a task and wait for its end; see `Client.exec`."""
    from ..nomad import websocket  # needs the optional websockets

    request = exec_request(session, alloc_id, command, task)
    data = stdin.encode() if isinstance(stdin, str) else stdin or b""
    with session.naming_tasks(request.path.split("/")[-2]), audited_exec(session, request) as outcome:
        result = websocket.run_command(session.config, request, data, timeout, session.transport.sockets)
        outcome.message = f"exit code {result.exit_code}"
    return result


def exec_many(
    session: Session,
    alloc_ids: Iterable[str],
    command: Sequence[str],
    *,
    task: str | None = None,
    timeout: float | None = None,
    workers: int = 4,
) -> pd.DataFrame:
    """Run a command in many allocations, a few at a time; see `Client.exec_many`."""
    check_workers(workers)
    nomad_exec.check_command(command)

    def run(alloc_id: str) -> dict[str, Any]:
        started = time.perf_counter()
        row: dict[str, Any] = {"alloc_id": alloc_id, "task": task}
        try:
            result = exec_command(session, alloc_id, command, task=task, timeout=timeout)
            row |= {
                "exit_code": result.exit_code,
                "stdout": result.text,
                "stderr": result.stderr.decode("utf-8", "replace"),
            }
        except ExecError as error:
            row |= {"error": str(error), "stdout": error.stdout.decode("utf-8", "replace")}
        except AllocframeError as error:
            row["error"] = str(error)
        return {**row, "duration": pd.Timedelta(seconds=time.perf_counter() - started)}

    with request_pool(session.transport, workers) as pool:
        rows = list(pool.map(run, alloc_ids))
    return pd.DataFrame(rows, columns=list(_EXEC_COLUMNS)).astype(_EXEC_COLUMNS)


def exec_request(
    session: Session, alloc_id: str, command: Sequence[str], task: str | None, *, tty: bool = False
) -> ExecRequest:
    """Return the request that starts a command. Whatever can be refused without the node is refused here.

    Raises
    ------
    ConfigError, NotFound, AllocframeError
        The command is no list, the task must be named, there is no such allocation, or the session is
        read-only.
    """
    nomad_exec.check_command(command)
    session.check_may_change()
    identity = session.resolve_id(alloc_id)
    # A terminal's title names job and node; a command with a named task saves the request.
    alloc = session.read_allocation(identity) if tty or task is None else {}
    task_name = task if task is not None else _only_task(identity, alloc)
    title = f"{task_name} of {alloc.get('Name')} ({identity[:8]}) on {alloc.get('NodeName')}"
    return nomad_exec.exec_request(
        identity, command, task_name, tty=tty, region=session.config.region, title=title
    )


def audited(
    session: Session, action: str, alloc_id: str, arguments: dict[str, Any]
) -> AbstractContextManager[audit_log.Outcome]:
    """Run a change between its two lines in the audit log. Every change goes through here."""
    session.check_may_change()
    config = session.config
    return audit_log.audited(
        action,
        alloc_id,
        arguments,
        address=config.address,
        accessor=session.accessor,
        scrub=config.scrub,
    )


def audited_exec(session: Session, request: ExecRequest) -> AbstractContextManager[audit_log.Outcome]:
    """Run a command, or a terminal's session, between its two lines in the audit log."""
    command, task, tty = (request.params[name] for name in ("command", "task", "tty"))
    arguments = {"command": json.loads(command), "task": task, "tty": tty == "true"}
    return audited(session, "exec", request.path.split("/")[-2], arguments)


def _post(session: Session, name: str, alloc_id: str, action: Action) -> dict[str, Any]:
    """Send a change and return the answer; if the answer is lost, say how the allocation stands now."""
    with (
        session.naming_tasks(alloc_id),
        audited(session, name, alloc_id, {**action.params, **action.body}) as outcome,
    ):
        try:
            answer = session.transport.post(action.path, action.params | session.region_params, action.body)
            if not action.is_done(answer):
                start = visible(json.dumps(answer)[:200])
                raise ResultUnknown(f"POST {action.path}: sent, but the answer is not Nomad's: {start}")
        except ResultUnknown as error:
            raise ResultUnknown(f"{error}. {_describe_state(session, alloc_id)}") from None
        if action.proof == "EvalID":
            outcome.message = f"evaluation {visible(answer['EvalID'])}"
    return dict(answer)


def _describe_state(session: Session, alloc_id: str) -> str:
    """Say how an allocation stands after the answer to a change was lost."""
    try:
        alloc = session.read_allocation(alloc_id)
    except AllocframeError as error:
        return f"It may or may not have been done, and the allocation cannot be read: {error}"
    status, desired, index = (alloc.get(name) for name in ("ClientStatus", "DesiredStatus", "ModifyIndex"))
    return (
        f"It may or may not have been done: the allocation is now {status}, desired {desired}, "
        f"ModifyIndex {index}. The request was not repeated; check before you do so"
    )


def _only_task(alloc_id: str, alloc: dict[str, Any]) -> str:
    """Return the name of an allocation's only task.

    Raises
    ------
    ConfigError
        It has several tasks, or none that has started.
    """
    states = alloc.get("TaskStates") or {}
    if len(states) != 1:
        names = ", ".join(sorted(visible(name) for name in states)) or "none that has started"
        raise ConfigError(f"say which task=: allocation {alloc_id} has {names}")
    return str(next(iter(states)))
