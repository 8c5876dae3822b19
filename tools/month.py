"""A month in minutes: tasks of a simulated cluster restart far more than ten times, and no event may be lost.

Two runs. In the first, the recorder is left alone: the archive has every event that the cluster emitted while
it ran, once. In the second, streams break, servers restart and are restored, and the recorder is killed
(kill -9) again and again at random instants: nothing committed is lost, nothing is there twice, and the
archive has a gap for every time in which nobody watched.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

import allocframe as af
from allocframe.sim.cluster.broker import BUFFER
from allocframe.sim.cluster.jobs import Outcome
from allocframe.sim.cluster.model import Emitted

MONTH = 30 * 24 * 3600


@dataclass
class Figures:
    """What one run gave."""

    allocations: int
    days: float
    emitted: int = 0
    """While a recorder ran, or in the whole time where it was disturbed."""

    archived: int = 0
    missing: int = 0
    missing_unexplained: int = 0
    """Missing though it was emitted while somebody watched."""

    twice: int = 0
    made_up: int = 0
    most_of_a_task: int = 0
    kills: int = 0
    breaks: int = 0
    restarts: int = 0
    committed_lost: int = 0
    gaps_told: int = 0
    blind_times: int = 0
    """Times between a kill and the next list in which the cluster emitted something that is missing."""

    blind_untold: int = 0
    called_complete: int = 0
    """Missing events of tasks of which the archive says that it has every event."""

    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class Emission:
    """What was emitted in one step, and in which real time."""

    began: float
    ended: float
    events: list[Emitted]


class Month:
    """A cluster whose tasks crash and restart all the time."""

    def __init__(self, cluster: af.sim.Cluster, rng: Random, per_turn: int) -> None:
        assert cluster.engine is not None
        self.cluster, self.engine, self.rng, self.per_turn = cluster, cluster.engine, rng, per_turn
        self.journal = self.engine.keep_journal()
        self.emissions: list[Emission] = []
        self.unlucky: list[Any] = []
        self.undone: set[Emitted] = set()
        """What servers had forgotten when they were restored: nobody who had not seen it can know of it."""

    def turn(self, seconds: float) -> None:
        """Let time pass, and crash some tasks: half of them always the same, so that rings overflow often."""
        for alloc in self._victims():
            crash = self.rng.random() < 0.5
            self._step(partial(self._crash if crash else self._restart, alloc))
        for part in (*[5.0] * 8, seconds - 40.0):
            self._step(partial(self.engine.advance, max(part, 0.0)))

    def _step(self, action: Callable[[], object]) -> None:
        before, began = len(self.journal), time.time()
        action()
        self.emissions.append(Emission(began, time.time(), self.journal[before:]))
        self._not_too_fast()

    def _crash(self, alloc: Any) -> None:
        with self.engine.state.changed:
            self.engine.runner.crash(alloc, Outcome(exit_code=1))

    def _restart(self, alloc: Any) -> None:
        with self.engine.state.changed:
            self.engine.runner.restart_signaled(alloc, "User requested running tasks to restart")

    def _victims(self) -> list[Any]:
        with self.engine.state.changed:
            running = [
                a for a in self.engine.live() if a.client_status == "running" and a.job.kind == "service"
            ]
        half = min(self.per_turn // 2, len(running))
        self.unlucky = [alloc for alloc in self.unlucky if alloc.client_status == "running"]
        self.unlucky += self.rng.sample(running, max(0, half - len(self.unlucky)))
        return [*self.unlucky, *self.rng.sample(running, min(self.per_turn - half, len(running)))]

    def _not_too_fast(self) -> None:
        """Give a reader time: servers keep a hundred changes, and a real month makes fewer at once."""
        end = time.monotonic() + 5.0
        while self.engine.broker.behind() > BUFFER // 3 and time.monotonic() < end:
            time.sleep(0.01)


@contextmanager
def recorder(
    cluster: af.sim.Cluster, folder: Path, *, every: float, program: tuple[str, str] = ("-m", "allocframe")
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``allocframe record``, or what a program makes of it, in a process of its own."""
    command = [sys.executable, *program, "record", "--archive", str(folder), "--interval", str(every)]
    environment = {**os.environ, "NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token}
    log = (folder.parent / "recorder.log").open("ab")
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def keys(events: pd.DataFrame) -> list[Emitted]:
    columns = (events["alloc_id"], events["task"], events["type"], events["time"].astype("int64"))
    return list(zip(*(column.tolist() for column in columns), strict=True))


def until(reached: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if reached():
            return True
        time.sleep(0.2)
    return False


def caught_up(archive: af.Archive, cluster: af.sim.Cluster) -> bool:
    return archive.state().index == cluster.state.table_index("allocs")


def compare(figures: Figures, month: Month, archive: af.Archive, start: set[Emitted]) -> set[Emitted]:
    """Hold the archive against the journal; return what is missing."""
    held = keys(archive.events())
    kept, emitted = set(held), set(month.journal)
    figures.emitted, figures.archived = len(month.journal), len(kept & emitted)
    figures.twice = len(held) - len(kept)
    figures.made_up = len(kept - emitted - start)
    figures.missing = len(emitted - kept)
    tasks: dict[tuple[str, str], int] = {}
    for alloc, task, *_ in emitted:
        tasks[alloc, task] = tasks.get((alloc, task), 0) + 1
    figures.most_of_a_task = max(tasks.values())
    return emitted - kept


def rings(cluster: af.sim.Cluster) -> set[Emitted]:
    """Return what the rings hold now."""
    engine = cluster.engine
    assert engine is not None
    return {
        (alloc.id, task, kind, at)
        for alloc in engine.state.allocs.values()
        for task, state in alloc.tasks.items()
        for kind, at, _ in state.events
    }


def undisturbed(allocations: int, turns: int, folder: Path, *, every: float = 2.0) -> Figures:
    """Let a month pass while a recorder runs."""
    started = time.monotonic()
    figures = Figures(allocations, MONTH / 86400)
    with af.sim.Cluster("calm", allocations=allocations, seed=11) as cluster:
        archive = af.Archive(folder / "archive")
        before = rings(cluster)
        with recorder(cluster, folder / "archive", every=every):
            assert until(lambda: caught_up(archive, cluster)), (folder / "recorder.log").read_text()
            month = Month(cluster, Random(5), per_turn=max(2, allocations // 400))
            for _ in range(turns):
                month.turn(MONTH / turns)
                time.sleep(0.05)
            until(lambda: caught_up(archive, cluster))
        figures.missing_unexplained = len(compare(figures, month, archive, before))
        figures.gaps_told = len(_gaps(archive))
    figures.seconds = time.monotonic() - started
    return figures


def _gaps(archive: af.Archive) -> pd.DataFrame:
    return archive.sql("SELECT DISTINCT gap_since, gap_until FROM snapshots WHERE gap_since IS NOT NULL")


def disturbed(allocations: int, turns: int, kills: int, folder: Path, *, every: float = 0.5) -> Figures:
    """The same with everything going wrong: one disturbance after the other, at random instants."""
    started, rng = time.monotonic(), Random(17)
    figures = Figures(allocations, MONTH / 86400)
    with af.sim.Cluster("calm", allocations=allocations, seed=12) as cluster:
        archive, before = af.Archive(folder / "archive"), rings(cluster)
        month = Month(cluster, Random(5), per_turn=max(2, allocations // 400))
        committed: set[Emitted] = set()
        for number in range(kills + 1):
            with recorder(cluster, folder / "archive", every=every) as process:
                if number == 0 or rng.random() < 0.7:  # the others die while they start
                    _busy(archive, process)
                life = time.monotonic() + rng.uniform(0.2, 5.0)
                while time.monotonic() < life:
                    # At times the machine is too busy to let the recorder run.
                    with _paused(process) if rng.random() < 0.2 else nullcontext():
                        month.turn(MONTH / turns)
                        _disturb(figures, month, rng)
                        month.turn(MONTH / turns)
                    time.sleep(rng.uniform(0.0, 0.2))
                if number < kills:
                    process.kill()
                    process.wait()
                    figures.kills += 1
                else:
                    assert until(lambda: caught_up(archive, cluster)), (folder / "recorder.log").read_text()
            if number % 10 == 0 or number == kills:
                held = _held(archive)
                figures.committed_lost += len(committed - held)
                committed = held
        missing = compare(figures, month, archive, before)
        _explain(figures, month, missing, archive)
    figures.seconds = time.monotonic() - started
    return figures


@contextmanager
def _paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _busy(archive: af.Archive, process: subprocess.Popen[bytes]) -> None:
    """Wait until a recorder has committed something."""
    before = _observations(archive)
    assert until(lambda: _observations(archive) > before or process.poll() is not None)


def _observations(archive: af.Archive) -> int:
    try:
        return int(archive.sql("SELECT count(*) AS n FROM snapshots")["n"][0])
    except (FileNotFoundError, OSError):
        return 0


def _held(archive: af.Archive) -> set[Emitted]:
    try:
        return set(keys(archive.events()))
    except FileNotFoundError:
        return set()


def _disturb(figures: Figures, month: Month, rng: Random) -> None:
    luck = rng.random()
    if luck < 0.04:
        month.cluster.break_streams()
        figures.breaks += 1
    elif luck < 0.12:
        held = rings(month.cluster)
        month.cluster.restart_servers(restored=luck < 0.09)
        month.undone |= held - rings(month.cluster)
        figures.restarts += 1


def _explain(figures: Figures, month: Month, missing: set[Emitted], archive: af.Archive) -> None:
    """Look up whether the archive has a gap at each time from which an event is missing."""
    gaps = _gaps(archive)
    spans = [
        (since.timestamp(), until.timestamp())
        for since, until in zip(gaps["gap_since"], gaps["gap_until"], strict=True)
    ]
    first = archive.sql("SELECT min(seen_at) AS at FROM snapshots")["at"][0].timestamp()
    figures.gaps_told = len(spans)
    coverage = archive.coverage()
    complete = coverage[coverage["complete"].fillna(value=False)]
    is_complete = set(zip(complete["alloc_id"], complete["task"], strict=True))
    last_seen = dict(zip(complete["alloc_id"], complete["last_seen_at"], strict=True))
    for emission in month.emissions:
        lost = missing.intersection(emission.events)
        if not lost:
            continue
        figures.blind_times += 1
        seen = pd.Timestamp(emission.ended, unit="s", tz="UTC")
        figures.called_complete += sum(
            (alloc, task) in is_complete and seen < last_seen[alloc]
            for alloc, task, *_ in lost - month.undone
        )
        told = emission.began <= first or any(
            since - 0.5 <= emission.ended and emission.began <= until + 0.5 for since, until in spans
        )
        if not told:
            figures.notes.append(
                f"{emission.began:.3f} to {emission.ended:.3f}: {len(lost)} of {len(emission.events)}"
            )
            figures.blind_untold += 1
            figures.missing_unexplained += len(lost)


def show(title: str, figures: Figures) -> None:
    print(
        f"\n{title}: {figures.allocations:,} allocations, {figures.days:.0f} days in {figures.seconds:.0f} s"
    )
    print(
        f"  emitted while it ran          {figures.emitted:,} events, "
        f"up to {figures.most_of_a_task:,} of one task"
    )
    print(f"  of these in the archive       {figures.archived:,}")
    for note in figures.notes:
        print(f"  not reported: {note}")
    print(f"  twice                         {figures.twice:,}")
    print(f"  in the archive, never emitted {figures.made_up:,}")
    if figures.kills:
        print(
            f"  kill -9                       {figures.kills:,}, streams broken {figures.breaks:,}, "
            f"servers restarted {figures.restarts:,}"
        )
        print(f"  committed and lost            {figures.committed_lost:,}")
        print(
            f"  missing                       {figures.missing:,}, "
            f"emitted in {figures.blind_times:,} moments when nobody watched"
        )
        print(f"  of tasks called complete      {figures.called_complete:,}")
        print(
            f"  of these moments not reported {figures.blind_untold:,} ({figures.gaps_told:,} gaps reported)"
        )
    else:
        print(f"  missing                       {figures.missing:,}, gaps reported {figures.gaps_told:,}")


def good(figures: Figures) -> bool:
    return not (
        figures.twice
        or figures.made_up
        or figures.committed_lost
        or figures.blind_untold
        or figures.missing_unexplained
        or figures.called_complete
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--allocations", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=720, help="pieces that the month is cut into")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    runs: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="allocframe-month-") as folder:
        (one := Path(folder) / "one").mkdir()
        runs["Left alone"] = undisturbed(given.allocations, given.turns, one)
        show("Left alone", runs["Left alone"])
        (two := Path(folder) / "two").mkdir()
        runs["Disturbed"] = disturbed(given.allocations, given.turns, given.kills, two)
        show("Disturbed", runs["Disturbed"])
    if given.json:
        print(json.dumps({name: vars(figures) for name, figures in runs.items()}))
    return 0 if all(map(good, runs.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
