"""The server side of the simulated cluster: a virtual clock, a queue of future actions, and Nomad's rules."""

from __future__ import annotations

import heapq
import itertools
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random

from .alloc import Alloc
from .broker import Broker
from .jobs import HOUR, MINUTE, Group, Job
from .model import SECOND, Deployment, Emitted, Evaluation, Node, TaskState
from .runner import Runner
from .specs import KEPT_VERSIONS
from .state import State

UPDATED = "alloc is being updated due to job update"
MIGRATED = "alloc is being migrated"
LOST = "alloc is lost since its node is down"
RESCHEDULED = "alloc was rescheduled because it failed"
GC_AFTER = HOUR
TRACKED = 6
"""Reschedules that servers remember for an allocation."""


class Engine:
    """Runs a cluster in virtual time.

    Attributes
    ----------
    heartbeat : float
        Real seconds between the empty lines of a quiet event stream.
    journal : list or None
        Every task event since `keep_journal`. Tests compare archives with it.
    """

    def __init__(self, version: str, start_ns: int, seed: int) -> None:
        self.state: State = State(version, start_ns)
        # The only source of randomness: the same seed gives the same cluster.
        self.rng: Random = Random(seed)
        self.removed: int = 0
        self.broker: Broker = Broker()
        self.heartbeat: float = 30.0
        self.journal: list[Emitted] | None = None
        self._queue: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()  # actions of the same time run in the order in which they were added
        self._live: dict[tuple[str, str, str, int], Alloc] = {}
        self.runner: Runner = Runner(self)

    def uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128)))

    def at(self, time: int, action: Callable[[], object]) -> None:
        """Run `action` at a virtual time."""
        heapq.heappush(self._queue, (time, next(self._order), action))

    def after(self, delay: int, action: Callable[[], object]) -> None:
        """Run `action` after `delay` virtual nanoseconds."""
        self.at(self.state.now_ns + delay, action)

    def advance(self, seconds: float) -> None:
        """Let virtual time pass and wake readers that wait for a change."""
        with self.state.changed:
            self.run_until(self.state.now_ns + int(seconds * SECOND))
            self.state.changed.notify_all()

    def keep_journal(self) -> list[Emitted]:
        """From now on, record each task event as (allocation, task, type, time)."""
        self.journal = []
        for alloc in self.state.allocs.values():
            for name, task in alloc.tasks.items():
                task.journal, task.owner = self.journal, (alloc.id, name)
        return self.journal

    def run_until(self, time: int) -> None:
        """Run every action that is due by `time`, then set the clock to it."""
        while self._queue and self._queue[0][0] <= time:
            self.state.now_ns, _, action = heapq.heappop(self._queue)
            action()
        self.state.now_ns = time

    # Nodes and jobs

    def add_node(self, name: str, node_class: str) -> Node:
        index = self.state.commit("nodes")
        node = Node(self.uuid(), name, node_class, index, index, int(self.rng.gauss(0, 2e6)))
        node.add_event("Cluster", "Node registered", self.state.now_ns, 0)
        node.status_updated_at = self.state.now_ns
        self.state.nodes[node.id] = node
        return node

    def submit(self, job: Job) -> Job:
        """Register a version of a job and place its allocations."""
        index = self.state.commit("jobs", "evals")
        previous = self.state.jobs.get((job.namespace, job.id))
        created = previous.create_index if previous else index
        job = replace(job, create_index=created, modify_index=index, submit_time=self.state.now_ns)
        self.state.namespaces.add(job.namespace)
        self.state.jobs[job.namespace, job.id] = job
        versions = self.state.job_versions.setdefault((job.namespace, job.id), [])
        versions.insert(0, job)
        del versions[KEPT_VERSIONS:]
        evaluation = self.evaluate(job, "job-register")
        deployment = self._create_deployment(job, evaluation) if job.kind == "service" else None
        evaluation.modify_index = self.state.commit("evals")
        if previous is None:
            index = self.state.commit("allocs", "deployment")
            for group in job.groups:
                for slot, node in self._slots(job, group):
                    alloc = self._place(job, group, slot, evaluation, index, deployment=deployment, node=node)
                    self.broker.publish("PlanResult", alloc)
        else:
            self._roll_out(job, evaluation, deployment)
        return job

    def _slots(self, job: Job, group: Group) -> list[tuple[int, Node | None]]:
        if job.kind in ("system", "sysbatch"):
            return list(enumerate(self._ready_nodes()))
        return [(slot, None) for slot in range(group.count)]

    def evaluate(self, job: Job, triggered_by: str, identity: str | None = None) -> Evaluation:
        """Create an evaluation for a job."""
        index = self.state.commit("evals")
        evaluation = Evaluation(
            id=identity or self.uuid(),
            namespace=job.namespace,
            job_id=job.id,
            kind=job.kind,
            triggered_by=triggered_by,
            create_index=index,
            modify_index=index,
            time=self.state.now_ns,
            groups=[group.name for group in job.groups],
        )
        self.state.evals[evaluation.id] = evaluation
        return evaluation

    def _create_deployment(self, job: Job, evaluation: Evaluation) -> Deployment:
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
        deployment = Deployment(
            self.uuid(), job.namespace, job.id, job.version, index, index, self.state.now_ns, groups
        )
        evaluation.deployment_id = deployment.id
        self.state.deployments[deployment.id] = deployment
        return deployment

    def _roll_out(self, job: Job, evaluation: Evaluation, deployment: Deployment | None) -> None:
        """Replace the allocations of the previous version one by one, canaries first."""
        # A rolling update replaces one allocation at a time (max_parallel = 1).
        pause = 20 * SECOND
        # The canaries are the first slots, so that they are replaced first.
        for group in job.groups:
            for step, slot in enumerate(range(group.count)):
                self.after(
                    step * pause, partial(self._replace_slot, job, group, slot, evaluation, deployment)
                )

    def _replace_slot(
        self, job: Job, group: Group, slot: int, evaluation: Evaluation, deployment: Deployment | None
    ) -> None:
        # A newer version of the job, or a failed deployment, ends this rollout.
        superseded = self.state.jobs[job.namespace, job.id] is not job
        if superseded or (deployment and deployment.status == "failed"):
            return
        old = self._live.get((job.namespace, job.id, group.name, slot))
        canary = slot < job.canaries
        if old is not None:
            self.stop(old, UPDATED)
        index = self.state.commit("allocs", "deployment")
        new = self._place(job, group, slot, evaluation, index, deployment=deployment, previous=old)
        new.canary = canary
        self.broker.publish("PlanResult", new)

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
        node = node or self.rng.choice(self._ready_nodes())
        alloc = Alloc(self.uuid(), job, group, slot, node, evaluation.id, index, index, now, now)
        if deployment is not None:
            alloc.deployment_id = deployment.id
            deployment.groups[group.name]["PlacedAllocs"] += 1
        if previous is not None:
            alloc.previous, previous.next = previous.id, alloc.id
        self.state.allocs[alloc.id] = alloc
        self._live[job.namespace, job.id, group.name, slot] = alloc
        for task in group.tasks:
            alloc.tasks[task.name] = TaskState(journal=self.journal, owner=(alloc.id, task.name))
            self.after(self.rng.randint(5, 300) * SECOND // 1000, partial(self.runner.receive, alloc, task))
        return alloc

    def clock(self, alloc: Alloc) -> int:
        """Return the time by the clock of the allocation's node."""
        return self.state.now_ns + alloc.node.skew

    def touch(self, alloc: Alloc, kind: str = "AllocationUpdated") -> None:
        """Commit a change of an allocation and publish it as an event."""
        alloc.modify_index = self.state.commit("allocs")
        alloc.modify_time = self.state.now_ns
        self.broker.publish(kind, alloc)

    def stop(self, alloc: Alloc, description: str, *, migrate: bool = False) -> None:
        """Stop an allocation by a decision of the servers."""
        alloc.desired_status, alloc.desired_description, alloc.migrate = "stop", description, migrate
        for state in alloc.tasks.values():
            if state.state != "dead":
                self.runner.kill(alloc, state)
        if not alloc.terminal:
            alloc.client_status, alloc.client_description = "complete", "All tasks have completed"
        self.touch(alloc, "PlanResult")
        self.collect(alloc)

    # Reactions of the servers

    def check_health(self, alloc: Alloc) -> None:
        """Decide if an allocation is healthy, and if its deployment is complete."""
        deployment = self.state.deployments.get(alloc.deployment_id)
        if deployment is None or deployment.status != "running" or alloc.healthy is not None:
            return
        restarted = any(state.restarts for state in alloc.tasks.values())
        if alloc.client_status == "running" and not restarted:
            alloc.healthy, alloc.healthy_at = True, self.state.now_ns
            group = deployment.groups[alloc.group.name]
            group["HealthyAllocs"] += 1
            if all(each["HealthyAllocs"] >= each["DesiredTotal"] for each in deployment.groups.values()):
                self._close(deployment, "successful", "Deployment completed successfully")
            self.touch(alloc)

    def _close(self, deployment: Deployment, status: str, description: str) -> None:
        job = self.state.jobs[deployment.namespace, deployment.job_id]
        # An ID of its own making, so that it takes no random number from the story.
        identity = str(uuid.uuid5(uuid.UUID(deployment.id), description))
        evaluation = self.evaluate(job, "deployment-watcher", identity)
        evaluation.deployment_id = deployment.id
        deployment.status, deployment.description = status, description
        deployment.modify_index = self.state.commit("deployment")
        deployment.ended_at = self.state.now_ns
        evaluation.modify_index = self.state.commit("evals")

    def handle_failure(self, alloc: Alloc) -> None:
        """Fail the deployment of a failed allocation, and reschedule the allocation."""
        deployment = self.state.deployments.get(alloc.deployment_id)
        if deployment is not None and deployment.status == "running":
            alloc.healthy, alloc.healthy_at = False, self.state.now_ns
            for state in alloc.tasks.values():
                state.emit("Alloc Unhealthy", self.clock(alloc), message="Unhealthy because of failed task")
            deployment.groups[alloc.group.name]["UnhealthyAllocs"] += 1
            self._close(deployment, "failed", "Failed due to unhealthy allocations")
            if alloc.job.auto_revert and alloc.job.version:
                target = f"rolling back to job version {alloc.job.version - 1}"
                self._close(deployment, "failed", f"Failed due to unhealthy allocations - {target}")
            self.touch(alloc)
        pause = alloc.group.reschedule.pause([delay for *_, delay in alloc.tracker])
        if pause is None or alloc.desired_status != "run":
            self.collect(alloc)
            return
        alloc.followup_eval = self.evaluate(alloc.job, "alloc-failure").id
        self.after(pause, lambda: self._reschedule(alloc, pause))

    def _reschedule(self, alloc: Alloc, pause: int) -> None:
        # A stop, a drain or a new version may have filled the slot in the meantime.
        key = (alloc.namespace, alloc.job.id, alloc.group.name, alloc.slot)
        if self._live.get(key) is not alloc:
            return
        job = alloc.job
        evaluation = self.state.evals[alloc.followup_eval]
        index = self.state.commit("allocs")
        deployment = self.state.deployments.get(alloc.deployment_id)
        replacement = self._place(job, alloc.group, alloc.slot, evaluation, index, previous=alloc)
        replacement.deployment_id = deployment.id if deployment else ""
        replacement.tracker = [*alloc.tracker, (self.state.now_ns, alloc.id, alloc.node.id, pause)][-TRACKED:]
        self.broker.publish("PlanResult", replacement)
        alloc.desired_status, alloc.desired_description = "stop", RESCHEDULED
        self.touch(alloc, "PlanResult")
        self.collect(alloc)

    def lose(self, node: Node) -> list[Alloc]:
        """Take a node down. Its allocations are lost and placed elsewhere."""
        node.status, node.eligibility = "down", "ineligible"
        node.modify_index = self.state.commit("nodes")
        node.status_updated_at = self.state.now_ns
        node.add_event("Cluster", "Node heartbeat missed", self.state.now_ns, node.modify_index)
        # A copy: replacements change `_live` below.
        lost = [alloc for alloc in self._live.values() if alloc.node is node and not alloc.terminal]
        for alloc in lost:
            alloc.client_status, alloc.client_description = "lost", ""
            alloc.desired_status, alloc.desired_description = "stop", LOST
            self.touch(alloc)
            self._evaluate_and_replace(alloc, "node-update")
            self.collect(alloc)
        return lost

    def drain(self, node: Node) -> list[Alloc]:
        """Move every service allocation off a node."""
        node.eligibility = "ineligible"
        node.modify_index = self.state.commit("nodes")
        node.add_event("Drain", "Node drain strategy set", self.state.now_ns, node.modify_index)
        node.drained_at = self.state.now_ns
        moved = [
            a for a in self._live.values() if a.node is node and not a.terminal and a.job.kind == "service"
        ]
        for alloc in moved:
            self.stop(alloc, MIGRATED, migrate=True)
            self._evaluate_and_replace(alloc, "node-drain")
        node.modify_index = self.state.commit("nodes")
        node.add_event("Drain", "Node drain complete", self.state.now_ns, node.modify_index)
        return moved

    def _evaluate_and_replace(self, alloc: Alloc, triggered_by: str) -> None:
        if alloc.job.kind in ("system", "sysbatch"):
            return
        self.replace(alloc, self.evaluate(alloc.job, triggered_by))

    def replace(self, alloc: Alloc, evaluation: Evaluation) -> Alloc:
        """Place a replacement in the slot of an allocation."""
        index = self.state.commit("allocs")
        replacement = self._place(alloc.job, alloc.group, alloc.slot, evaluation, index, previous=alloc)
        self.broker.publish("PlanResult", replacement)
        return replacement

    def collect(self, alloc: Alloc) -> None:
        """Remove a finished allocation after an hour. Since Nomad 1.5, batch jobs stay for a day."""
        # The garbage collector runs every five minutes, hence the five minutes on top.
        batch = alloc.job.kind in ("batch", "sysbatch") and self.state.version != "1.3.1"
        self.after((24 if batch else 1) * GC_AFTER + 5 * MINUTE, lambda: self._remove(alloc))

    def _remove(self, alloc: Alloc) -> None:
        if self.state.allocs.pop(alloc.id, None) is not None:
            self.state.commit("allocs")
            self.removed += 1

    def live(self) -> list[Alloc]:
        """Return the newest allocation of every slot."""
        return list(self._live.values())
