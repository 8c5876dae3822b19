"""CPU time of statistics on a small snapshot: benchmarks/stats_small.py [--beside FOLDER].

A notebook pays it at each call. `FOLDER` is a checkout of another version, whose figures are printed, too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
STATISTICS = (
    "explain_events",
    "restarts",
    "runs",
    "survival",
    "availability",
    "restart_storms",
    "crash_loops",
)
REPEAT = 5


def _least(work: Callable[[Any], Any], sources: list[Any]) -> float:
    """Return the least CPU time, in ms, of the work on each of the sources."""
    times = []
    for source in sources:
        started = time.process_time()
        work(source)
        times.append((time.process_time() - started) * 1000)
    return min(times)


def _measure(saved: str) -> dict[str, list[float]]:
    """Return by statistic the times of a new snapshot, of pandas frames and of DuckDB relations."""
    import duckdb

    import allocframe as af

    snapshot = af.load(saved)
    frames = {name: getattr(snapshot, name) for name in ("events", "allocations", "task_states")}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        relations = {name: connection.from_df(frame) for name, frame in frames.items()}
        rows = {}
        for name in (*STATISTICS, "diagnose"):
            work = af.diagnose if name == "diagnose" else getattr(af.stats, name)
            snapshots = [af.load(saved) for _ in range(REPEAT)]
            work(snapshots.pop())
            rows[name] = [_least(work, snapshots)]
            if name != "diagnose":
                rows[name] += [_least(work, [frames] * REPEAT), _least(_fetched(work), [relations] * 2)]
    return rows


def _fetched(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the work with its rows fetched, if it leaves them in DuckDB."""

    def call(source: Any) -> Any:
        result = work(source)
        return result.df() if hasattr(result, "df") else result

    return call


def _table(now: dict[str, list[float]], before: dict[str, list[float]] | None) -> str:
    lines = ["| ms | Snapshot | pandas frames | DuckDB relations |", "| --- | --- | --- | --- |"]
    for name, times in now.items():
        cells = []
        for place, value in enumerate(times):
            old = before[name][place] if before else None
            cells.append(f"{value:.0f}" if old is None else f"{value:.0f} ({old:.0f} before)")
        lines.append(f"| {name} | " + " | ".join([*cells, *[""] * (3 - len(cells))]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, help="a checkout of the previous version")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(_measure(chosen.measure)))
        return
    sys.path.insert(0, str(HERE))
    import allocframe as af

    with tempfile.TemporaryDirectory() as folder:
        with (
            af.sim.Cluster("mixed", allocations=50, seed=5) as cluster,
            af.Client(cluster.address, token=cluster.token) as client,
        ):
            saved = client.snapshot(namespace="*", resources=True).save(Path(folder) / "small.allocframe")
        found = []
        for checkout in [HERE, *([chosen.beside] if chosen.beside else [])]:
            command = [sys.executable, __file__, "--measure", str(saved)]
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
            answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found.append(json.loads(answer.stdout))
    print(_table(found[0], found[1] if chosen.beside else None))


if __name__ == "__main__":
    main()
