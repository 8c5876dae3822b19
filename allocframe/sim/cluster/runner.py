"""The nodes' side of the simulated cluster: tasks start, end, restart by their policy, and are killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .alloc import Alloc
from .jobs import MINUTE, Outcome, Run, Task
from .model import SECOND, TaskState

if TYPE_CHECKING:
    from .engine import Engine


class Runner:
    """Runs the tasks of every node, by the rules of Nomad's task runner."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._attempts: dict[tuple[str, str], list[int]] = {}

    def receive(self, alloc: Alloc, task: Task) -> None:
        if alloc.desired_status != "run" or alloc.terminal:
            return
        state, now = alloc.tasks[task.name], self.engine.clock(alloc)
        state.emit("Received", now)
        state.emit("Task Setup", now + SECOND // 100, message="Building Task Directory")
        self._start(alloc, task, 0)

    def _start(self, alloc: Alloc, task: Task, attempt: int) -> None:
        state = alloc.tasks[task.name]
        if state.state == "dead" or alloc.terminal or alloc.desired_status != "run":
            return
        run = Run(task.name, alloc.job.version, alloc.node.id, alloc.slot, self.engine.state.now_ns, attempt)
        outcome = task.behaviour(run, self.engine.rng)
        if task.artifact:
            state.emit("Downloading Artifacts", self.engine.clock(alloc))
        if outcome.download_error:
            state.emit(
                "Failed Artifact Download", self.engine.clock(alloc), download_error=outcome.download_error
            )
            self._ended(alloc, task, outcome, attempt)
        elif outcome.driver_error:
            state.emit("Driver Failure", self.engine.clock(alloc), driver_error=outcome.driver_error)
            self._ended(alloc, task, outcome, attempt)
        else:
            self._started(alloc, task, outcome, attempt)

    def _started(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int) -> None:
        state = alloc.tasks[task.name]
        state.state, state.started_at = "running", self.engine.clock(alloc)
        state.emit("Started", state.started_at)
        if alloc.client_status != "running":
            alloc.client_status, alloc.client_description = "running", "Tasks are running"
        self.engine.touch(alloc)
        if alloc.deployment_id and alloc.healthy is None and attempt == 0:
            self.engine.after(10 * SECOND, lambda: self.engine.judge(alloc))
        if outcome.after is not None:
            mark = state.emitted
            self.engine.after(outcome.after, lambda: self._exit(alloc, task, outcome, attempt, mark))

    def _exit(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int, mark: int) -> None:
        state = alloc.tasks[task.name]
        if alloc.terminal or state.state != "running" or state.emitted != mark:
            return
        details = {
            "exit_code": str(outcome.exit_code),
            "signal": str(outcome.signal),
            "oom_killed": "true" if outcome.oom else "false",
        }
        if outcome.oom:
            details["exit_message"] = "OOM Killed"
        state.emit("Terminated", self.engine.clock(alloc), **details)
        self._ended(alloc, task, outcome, attempt)

    def _ended(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int) -> None:
        """Apply the restart policy to a run that ended by itself."""
        state, policy, batch = (
            alloc.tasks[task.name],
            alloc.group.restart,
            alloc.job.kind in ("batch", "sysbatch"),
        )
        if not outcome.failed and batch:
            self._finish(alloc, task, failed=False)
            return
        now = self.engine.state.now_ns
        recent = [t for t in self._attempts.get((alloc.id, task.name), []) if now - t < policy.interval]
        if len(recent) < policy.attempts:
            pause = policy.delay + self.engine.rng.randrange(policy.delay // 4 + 1)
            self._attempts[alloc.id, task.name] = [*recent, now]
            self._restart(alloc, task, pause, attempt, "Restart within policy")
        elif policy.mode == "delay":
            pause = policy.interval - (now - min(recent, default=now))
            self._attempts[alloc.id, task.name] = []
            self._restart(alloc, task, pause, attempt, "Exceeded allowed attempts, applying a delay")
        else:
            span = f"{policy.interval // MINUTE}m0s"
            reason = f'Exceeded allowed attempts {policy.attempts} in interval {span} and mode is "fail"'
            state.emit("Not Restarting", self.engine.clock(alloc), restart_reason=reason, fails_task="true")
            self._finish(alloc, task, failed=True)

    def _restart(self, alloc: Alloc, task: Task, pause: int, attempt: int, reason: str) -> None:
        state, now = alloc.tasks[task.name], self.engine.clock(alloc)
        state.emit("Restarting", now, restart_reason=reason, start_delay=str(pause))
        state.state, state.last_restart, state.restarts = "pending", now, state.restarts + 1
        self.engine.touch(alloc)
        self.engine.after(pause, lambda: self._start(alloc, task, attempt + 1))

    def crash(self, alloc: Alloc, outcome: Outcome) -> None:
        """End every running task as `outcome` says, from outside."""
        for task in alloc.group.tasks:
            state = alloc.tasks[task.name]
            if state.state == "running":
                self._exit(alloc, task, outcome, 0, state.emitted)

    def restart_signaled(
        self, alloc: Alloc, reason: str, *, display: bool = False, only: str | None = None
    ) -> None:
        """Restart running tasks, as an operator does, or a template, which says why in the display message only."""
        said = {"display": reason} if display else {"restart_reason": reason}
        for task in alloc.group.tasks:
            state = alloc.tasks[task.name]
            if state.state == "running" and only in (None, task.name):
                now = self.engine.clock(alloc)
                state.emit("Restart Signaled", now, **said)
                state.emit("Terminated", now + SECOND // 10, exit_code="143", signal="15", oom_killed="false")
                self._restart(alloc, task, 0, -1, "")

    def _finish(self, alloc: Alloc, task: Task, *, failed: bool) -> None:
        state = alloc.tasks[task.name]
        state.state, state.failed, state.finished_at = "dead", failed, self.engine.clock(alloc)
        if failed or task.leader:
            kind, said = (
                ("Sibling Task Failed", {"failed_sibling": task.name}) if failed else ("Leader Task Dead", {})
            )
            for name, sibling in alloc.tasks.items():
                if name != task.name and sibling.state != "dead":
                    sibling.emit(kind, self.engine.clock(alloc), **said)
                    self.kill(alloc, sibling)
        if failed or all(one.state == "dead" for one in alloc.tasks.values()):
            alloc.client_status = "failed" if failed else "complete"
            alloc.client_description = "Failed tasks" if failed else "All tasks have completed"
        self.engine.touch(alloc)
        if failed:
            self.engine.failed(alloc)
        elif alloc.terminal:
            self.engine.collect(alloc)

    def kill(self, alloc: Alloc, state: TaskState) -> None:
        now = self.engine.clock(alloc)
        state.emit("Killing", now, kill_timeout="5s")
        if state.state == "running":
            state.emit("Terminated", now + SECOND // 5, exit_code="143", signal="15", oom_killed="false")
        state.emit("Killed", now + SECOND // 4)
        state.state, state.finished_at = "dead", now + SECOND // 4
