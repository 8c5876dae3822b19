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
from allocframe._change import Change

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
        at=BEGIN, index=1, source="list", whole=True, new=snap.allocations, changed=none, gone=none,
        task_states=snap.task_states, events=snap.events, reschedules=snap.reschedules, new_events=snap.events,
    )  # fmt: skip


def changed(change: Change, step: int, count: int = 10) -> Change:
    """Return a change of `count` allocations, each with one new event at the end of its ring."""
    start = step * count % (len(change.new) - count)
    rows = change.new.iloc[start : start + count]
    ids = set(rows["alloc_id"])
    tasks = change.task_states[change.task_states["alloc_id"].isin(ids).to_numpy()]
    events = change.events[change.events["alloc_id"].isin(ids).to_numpy()]
    last = events.groupby(["alloc_id", "task"], observed=True).tail(1)
    at = BEGIN + pd.Timedelta(seconds=step + 1)
    new = last.assign(seq=last["seq"] + 1, time=at.as_unit("ns"))
    return replace(
        change, at=at, index=step + 2, whole=False, new=change.new.iloc[:0],
        changed=rows.assign(modify_index=rows["modify_index"] + 1 + step), task_states=tasks,
        events=pd.concat([events, new], ignore_index=True), new_events=new,
        reschedules=change.reschedules.iloc[:0],
    )  # fmt: skip


def timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


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
        print(f"| {rows[0]:,} allocations, {rows[1]:,} events | |\n| --- | --- |")
        print(f"| first append | {timed(lambda: archive.append(change)):.1f} s |")
        print(f"| archive against JSON | {size(place) / 1e6:.0f} of {raw / 1e6:.0f} MB |")
        taken = []
        for step in range(appends):
            one = changed(change, step)
            taken.append(timed(lambda one=one: archive.append(one)))  # type: ignore[misc]
            if step + 1 in (10, 100, appends):
                recent = statistics.median(taken[-10:]) * 1000
                print(
                    f"| append of 10 changed, after {step + 1:,} | {recent:.0f} ms, {recent / 10:.1f} ms a change |"
                )
        when = BEGIN + pd.Timedelta(seconds=appends / 2)

        def looked_back() -> None:
            with archive.snapshot(at=when) as back:
                assert len(back) == rows[0]

        print(f"| snapshot(at=), {appends:,} appends not compacted | {timed(looked_back):.1f} s |")
        print(f"| compact | {timed(archive.compact):.1f} s |")
        print(f"| snapshot(at=), compacted | {timed(looked_back):.1f} s |")
        with archive.snapshot(at=when) as back:
            print(f"| its events as a DataFrame | {timed(lambda: back.events):.1f} s |")
        print(f"| state() | {timed(archive.state):.1f} s |")
        print(f"| coverage() | {timed(archive.coverage):.1f} s |")
        print(f"| archive, compacted | {size(place) / 1e6:.0f} MB |")
        last = [timed(lambda n=n: archive.append(changed(change, appends + n))) for n in range(10)]  # type: ignore[misc]
        print(f"| append of 10 changed, compacted | {statistics.median(last) * 1000:.0f} ms |")
        shutil.rmtree(place)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allocations", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=1000)
    asked = parser.parse_args()
    report(asked.allocations, asked.appends)
