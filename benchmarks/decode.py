"""Benchmark of decoding: files of JSON to all DataFrames, beside the practical limit and other code.

msgspec alone reads the same files into structs with the same fields, and keeps nothing: no decoder in Python
is faster. Each contender runs in its own process, one after the other, several times in turn.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fetch

README = Path(__file__).parent / "README.md"
TABLES = ("allocations", "task_states", "events", "reschedules", "resources")


def write_pages(folder: Path, megabytes: int) -> int:
    """Write recorded allocations, multiplied under new IDs, as pages; return their number."""
    bodies, count = fetch.shards(megabytes)
    names = sorted(bodies)
    for number in range(0, len(names), 4):
        part = b",".join(bodies[name][1:-1] for name in names[number : number + 4] if len(bodies[name]) > 2)
        (folder / f"{number:04d}.json").write_bytes(b"[" + part + b"]")
    return count


def with_msgspec(files: list[str]) -> int:
    """Read the structs and drop them."""
    import msgspec

    from allocframe.store.decode import struct_type

    decoder = msgspec.json.Decoder(list.__class_getitem__(struct_type(raw_details=False)))
    return sum(len(decoder.decode(Path(file).read_bytes())) for file in files)


def with_one_process(files: list[str]) -> int:
    return _frames(files, workers=1)


def with_all_cores(files: list[str]) -> int:
    from allocframe.snapshot import io

    io.MANY_BYTES = 0  # type: ignore[attr-defined]
    return _frames(files, workers=None)


def _frames(files: list[str], workers: int | None) -> int:
    import allocframe as af

    with af.read_json(files, workers=workers) as snap:
        frames = [getattr(snap, name) for name in TABLES]
        return len(frames[0])


def with_json_normalize(files: list[str]) -> int:
    """Do what people write today: json, `json_normalize`, and lists of dicts for tasks and events."""
    rows = [row for file in files for row in json.loads(Path(file).read_bytes())]
    return len(fetch.flatten(rows)[0])


CONTENDERS: dict[str, Callable[[list[str]], int]] = {
    "msgspec alone": with_msgspec,
    "allocframe, one process": with_one_process,
    "allocframe, all cores": with_all_cores,
    "json and json_normalize": with_json_normalize,
}


def _run(name: str, files: list[str], results: Any) -> None:
    CONTENDERS[name](files[:1])  # imports are not measured
    before, started = os.times(), time.perf_counter()
    rows = CONTENDERS[name](files)
    wall, after = time.perf_counter() - started, os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    results.put((rows, wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(megabytes: int, repeats: int) -> str:
    """Return the figures as Markdown: medians, and the speed against msgspec alone in the same round."""
    context = multiprocessing.get_context("spawn")
    figures: dict[str, list[tuple[int, float, float, float]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        write_pages(Path(folder), megabytes)
        files = [str(file) for file in sorted(Path(folder).iterdir())]
        size = sum(Path(file).stat().st_size for file in files)
        for _ in range(repeats):
            for name in CONTENDERS:
                results = context.Queue()
                process = context.Process(target=_run, args=(name, files, results))
                process.start()
                figures[name].append(results.get())
                process.join()
    lines = [
        f"{size / 1e6:,.0f} MB, {figures['msgspec alone'][0][0]:,} allocations, median of {repeats}, "
        f"{os.cpu_count()} cores, {platform.machine()}:",
        "",
        "| | time | CPU | MB/s | speed of msgspec alone | peak memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    limit = [wall for _, wall, _, _ in figures["msgspec alone"]]
    for name, rounds in figures.items():
        wall, cpu = (statistics.median(row[place] for row in rounds) for place in (1, 2))
        share = statistics.median(best / row[1] for best, row in zip(limit, rounds, strict=True))
        lines.append(
            f"| {name} | {wall:.2f} s | {cpu:.2f} s | {size / 1e6 / wall:,.0f} | {share:.0%} | "
            f"{max(row[3] for row in rounds) / 1e6:,.0f} MB |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=120)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    text = measure(options.megabytes, options.repeats)
    print(text)
    README.write_text(
        re.sub(
            r"(?s)(<!-- decode -->\n).*(<!-- end decode -->)",
            lambda match: f"{match[1]}{text}\n{match[2]}",
            README.read_text(),
        )
    )


if __name__ == "__main__":
    main()
