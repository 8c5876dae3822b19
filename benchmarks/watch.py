"""Benchmark of a small change in a large cluster: 10 of 100,000 allocations, from stream lines to a `Change`.

The list is fetched from a small HTTP server with recorded real allocations under new IDs. The event lines are
put into the watch directly, so that their transfer is not measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import statistics
import time
from pathlib import Path
from random import Random
from typing import Any

import fetch

import allocframe as af
from allocframe.watch import updates

README = Path(__file__).parent / "README.md"
RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "event-stream.ndjson"
PER_CHANGE = 10
ROUNDS = 30


def payloads() -> list[dict[str, Any]]:
    """Return the recorded allocation events."""
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [event for line in lines for event in line.get("Events", []) if event["Topic"] == "Allocation"]


def line(rng: Random, ids: list[str], index: int, recorded: list[dict[str, Any]]) -> bytes:
    """Return a line as a server sends it: one index, and one changed allocation with a new event."""
    event = json.loads(json.dumps(rng.choice(recorded)))
    alloc = event["Payload"]["Allocation"]
    alloc.update(ID=rng.choice(ids), ModifyIndex=index)
    for state in alloc["TaskStates"].values():
        state["Events"][-1]["Time"] = index
    return json.dumps({"Index": index, "Events": [event]}).encode()


def measure(watch: af.Watch) -> list[tuple[float, float]]:
    """Return wall and CPU seconds of each round."""
    rng, recorded, rounds = Random(1), payloads(), []
    reflector = watch._reflector
    ids = list(reflector.state.entries)
    for number in range(ROUNDS):
        first = 10_000_000 + number * PER_CHANGE
        lines = [line(rng, ids, first + n, recorded) for n in range(PER_CHANGE)]
        wall, cpu = time.perf_counter(), time.process_time()
        for text in lines:
            reflector.queue.put(updates.parse(text))
        reflector._take(lambda ids: {})
        rounds.append((time.perf_counter() - wall, time.process_time() - cpu))
        change = reflector.ready.popleft()
        assert len(change.changed) == len(set(change.changed["alloc_id"])) >= PER_CHANGE - 1
        assert len(change.new_events) >= len(change.changed)
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", nargs="?", type=int, default=610, help="size of the whole list as JSON")
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    server = context.Process(target=fetch.serve, args=(parser.parse_args().megabytes, ready), daemon=True)
    server.start()
    port, count, size = ready.get()
    try:
        with (
            af.Client(f"http://127.0.0.1:{port}", timeout=600) as client,
            client.watch(stream=False) as watch,
        ):
            started = time.perf_counter()
            first = next(watch)
            list_seconds = time.perf_counter() - started
            assert len(first.added) == count
            del first
            rounds = measure(watch)
    finally:
        server.kill()
        server.join()
    walls = sorted(wall * 1000 for wall, _ in rounds)
    cpu = statistics.median(cpu for _, cpu in rounds) * 1000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    table = "\n".join(
        [
            "| allocations | list and its tables | ten changed: median | best | worst | CPU | peak memory |",
            "|" + " --- |" * 7,
            f"| {count:,} ({size / 1e6:,.0f} MB) | {list_seconds:.1f} s | {statistics.median(walls):.0f} ms "
            f"| {walls[0]:.0f} ms | {walls[-1]:.0f} ms | {cpu:.0f} ms | {peak:.1f} GB |",
        ]
    )
    print(table)
    page = README.read_text()
    README.write_text(
        re.sub(r"(?s)(<!-- watch -->\n).*(<!-- end watch -->)", lambda m: m[1] + table + "\n" + m[2], page)
    )


if __name__ == "__main__":
    main()
