"""Named stories: what goes wrong in a simulated cluster, and the truth about it."""

from __future__ import annotations

import time
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
"""Virtual time that a story covers; the incident comes an hour or so before its end."""

_SERVICES = (
    ("checkout", "default"), ("payments-api", "default"), ("search-indexer", "platform"), ("web-frontend", "default"),
    ("orders", "default"), ("inventory", "platform"), ("recommendations", "data"), ("auth", "platform"),
    ("notifications", "default"), ("image-resizer", "platform"), ("gateway", "platform"), ("pricing", "data"),
)  # fmt: skip


@dataclass
class Cause:
    """One thing that went wrong on purpose: what, where, when, and which tasks it hit."""

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
    """What really happened: the causes, and how many events each task ever had."""

    story: str
    causes: list[Cause] = field(default_factory=list)
    emitted: dict[tuple[str, str], int] = field(default_factory=dict)


class Story:
    """A fleet in good health, to which a scenario adds its trouble."""

    def __init__(self, engine: Engine, allocations: int, truth: Truth) -> None:
        self.engine = engine
        self.rng = engine.rng
        self.truth = truth
        self.end = engine.state.now_ns + LENGTH
        self.incident = self.end - 90 * MINUTE
        self.services: list[Job] = []
        self._build(allocations)

    def _build(self, allocations: int) -> None:
        nodes = max(3, min(allocations // 12, 5000))
        for number in range(nodes):
            self.engine.add_node(f"node-{number + 1:03d}", "compute" if number % 4 else "memory")
        batch = allocations // 5
        wanted = allocations - batch - (nodes if allocations > 60 else 0)
        jobs = max(2, min(wanted // 8, 4000))
        for number in range(jobs):
            count = wanted // jobs + (number < wanted % jobs)
            name, namespace = _SERVICES[number % len(_SERVICES)]
            suffix = f"-{number // len(_SERVICES) + 1}" if number >= len(_SERVICES) else ""
            self.services.append(self.engine.submit(_service(name + suffix, namespace, count)))
        if allocations > 60:
            self.engine.submit(_system("node-exporter"))
        self.engine.at(
            self.end - 40 * MINUTE, partial(self.engine.submit, _batch("nightly-report", max(batch, 1)))
        )
        self.engine.at(self.end - 25 * MINUTE, self._operator_restart)
        for _ in range(max(1, allocations // 50)):
            self.engine.at(self.end - self.rng.randrange(LENGTH), self._stray_crash)

    def _stray_crash(self) -> None:
        """Crash one task for no reason that anyone would look for: no cluster is free of that."""
        self.engine.runner.crash(self._any_running(), Outcome(exit_code=1))

    def _any_running(self) -> Alloc:
        running = [a for a in self.engine.live() if a.client_status == "running" and a.job.kind != "batch"]
        return self.rng.choice(running)

    def _operator_restart(self) -> None:
        alloc = self._any_running()
        said = (
            "User requested restart"
            if self.engine.state.version == "1.3.1"
            else "User requested running tasks to restart"
        )
        self.engine.runner.restart_signaled(alloc, said)

    def cause(self, kind: str, description: str, job: Job | None = None, **more: object) -> Cause:
        made = Cause(kind, description, start_ns=self.incident, end_ns=self.end, **more)  # type: ignore[arg-type]
        if job is not None:
            made.job_id, made.namespace = job.id, job.namespace
        self.truth.causes.append(made)
        return made

    def upgrade(
        self, job: Job, when: int, cause: Cause, change: Callable[[Task], Task], **changes: object
    ) -> None:
        """Submit a new version of `job`, in which the first task of each group behaves differently."""
        groups = tuple(replace(g, tasks=(change(g.tasks[0]), *g.tasks[1:])) for g in job.groups)
        new = job.next_version(groups=groups, **changes)
        cause.job_version = new.version
        self.engine.at(when, partial(self.engine.submit, new))

    def hit(self, cause: Cause, chosen: Callable[[Alloc], bool]) -> None:
        """Note, at the end, the tasks that a cause hit."""

        def note() -> None:
            for alloc in self.engine.state.allocs.values():
                if chosen(alloc):
                    cause.tasks |= {
                        (alloc.id, name) for name, state in alloc.tasks.items() if _troubled(state.events)
                    }

        self.engine.at(self.end, note)


_TROUBLE = {"Restarting", "Not Restarting", "Failed Artifact Download", "Driver Failure", "Restart Signaled"}


def _troubled(events: list[tuple[str, int, dict[str, str] | None]]) -> bool:
    return any(kind in _TROUBLE for kind, _, _ in events)


def _service(name: str, namespace: str, count: int) -> Job:
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
    """Nothing but the usual."""


def _crash_loop(story: Story) -> None:
    job = story.services[1]
    cause = story.cause("crash_loop", f"{job.id} exits with code 1 seconds after each start", job)

    def crash(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(1, 6) * SECOND, exit_code=1)

    story.upgrade(job, story.incident, cause, lambda task: replace(task, behaviour=crash))
    story.hit(cause, lambda a: a.job.id == job.id and a.job.version == cause.job_version)


def _oom(story: Story) -> None:
    job = story.services[2 % len(story.services)]
    cause = story.cause("oom", f"{job.id} leaks memory until the kernel kills it", job)

    def leak(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(240, 420) * SECOND, exit_code=137, signal=9, oom=True)

    story.upgrade(job, story.incident, cause, lambda task: replace(task, behaviour=leak))
    story.hit(cause, lambda a: a.job.id == job.id and a.job.version == cause.job_version)


def _bad_deploy(story: Story) -> None:
    job = story.services[0]
    cause = story.cause("bad_deploy", f"a new version of {job.id} cannot start: a variable is missing", job)

    def refuse(run: Run, rng: Random) -> Outcome:
        return Outcome(after=rng.randint(200, 900) * SECOND // 1000, exit_code=78)

    story.upgrade(job, story.incident, cause, lambda task: replace(task, behaviour=refuse), canaries=1)
    story.hit(cause, lambda a: a.job.id == job.id and a.job.version == cause.job_version)


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
    """Return the node with most allocations."""
    used: dict[str, tuple[int, Node]] = {}
    for alloc in engine.live():
        used[alloc.node.id] = (used.get(alloc.node.id, (0, alloc.node))[0] + 1, alloc.node)
    return max(used.values(), key=lambda pair: pair[0])[1]


def _lemon_node(story: Story) -> None:
    engine = story.engine
    cause = story.cause(
        "lemon_node", "bad memory on one node: whatever runs there crashes with SIGSEGV sooner or later"
    )
    corrupted = Outcome(exit_code=139, signal=11)

    def strike() -> None:
        node = _busiest(engine)
        cause.node_id, cause.node_name = node.id, node.name
        for alloc in engine.live():
            if alloc.node is node and alloc.job.kind == "service":
                cause.tasks |= {(alloc.id, name) for name in alloc.tasks}
                for _ in range(2):
                    engine.after(
                        story.rng.randrange(80) * MINUTE, partial(engine.runner.crash, alloc, corrupted)
                    )

    engine.at(cause.start_ns, strike)


def _artifact_outage(story: Story) -> None:
    cause = story.cause("artifact_outage", "the artifact store is down: new starts cannot download")
    cause.start_ns, cause.end_ns = story.end - 40 * MINUTE, story.end - 10 * MINUTE
    error = 'failed to download artifact "https://artifacts.internal/app.tgz": bad response code: 503'
    hit = {job.id for job in story.services[::2]}

    def fetch(run: Run, rng: Random) -> Outcome:
        down = cause.start_ns <= run.time < cause.end_ns
        return Outcome(download_error=error) if down else RUNS_ON

    for number, job in enumerate(story.services[::2]):
        story.upgrade(
            job,
            cause.start_ns + number % 20 * 30 * SECOND,
            Cause("", ""),
            lambda task: replace(task, behaviour=fetch, artifact=True),
        )
    story.hit(cause, lambda a: a.job.id in hit and a.job.version == 1)


def _restart_storm(story: Story) -> None:
    engine = story.engine
    cause = story.cause(
        "restart_storm", "a rotated secret re-renders templates: half of the cluster restarts at once"
    )
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
    for tell in (_crash_loop, _oom, _bad_deploy, _node_loss):
        tell(story)


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
    """Play a story up to now.

    Parameters
    ----------
    name : str
        One of `STORIES`.
    allocations : int
        How many allocations the cluster has, about; at least 10.
    seed : int
        The same seed and time give the same cluster.
    version : str
        ``"1.3.1"`` or ``"2.0.5"``: which servers it behaves as.
    now_ns : int, optional
        Unix time in nanoseconds at the end of the story; the present where left out.
    """
    if name not in STORIES:
        raise ValueError(f"no story {name!r}; there are: {', '.join(STORIES)}")
    if version not in ("1.3.1", "2.0.5"):
        raise ValueError(f"version must be '1.3.1' or '2.0.5', not {version!r}")
    if allocations < 10:
        raise ValueError(f"allocations must be 10 or more, not {allocations!r}")
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
