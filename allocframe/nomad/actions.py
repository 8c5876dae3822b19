"""Requests to stop, signal and restart allocations, and checks of their arguments. No I/O."""

from __future__ import annotations

import re
import signal as numbers
from dataclasses import dataclass

from ..errors import ConfigError

SIGNALS = frozenset(
    {
        "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO",
        "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPROF", "SIGQUIT", "SIGSEGV", "SIGSTOP", "SIGSYS", "SIGTERM",
        "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGXCPU",
        "SIGXFSZ",
    }
)  # fmt: skip
"""The names that Nomad's drivers know.

For any other name, exec and raw_exec send SIGINT and report success.
"""

ALL_TASKS_SINCE = (1, 3, 4)
"""Older servers ignore `AllTasks` and restart only the running tasks."""

RESCHEDULE_SINCE = (1, 11, 0)
"""Older servers ignore `reschedule` of a stop."""


@dataclass(frozen=True)
class StopResult:
    """The evaluation that places the replacement, and its Raft index."""

    eval_id: str
    index: int


@dataclass(frozen=True)
class Action:
    """The request for one change: path, parameters and body."""

    path: str
    params: dict[str, str]
    body: dict[str, object]
    proof: str = "Index"
    """The field of the answer that shows that Nomad made the change."""

    def is_done(self, answer: object) -> bool:
        """Return whether an answer with status 200 is Nomad's: a proxy may answer so, too."""
        if not isinstance(answer, dict):
            return False
        value = answer.get(self.proof)
        return isinstance(value, str) and value != "" if self.proof == "EvalID" else isinstance(value, int)


def stop(alloc_id: str, *, no_shutdown_delay: bool, reschedule: bool = False) -> Action:
    params = {"no_shutdown_delay": "true"} if no_shutdown_delay else {}
    params |= {"reschedule": "true"} if reschedule else {}
    return Action(f"/v1/allocation/{alloc_id}/stop", params, {}, proof="EvalID")


def signal(alloc_id: str, name: str, task: str | None) -> Action:
    body: dict[str, object] = {"Signal": name, **({"Task": _check_task(task)} if task is not None else {})}
    return Action(f"/v1/client/allocation/{alloc_id}/signal", {}, body)


def restart(alloc_id: str, task: str | None, *, all_tasks: bool) -> Action:
    if task is not None and all_tasks:
        raise ConfigError(
            "task and all_tasks=True must not be combined: Nomad 1.3 would restart only the task"
        )
    body: dict[str, object] = (
        {"AllTasks": True} if all_tasks else {"TaskName": _check_task(task)} if task is not None else {}
    )
    return Action(f"/v1/client/allocation/{alloc_id}/restart", {}, body)


def check_signal(signal: str | numbers.Signals) -> str:
    """Return the name of a signal that is given as "SIGHUP", "HUP" or ``signal.SIGHUP``.

    Raises
    ------
    ConfigError
        Nomad does not know the signal.
    """
    name = signal.name if isinstance(signal, numbers.Signals) else str(signal).strip().upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in SIGNALS:
        raise ConfigError(
            f"signal must be one that Nomad knows, got {signal!r}. Nomad knows {', '.join(sorted(SIGNALS))}"
        )
    return name


def is_since(version: str | None, first: tuple[int, int, int]) -> bool:
    """Return whether a server has at least a version; False if its version is unknown."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", version or "")
    return match is not None and tuple(int(part) for part in match.groups()) >= first


def _check_task(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"task must be a non-empty string, got {name!r}")
    return name
