"""A cluster that is seen again and again, for days, and kept in an archive: without a server, in seconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from stories import NOW

import allocframe as af
from allocframe.archive.checkpoint import changes_since
from allocframe.sim.cluster.engine import Engine
from allocframe.sim.cluster.jobs import HOUR, MINUTE, Outcome, Run
from allocframe.sim.scenarios import run_story
from allocframe.watch.change import Change, Gap

LAST = pd.Timestamp(NOW, tz="UTC")
"""2026-11-24 10:30, when the cluster was last looked at."""

REASON = "the disk <b>was</b> full at 10.1.2.3"
ROWS = ("added", "changed", "removed", "task_states", "events", "reschedules", "new_events")


def look(engine: Engine, folder: Path) -> Change:
    """Return the cluster as the first answer of a watch would show it."""
    file = folder / "allocations.json"
    file.write_text(json.dumps([one.stub("2.0.5") for one in engine.state.allocs.values()]))
    with af.read_json(file) as snap:
        none = snap.allocations.iloc[:0]
        return Change(
            at=pd.Timestamp(engine.state.now_ns, tz="UTC"), index=engine.state.index, source="list",
            full=True, added=snap.allocations, changed=none, removed=none, task_states=snap.task_states,
            events=snap.events, reschedules=snap.reschedules, new_events=snap.events,
        )  # fmt: skip


def leaks(run: Run, rng: Any) -> Outcome:
    return Outcome(after=rng.randint(150, 180) * MINUTE, exit_code=137, signal=9, oom=True)


def works(run: Run, rng: Any) -> Outcome:
    return Outcome()


def watched(folder: Path, *, days: int, leak: tuple[int, int], blind: tuple[int, int]) -> list[Change]:
    """Return what a watch would report, every hour for `days` days.

    `leak` and `blind` are hours before the end, the first and the last: a version of checkout leaks, and
    nobody watches.
    """
    engine, _ = run_story("calm", allocations=14, seed=3, now_ns=NOW - days * 24 * HOUR)
    changes = [look(engine, folder)]
    known = changes[0].added
    for hour in range(days * 24 - 1, -1, -1):
        engine.run_until(NOW - hour * HOUR)
        for when, behaviour in zip(leak, (leaks, works), strict=True):
            if hour == when:
                _deploy(engine, behaviour)
        if blind[0] > hour > blind[1]:
            continue
        if hour % 4 and hour not in blind:
            changes.append(_quiet(changes[-1], engine))
            continue
        seen = look(engine, folder)
        gap = Gap(changes[-1].at, seen.at, REASON) if hour == blind[1] else None
        changes.append(replace(changes_since(seen, known, changes[-1].at), gap=gap))
        known = seen.added
    return changes


def recorded(folder: Path, changes: list[Change]) -> af.Archive:
    """Return an archive of these changes."""
    archive = af.Archive(folder / "archive")
    archive.append(changes, recorder="tests")
    return archive


def _quiet(before: Change, engine: Engine) -> Change:
    none = {name: getattr(before, name).iloc[:0] for name in ROWS}
    return replace(before, at=pd.Timestamp(engine.state.now_ns, tz="UTC"), full=False, gap=None, **none)


def _deploy(engine: Engine, behaviour: Any) -> None:
    job = engine.state.jobs["default", "checkout"]
    group = replace(job.groups[0], tasks=(replace(job.groups[0].tasks[0], behaviour=behaviour),))
    engine.submit(job.next_version(groups=(group,)))
