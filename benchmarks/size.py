"""Benchmark of clusters of 10,000 to 1,000,000 allocations: download, tables, statistics, archive, others.

Each contender runs in its own process, so that its peak memory is its own. The figures go into README.md and
size.json, from which docs/size_pictures.py draws the pictures; those that are not measured stay.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fetch
import serving

README = Path(__file__).parent / "README.md"
FIGURES = Path(__file__).parent / "size.json"
PAGE = 1000
TABLES = ("allocations", "task_states", "events", "reschedules", "resources")
PYTHON_NOMAD_LIMIT = 100_000
"""At a million, it would need over 30 GB."""

Row = dict[str, Any]


class Steps:
    """Measures steps in this process. Memory is the peak up to the end of each step."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def run(self, name: str, work: Callable[[], Any]) -> Any:
        """Measure one step and return its result."""
        started, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.rows.append(
            {
                "step": name,
                "seconds": time.perf_counter() - started,
                "cpu": time.process_time() - cpu,
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )
        return result


def bare_download(address: str, steps: Steps) -> None:
    import httpx

    def work() -> int:
        size = 0
        with httpx.Client(base_url=address, timeout=600) as http:
            for shard in serving.SHARDS:
                token: str | None = ""
                while token is not None:
                    params = {
                        "prefix": shard,
                        "per_page": str(PAGE),
                        **({"next_token": token} if token else {}),
                    }
                    answer = http.get("/v1/allocations", params=params)
                    size, token = size + len(answer.content), answer.headers.get("x-nomad-nexttoken")
        return size

    steps.rows[-1]["bytes"] = steps.run("bare download", work)


def with_allocframe(address: str, steps: Steps) -> None:
    import allocframe as af

    with af.Client(address, timeout=600) as client:
        snap = steps.run("fetch, decode, repr", lambda: _fetch(client))
        steps.rows[-1]["tasks"] = snap.info["tasks"]
        steps.rows[-1]["bytes"] = client.counters["bytes_received"]
        # a diagnosis leaves nothing with its snapshot, and statistics leave what they share
        steps.run("diagnose", lambda: af.diagnose(snap))
        steps.run("statistics", lambda: _calculate_statistics(snap))
        with tempfile.TemporaryDirectory() as folder:
            archive = af.Archive(Path(folder) / "archive")
            steps.run("archive", lambda: archive.append(snap))
            files = (file for file in Path(folder).rglob("*") if file.is_file())
            steps.rows[-1]["bytes"] = sum(file.stat().st_size for file in files)
            saved = steps.run("save", lambda: snap.save(Path(folder) / "saved.allocframe"))
            snap.close()
            with steps.run("load", lambda: af.load(saved)) as loaded:
                steps.run("all tables", lambda: [getattr(loaded, name) for name in TABLES])


def _fetch(client: Any) -> Any:
    snap = client.snapshot(namespace="*", progress=False)
    repr(snap)
    return snap


def _calculate_statistics(snap: Any) -> None:
    from allocframe import stats

    for statistic in (
        stats.restarts,
        stats.failures,
        stats.crash_loops,
        stats.restart_storms,
        stats.lemon_nodes,
    ):
        statistic(snap)


def with_python_nomad(address: str, steps: Steps) -> None:
    steps.run("python-nomad + pandas", lambda: fetch.with_python_nomad(address))


CONTENDERS: dict[str, tuple[Callable[[str, Steps], None], tuple[str, ...]]] = {
    "bare download": (bare_download, ("httpx",)),
    "allocframe": (with_allocframe, ("allocframe", "allocframe.stats", "allocframe.archive")),
    "python-nomad": (with_python_nomad, ("nomad", "pandas")),
}


def _run(name: str, address: str, results: Any) -> None:
    contender, modules = CONTENDERS[name]
    for module in modules:  # imports are not measured
        importlib.import_module(module)
    steps = Steps()
    contender(address, steps)
    results.put(steps.rows)


def with_cli(address: str, program: str) -> Row:
    """Measure Nomad's own CLI while it prints everything."""
    command = [program, "operator", "api", "/v1/allocations?namespace=*&task_states=true"]
    started = time.perf_counter()
    child = subprocess.Popen(command, env={**os.environ, "NOMAD_ADDR": address}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    return {"step": "nomad operator api", "seconds": time.perf_counter() - started, "cpu": cpu, "peak": peak}


def measure(count: int) -> Iterator[Row]:
    """Yield a row for each step of each contender."""
    context = multiprocessing.get_context("spawn")
    program = shutil.which("nomad")
    with serving.served(count) as address:
        for name in CONTENDERS:
            if name == "python-nomad" and count > PYTHON_NOMAD_LIMIT:
                continue
            results = context.Queue()
            process = context.Process(target=_run, args=(name, address, results))
            process.start()
            rows = results.get()
            process.join()
            yield from ({"allocations": count, **row} for row in rows)
        if program:
            yield {"allocations": count, **with_cli(address, program)}


def table(rows: list[Row]) -> str:
    """Return the figures as Markdown, with a row for each step and two columns for each size."""
    sizes = sorted({row["allocations"] for row in rows})
    steps = list(dict.fromkeys(row["step"] for row in rows))
    by_step = {(row["step"], row["allocations"]): row for row in rows}
    head = [f"{size:,}: time (CPU) | memory" for size in sizes]
    lines = ["| step | " + " | ".join(head) + " |", "| --- |" + " --- | --- |" * len(sizes)]
    for step in steps:
        cells = [step]
        for size in sizes:
            row = by_step.get((step, size))
            cells.append(
                "left out | "
                if row is None
                else f"{row['seconds']:.1f} s ({row['cpu']:.1f} s) | {row['peak'] / 1e9:.2f} GB"
            )
        lines.append("| " + " | ".join(cells) + " |")
    for name, step in (("JSON", "fetch, decode, repr"), ("archive on disk", "archive")):
        megabytes = (by_step[step, size]["bytes"] / 1e6 for size in sizes)
        lines.append(f"| {name} | " + " | ".join(f"{size:,.0f} MB | " for size in megabytes) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("allocations", nargs="*", type=int, default=[10_000, 100_000, 1_000_000])
    rows: list[Row] = []
    for count in parser.parse_args().allocations:
        for row in measure(count):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    measured = {(row["allocations"], row["step"]) for row in rows}
    before = json.loads(FIGURES.read_text())["rows"]
    rows += [row for row in before if (row["allocations"], row["step"]) not in measured]
    rows.sort(key=lambda row: row["allocations"])
    FIGURES.write_text(
        json.dumps({"machine": f"{os.cpu_count()} cores, {platform.machine()}", "rows": rows}, indent=1)
        + "\n"
    )
    text = table(rows)
    print(text)
    page = README.read_text()
    README.write_text(
        re.sub(r"(?s)(<!-- size -->\n).*(<!-- end size -->)", lambda m: m[1] + text + "\n" + m[2], page)
    )


if __name__ == "__main__":
    main()
