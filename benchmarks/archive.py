"""Benchmark of the archive: appends while it grows, its size, and a snapshot of the past of a large cluster.

Recorded real allocations are multiplied under new IDs. Each figure is from one run on a local folder.
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
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd

import allocframe as af
from allocframe.watch.change import Change

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "list-all.json"
_TIME = re.compile(r'("(?:Time|CreateTime|ModifyTime)":)(\d+)')
BEGIN = pd.Timestamp("2026-09-21", tz="UTC")


def _delay(nanoseconds: int, match: re.Match[str]) -> str:
    return f"{match[1]}{int(match[2]) + nanoseconds}"


def pages(count: int, folder: Path) -> tuple[list[Path], int]:
    """Write `count` allocations as JSON files. Return the files and their size."""
    rows = json.loads(RECORDED.read_text())[0]["json"]
    texts = [(row["ID"], json.dumps(row, separators=(",", ":"))) for row in rows if row["TaskStates"]]
    rng, files, size = Random(1), [], 0
    for first in range(0, count, 10_000):
        page = []
        for n in range(first, min(first + 10_000, count)):
            old, text = texts[n % len(texts)]
            delay = rng.randrange(10**15)  # equal times would compress too well
            text = _TIME.sub(partial(_delay, delay), text)
            page.append(text.replace(old, str(uuid.UUID(int=rng.getrandbits(128)))))
        file = folder / f"{first}.json"
        file.write_text("[" + ",".join(page) + "]")
        size += file.stat().st_size
        files.append(file)
    return files, size


def first_change(snap: af.Snapshot) -> Change:
    """Return the first change of a watch: the whole list."""
    none = snap.allocations.iloc[:0]
    return Change(
        at=BEGIN, index=1, source="list", full=True, added=snap.allocations, changed=none, removed=none,
        task_states=snap.task_states, events=snap.events, reschedules=snap.reschedules,
        new_events=snap.events,
    )  # fmt: skip


def next_change(change: Change, step: int, count: int = 10) -> Change:
    """Return a change of `count` allocations, each with one new event."""
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
    """Return the wall and CPU seconds of `work`."""
    started, busy = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - busy


def print_timed(step: str, work: Callable[[], Any]) -> None:
    wall, cpu = timed(work)
    print(f"| {step} | {wall:.1f} s | {cpu:.1f} s |", flush=True)


def print_median(step: str, seconds: list[tuple[float, float]]) -> None:
    wall, cpu = (statistics.median(part) * 1000 for part in zip(*seconds, strict=True))
    print(f"| {step} | {wall:.0f} ms | {cpu:.0f} ms |", flush=True)


def append(archive: af.Archive, change: Change, step: int) -> tuple[float, float]:
    """Append a small change. Return the seconds of the append alone."""
    small = next_change(change, step)
    return timed(lambda: archive.append(small))


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def report(count: int, appends: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, raw = pages(count, folder)
        with af.read_json(files) as snap:
            change = first_change(snap)
            rows = (len(snap), len(snap.events))
        archive, place = af.Archive(folder / "archive"), folder / "archive"
        print(f"| {rows[0]:,} allocations, {rows[1]:,} events | time | CPU |\n| --- | --- | --- |")
        print_timed("first append", lambda: archive.append(change))
        print(f"| size, of {raw / 1e6:.0f} MB of JSON | {size(place) / 1e6:.0f} MB | |")
        seconds = []
        for step in range(appends):
            seconds.append(append(archive, change, step))
            if step + 1 in (10, 100, appends):
                print_median(f"append of 10 changed, after {step + 1:,}", seconds[-10:])
        when = BEGIN + pd.Timedelta(seconds=appends / 2)

        def look_back() -> None:
            with archive.snapshot(at=when) as past:
                assert len(past) == rows[0]

        print_timed(f"snapshot(at=), {appends:,} appends not compacted", look_back)
        print_timed("compact", archive.compact)
        print_timed("snapshot(at=), compacted", look_back)
        with archive.snapshot(at=when) as past:
            print_timed("its events as a DataFrame", lambda: past.events)
        print_timed("state()", archive.state)
        print_timed("coverage()", archive.coverage)
        print(f"| size, compacted | {size(place) / 1e6:.0f} MB | |")
        steps = range(appends, appends + 10)
        print_median("append of 10 changed, compacted", [append(archive, change, n) for n in steps])
        shutil.rmtree(place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allocations", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=1000)
    arguments = parser.parse_args()
    report(arguments.allocations, arguments.appends)
