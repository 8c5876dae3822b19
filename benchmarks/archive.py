"""What the archive costs: an append, as it grows; its size against the JSON; and a look back at a large cluster.

Recorded real allocations are multiplied under new IDs. Every figure is of one run on a local folder.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

import allocframe as af
from allocframe.watch.change import Change

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "list-all.json"
_TIME = re.compile(r'("(?:Time|CreateTime|ModifyTime)":)(\d+)')
BEGIN = pd.Timestamp("2026-09-21", tz="UTC")


def pages(count: int, folder: Path) -> tuple[list[Path], int]:
    """Write `count` allocations as files of JSON; return them and their size."""
    rows = json.loads(RECORDED.read_text())[0]["json"]
    texts = [(row["ID"], json.dumps(row, separators=(",", ":"))) for row in rows if row["TaskStates"]]
    rng, files, size = Random(1), [], 0
    for first in range(0, count, 10_000):
        made = []
        for n in range(first, min(first + 10_000, count)):
            old, text = texts[n % len(texts)]
            later = rng.randrange(10**15)  # no two have equal times, which would compress too well
            text = _TIME.sub(lambda found, later=later: f"{found[1]}{int(found[2]) + later}", text)  # type: ignore[misc]
            made.append(text.replace(old, str(uuid.UUID(int=rng.getrandbits(128)))))
        file = folder / f"{first}.json"
        file.write_text("[" + ",".join(made) + "]")
        size += file.stat().st_size
        files.append(file)
    return files, size


def first(snap: af.Snapshot) -> Change:
    """Return the change that is the first answer of a watch."""
    none = snap.allocations.iloc[:0]
    return Change(
        at=BEGIN, index=1, source="list", full=True, added=snap.allocations, changed=none, removed=none,
        task_states=snap.task_states, events=snap.events, reschedules=snap.reschedules, new_events=snap.events,
    )  # fmt: skip


def changed(change: Change, step: int, count: int = 10) -> Change:
    """Return a change of `count` allocations, each with one new event at the end of its ring."""
    start = step * count % (len(change.added) - count)
    rows = change.added.iloc[start : start + count]
    ids = set(rows["alloc_id"])
    tasks = change.task_states[change.task_states["alloc_id"].isin(ids).to_numpy()]
    events = change.events[change.events["alloc_id"].isin(ids).to_numpy()]
    last = events.groupby(["alloc_id", "task"], observed=True).tail(1)
    at = BEGIN + pd.Timedelta(seconds=step + 1)
    new = last.assign(seq=last["seq"] + 1, time=at.as_unit("ns"))
    return replace(
        change, at=at, index=step + 2, full=False, added=change.added.iloc[:0],
        changed=rows.assign(modify_index=rows["modify_index"] + 1 + step), task_states=tasks,
        events=pd.concat([events, new], ignore_index=True), new_events=new,
        reschedules=change.reschedules.iloc[:0],
    )  # fmt: skip


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that `work` took, by the clock and of both processors together."""
    started, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - busy


def line(what: str, work: Callable[[], Any]) -> None:
    taken, busy = timed(work)
    print(f"| {what} | {taken:.1f} s | {busy:.1f} s |", flush=True)


def median(what: str, taken: list[tuple[float, float]]) -> None:
    clock, busy = (statistics.median(part) * 1000 for part in zip(*taken, strict=True))
    print(f"| {what} | {clock:.0f} ms | {busy:.0f} ms |", flush=True)


def appended(archive: af.Archive, change: Change, step: int) -> tuple[float, float]:
    one = changed(change, step)
    return timed(lambda: archive.append(one))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def report(count: int, appends: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, raw = pages(count, folder)
        with af.read_json(files) as snap:
            change = first(snap)
            rows = (len(snap), len(snap.events))
        archive, place = af.Archive(folder / "archive"), folder / "archive"
        print(f"| {rows[0]:,} allocations, {rows[1]:,} events | time | CPU |\n| --- | --- | --- |")
        line("first append", lambda: archive.append(change))
        print(f"| size, of {raw / 1e6:.0f} MB of JSON | {size(place) / 1e6:.0f} MB | |")
        taken = []
        for step in range(appends):
            taken.append(appended(archive, change, step))
            if step + 1 in (10, 100, appends):
                median(f"append of 10 changed, after {step + 1:,}", taken[-10:])
        when = BEGIN + pd.Timedelta(seconds=appends / 2)

        def looked_back() -> None:
            with archive.snapshot(at=when) as back:
                assert len(back) == rows[0]

        line(f"snapshot(at=), {appends:,} appends not compacted", looked_back)
        line("compact", archive.compact)
        line("snapshot(at=), compacted", looked_back)
        with archive.snapshot(at=when) as back:
            line("its events as a DataFrame", lambda: back.events)
        line("state()", archive.state)
        line("coverage()", archive.coverage)
        print(f"| size, compacted | {size(place) / 1e6:.0f} MB | |")
        steps = range(appends, appends + 10)
        median("append of 10 changed, compacted", [appended(archive, change, n) for n in steps])
        shutil.rmtree(place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allocations", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=1000)
    asked = parser.parse_args()
    report(asked.allocations, asked.appends)
