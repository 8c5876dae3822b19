"""The simulated cluster's state machine: a virtual clock, a queue of what happens next, and Nomad's rules."""

from __future__ import annotations

import heapq
import itertools
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from .alloc import Alloc
from .jobs import HOUR, MINUTE, Group, Job, Outcome, Run, Task
from .model import SECOND, Deployment, Evaluation, Node, TaskState

UPDATED = "alloc is being updated due to job update"
MIGRATED = "alloc is being migrated"
LOST = "alloc is lost since its node is down"
RESCHEDULED = "alloc was rescheduled because it failed"
NOT_NEEDED = "alloc not needed due to job update"
GC_AFTER = HOUR
TRACKED = 6


class State:
    """Everything that the servers of a cluster know at one moment."""

    def __init__(self, version: str, now_ns: int) -> None:
        self.version = version
        self.now_ns = now_ns
        self.index = 1
        self.allocs: dict[str, Alloc] = {}
        self.nodes: dict[str, Node] = {}
        self.jobs: dict[tuple[str, str], Job] = {}
        self.evals: dict[str, Evaluation] = {}
        self.deployments: dict[str, Deployment] = {}
        self.namespaces = {"default"}
        self.changed = threading.Condition()
        self._tables: Counter[str] = Counter()

    def table_index(self, table: str) -> int:
        """Return the index of the last change to a table."""
        return self._tables[table] or 1

    def commit(self, *tables: str) -> int:
        """Take the next Raft index for a change to `tables`."""
        self.index += 1
        for table in tables:
            self._tables[table] = self.index
        return self.index


class Engine:
    """Runs a cluster forward in virtual time."""

    def __init__(self, version: str, start_ns: int, seed: int) -> None:
        self.state = State(version, start_ns)
        self.rng = Random(seed)
        self.removed = 0
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._live: dict[tuple[str, str, str, int], Alloc] = {}
        self._attempts: dict[tuple[str, str], list[int]] = {}

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128)))

    def at(self, time: int, action: Callable[[], object]) -> None:
        """Do `action` at a virtual time."""
        heapq.heappush(self._queue, (time, next(self._order), action))

    def after(self, delay: int, action: Callable[[], object]) -> None:
        self.at(self.state.now_ns + delay, action)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass; readers that wait for a change are told."""
        with self.state.changed:
            self.run_until(self.state.now_ns + int(seconds * SECOND))
            self.state.changed.notify_all()

    def run_until(self, time: int) -> None:
        while self._queue and self._queue[0][0] <= time:
            self.state.now_ns, _, action = heapq.heappop(self._queue)
            action()
        self.state.now_ns = time

    # Nodes and jobs

    def add_node(self, name: str, node_class: str) -> Node:
        index = self.state.commit("nodes")
        node = Node(self.uuid(), name, node_class, index, index, int(self.rng.gauss(0, 2e6)))
        self.state.nodes[node.id] = node
        return node

    def submit(self, job: Job) -> Job:
        """Register a version of a job and place what it asks for."""
        index = self.state.commit("jobs", "evals")
        known = self.state.jobs.get((job.namespace, job.id))
        created = known.create_index if known else index
        job = replace(job, create_index=created, modify_index=index, submit_time=self.state.now_ns)
        self.state.namespaces.add(job.namespace)
        self.state.jobs[job.namespace, job.id] = job
        evaluation = self.evaluate(job, "job-register")
        deployment = self._deploy(job) if job.kind == "service" else None
        if known is None:
            index = self.state.commit("allocs", "deployment")
            for group in job.groups:
                for slot, node in self._slots(job, group):
                    self._place(job, group, slot, evaluation, index, deployment=deployment, node=node)
        else:
            self._roll(job, evaluation, deployment)
        return job

    def _slots(self, job: Job, group: Group) -> list[tuple[int, Node | None]]:
        if job.kind in ("system", "sysbatch"):
            return list(enumerate(self._ready_nodes()))
        return [(slot, None) for slot in range(group.count)]

    def evaluate(self, job: Job, triggered_by: str) -> Evaluation:
        index = self.state.commit("evals")
        made = Evaluation(
            self.uuid(), job.namespace, job.id, job.kind, triggered_by, index, index, self.state.now_ns
        )
        self.state.evals[made.id] = made
        return made

    def _deploy(self, job: Job) -> Deployment:
        index = self.state.commit("deployment")
        groups = {
            group.name: {
                "AutoPromote": False,
                "AutoRevert": job.auto_revert,
                "DesiredCanaries": job.canaries if job.version else 0,
                "DesiredTotal": group.count,
                "HealthyAllocs": 0,
                "PlacedAllocs": 0,
                "PlacedCanaries": None,
                "ProgressDeadline": 600 * SECOND,
                "Promoted": False,
                "RequireProgressBy": None,
                "UnhealthyAllocs": 0,
            }
            for group in job.groups
        }
        made = Deployment(
            self.uuid(), job.namespace, job.id, job.version, index, index, self.state.now_ns, groups
        )
        self.state.deployments[made.id] = made
        return made

    def _roll(self, job: Job, evaluation: Evaluation, deployment: Deployment | None) -> None:
        """Replace the allocations of the version before, one by one, canaries first."""
        pause = 20 * SECOND
        for group in job.groups:
            for step, slot in enumerate(range(group.count)):
                self.after(step * pause, partial(self._replace, job, group, slot, evaluation, deployment))

    def _replace(
        self, job: Job, group: Group, slot: int, evaluation: Evaluation, deployment: Deployment | None
    ) -> None:
        if self.state.jobs[job.namespace, job.id] is not job or (
            deployment and deployment.status == "failed"
        ):
            return
        old = self._live.get((job.namespace, job.id, group.name, slot))
        canary = slot < job.canaries
        if old is not None:
            self.stop(old, UPDATED)
        index = self.state.commit("allocs", "deployment")
        new = self._place(job, group, slot, evaluation, index, deployment=deployment, previous=old)
        new.canary = canary

    # Placement and the life of an allocation

    def _ready_nodes(self) -> list[Node]:
        return [
            node
            for node in self.state.nodes.values()
            if node.status == "ready" and node.eligibility == "eligible"
        ]

    def _place(
        self,
        job: Job,
        group: Group,
        slot: int,
        evaluation: Evaluation,
        index: int,
        *,
        deployment: Deployment | None = None,
        previous: Alloc | None = None,
        node: Node | None = None,
    ) -> Alloc:
        now = self.state.now_ns
        chosen = node or self.rng.choice(self._ready_nodes())
        made = Alloc(self.uuid(), job, group, slot, chosen, evaluation.id, index, index, now, now)
        if deployment is not None:
            made.deployment_id = deployment.id
            deployment.groups[group.name]["PlacedAllocs"] += 1
        if previous is not None:
            made.previous, previous.next = previous.id, made.id
        self.state.allocs[made.id] = made
        self._live[job.namespace, job.id, group.name, slot] = made
        for task in group.tasks:
            made.tasks[task.name] = TaskState()
            self.after(self.rng.randint(5, 300) * SECOND // 1000, partial(self._receive, made, task))
        return made

    def clock(self, alloc: Alloc) -> int:
        """Return the time as the allocation's node has it."""
        return self.state.now_ns + alloc.node.skew

    def touch(self, alloc: Alloc) -> None:
        alloc.modify_index = self.state.commit("allocs")
        alloc.modify_time = self.state.now_ns

    def _receive(self, alloc: Alloc, task: Task) -> None:
        if alloc.desired_status != "run" or alloc.terminal:
            return
        state, now = alloc.tasks[task.name], self.clock(alloc)
        state.emit("Received", now)
        state.emit("Task Setup", now + SECOND // 100, message="Building Task Directory")
        self._start(alloc, task, 0)

    def _start(self, alloc: Alloc, task: Task, attempt: int) -> None:
        state = alloc.tasks[task.name]
        if state.state == "dead" or alloc.terminal or alloc.desired_status != "run":
            return
        run = Run(task.name, alloc.job.version, alloc.node.id, alloc.slot, self.state.now_ns, attempt)
        outcome = task.behaviour(run, self.rng)
        if task.artifact:
            state.emit("Downloading Artifacts", self.clock(alloc))
        if outcome.download_error:
            state.emit("Failed Artifact Download", self.clock(alloc), download_error=outcome.download_error)
            self._ended(alloc, task, outcome, attempt)
        elif outcome.driver_error:
            state.emit("Driver Failure", self.clock(alloc), driver_error=outcome.driver_error)
            self._ended(alloc, task, outcome, attempt)
        else:
            self._started(alloc, task, outcome, attempt)

    def _started(self, alloc: Alloc, task: Task, outcome: Outcome, attempt: int) -> None:
        state = alloc.tasks[task.name]
        state.state, state.started_at = "running", self.clock(alloc)
        state.emit("Started", state.started_at)
        if alloc.client_status != "running":
            alloc.client_status, alloc.client_description = "running", "Tasks are running"
        self.touch(alloc)
        if alloc.deployment_id and alloc.healthy is None and attempt == 0:
            self.after(10 * SECOND, lambda: self._judge(alloc))
        if outcome.after is not None:
            mark = state.emitted
            self.after(outcome.after, lambda: self._exit(alloc, task, outcome, attempt, mark))

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
        state.emit("Terminated", self.clock(alloc), **details)
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
        now = self.state.now_ns
        recent = [t for t in self._attempts.get((alloc.id, task.name), []) if now - t < policy.interval]
        if len(recent) < policy.attempts:
            pause = policy.delay + self.rng.randrange(policy.delay // 4 + 1)
            self._attempts[alloc.id, task.name] = [*recent, now]
            self._restart(alloc, task, pause, attempt, "Restart within policy")
        elif policy.mode == "delay":
            pause = policy.interval - (now - min(recent, default=now))
            self._attempts[alloc.id, task.name] = []
            self._restart(alloc, task, pause, attempt, "Exceeded allowed attempts, applying a delay")
        else:
            span = f"{policy.interval // MINUTE}m0s"
            reason = f'Exceeded allowed attempts {policy.attempts} in interval {span} and mode is "fail"'
            state.emit("Not Restarting", self.clock(alloc), restart_reason=reason, fails_task="true")
            self._finish(alloc, task, failed=True)

    def _restart(self, alloc: Alloc, task: Task, pause: int, attempt: int, reason: str) -> None:
        state, now = alloc.tasks[task.name], self.clock(alloc)
        state.emit("Restarting", now, restart_reason=reason, start_delay=str(pause))
        state.state, state.last_restart, state.restarts = "pending", now, state.restarts + 1
        self.touch(alloc)
        self.after(pause, lambda: self._start(alloc, task, attempt + 1))

    def restart_signaled(self, alloc: Alloc, reason: str) -> None:
        """Restart every running task, as an operator or a template does."""
        for task in alloc.group.tasks:
            state = alloc.tasks[task.name]
            if state.state == "running":
                now = self.clock(alloc)
                state.emit("Restart Signaled", now, restart_reason=reason)
                state.emit("Terminated", now + SECOND // 10, exit_code="143", signal="15", oom_killed="false")
                self._restart(alloc, task, 0, -1, "")

    def _finish(self, alloc: Alloc, task: Task, *, failed: bool) -> None:
        state = alloc.tasks[task.name]
        state.state, state.failed, state.finished_at = "dead", failed, self.clock(alloc)
        if failed or task.leader:
            kind, said = (
                ("Sibling Task Failed", {"failed_sibling": task.name}) if failed else ("Leader Task Dead", {})
            )
            for name, sibling in alloc.tasks.items():
                if name != task.name and sibling.state != "dead":
                    sibling.emit(kind, self.clock(alloc), **said)
                    self._kill(alloc, sibling)
        if failed or all(one.state == "dead" for one in alloc.tasks.values()):
            alloc.client_status = "failed" if failed else "complete"
            alloc.client_description = "Failed tasks" if failed else "All tasks have completed"
        self.touch(alloc)
        if failed:
            self._failed(alloc)
        elif alloc.terminal:
            self._collect(alloc)

    def _kill(self, alloc: Alloc, state: TaskState) -> None:
        now = self.clock(alloc)
        state.emit("Killing", now, kill_timeout="5s")
        if state.state == "running":
            state.emit("Terminated", now + SECOND // 5, exit_code="143", signal="15", oom_killed="false")
        state.emit("Killed", now + SECOND // 4)
        state.state, state.finished_at = "dead", now + SECOND // 4

    def stop(self, alloc: Alloc, description: str, *, migrate: bool = False) -> None:
        """Stop an allocation because the servers want so."""
        alloc.desired_status, alloc.desired_description, alloc.migrate = "stop", description, migrate
        for state in alloc.tasks.values():
            if state.state != "dead":
                self._kill(alloc, state)
        if not alloc.terminal:
            alloc.client_status, alloc.client_description = "complete", "All tasks have completed"
        self.touch(alloc)
        self._collect(alloc)

    # What the servers do about it

    def _judge(self, alloc: Alloc) -> None:
        """Decide an allocation's health in its deployment."""
        deployment = self.state.deployments.get(alloc.deployment_id)
        if deployment is None or deployment.status != "running" or alloc.healthy is not None:
            return
        restarted = any(state.restarts for state in alloc.tasks.values())
        if alloc.client_status == "running" and not restarted:
            alloc.healthy, alloc.healthy_at = True, self.state.now_ns
            group = deployment.groups[alloc.group.name]
            group["HealthyAllocs"] += 1
            if all(one["HealthyAllocs"] >= one["DesiredTotal"] for one in deployment.groups.values()):
                self._close(deployment, "successful", "Deployment completed successfully")
            self.touch(alloc)

    def _close(self, deployment: Deployment, status: str, description: str) -> None:
        deployment.status, deployment.description = status, description
        deployment.modify_index = self.state.commit("deployment")

    def _failed(self, alloc: Alloc) -> None:
        deployment = self.state.deployments.get(alloc.deployment_id)
        if deployment is not None and deployment.status == "running":
            alloc.healthy, alloc.healthy_at = False, self.state.now_ns
            for state in alloc.tasks.values():
                state.emit("Alloc Unhealthy", self.clock(alloc), message="Unhealthy because of failed task")
            deployment.groups[alloc.group.name]["UnhealthyAllocs"] += 1
            self._close(deployment, "failed", "Failed due to unhealthy allocations")
            if alloc.job.auto_revert and alloc.job.version:
                self._close(
                    deployment,
                    "failed",
                    f"Failed due to unhealthy allocations - rolling back to job version {alloc.job.version - 1}",
                )
        pause = alloc.group.reschedule.pause([delay for *_, delay in alloc.tracker])
        if pause is None or alloc.desired_status != "run":
            self._collect(alloc)
            return
        alloc.followup_eval = self.evaluate(alloc.job, "alloc-failure").id
        self.after(pause, lambda: self._reschedule(alloc, pause))

    def _reschedule(self, alloc: Alloc, pause: int) -> None:
        key = (alloc.namespace, alloc.job.id, alloc.group.name, alloc.slot)
        if self._live.get(key) is not alloc:
            return
        job = alloc.job
        evaluation = self.state.evals[alloc.followup_eval]
        index = self.state.commit("allocs")
        deployment = self.state.deployments.get(alloc.deployment_id)
        made = self._place(job, alloc.group, alloc.slot, evaluation, index, previous=alloc)
        made.deployment_id = deployment.id if deployment else ""
        made.tracker = [*alloc.tracker, (self.state.now_ns, alloc.id, alloc.node.id, pause)][-TRACKED:]
        alloc.desired_status, alloc.desired_description = "stop", RESCHEDULED
        self.touch(alloc)
        self._collect(alloc)

    def lose(self, node: Node) -> list[Alloc]:
        """Take a node down: what runs there is lost and placed elsewhere."""
        node.status, node.eligibility = "down", "ineligible"
        node.modify_index = self.state.commit("nodes")
        hit = [alloc for alloc in self._live.values() if alloc.node is node and not alloc.terminal]
        for alloc in hit:
            alloc.client_status, alloc.client_description = "lost", ""
            alloc.desired_status, alloc.desired_description = "stop", LOST
            self.touch(alloc)
            self._replaced(alloc, "node-update")
            self._collect(alloc)
        return hit

    def drain(self, node: Node) -> list[Alloc]:
        """Move everything off a node."""
        node.eligibility = "ineligible"
        node.modify_index = self.state.commit("nodes")
        moved = [
            a for a in self._live.values() if a.node is node and not a.terminal and a.job.kind == "service"
        ]
        for alloc in moved:
            self.stop(alloc, MIGRATED, migrate=True)
            self._replaced(alloc, "node-drain")
        return moved

    def _replaced(self, alloc: Alloc, triggered_by: str) -> None:
        if alloc.job.kind in ("system", "sysbatch"):
            return
        evaluation = self.evaluate(alloc.job, triggered_by)
        self._place(
            alloc.job, alloc.group, alloc.slot, evaluation, self.state.commit("allocs"), previous=alloc
        )

    def _collect(self, alloc: Alloc) -> None:
        """Forget a finished allocation an hour after its last change, a day for batch jobs from 1.5 on."""
        batch = alloc.job.kind in ("batch", "sysbatch") and self.state.version != "1.3.1"
        self.after((24 if batch else 1) * GC_AFTER + 5 * MINUTE, lambda: self._remove(alloc))

    def _remove(self, alloc: Alloc) -> None:
        if self.state.allocs.pop(alloc.id, None) is not None:
            self.state.commit("allocs")
            self.removed += 1

    def live(self) -> list[Alloc]:
        """Return the newest allocation of every slot."""
        return list(self._live.values())


def ran(emitted: dict[str, Alloc]) -> dict[tuple[str, str], int]:
    """Return how many events each task ever had, those that the ring dropped included."""
    return {
        (alloc.id, name): state.emitted for alloc in emitted.values() for name, state in alloc.tasks.items()
    }
