"""Time and memory of every statistic on N allocations, without a server: benchmarks/stats_size.py [N].

Each statistic runs in a process of its own, so that its peak is its own. The tables hold N allocations with
nine events each: services that crash at random, a few of them in loops, with truncated event histories.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from typing import Any

import numpy as np
import pandas as pd

START = 1_790_000_000_000_000_000
SECOND = 1_000_000_000


def tables(count: int, seed: int = 1) -> dict[str, pd.DataFrame]:
    """Return allocations, task states and events of `count` allocations."""
    rng = np.random.default_rng(seed)
    ids = pd.Series([f"{number:08x}-0000-4000-8000-000000000000" for number in range(count)], dtype="str")
    job = rng.integers(0, max(count // 50, 1), count)
    created = START + (rng.random(count) * 6 * 86400 * SECOND).astype("int64")
    node = rng.integers(0, max(count // 100, 1), count)

    def category(prefix: str, codes: Any) -> Any:
        names = pd.Index([f"{prefix}-{code}" for code in range(int(codes.max()) + 1)])
        return pd.Categorical.from_codes(codes, categories=names)

    def times(values: Any) -> pd.Series[Any]:
        return pd.to_datetime(pd.Series(values), utc=True)

    jobs, nodes, version = category("job", job), category("node", node), rng.integers(0, 3, count)
    group = pd.Categorical(["app"] * count)
    index = pd.Series(range(count)) // max(count // 50, 1)
    names = pd.Series(jobs).astype(str) + ".app[" + index.astype(str) + "]"
    allocations = pd.DataFrame(
        {
            "alloc_id": ids,
            "namespace": pd.Categorical(["default"] * count),
            "name": names,
            "job_id": jobs,
            "parent_job_id": pd.Series([None] * count, dtype="str"),
            "run": pd.Series([None] * count, dtype="str"),
            "job_type": pd.Categorical(["service"] * count),
            "job_version": pd.array(version, dtype="UInt64"),
            "task_group": group,
            "node_id": nodes,
            "node_name": nodes,
            "eval_id": ids,
            "client_status": pd.Categorical(np.where(rng.random(count) < 0.05, "failed", "running")),
            "desired_status": pd.Categorical(["run"] * count),
            "desired_description": pd.Series([None] * count, dtype="str"),
            "deployment_healthy": pd.array([True] * count, dtype="boolean"),
            "canary": pd.array([False] * count, dtype="boolean"),
            "previous_alloc_id": pd.Series([None] * count, dtype="str"),
            "next_alloc_id": pd.Series([None] * count, dtype="str"),
            "preempted_by": pd.Series([None] * count, dtype="str"),
            "followup_eval_id": pd.Series([None] * count, dtype="str"),
            "created_at": times(created),
            "modified_at": times(created + 86400 * SECOND),
        }
    )
    cycle = ["Started", "Terminated", "Restarting"]
    cut = rng.random(count) < 0.3
    kinds = np.where(
        cut[:, None], np.array([cycle * 3]), np.array([["Received", "Task Setup", *(cycle * 2), "Started"]])
    )
    gaps = rng.exponential(3 * 3600, (count, 9)) * np.isin(kinds, ["Terminated"]) + 5
    at = created[:, None] + (np.cumsum(gaps, axis=1) * SECOND).astype("int64")
    rows = np.repeat(np.arange(count), 9)
    kind = pd.Categorical(kinds.ravel())
    ended, restarts = kind == "Terminated", kind == "Restarting"
    events = pd.DataFrame(
        {
            "alloc_id": ids.take(rows).reset_index(drop=True),
            "task": pd.Categorical(["server"] * len(rows)),
            "seq": pd.array(np.tile(np.arange(9), count), dtype="Int64"),
            "time": times(at.ravel()),
            "type": kind,
            "message": pd.Series([None] * len(rows), dtype="str"),
            "exit_code": pd.array(np.where(ended, 1, 0), dtype="Int64"),
            "signal": pd.array(np.zeros(len(rows), dtype="int64"), dtype="Int64"),
            "oom_killed": pd.array(np.zeros(len(rows), dtype=bool), dtype="boolean"),
            "restart_reason": pd.Categorical(["Restart within policy" if one else None for one in restarts]),
            "fails_task": pd.array(np.zeros(len(rows), dtype=bool), dtype="boolean"),
            "namespace": pd.Categorical(["default"] * len(rows)),
            "job_id": jobs[rows],
            "job_version": pd.array(version[rows], dtype="UInt64"),
            "task_group": group[rows],
            "node_name": nodes[rows],
        }
    )
    events.loc[~ended, ["exit_code", "signal", "oom_killed"]] = pd.NA
    states = pd.DataFrame(
        {
            "alloc_id": ids,
            "task": pd.Categorical(["server"] * count),
            "state": pd.Categorical(["running"] * count),
            "failed": pd.array(np.zeros(count, dtype=bool), dtype="boolean"),
            "restarts": pd.array(np.where(cut, 20, 2), dtype="UInt64"),
            "started_at": times(at[:, -1]),
            "finished_at": times(np.full(count, np.datetime64("NaT", "ns"))),
        }
    )
    return {"allocations": allocations, "task_states": states, "events": events}


SKIPPED = {
    "vocabulary",
    "headroom",
    "placement_failures",
    "kaplan_meier",
    "logrank",
    "laplace",
    "mean_cumulative",
    "cumulative_incidence",
    "explain_stops",
    "start_latency",
    "clock_offset",
}


def _run(name: str, count: int, results: Any) -> None:
    from allocframe import stats

    source = tables(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    started = time.process_time()
    options: dict[str, Any] = {"bin": "1h"} if name.endswith("(bin)") else {}
    try:
        getattr(stats, name.removesuffix(" (bin)"))(source, **options)
        error = ""
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as problem:
        error = f"{type(problem).__name__}: {problem}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    results.put(
        {
            "statistic": name,
            "cpu": time.process_time() - started,
            "peak": peak,
            "before": before,
            "error": error,
        }
    )


def main() -> None:
    from allocframe import stats

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    wanted = sys.argv[2:] or [*(name for name in stats.__all__ if name not in SKIPPED), "failures (bin)"]
    context = multiprocessing.get_context("spawn")
    for name in wanted:
        results = context.Queue()
        process = context.Process(target=_run, args=(name, count, results))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with {process.exitcode}")
        row = results.get()
        print(
            f"{row['statistic']:24} {row['cpu']:6.1f} s CPU {row['peak'] / 1e9:6.2f} GB peak {row['error']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
