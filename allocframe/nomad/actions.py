"""Rules of stop, signal and restart without I/O: what may be asked for, and how it is asked."""

from __future__ import annotations

import re
import signal as numbers
from dataclasses import dataclass

from ..errors import ConfigError

SIGNALS = frozenset(
    {
        "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGIOT", "SIGKILL",
        "SIGPIPE", "SIGPROF", "SIGQUIT", "SIGSEGV", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU",
        "SIGURG", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
    }
)  # fmt: skip
"""The names that Nomad's drivers know. Of any other, exec and raw_exec make SIGINT and answer that all is well."""

ALL_TASKS_SINCE = (1, 3, 4)
"""Older servers overlook `AllTasks` and restart the running tasks only."""


@dataclass(frozen=True)
class StopResult:
    """What a stop began: the evaluation that places the replacement, and its Raft index."""

    eval_id: str
    index: int


@dataclass(frozen=True)
class Action:
    """One change to ask for: where, with which parameters and body."""

    path: str
    params: dict[str, str]
    body: dict[str, object]


def stop(alloc_id: str, *, no_shutdown_delay: bool) -> Action:
    params = {"no_shutdown_delay": "true"} if no_shutdown_delay else {}
    return Action(f"/v1/allocation/{alloc_id}/stop", params, {})


def signal(alloc_id: str, name: str, task: str | None) -> Action:
    body: dict[str, object] = {"Signal": name, **({"Task": _task(task)} if task is not None else {})}
    return Action(f"/v1/client/allocation/{alloc_id}/signal", {}, body)


def restart(alloc_id: str, task: str | None, *, all_tasks: bool) -> Action:
    if task is not None and all_tasks:
        raise ConfigError("give a task, or all_tasks=True, not both: Nomad 1.3 would restart the task only")
    body: dict[str, object] = (
        {"AllTasks": True} if all_tasks else {"TaskName": _task(task)} if task is not None else {}
    )
    return Action(f"/v1/client/allocation/{alloc_id}/restart", {}, body)


def check_signal(signal: str | numbers.Signals) -> str:
    """Return the name of a signal, as "SIGHUP" or "HUP" or ``signal.SIGHUP``; unknown ones are refused.

    Raises
    ------
    ConfigError
        There is no such signal: a server would have sent SIGINT.
    """
    name = signal.name if isinstance(signal, numbers.Signals) else str(signal).strip().upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in SIGNALS:
        raise ConfigError(f"{signal!r} is no signal that Nomad knows; it knows {', '.join(sorted(SIGNALS))}")
    return name


def knows_all_tasks(version: str | None) -> bool | None:
    """Return whether a server restarts all tasks when asked to; None where its version is not known."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version or "")
    return tuple(int(part) for part in found.groups()) >= ALL_TASKS_SINCE if found else None


def _task(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"task must be the name of a task, not {name!r}")
    return name
