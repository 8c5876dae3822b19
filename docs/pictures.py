"""Draws the pictures of docs/statistics.md, the same each time: `make pictures`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")

from matplotlib.axes import Axes

import allocframe as af
from allocframe import plots, stats
from allocframe.client import usage as client_usage
from allocframe.sim.api.usage import resource_usage
from allocframe.sim.cluster.model import SECOND
from allocframe.sim.scenarios import run_story
from allocframe.stats import _confidence

FOLDER = Path(__file__).parent / "pictures"
NOW_NS = 1_795_516_200_000_000_000
"""The present of the simulated clusters, 2026-11-24 10:30 UTC: a fixed clock gives the same pictures."""


def story(name: str, allocations: int = 300) -> af.Snapshot:
    """Return the snapshot of a simulated cluster that played one story."""
    engine, _ = run_story(name, allocations=allocations, seed=7, now_ns=NOW_NS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations.json"
        file.write_text(json.dumps([alloc.stub("2.0.5") for alloc in engine.state.allocs.values()]))
        return af.read_json(file)


def usage() -> af.Usage:
    """Return thirty samples, ten seconds apart, of the running tasks of a simulated cluster."""
    engine, _ = run_story("mixed", allocations=300, seed=7, now_ns=NOW_NS)
    running = [alloc for alloc in engine.state.allocs.values() if alloc.client_status == "running"]
    rows = [
        row
        for sample in range(30)
        for alloc in running
        for row in client_usage.usage_rows(
            alloc.full("2.0.5"), resource_usage(alloc, None, NOW_NS + sample * 10 * SECOND), sample
        )
    ]
    return af.Usage(client_usage.samples_frame(rows), client_usage.errors_frame([]))


def days() -> pd.DataFrame:
    """Return two weeks of a cluster that gets worse; a part of two days was not watched."""
    rng = np.random.default_rng(7)
    day = pd.date_range("2026-11-11", periods=14, tz="UTC")
    table = pd.DataFrame(
        {"day": day, "exposure_hours": 4000.0, "watched": 1.0, "complete": True, "lacks": ""}
    )
    for name, rate in (("failures", [2.0] * 9 + [5.0] * 5), ("restarts", [4.0] * 9 + [7.5] * 5)):
        table[name] = rng.poisson(np.array(rate) * 40)
        interval = _confidence.poisson(table[name], table["exposure_hours"])
        for part, values in zip(("per_hour", "lower", "upper"), interval, strict=True):
            table[f"{name}_{part}"] = values
    table.loc[[5, 6], "watched"], table.loc[[5, 6], "complete"] = [0.6, 0.3], False
    return table


def pictures() -> dict[str, Axes]:
    """Draw every picture; return the axes by the names of the files."""
    mixed, lemon, storm = story("mixed"), story("lemon_node"), story("restart_storm")
    return {
        "timeline": plots.timeline(mixed),
        "waterfall": plots.waterfall(mixed, "search-indexer"),
        "heatmap": plots.heatmap(stats.restarts(storm, by="namespace", bin="5min", since="2026-11-24T08:30")),
        "pareto": plots.pareto(stats.failure_ranking(mixed, by="job_id")),
        "survival": plots.survival(stats.survival(mixed, by=["job_id", "job_version"])),
        "cumulative_restarts": plots.cumulative_restarts(stats.cumulative_restarts(mixed, by="job_id")),
        "daily": plots.daily(days()),
        "funnel": plots.funnel(stats.lemon_nodes(lemon)),
        "error_budget": plots.error_budget(stats.error_budget(mixed)),
        "deployments": plots.deployments(stats.deployments(mixed)),
        "start_latency": plots.start_latency(stats.start_latency(mixed)),
        "headroom": plots.headroom(stats.headroom(usage().samples)),
    }


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, ax in pictures().items():
        ax.figure.savefig(FOLDER / f"{name}.png", dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
