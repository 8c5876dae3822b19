"""One table of everything that turns allocations into DataFrames, side by side in one run.

Files to frames, compared with msgspec alone, which reads the same structs and keeps nothing: no decoder in
Python is faster. Whole fetches, compared with a bare download and python-nomad with pandas. ``--before
COMMIT`` adds allocframe as of that commit. Each contender runs in its own process, all of them in turn,
several times.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import decode
import fetch

README = Path(__file__).parent / "README.md"
REPEATS = 3
"""Runs of each contender."""

ALLOCFRAME = "allocframe"
BEFORE = "allocframe before"
ONE_CORE = ", one core"
ALL_CORES = ", every core"
JSON_NORMALIZE = "json and json_normalize"
PYTHON_NOMAD = "python-nomad and pandas"
MOST = 400
"""Megabytes from which on those two would need more memory than there is."""
DECODERS: dict[str, Callable[[list[str]], int]] = {
    "msgspec alone": decode.with_msgspec,
    ALLOCFRAME + ALL_CORES: decode.with_all_cores,
    ALLOCFRAME + ONE_CORE: decode.with_one_process,
    BEFORE: decode.with_defaults,
    JSON_NORMALIZE: decode.with_json_normalize,
}
_ALLOCFRAME = ("allocframe.client.client", "allocframe.snapshot.snapshot")
FETCHERS: dict[str, tuple[Callable[[str], int], tuple[str, ...]]] = {
    "bare download": (fetch.bare_download, ("httpx", "httpcore")),
    ALLOCFRAME: (fetch.with_allocframe, _ALLOCFRAME),
    BEFORE: (fetch.with_allocframe, _ALLOCFRAME),
    PYTHON_NOMAD: (fetch.with_python_nomad, ("nomad", "pandas")),
}


Contenders = dict[str, tuple[Callable[[Any], int], tuple[str, ...]]]


class Figures(NamedTuple):
    """What one run of a contender took, in seconds and bytes."""

    wall: float
    cpu: float
    peak: int


def _run(work: Callable[[Any], int], what: Any, modules: tuple[str, ...], folder: str, results: Any) -> None:
    sys.path.insert(0, folder)
    os.environ["PYTHONPATH"] = folder
    for module in modules:
        importlib.import_module(module)  # which is not measured
    if isinstance(what, list):
        work(what[:1])
    before, started = os.times(), time.perf_counter()
    work(what)
    wall, after = time.perf_counter() - started, os.times()
    # the largest process: those that decode with this one are smaller
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    results.put(Figures(wall, sum(after[:4]) - sum(before[:4]), peak * 1024))


def _measure(
    contenders: Contenders,
    what: Any,
    folders: dict[str, str],
) -> dict[str, Figures]:
    """Return the medians of each contender; the largest peak."""
    context = multiprocessing.get_context("spawn")
    runs: dict[str, list[Figures]] = {name: [] for name in contenders}
    for _ in range(REPEATS):
        for name, (work, modules) in contenders.items():
            results = context.Queue()
            folder = folders.get(name, folders[ALLOCFRAME])
            process = context.Process(target=_run, args=(work, what, modules, folder, results))
            process.start()
            runs[name].append(results.get())
            process.join()
    return {
        name: Figures(
            statistics.median(run.wall for run in of_one),
            statistics.median(run.cpu for run in of_one),
            max(run.peak for run in of_one),
        )
        for name, of_one in runs.items()
    }


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _write_pages(folder: str, megabytes: int) -> int:
    """Write the files in another process: memory of this one would count as that of each contender."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        count = pool.apply(decode.write_pages, (Path(folder), megabytes))
    os.sync()  # or the system would write them while they are read
    return count


def files_to_frames(megabytes: int, folders: dict[str, str]) -> Iterator[str]:
    """Yield the rows of the table for files."""
    contenders: Contenders = {
        name: (work, ()) for name, work in DECODERS.items() if name != BEFORE or name in folders
    }
    if megabytes > MOST:
        del contenders[JSON_NORMALIZE]
    with tempfile.TemporaryDirectory() as folder:
        count = _write_pages(folder, megabytes)
        files = [str(file) for file in sorted(Path(folder).iterdir())]
        size = sum(Path(file).stat().st_size for file in files)
        figures = _measure(contenders, files, folders)
    head = f"files to frames, {size / 1e6:,.0f} MB, {count:,} allocations"
    yield from _rows(head, size, figures, "msgspec alone")


def whole_fetch(megabytes: int, folders: dict[str, str]) -> Iterator[str]:
    """Yield the rows of the table for fetches."""
    contenders = {name: work for name, work in FETCHERS.items() if name != BEFORE or name in folders}
    if megabytes > MOST:
        del contenders[PYTHON_NOMAD]
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    server = context.Process(target=fetch.serve, args=(megabytes, ready), daemon=True)
    server.start()
    port, count, size = ready.get()
    try:
        before = _cpu_of(server.pid or 0)
        figures = _measure(contenders, f"http://127.0.0.1:{port}", folders)
        served = (_cpu_of(server.pid or 0) - before) / REPEATS / len(contenders)
    finally:
        server.terminate()
    head = f"whole fetch, {size / 1e6:,.0f} MB, {count:,} allocations"
    head += f"; {served:.1f} s of the server's CPU for each"
    yield from _rows(head, size, figures, "bare download")


def _rows(head: str, size: int, figures: dict[str, Figures], limit: str) -> Iterator[str]:
    yield f"| **{head}** | | | | | |"
    for name, (wall, cpu, peak) in figures.items():
        times = wall / figures[limit].wall
        yield (
            f"| {name} | {wall:.2f} s | {cpu:.2f} s | {size / 1e6 / wall:,.0f} | {times:.1f} | "
            f"{peak / 1e9:.2f} GB |"
        )


@contextlib.contextmanager
def checked_out(commit: str | None) -> Iterator[dict[str, str]]:
    """Yield the folders with allocframe: this one, and that of another commit."""
    here = str(Path(__file__).parent.parent)
    if commit is None:
        yield {ALLOCFRAME: here}
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = str(Path(folder) / "tree")
        subprocess.run(
            ["git", "-C", here, "worktree", "add", "--quiet", "--detach", tree, commit], check=True
        )
        try:
            yield {ALLOCFRAME: here, BEFORE: tree}
        finally:
            subprocess.run(["git", "-C", here, "worktree", "remove", "--force", tree], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs="*", default=[120, 1000], help="megabytes of files")
    parser.add_argument("--fetch", type=int, nargs="*", default=[40, 400], help="megabytes to fetch")
    parser.add_argument("--before", help="a commit to compare with")
    options = parser.parse_args()
    lines = [
        f"{os.cpu_count()} cores, {platform.machine()}; median of {REPEATS} runs:",
        "",
        "| | time | CPU | MB/s | times the limit | peak memory |",
        "|" + " --- |" * 6,
    ]
    with checked_out(options.before) as folders:
        for rows in (
            *(files_to_frames(size, folders) for size in options.files),
            *(whole_fetch(size, folders) for size in options.fetch),
        ):
            for line in rows:
                lines.append(line)
                print(line, file=sys.stderr, flush=True)
    text = "\n".join(lines)
    print(text)
    page = README.read_text()
    README.write_text(
        re.sub(r"(?s)(<!-- compare -->\n).*(<!-- end compare -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page)
    )


if __name__ == "__main__":
    main()
