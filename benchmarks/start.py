"""Time until something is there: the first answers of the command line, a notebook and a report.

``--before PYTHON`` measures the version that another interpreter has, in turn. Each step is a process of its
own; the median of three counts. CPU seconds are those of that process, and of those that it starts.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

README = Path(__file__).parent / "README.md"
RUNS = 3
NOTEBOOK = """
import allocframe as af
with af.Client("{address}", token="{token}") as client:
    snap = client.snapshot(namespace="*", progress=False)
    len(snap.events), repr(snap)
"""
"""What the first cells of a notebook do."""

SERVER = """
import sys, allocframe as af
with af.sim.Cluster("mixed", allocations=450, seed=7) as cluster:
    print(cluster.address, cluster.token, flush=True)
    sys.stdin.read()
"""


def measure(python: str, command: list[str], folder: Path) -> tuple[float, float, float]:
    """Return seconds to the first line of an answer and to the end, and CPU seconds, of one process."""
    started = time.perf_counter()
    with subprocess.Popen(
        [python, *command], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        first = next((time.perf_counter() for line in child.stdout if line.strip()), started) - started
        child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    return first, time.perf_counter() - started, used.ru_utime + used.ru_stime


def table(pythons: dict[str, str]) -> str:
    """Return the median of each step as Markdown; of the versions beside each other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as server:  # fmt: skip
            assert server.stdout is not None and server.stdin is not None  # noqa: PT018
            address, token = server.stdout.readline().split()
            steps = {
                "`allocframe --help`": ["-m", "allocframe", "--help"],
                "`allocframe demo`, 400 allocations": ["-m", "allocframe", "demo"],
                "first snapshot of a notebook": ["-c", NOTEBOOK.format(address=address, token=token)],
                "`report postmortem`, 450 allocations": [
                    "-m", "allocframe", "report", "postmortem", "-o", "post.html",
                ],
            }  # fmt: skip
            os.environ |= {"NOMAD_ADDR": address, "NOMAD_TOKEN": token}
            found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
            for _ in range(RUNS):
                for step, command in steps.items():
                    for version, python in pythons.items():
                        found.setdefault((step, version), []).append(measure(python, command, folder))
            server.stdin.close()
    lines = [f"| | {' | '.join(f'{version}: first line, end (CPU)' for version in pythons)} |"]
    lines.append("| --- |" + " --- |" * len(pythons))
    for step in steps:
        cells = []
        for version in pythons:
            first, end, cpu = (statistics.median(each) for each in zip(*found[step, version], strict=True))
            line = f"{first:.2f} s, " if first else ""  # a notebook's cells print nothing
            cells.append(f"{line}{end:.2f} s ({cpu:.2f} s)")
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="an interpreter with another version")
    before = parser.parse_args().before
    text = table({"now": sys.executable} | ({"before": before} if before else {}))
    print(text)
    page = README.read_text()
    marked = r"(?s)(<!-- start -->\n).*(<!-- end start -->)"
    README.write_text(re.sub(marked, lambda match: match[1] + text + "\n" + match[2], page))


if __name__ == "__main__":
    main()
