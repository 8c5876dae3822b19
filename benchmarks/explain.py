"""Benchmark of three statistics on 1.6 million events, from a Snapshot, DataFrames and DuckDB relations.

Recorded real allocations are multiplied under new IDs and names. A snapshot keeps intermediate results that
the steps share. The other sources calculate them again for each step.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd

import allocframe as af
from allocframe import stats

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "list-all.json"
README = Path(__file__).parent / "README.md"
TABLES = ("events", "allocations", "task_states")


def tables(events: int) -> tuple[dict[str, pd.DataFrame], af.Snapshot]:
    """Return recorded tables, multiplied to this many events, and a snapshot that holds them."""
    rows = json.loads(RECORDED.read_text())[0]["json"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        file.write_text(json.dumps(rows))
        snap = af.read_json(file)
    times = events // len(snap.events) + 1
    frames = {name: _multiply(getattr(snap, name), times) for name in TABLES}
    vars(snap).update(frames)
    return frames, snap


def _multiply(frame: pd.DataFrame, times: int) -> pd.DataFrame:
    many = pd.concat([frame] * times, ignore_index=True)
    number = pd.Series(np.repeat(np.arange(times), len(frame))).astype("str")
    for name in ("alloc_id", "name", "previous_alloc_id"):
        if name in many.columns:
            many[name] = (many[name].astype("str") + "/" + number).astype(frame[name].dtype)
    return many


STEPS: dict[str, Callable[[Any], Any]] = {
    "explain_events": lambda source: _rows(stats.explain_events(source)),
    "failures by job": lambda source: stats.failures(source, by="job_id"),
    "crash_loops": stats.crash_loops,
}


def _rows(explained: Any) -> int:
    """Return the number of rows. This runs the query of a relation."""
    return len(explained if isinstance(explained, pd.DataFrame) else explained.df())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", nargs="?", type=int, default=1_600_000)
    frames, snap = tables(parser.parse_args().events)
    size = len(frames["events"])
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    relations = {name: connection.from_df(frame) for name, frame in frames.items()}
    lines = [f"| source | {' | '.join(STEPS)} | all | events/s |", "|" + " --- |" * (len(STEPS) + 3)]
    for name, source in {
        "Snapshot": snap,
        "pandas DataFrames": frames,
        "DuckDB relations": relations,
    }.items():
        seconds = []
        for step in STEPS.values():
            started = time.perf_counter()
            step(source)
            seconds.append(time.perf_counter() - started)
        cells = " | ".join(f"{step_seconds:.1f} s" for step_seconds in seconds)
        lines.append(f"| {name} | {cells} | {sum(seconds):.1f} s | {size / sum(seconds):,.0f} |")
        print(lines[-1], file=sys.stderr)
    table = "\n".join(lines)
    print(table)
    page = README.read_text()
    README.write_text(
        re.sub(
            r"(?s)(<!-- explain -->\n).*(<!-- end explain -->)", lambda m: m[1] + table + "\n" + m[2], page
        )
    )


if __name__ == "__main__":
    main()
