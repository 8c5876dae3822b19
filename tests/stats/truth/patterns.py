"""Rows of `make truth` on statistics that look for a pattern: a change, a storm, a slow start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from allocframe import stats

from . import worlds
from .rows import Result, Row, batches, frames, noise_of, observed, read

HOURS = 24.0
TASKS = 40


def _lives_with_change(rng: np.random.Generator, before: float, after: float) -> list[worlds.Life]:
    """Return lives whose hazard changes from `before` to `after`, by the hour, in the middle."""
    lives = []
    for _ in range(TASKS):
        life, time = worlds.Life(-HOURS * worlds.HOUR), -HOURS * worlds.HOUR + 1
        middle = -HOURS * worlds.HOUR / 2
        while time < 0:
            end = time + float(rng.exponential(worlds.HOUR / before)) if time < middle else np.inf
            if end >= middle:
                end = max(time, middle) + float(rng.exponential(worlds.HOUR / after))
            life.runs.append((time, min(end, 0.0), "failure" if end < 0 else "running"))
            time = end + 15
        lives.append(life)
    return lives


def _pieces(rng: np.random.Generator, before: float, after: float, batch: range) -> pd.DataFrame:
    rows: list[worlds.JSON] = []
    for world in batch:
        for index, life in enumerate(_lives_with_change(rng, before, after)):
            rows.append(worlds.allocation(len(rows), life, job=f"w{world}", index=index, ring=0))
    return stats.changepoints(frames(read(rows)), by="job_id", until=observed())


def changes_by_chance(*, count: int, seed: int = 11) -> list[Result]:
    """Return the share of worlds of a constant rate in which a change is seen."""
    rng = np.random.default_rng(seed)
    tables = [_pieces(rng, 0.1, 0.1, batch) for batch in batches(count, TASKS)]
    share = float(np.mean([size > 1 for table in tables for size in table.groupby("job_id").size()]))
    return [
        Result(
            "changepoints, constant rate", "a change is seen", share, count, "at most 0.05",
            share <= 0.05 + noise_of(count),
        )
    ]  # fmt: skip


def changes_found(*, count: int, seed: int = 12) -> list[Result]:
    """Return how often a rate that grows fivefold is seen to change once, and where."""
    rng = np.random.default_rng(seed)
    middle = observed() - pd.Timedelta(hours=HOURS / 2)
    found = near = 0
    for batch in batches(count, TASKS):
        for _, part in _pieces(rng, 0.1, 0.5, batch).groupby("job_id"):
            found += len(part) > 1
            offsets = (part["began_at"].iloc[1:] - middle).abs()
            near += bool((offsets <= pd.Timedelta("1h")).any())
    return [
        Result("changepoints, rate times 5", "the change is seen", found / count, count, "at least 0.95",
               found / count >= 0.95 - noise_of(count)),
        Result("changepoints, rate times 5", "within an hour of it", near / count, count, "at least 0.9",
               near / count >= 0.9 - noise_of(count, 0.1)),
    ]  # fmt: skip


def latency_of_starts(*, count: int, seed: int = 13) -> list[Result]:
    """Return how often the interval of a start's median holds the true median."""
    rng = np.random.default_rng(seed)
    median, inside = 20.0, 0
    for batch in batches(count, TASKS):
        rows: list[worlds.JSON] = []
        for world in batch:
            for index in range(TASKS):
                latency = median * float(np.exp(rng.normal(0, 0.8)))
                life = worlds.live(rng, -600.0, worlds.exponential(0), latency=latency)
                rows.append(worlds.allocation(len(rows), life, job=f"w{world}", index=index))
        table = stats.start_latency(frames(read(rows)), by="job_id")
        whole = table[table["phase"] == "received to started"]
        seconds = [whole[name].dt.total_seconds() for name in ("p50_lower", "p50_upper")]
        inside += int(((seconds[0] <= median) & (median <= seconds[1])).sum())
    share = inside / count
    least = 0.93 - noise_of(count)
    return [Result("start_latency", "coverage of the median", share, count, "at least 0.93", share >= least)]


def _storm_world(rng: np.random.Generator, *, hit: int) -> list[worlds.JSON]:
    """Return tasks that crash at random for a day; `hit` of them also within a minute, six hours ago."""
    rows = []
    for index in range(TASKS):
        life = worlds.live(rng, -HOURS * worlds.HOUR, worlds.exponential(0.02))
        if index < hit:
            at = -6 * worlds.HOUR + 60 * float(rng.random())
            before = [run for run in life.runs if run[1] < at]
            start = before[-1][1] + 15 if before else life.born + 1
            life.runs = [*before, (start, at, "failure"), (at + 15, 0.0, "running")]
        rows.append(worlds.allocation(index, life, job=f"j{index % 8}", index=index // 8, ring=0))
    return rows


def storms(*, count: int, seed: int = 14) -> list[Result]:
    """Return how often independent crashes look like a storm, and a storm of twelve slots is found."""
    rng = np.random.default_rng(seed)
    by_chance = found = exact = 0
    for _ in range(count):
        calm: Any = stats.restart_storms(frames(read(_storm_world(rng, hit=0))), observed_at=observed())
        by_chance += len(calm) > 0
        table = stats.restart_storms(frames(read(_storm_world(rng, hit=12))), observed_at=observed())
        # it begins with the first onset of its window, which may be one by chance
        begin = observed() - pd.Timedelta("6h")
        there = table[(table["ended_at"] >= begin) & (table["began_at"] <= begin + pd.Timedelta("1min"))]
        found += len(there) == 1
        exact += len(there) == 1 and 11 <= int(there["slots"].iloc[0]) <= 13
    return [
        Result("restart_storms, independent crashes", "a storm is seen", by_chance / count, count,
               "at most 0.01", by_chance / count <= 0.01 + noise_of(count, 0.01)),
        Result("restart_storms, 12 of 40 slots in a minute", "it is found", found / count, count,
               "at least 0.99",
               found / count >= 0.99 - noise_of(count, 0.01)),
        Result("restart_storms, 12 of 40 slots in a minute", "with 11 to 13 slots", exact / count, count,
               "at least 0.95", exact / count >= 0.95 - noise_of(count)),
    ]  # fmt: skip


def blast_of_a_lost_node(*, count: int, seed: int = 15) -> list[Result]:
    """Return in how many worlds the losses of a node, their jobs and replacements are counted exactly."""
    rng = np.random.default_rng(seed)
    right = 0
    gone = {
        "ClientStatus": "lost", "DesiredStatus": "stop",
        "DesiredDescription": "alloc is lost since its node is down",
    }  # fmt: skip
    for _ in range(count):
        rows: list[worlds.JSON] = []
        lost, replaced, jobs = 0, 0, set()
        for job, size in enumerate(rng.integers(1, 9, size=5)):
            for index in range(int(size)):
                hit, again = rng.random() < 0.4 or (job, index) == (0, 0), rng.random() < 0.5
                life = worlds.Life(-3600.0, [(-3599.0, 0.0, "running")])
                where = {"job": f"j{job}", "index": index, "node": "bad" if hit else "good"}
                rows.append(worlds.allocation(len(rows), life, **where, **(gone if hit else {})))
                if hit and again:
                    new = worlds.Life(-60.0, [(-50.0, 0.0, "running")])
                    where["node"] = "good"
                    link = {"PreviousAllocation": rows[-1]["ID"]}
                    rows.append(worlds.allocation(len(rows), new, **where, **link))
                if hit:
                    lost, replaced = lost + 1, replaced + again
                    jobs.add(f"j{job}")
        (row,) = stats.blast_radius(frames(read(rows))).to_dict("records")
        right += (row["node_name"], row["lost"], row["jobs"], row["replaced"]) == (
            "bad",
            lost,
            len(jobs),
            replaced,
        )
    return [Result("blast_radius", "counts are exact", right / count, count, "1", right == count)]


FAILING = 0.2
"""The true share of deployments that fail."""


def _deployed(rng: np.random.Generator, job: str, rows: list[worlds.JSON]) -> list[bool | None]:
    """Add the allocations of a job's versions; return whether each deployment failed, None while it runs."""
    versions = int(rng.integers(5, 40))
    truth: list[bool | None] = []
    for version in range(versions):
        failed = bool(rng.random() < FAILING)
        # a deployment that fails stops where it is: some were placed, and one at least did not get healthy
        placed = int(rng.integers(1, 4)) if failed else 3
        health: list[bool | None] = [not (failed and number == placed - 1) for number in range(placed)]
        if version == versions - 1 and not failed:
            health[-1] = None
        truth.append(None if None in health else failed)
        born = -3600.0 * (versions - version)
        for index, healthy in enumerate(health):
            life = worlds.Life(born, [(born + 1, 0.0, "running")])
            status = {} if healthy is None else {"DeploymentStatus": {"Healthy": healthy, "Canary": False}}
            rows.append(
                worlds.allocation(len(rows), life, job=job, index=index, JobVersion=version, **status)
            )
    return truth


def deployments_that_fail(*, count: int, seed: int = 16) -> list[Result]:
    """Return whether each deployment is reported right, and how often the interval holds the true share."""
    rng = np.random.default_rng(seed)
    right = held = 0
    for batch in batches(count, TASKS):
        rows: list[worlds.JSON] = []
        truth = {f"w{world}": _deployed(rng, f"w{world}", rows) for world in batch}
        snap = read(rows)
        for job, table in stats.deployments(snap).groupby("job_id", observed=True):
            seen = table.sort_values("job_version")["failed"].astype(object)
            right += seen.where(seen.notna(), None).tolist() == truth[str(job)]
        rates = stats.change_failure_rate(snap, by="job_id")
        held += int(((rates["lower"] <= FAILING) & (rates["upper"] >= FAILING)).sum())
    share = held / count
    return [
        Result("deployments, from allocations", "each is reported as it went", right / count, count, "1",
               right == count),
        Result("change_failure_rate", "coverage of the failed share", share, count, "at least 0.93",
               share >= 0.93 - noise_of(count)),
    ]  # fmt: skip


def all_rows() -> list[Row]:
    """Return the rows; each takes the number of worlds."""
    return [
        lambda count: changes_by_chance(count=max(count // 4, 4)),
        lambda count: changes_found(count=max(count // 4, 4)),
        lambda count: latency_of_starts(count=max(count // 2, 4)),
        lambda count: storms(count=max(count // 20, 4)),
        lambda count: blast_of_a_lost_node(count=max(count // 20, 4)),
        lambda count: deployments_that_fail(count=max(count // 2, 4)),
    ]
