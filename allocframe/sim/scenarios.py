"""Named stories of a simulated cluster: what goes wrong, and the truth about it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from .cluster.alloc import Alloc
from .cluster.engine import Engine
from .cluster.jobs import (
    HOUR,
    MINUTE,
    RUNS_ON,
    Group,
    Job,
    Outcome,
    ReschedulePolicy,
    RestartPolicy,
    Run,
    Task,
)
from .cluster.model import SECOND, Node

LENGTH = 6 * HOUR
"""Virtual time that a story covers. The incident begins 30 to 90 minutes before its end."""

_SERVICES = (
    ("checkout", "default"), ("payments-api", "default"), ("search-indexer", "platform"),
    ("web-frontend", "default"), ("orders", "default"), ("inventory", "platform"),
    ("recommendations", "data"), ("auth", "platform"), ("notifications", "default"),
    ("image-resizer", "platform"), ("gateway", "platform"), ("pricing", "data"),
)  # fmt: skip


@dataclass
class Cause:
    """One injected fault: what, where, when, and which tasks it hit."""

    kind: str
    description: str
    job_id: str | None = None
    namespace: str | None = None
    job_version: int | None = None
    node_id: str | None = None
    node_name: str | None = None
    start_ns: int = 0
    end_ns: int = 0
    tasks: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class Truth:
    """What really happened: the causes, and the number of events that each task has emitted."""

    story: str
    causes: list[Cause] = field(default_factory=list)
    emitted: dict[tuple[str, str], int] = field(default_factory=dict)


class Story:
    """A healthy cluster, to which a scenario adds faults."""

    def __init__(self, engine: Engine, allocations: int, truth: Truth) -> None:
        self.engine = engine
        self.rng: Random = engine.rng
        self.truth = truth
        self.end: int = engine.state.now_ns + LENGTH
        self.incident: int = self.end - 90 * MINUTE
        self.services: list[Job] = []
        self._build(allocations)

    def _build(self, allocations: int) -> None:
        nodes = max(3, min(allocations // 12, 5000))
        for number in range(nodes):
            self.engine.add_node(f"node-{number + 1:03d}", "compute" if number % 4 else "memory")
        batch = allocations // 5
        services = allocations - batch - (nodes if allocations > 60 else 0)
        jobs = max(2, min(services // 8, 4000))
        for number in range(jobs):
            count = services // jobs + (number < services % jobs)
            name, namespace = _SERVICES[number % len(_SERVICES)]
            suffix = f"-{number // len(_SERVICES) + 1}" if number >= len(_SERVICES) else ""
            self.services.append(self.engine.submit(_service(name + suffix, namespace, count)))
        if allocations > 60:
            self.engine.submit(_system("node-exporter"))
        report = _batch("nightly-report", max(batch, 1))
        self.engine.at(self.end - 40 * MINUTE, partial(self.engine.submit, report))
        # And a restart by an operator, which is not a failure.
        self.engine.at(self.end - 25 * MINUTE, self._operator_restart)
        # Even a healthy cluster has some crashes, so that an analysis must tell them from an incident.
        for _ in range(max(1, allocations // 50)):
            self.engine.at(self.end - self.rng.randrange(LENGTH), self._stray_crash)

    def _stray_crash(self) -> None:
        """Crash one allocation for no particular reason, as happens in every cluster."""
        self.engine.runner.crash(self._any_running(), Outcome(exit_code=1))

    def _any_running(self) -> Alloc:
        running = [a for a in self.engine.live() if a.client_status == "running" and a.job.kind != "batch"]
        return self.rng.choice(running)

    def _operator_restart(self) -> None:
        alloc = self._any_running()
        old = self.engine.state.version == "1.3.1"
        reason = "User requested restart" if old else "User requested running tasks to restart"
        self.engine.runner.restart_signaled(alloc, reason)

    def cause(self, kind: str, description: str, job: Job | None = None) -> Cause:
        """Add a cause to the truth, from the incident to the end of the story."""
        cause = Cause(kind, description, start_ns=self.incident, end_ns=self.end)
        if job is not None:
            cause.job_id, cause.namespace = job.id, job.namespace
        self.truth.causes.append(cause)
        return cause

    def upgrade(
        self, job: Job, when: int, cause: Cause, change: Callable[[Task], Task], **changes: object
    ) -> None:
        """Submit a new version of `job`, in which the first task of each group behaves differently."""
        release = f"1.{job.version + 1}.0"
        groups = tuple(
            replace(g, tasks=(replace(change(g.tasks[0]), release=release), *g.tasks[1:])) for g in job.groups
        )
        new = job.next_version(groups=groups, **changes)
        cause.job_version = new.version
        self.engine.at(when, partial(self.engine.submit, new))

    def record_hits(self, cause: Cause, is_hit: Callable[[Alloc], bool]) -> None:
        """At the end of the story, add the tasks to `cause` that it hit."""

        def record() -> None:
            for alloc in self.engine.state.allocs.values():
                if is_hit(alloc):
                    cause.tasks |= {
                        (alloc.id, name) for name, state in alloc.tasks.items() if _has_trouble(state.events)
                    }

        self.engine.at(self.end, record)


_TROUBLE = {"Restarting", "Not Restarting", "Failed Artifact Download", "Driver Failure", "Restart Signaled"}


def _has_trouble(events: list[tuple[str, int, dict[str, str] | None]]) -> bool:
    return any(kind in _TROUBLE for kind, _, _ in events)


def _service(name: str, namespace: str, count: int) -> Job:
    # Some services have an artifact or a sidecar, so that their events differ.
    main = Task("server", artifact=count % 3 == 0, cpu=250, memory=512)
    tasks = (main, Task("log-shipper", sidecar=True, cpu=50, memory=64)) if len(name) % 2 else (main,)
    return Job(name, namespace, "service", (Group("app", count, tasks),))


def _system(name: str) -> Job:
    return Job(name, "platform", "system", (Group("agent", 1, (Task("exporter", cpu=50, memory=64),)),))


def _batch(name: str, count: int) -> Job:
    def work(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(20, 1200) * SECOND)

    policy = ReschedulePolicy(
        unlimited=False, attempts=1, interval=24 * HOUR, delay=5 * SECOND, function="constant"
    )
    group = Group(
        "work", count, (Task("batch", work),), RestartPolicy(attempts=3, interval=24 * HOUR), policy
    )
    return Job(name, "data", "batch", (group,))


def _calm(story: Story) -> None:
    """Only stray crashes and one restart by an operator."""


def _crash_loop(story: Story) -> None:
    job = story.services[1]
    cause = story.cause("crash_loop", f"{job.id} exits with code 1 seconds after each start", job)

    def crash(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(1, 6) * SECOND, exit_code=1)

    story.upgrade(job, story.incident, cause, lambda task: replace(task, behaviour=crash))
    story.record_hits(cause, lambda a: a.job.id == job.id and a.job.version == cause.job_version)


def _oom(story: Story) -> None:
    job = story.services[2 % len(story.services)]
    cause = story.cause("oom", f"{job.id} leaks memory until the kernel kills it", job)

    def leak(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(240, 420) * SECOND, exit_code=137, signal=9, oom=True)

    story.upgrade(job, story.incident, cause, lambda task: replace(task, behaviour=leak))
    story.record_hits(cause, lambda a: a.job.id == job.id and a.job.version == cause.job_version)


def _bad_deploy(story: Story) -> None:
    job = story.services[0]
    cause = story.cause("bad_deploy", f"a new version of {job.id} cannot start: a variable is missing", job)

    def refuse(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(200, 900) * SECOND // 1000, exit_code=78)

    story.upgrade(job, story.incident, cause, lambda task: replace(task, behaviour=refuse), canaries=1)
    story.record_hits(cause, lambda a: a.job.id == job.id and a.job.version == cause.job_version)


def _node_loss(story: Story) -> None:
    engine = story.engine
    cause = story.cause("node_loss", "a node goes down and everything on it is lost")
    cause.start_ns = story.end - 30 * MINUTE

    def strike() -> None:
        node = _busiest(engine)
        cause.node_id, cause.node_name = node.id, node.name
        cause.tasks |= {(alloc.id, name) for alloc in engine.lose(node) for name in alloc.tasks}

    engine.at(cause.start_ns, strike)


def _busiest(engine: Engine) -> Node:
    """Return the node with the most allocations."""
    counts = Counter(alloc.node.id for alloc in engine.live())
    return engine.state.nodes[counts.most_common(1)[0][0]]


def _lemon_node(story: Story) -> None:
    engine = story.engine
    cause = story.cause("lemon_node", "bad memory on one node: everything there crashes with SIGSEGV")
    corrupted = Outcome(exit_code=139, signal=11)

    def strike() -> None:
        node = _busiest(engine)
        cause.node_id, cause.node_name = node.id, node.name
        for alloc in engine.live():
            if alloc.node is node and alloc.job.kind == "service":
                cause.tasks |= {(alloc.id, name) for name in alloc.tasks}
                # Two crashes at random times, so that the node stands out and not a moment.
                for _ in range(2):
                    crash = partial(engine.runner.crash, alloc, corrupted)
                    engine.after(story.rng.randrange(80) * MINUTE, crash)

    engine.at(cause.start_ns, strike)


def _artifact_outage(story: Story) -> None:
    cause = story.cause("artifact_outage", "the artifact store is down: new starts cannot download")
    cause.start_ns, cause.end_ns = story.end - 40 * MINUTE, story.end - 10 * MINUTE
    error = 'failed to download artifact "https://artifacts.internal/app.tgz": bad response code: 503'
    upgraded = {job.id for job in story.services[::2]}

    def fetch(run: Run, rng: Random) -> Outcome:
        down = cause.start_ns <= run.time < cause.end_ns
        return Outcome(download_error=error) if down else RUNS_ON

    for number, job in enumerate(story.services[::2]):
        # The new versions are not the cause, so each upgrade gets a throwaway one to write its version to.
        story.upgrade(
            job,
            cause.start_ns + number % 20 * 30 * SECOND,
            Cause("", ""),
            lambda task: replace(task, behaviour=fetch, artifact=True),
        )
    story.record_hits(cause, lambda a: a.job.id in upgraded and a.job.version == 1)


def _restart_storm(story: Story) -> None:
    engine = story.engine
    cause = story.cause("restart_storm", "a rotated secret re-renders templates: half the cluster restarts")
    cause.start_ns, cause.end_ns = story.end - 30 * MINUTE, story.end - 28 * MINUTE

    def strike() -> None:
        for alloc in engine.live():
            if alloc.client_status == "running" and alloc.job.kind == "service" and story.rng.random() < 0.5:
                engine.after(story.rng.randrange(90) * SECOND, partial(restart, alloc))

    def restart(alloc: Alloc) -> None:
        if alloc.client_status == "running":
            cause.tasks.update(
                (alloc.id, name) for name, state in alloc.tasks.items() if state.state == "running"
            )
            engine.runner.restart_signaled(
                alloc, "Template with change_mode restart re-rendered", display=True
            )

    engine.at(cause.start_ns, strike)


def _mixed(story: Story) -> None:
    for add_fault in (_crash_loop, _oom, _bad_deploy, _node_loss):
        add_fault(story)


STORIES: dict[str, Callable[[Story], None]] = {
    "calm": _calm,
    "crash_loop": _crash_loop,
    "oom": _oom,
    "bad_deploy": _bad_deploy,
    "node_loss": _node_loss,
    "lemon_node": _lemon_node,
    "artifact_outage": _artifact_outage,
    "restart_storm": _restart_storm,
    "mixed": _mixed,
}


def run_story(
    name: str, *, allocations: int = 200, seed: int = 0, version: str = "2.0.5", now_ns: int | None = None
) -> tuple[Engine, Truth]:
    """Play a story and return its engine and the truth about it.

    Parameters
    ----------
    name : str
        One of `STORIES`.
    allocations : int
        Approximate number of allocations; at least 10.
    seed : int
        The same seed and time give the same cluster.
    version : str
        The version of the simulated servers: ``"1.3.1"`` or ``"2.0.5"``.
    now_ns : int, optional
        Unix time in nanoseconds at the end of the story; by default, now.
    """
    if name not in STORIES:
        raise ValueError(f"story must be one of {', '.join(STORIES)}, got {name!r}")
    if version not in ("1.3.1", "2.0.5"):
        raise ValueError(f"version must be '1.3.1' or '2.0.5', got {version!r}")
    if allocations < 10:
        raise ValueError(f"allocations must be 10 or more, got {allocations!r}")
    end = time.time_ns() if now_ns is None else now_ns
    engine = Engine(version, end - LENGTH, seed)
    truth = Truth(name)
    STORIES[name](Story(engine, allocations, truth))
    engine.run_until(end)
    truth.emitted = {
        (alloc.id, name): state.emitted
        for alloc in engine.state.allocs.values()
        for name, state in alloc.tasks.items()
    }
    return engine, truth


__all__ = ["STORIES", "Cause", "Truth", "run_story"]
