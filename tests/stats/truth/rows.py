"""What `make truth` measures: each row simulates worlds, runs a statistic on their JSON, and counts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import allocframe as af
from allocframe import stats
from allocframe.stats._derived import share_derived

from . import worlds

BATCH_TASKS = 4000
"""Worlds are read together, each as a job of its own, so that reading them costs little."""


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    measure: str
    value: float
    worlds: int
    wanted: str
    passed: bool


def noise_of(done: int, share: float = 0.05) -> float:
    """Return three standard deviations of a share that is measured on `done` worlds."""
    return float(3 * np.sqrt(share * (1 - share) / done))


def read(rows: list[worlds.JSON]) -> af.Snapshot:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "world.json"
        file.write_text(json.dumps(rows))
        return af.read_json(file)


def observed() -> pd.Timestamp:
    return pd.Timestamp(worlds.NOW, tz="UTC")


def batches(count: int, tasks: int) -> Iterator[range]:
    size = max(min(BATCH_TASKS // tasks, count), 1)
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def frames(snap: af.Snapshot) -> dict[str, pd.DataFrame]:
    return {name: getattr(snap, name) for name in ("events", "allocations", "task_states")}


def coverage_of_rates(
    *statistics: str,
    tasks: int,
    cut: bool,
    mixed: bool,
    count: int,
    seed: int = 1,
    window: bool = False,
) -> list[Result]:
    """Return the share of worlds whose 95 % interval holds the true rate, and the bias of the pooled rate.

    The statistics are held to the same worlds.
    """
    rng = np.random.default_rng(seed)
    # about six failures for each task fill a ring twice; about one and a half leave it whole
    rate, hours = (0.25, 24.0) if cut else (0.05, 24.0)
    options = {"since": observed() - pd.Timedelta("12h")} if window else {}
    estimates: dict[str, list[tuple[bool, float, float]]] = {statistic: [] for statistic in statistics}
    for batch in batches(count, tasks):
        rows: list[worlds.JSON] = []
        truth = {}
        for world in batch:
            made, _, mean = worlds.fleet(
                rng, tasks, rate, hours, job=f"w{world}", first=len(rows), mixed=mixed
            )
            rows += made
            truth[f"w{world}"] = mean
        tables = frames(read(rows))
        with share_derived():
            for statistic in statistics:
                table = _table(statistic, tables, options).set_index("job_id")
                for job, mean in truth.items():
                    row = table.loc[job]
                    estimate = float(row["rate"]) if pd.notna(row["rate"]) else 0.0
                    inside = bool(row["lower"] <= mean <= row["upper"])
                    estimates[statistic].append((inside, estimate, mean))
    most = 0.98 if tasks * rate * hours >= 20 else 1.0
    kind = f"{' in a window' if window else ''}, {tasks} tasks, {_kind(cut, mixed)}"
    return [
        result
        for statistic, of_worlds in estimates.items()
        for result in _judge_rates(f"{statistic}{kind}", of_worlds, most, with_bias=tasks >= 50)
    ]


def _judge_rates(
    name: str, estimates: list[tuple[bool, float, float]], most: float, *, with_bias: bool
) -> Iterator[Result]:
    done = len(estimates)
    inside, rates, truths = np.array(estimates, dtype=float).T
    share = float(inside.mean())
    noise = 3 * np.sqrt(0.05 * 0.95 / done)
    wanted = "at least 0.93" if most == 1 else "0.93 to 0.98"
    yield Result(name, "coverage", share, done, wanted, 0.93 - noise <= share <= most + noise)
    if with_bias:
        bias = float(rates.mean() / truths.mean() - 1)
        yield Result(name, "bias", bias, done, "-0.03 to 0.03", abs(bias) <= 0.03)


def _kind(cut: bool, mixed: bool) -> str:
    return f"rings {'cut' if cut else 'whole'}, hazard {'mixed' if mixed else 'equal'}"


def _table(statistic: str, source: Any, options: dict[str, Any]) -> pd.DataFrame:
    if statistic == "mtbf":
        table = stats.mtbf(source, by="job_id", observed_at=observed())
        lower, upper = 1 / table["upper"].astype(float), 1 / table["lower"].astype(float)
        rate = 1 / table["mtbf_hours"].astype(float)
        return table.assign(rate=rate.fillna(0.0), lower=lower.fillna(0.0), upper=upper)
    table = getattr(stats, statistic)(source, by="job_id", **options)
    return table.rename(columns={"rate_per_hour": "rate"})


def size_of_trend(*, cut: bool, growing: bool, count: int, seed: int = 2) -> list[Result]:
    """Return the share of worlds without a trend in which the test of trend is significant at 5 %."""
    rng = np.random.default_rng(seed)
    rejected = done = 0
    for batch in batches(count, 40):
        rows: list[worlds.JSON] = []
        for world in batch:
            rows += worlds.fleet(
                rng,
                40,
                0.25 if cut else 0.06,
                24.0,
                job=f"w{world}",
                first=len(rows),
                ages="growing" if growing else "equal",
            )[0]
        table = stats.mtbf(frames(read(rows)), by="job_id", observed_at=observed())
        p = table["trend_p"].dropna()
        rejected, done = rejected + int((p < 0.05).sum()), done + len(p)
    share = rejected / done
    name = f"trend of mtbf, {'growing' if growing else 'constant'} fleet, rings {'cut' if cut else 'whole'}"
    noise = 3 * np.sqrt(0.05 * 0.95 / done)
    return [Result(name, "size at 5 %", share, done, "0.03 to 0.07", 0.03 - noise <= share <= 0.07 + noise)]


def survival_at_median(*, cut: bool, count: int, seed: int = 3) -> list[Result]:
    """Return the mean of the curve at the true median of run lengths, and the coverage of its interval."""
    rng = np.random.default_rng(seed)
    rate = 0.4 if cut else 0.06
    median = float(np.log(2) / rate)
    values, inside = [], 0
    for batch in batches(count, 50):
        rows: list[worlds.JSON] = []
        for world in batch:
            rows += worlds.fleet(rng, 50, rate, 36.0, job=f"w{world}", first=len(rows))[0]
        curves = stats.survival(frames(read(rows)), by="job_id")
        for _, curve in curves.groupby("job_id"):
            at = curve[curve["time"] <= median].iloc[-1]
            values.append(float(at["survival"]))
            inside += bool(at["lower"] <= 0.5 <= at["upper"])
    name = f"survival, 50 tasks, rings {'cut' if cut else 'whole'}"
    share, mean = inside / len(values), float(np.mean(values))
    noise = 3 * np.sqrt(0.05 * 0.95 / len(values))
    return [
        Result(name, "S at the median", mean, len(values), "0.48 to 0.52", abs(mean - 0.5) <= 0.02),
        Result(name, "coverage", share, len(values), "at least 0.93", share >= 0.93 - noise),
    ]


def survival_after_removal(*, count: int, seed: int = 4) -> list[Result]:
    """Return the curve at the true median where each failure ends its allocation and servers remove it."""
    rng = np.random.default_rng(seed)
    rate, kept = 0.08, 1.0
    median, values = float(np.log(2) / rate), []
    for batch in batches(count, 600):
        rows: list[worlds.JSON] = []
        for world in batch:
            for index in range(300):
                rows += _slot_with_removal(rng, f"w{world}", index, rate, kept, len(rows))
        curves = stats.survival(frames(read(rows)), by="job_id")
        for _, curve in curves.groupby("job_id"):
            values.append(float(curve[curve["time"] <= median]["survival"].iloc[-1]))
    mean = float(np.mean(values))
    return [
        Result(
            "survival, ended allocations removed",
            "S at the median",
            mean,
            len(values),
            "0.45 to 0.55",
            abs(mean - 0.5) <= 0.05,
        )
    ]


def _slot_with_removal(
    rng: np.random.Generator, job: str, index: int, rate: float, kept: float, first: int
) -> list[worlds.JSON]:
    """Return what is left of a slot whose allocations fail for good and are replaced, for three days."""
    rows: list[worlds.JSON] = []
    time, previous, number = -72 * worlds.HOUR, "", 0
    while time < 0:
        length = float(rng.exponential(worlds.HOUR / rate))
        end = time + 1 + length
        ended = end < 0
        life = worlds.Life(time, [(time + 1, min(end, 0.0), "failure" if ended else "running")])
        row = worlds.allocation(first + number, life, job=job, index=index)
        row["ID"] = f"{index:04x}{number:04x}-{job[1:].zfill(4)}-4000-8000-000000000000"
        row["PreviousAllocation"] = previous
        if ended:
            row |= {
                "ClientStatus": "failed",
                "DesiredStatus": "stop",
                "ModifyTime": worlds.NOW + round((end + 1) * worlds.SECOND),
            }
            state = row["TaskStates"]["t"]
            reason = 'Exceeded allowed attempts 0 in interval 30m0s and mode is "fail"'
            state["Events"][-1] = worlds.event(
                "Not Restarting", end + 0.001, restart_reason=reason, fails_task="true"
            )
            state |= {"State": "dead", "Failed": True, "Restarts": 0, "FinishedAt": worlds.iso(end)}
        if not ended or end > -kept * worlds.HOUR:
            rows.append(row)
        previous, number, time = row["ID"], number + 1, end + 5
    return rows


def mean_cumulative_restarts(*, cut: bool, count: int, seed: int = 5) -> list[Result]:
    """Return the bias of the mean number of restarts at half of the age of the fleet, and its coverage."""
    rng = np.random.default_rng(seed)
    rate, hours = (0.25, 24.0) if cut else (0.05, 24.0)
    ratios, inside = [], 0
    for batch in batches(count, 50):
        rows: list[worlds.JSON] = []
        for world in batch:
            rows += worlds.fleet(rng, 50, rate, hours, job=f"w{world}", first=len(rows), ages="growing")[0]
        curves = stats.cumulative_restarts(frames(read(rows)), by="job_id")
        for _, curve in curves.groupby("job_id"):
            at = curve[curve["time"] <= hours / 4].iloc[-1]
            ratios.append(float(at["mean"]) / (rate * hours / 4))
            inside += bool(at["lower"] <= rate * hours / 4 <= at["upper"])
    mean = float(np.mean(ratios))
    name = f"mean cumulative restarts, rings {'cut' if cut else 'whole'}"
    share = inside / len(ratios)
    noise = 3 * np.sqrt(0.05 * 0.95 / len(ratios))
    return [
        Result(name, "mean over truth", mean, len(ratios), "0.95 to 1.05", abs(mean - 1) <= 0.05),
        Result(name, "coverage", share, len(ratios), "at least 0.93", share >= 0.93 - noise),
    ]


def lemons(*, count: int, seed: int = 6) -> list[Result]:
    """Return the family-wise error where no node is bad, and the power at 76 of 78 against 0 of 10."""
    rng = np.random.default_rng(seed)
    false = power = 0
    for _ in range(count):
        rows = []
        for index in range(240):
            # fifteen old nodes and forty-five new ones, with equal hazard
            new = index % 4 != 0
            born = -worlds.HOUR * (2 if new else 48)
            life = worlds.live(rng, born, worlds.exponential(0.02))
            node = f"n{index % 60 if new else index % 15}{'new' if new else 'old'}"
            rows.append(worlds.allocation(index, life, job="w", index=index, node=node))
        false += bool(stats.lemon_nodes(frames(read(rows)))["lemon"].any())
    tries = max(count // 4, 1)
    for _ in range(tries):
        rows = []
        for index in range(88):
            bad = index < 78
            life = worlds.live(rng, -24 * worlds.HOUR, worlds.exponential(0.152 if bad else 0.0))
            rows.append(
                worlds.allocation(index, life, job="w", index=index, node="bad" if bad else f"n{index}")
            )
        nodes = stats.lemon_nodes(frames(read(rows)))
        power += nodes.loc[nodes["lemon"], "node_name"].tolist() == ["bad"]
    error = false / count
    noise = 3 * np.sqrt(0.05 * 0.95 / count)
    return [
        Result(
            "lemon nodes, none bad, 45 of 60 new",
            "family-wise error",
            error,
            count,
            "at most 0.05",
            error <= 0.05 + noise,
        ),
        Result(
            "lemon nodes, 76 of 78 against 0 of 10",
            "power",
            power / tries,
            tries,
            "at least 0.9",
            power / tries >= 0.9,
        ),
    ]


def availability_of_fleets(*, cut: bool, count: int, seed: int = 7) -> list[Result]:
    """Return the largest error with whole rings; with cut ones, how often the bounds hold the truth."""
    rng = np.random.default_rng(seed)
    rate, hours, pause = (2.0, 6.0, 120.0) if cut else (0.1, 6.0, 120.0)
    worst, held, done = 0.0, 0, 0
    for batch in batches(count, 20):
        rows: list[worlds.JSON] = []
        truth = {}
        for world in batch:
            up = total = 0.0
            for index in range(20):
                life = worlds.live(rng, -hours * worlds.HOUR, worlds.exponential(rate), pause=pause)
                rows.append(worlds.allocation(len(rows), life, job=f"w{world}", index=index))
                up, total = up + life.up, total - life.runs[0][0]
            truth[f"w{world}"] = up / total
        table = stats.availability(frames(read(rows)), by="job_id", observed_at=observed()).set_index(
            "job_id"
        )
        for job, share in truth.items():
            row = table.loc[job]
            worst = max(worst, abs(float(row["availability"]) - share))
            held += bool(row["lower"] - 1e-6 <= share <= row["upper"] + 1e-6)
            done += 1
    if cut:
        return [
            Result("availability, rings cut", "bounds hold the truth", held / done, done, "1", held == done)
        ]
    return [
        Result("availability, rings whole", "largest error", worst, done, "at most 0.001", worst <= 0.001)
    ]


Row = Callable[[int], list[Result]]


def all_rows() -> list[Row]:
    """Return the rows; each takes the number of worlds."""
    rates = [
        partial(_rates_row, tasks, cut, mixed)
        for tasks, cut, mixed in product((5, 50, 500), (False, True), (False, True))
    ]
    windows = [partial(_window_row, tasks) for tasks in (5, 50)]
    curves = [
        partial(_curve_row, measure, share, cut)
        for cut in (False, True)
        for measure, share in (
            (survival_at_median, 4),
            (mean_cumulative_restarts, 4),
            (availability_of_fleets, 10),
        )
    ]
    trends = [partial(_trend_row, cut, growing) for cut, growing in product((False, True), (False, True))]
    return [
        *rates,
        *windows,
        *trends,
        *curves,
        lambda count: survival_after_removal(count=max(count // 100, 2)),
        lambda count: lemons(count=max(count // 10, 4)),
    ]


def _rates_row(tasks: int, cut: bool, mixed: bool, count: int) -> list[Result]:
    # large worlds take as long as many small ones
    worlds_of_size = max(count // {5: 1, 50: 2, 500: 20}[tasks], 4)
    return coverage_of_rates(
        "failures", "restarts", "mtbf", tasks=tasks, cut=cut, mixed=mixed, count=worlds_of_size
    )


def _window_row(tasks: int, count: int) -> list[Result]:
    size = max(count // 2, 4)
    return coverage_of_rates("failures", tasks=tasks, cut=True, mixed=False, window=True, count=size)


def _trend_row(cut: bool, growing: bool, count: int) -> list[Result]:
    return size_of_trend(cut=cut, growing=growing, count=max(count // 2, 4))


def _curve_row(measure: Callable[..., list[Result]], share: int, cut: bool, count: int) -> list[Result]:
    return measure(cut=cut, count=max(count // share, 4))
