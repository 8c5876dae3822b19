"""CPU time and memory of each statistic and plot: benchmarks/stats_size.py [--allocations N] [NAME ...].

A snapshot of recorded allocations, multiplied, is fetched once. Each function runs alone in a fork of this
process: it computes everything that statistics share anew, and its peak is its own. The table goes into
README.md if every function was measured.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import serving

README = Path(__file__).parent / "README.md"
SECONDS, GIGABYTES = 5, 1.5
"""The goal for each of them at 100,000 allocations."""

Call = Callable[[], Any]


def statistics(snap: Any) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Yield each statistic, and what prepares its call; only the call is measured."""
    from allocframe import stats

    def of_arrays(name: str, *columns: str) -> Call:
        runs = stats.runs(snap)
        runs["hours"] = runs["duration"].dt.total_seconds() / 3600
        arrays = [runs[column].to_numpy() for column in columns]
        del runs
        return lambda: getattr(stats, name)(*arrays)

    def mean_cumulative() -> Call:
        runs = stats.runs(snap)
        units, ages = runs["alloc_id"].tolist(), runs["duration"].dt.total_seconds().tolist()
        until = dict(zip(units, ages, strict=True))
        return lambda: stats.mean_cumulative(units, ages, until)

    def laplace() -> Call:
        times = snap.events["time"]
        return lambda: stats.laplace(times, times.min(), times.max())

    special: dict[str, Callable[[], Call]] = {
        "kaplan_meier": lambda: of_arrays("kaplan_meier", "hours", "failure"),
        "logrank": lambda: of_arrays("logrank", "hours", "failure", "job_id"),
        "cumulative_incidence": lambda: of_arrays("cumulative_incidence", "hours", "end"),
        "mean_cumulative": mean_cumulative,
        "laplace": laplace,
        "headroom": lambda: _with(samples(snap), stats.headroom),
        "placement_failures": lambda: _with(evaluations(snap), stats.placement_failures),
    }
    for name in stats.__all__:
        if name != "vocabulary":
            yield f"stats.{name}", special.get(name, partial(_of_snapshot, getattr(stats, name), snap))
    yield "stats.failures, by hour", lambda: lambda: stats.failures(snap, bin="1h")


def plots(snap: Any) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Yield each plot, which draws the table that its statistic has returned, and makes a PNG."""
    from allocframe import plots, stats

    tables: dict[str, Call] = {
        "heatmap": lambda: stats.failures(snap, bin="1h"),
        "pareto": lambda: stats.failure_ranking(snap),
        "funnel": lambda: stats.lemon_nodes(snap),
        "start_latency": lambda: stats.start_latency(snap),
        "headroom": lambda: stats.headroom(samples(snap)),
        "timeline": lambda: snap,
    }

    def drawn(name: str) -> Call:
        table = tables[name]() if name in tables else snap
        if name == "waterfall":
            job = snap.sql("SELECT job_id FROM allocations GROUP BY 1 ORDER BY count(*) DESC LIMIT 1")
            return lambda: _draw(plots.waterfall, snap, str(job["job_id"].iloc[0]))
        if name not in tables:
            table = getattr(stats, name)(snap)
        return lambda: _draw(getattr(plots, name), table)

    for name in plots.__all__:
        yield f"plots.{name}", partial(drawn, name)


def others(snap: Any) -> Iterator[tuple[str, Callable[[], Call]]]:
    """Yield what calls them: methods of tables, the diagnosis, the interactive timeline, the panel."""
    import allocframe as af
    from allocframe.widgets.panel.rows import make_rows

    for name in ("explain", "restarts"):
        yield f"snap.events.alloc.{name}", partial(lambda name: getattr(snap.events.alloc, name), name)
    yield "snap.events.alloc.timeline", lambda: _with(snap.events, lambda rows: _draw(rows.alloc.timeline))
    yield "diagnose", lambda: lambda: af.diagnose(snap)
    yield "timeline (interactive)", lambda: lambda: af.timeline(snap)
    yield "rows of a panel's refresh", lambda: lambda: make_rows(snap)


def _of_snapshot(statistic: Callable[[Any], Any], snap: Any) -> Call:
    return lambda: statistic(snap)


def _with(table: Any, work: Callable[[Any], Any]) -> Call:
    return lambda: work(table)


def _draw(plot: Callable[..., Any], *args: Any) -> None:
    plot(*args).figure.savefig(io.BytesIO(), format="png", dpi=150)


def samples(snap: Any) -> pd.DataFrame:
    """Return two made-up samples of each task, as `Client.usage` does."""
    tasks: pd.DataFrame = snap.sql("SELECT alloc_id, task, a.namespace, job_id, task_group FROM task_states "
                     "JOIN allocations a USING (alloc_id)")  # fmt: skip
    rng, parts = np.random.default_rng(1), []
    for number in range(2):
        used = rng.random((2, len(tasks)))
        at = pd.Timestamp("2026-11-01", tz="UTC") + pd.Timedelta(seconds=10 * number)
        parts.append(
            tasks.assign(
                at=at, stale=False, cpu_mhz=500 * used[0], memory_mib=512 * used[1], cpu_requested_mhz=500.0,
                memory_requested_mib=512.0,
            )
        )  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def evaluations(snap: Any) -> pd.DataFrame:
    """Return a made-up evaluation for each allocation, a tenth of which could not place a group."""
    rows: pd.DataFrame = snap.sql(
        "SELECT alloc_id AS eval_id, namespace, job_id, created_at FROM allocations"
    )
    failed = '{"app":{"NodesEvaluated":3,"NodesFiltered":1,"DimensionExhausted":{"memory":2}}}'
    return rows.assign(
        triggered_by="job-register", status="blocked", queued='{"app":1}',
        failed_task_groups=pd.Series(failed, index=rows.index).where(rows.index % 10 == 0),
    )  # fmt: skip


def measure(prepare: Callable[[], Call]) -> tuple[float, float, str]:
    """Return CPU seconds, the peak of memory in bytes, and an error, of a call in a fork of this process."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, pickle.dumps(_measure_here(prepare)))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    return pickle.loads(answer) if answer else (0.0, 0.0, "killed")


def _measure_here(prepare: Callable[[], Call]) -> tuple[float, float, str]:
    from allocframe._utils.memory import release_memory

    try:
        call = prepare()
        release_memory()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        started = time.process_time()
        call()
        error = ""
    except Exception as problem:  # noqa: BLE001 - it is in the table
        traceback.print_exc()
        started, error = time.process_time(), f"{type(problem).__name__}: {problem}"[:100]
    status = Path("/proc/self/status").read_text()
    return time.process_time() - started, int(status.partition("VmHWM:")[2].split()[0]) * 1024, error


def main() -> None:
    import allocframe as af

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only functions whose names contain one of these")
    parser.add_argument("--allocations", type=int, default=100_000)
    options = parser.parse_args()
    with serving.served(options.allocations) as address, af.Client(address, timeout=600) as client:
        snap = client.snapshot(namespace="*", progress=False)
    events = f"{len(snap):,} allocations, {snap._counts['events']:,} events"
    lines = [f"| {events} | CPU | peak memory |", "| --- | --- | --- |"]
    for name, prepare in (*statistics(snap), *plots(snap), *others(snap)):
        if options.names and not any(part in name for part in options.names):
            continue
        cpu, peak, error = measure(prepare)
        over = error or " (over the goal)" * (cpu > SECONDS or peak > GIGABYTES * 1e9)
        lines.append(f"| {name}{over and ' ' + over.strip()} | {cpu:.1f} s | {peak / 1e9:.2f} GB |")
        print(lines[-1], flush=True)
    snap.close()
    if not options.names and options.allocations == parser.get_default("allocations"):
        page, text = README.read_text(), "\n".join(lines)
        marked = r"(?s)(<!-- functions -->\n).*(<!-- end functions -->)"
        README.write_text(re.sub(marked, lambda match: match[1] + text + "\n" + match[2], page))


if __name__ == "__main__":
    main()
