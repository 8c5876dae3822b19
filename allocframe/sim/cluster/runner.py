"""The client side of the simulated cluster: nodes start, restart and kill tasks."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from .alloc import Alloc
from .jobs import MINUTE, Outcome, Run, Task
from .model import SECOND, TaskState
from .state import State


class Servers(Protocol):
    """What nodes need from the servers: a clock, a timer, and calls that report changes.

    The engine implements it. With the protocol, this module need not import the engine, which imports it.
    """

    state: State
    rng: Random

    def clock(self, alloc: Alloc) -> int: ...

    def after(self, delay: int, action: Callable[[], object]) -> None: ...

    def touch(self, alloc: Alloc) -> None: ...

    def check_health(self, alloc: Alloc) -> None: ...

    def handle_failure(self, alloc: Alloc) -> None: ...

    def collect(self, alloc: Alloc) -> None: ...


class Runner:
    """Runs the tasks of every node by the rules of Nomad's task runner."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self._restart_times: dict[tuple[str, str], list[int]] = {}

    def receive(self, alloc: Alloc, task: Task) -> None:
        """Set up a task that the servers have placed on a node, and start it."""
        if alloc.desired_status != "run" or alloc.terminal:
            return
        state, now = alloc.tasks[task.name], self.servers.clock(alloc)
        state.emit("Received", now)
        state.emit("Task Setup", now + SECOND // 100, message="Building Task Directory")
        self._start(alloc, task, 0)

    def _start(self, alloc: Alloc, task: Task, attempt: int) -> None:
        state = alloc.tasks[task.name]
        if state.state == "dead" or alloc.terminal or alloc.desired_status != "run":
            return
        run = Run(task.name, alloc.job.version, alloc.node.id, alloc.slot, self.servers.state.now_ns, attempt)
        outcome = task.behaviour(run, self.servers.rng)
        if task.artifact:
            state.emit("Downloading Artifacts", self.servers.clock(alloc))
        if outcome.download_error:
            now = self.servers.clock(alloc)
            state.emit("Failed Artifact Download", now, download_error=outcome.download_error)
            self._apply_restart_policy(alloc, task, outcome, attempt)
        elif outcome.driver_error:
            state.emit("Driver Failure", self.servers.clock(alloc), driver_error=outcome.driver_error)
            self._apply_restart_policy(alloc, task, outcome, attempt)
        else:
            self._run(alloc, task, outcome, attempt)

    def _run(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int) -> None:
        state = alloc.tasks[task.name]
        state.state, state.started_at = "running", self.servers.clock(alloc)
        state.emit("Started", state.started_at)
        if alloc.client_status != "running":
            alloc.client_status, alloc.client_description = "running", "Tasks are running"
        self.servers.touch(alloc)
        if alloc.deployment_id and alloc.healthy is None and attempt == 0:
            self.servers.after(10 * SECOND, lambda: self.servers.check_health(alloc))
        if outcome.after is not None:
            # A later event (a kill, a restart) means that this run has ended already: then it must not exit.
            emitted = state.emitted
            self.servers.after(outcome.after, lambda: self._exit(alloc, task, outcome, attempt, emitted))

    def _exit(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int, emitted: int) -> None:
        state = alloc.tasks[task.name]
        if alloc.terminal or state.state != "running" or state.emitted != emitted:
            return
        details = {
            "exit_code": str(outcome.exit_code),
            "signal": str(outcome.signal),
            "oom_killed": "true" if outcome.oom else "false",
        }
        if outcome.oom:
            details["exit_message"] = "OOM Killed"
        state.emit("Terminated", self.servers.clock(alloc), **details)
        self._apply_restart_policy(alloc, task, outcome, attempt)

    def _apply_restart_policy(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int) -> None:
        """Apply the restart policy to a run that ended by itself."""
        state, policy = alloc.tasks[task.name], alloc.group.restart
        # Batch tasks may end. A service task that ends is restarted, even with exit code 0.
        if not outcome.failed and alloc.job.kind in ("batch", "sysbatch"):
            self._finish(alloc, task, failed=False)
            return
        now = self.servers.state.now_ns
        restarts = self._restart_times.get((alloc.id, task.name), [])
        recent = [time for time in restarts if now - time < policy.interval]
        if len(recent) < policy.attempts:
            # Nomad adds up to a quarter of the delay, so that tasks do not restart in step.
            pause = policy.delay + self.servers.rng.randrange(policy.delay // 4 + 1)
            self._restart_times[alloc.id, task.name] = [*recent, now]
            self._restart(alloc, task, pause, attempt, "Restart within policy")
        elif policy.mode == "delay":
            pause = policy.interval - (now - min(recent, default=now))
            self._restart_times[alloc.id, task.name] = []
            self._restart(alloc, task, pause, attempt, "Exceeded allowed attempts, applying a delay")
        else:
            interval = f"{policy.interval // MINUTE}m0s"
            reason = f'Exceeded allowed attempts {policy.attempts} in interval {interval} and mode is "fail"'
            state.emit("Not Restarting", self.servers.clock(alloc), restart_reason=reason, fails_task="true")
            self._finish(alloc, task, failed=True)

    def _restart(self, alloc: Alloc, task: Task, pause: int, attempt: int, reason: str) -> None:
        state, now = alloc.tasks[task.name], self.servers.clock(alloc)
        state.emit("Restarting", now, restart_reason=reason, start_delay=str(pause))
        state.state, state.last_restart, state.restarts = "pending", now, state.restarts + 1
        self.servers.touch(alloc)
        self.servers.after(pause, lambda: self._start(alloc, task, attempt + 1))

    def crash(self, alloc: Alloc, outcome: Outcome) -> None:
        """End every running task with `outcome`, now."""
        for task in alloc.group.tasks:
            state = alloc.tasks[task.name]
            if state.state == "running":
                self._exit(alloc, task, outcome, 0, state.emitted)

    def restart_signaled(
        self, alloc: Alloc, reason: str, *, display: bool = False, only: str | None = None
    ) -> None:
        """Restart running tasks, as an operator or a template does.

        Nomad writes an operator's reason into the details, a template's only into the message (`display`).
        """
        details = {"display": reason} if display else {"restart_reason": reason}
        for task in alloc.group.tasks:
            state = alloc.tasks[task.name]
            if state.state == "running" and only in (None, task.name):
                now = self.servers.clock(alloc)
                state.emit("Restart Signaled", now, **details)
                # 143 = 128 + 15: the task ends by SIGTERM.
                state.emit("Terminated", now + SECOND // 10, exit_code="143", signal="15", oom_killed="false")
                # Attempt -1 becomes 0: restarts on request do not count against the policy.
                self._restart(alloc, task, 0, -1, "")

    def _finish(self, alloc: Alloc, task: Task, *, failed: bool) -> None:
        state = alloc.tasks[task.name]
        state.state, state.failed, state.finished_at = "dead", failed, self.servers.clock(alloc)
        # As in Nomad, a failed task or the end of the leader ends the other tasks of the group.
        if failed or task.leader:
            kind = "Sibling Task Failed" if failed else "Leader Task Dead"
            details = {"failed_sibling": task.name} if failed else {}
            for name, sibling in alloc.tasks.items():
                if name != task.name and sibling.state != "dead":
                    sibling.emit(kind, self.servers.clock(alloc), **details)
                    self.kill(alloc, sibling)
        if failed or all(sibling.state == "dead" for sibling in alloc.tasks.values()):
            alloc.client_status = "failed" if failed else "complete"
            alloc.client_description = "Failed tasks" if failed else "All tasks have completed"
        self.servers.touch(alloc)
        if failed:
            self.servers.handle_failure(alloc)
        elif alloc.terminal:
            self.servers.collect(alloc)

    def kill(self, alloc: Alloc, state: TaskState) -> None:
        """Kill one task of an allocation."""
        now = self.servers.clock(alloc)
        state.emit("Killing", now, kill_timeout="5s")
        if state.state == "running":
            state.emit("Terminated", now + SECOND // 5, exit_code="143", signal="15", oom_killed="false")
        state.emit("Killed", now + SECOND // 4)
        state.state, state.finished_at = "dead", now + SECOND // 4
