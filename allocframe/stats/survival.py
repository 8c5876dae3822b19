"""Survival by group, from the tables: how long runs last, restarts by age, and how allocations end."""

from __future__ import annotations

from collections.abc import Iterable

import narwhals as nw
import numpy as np
import pandas as pd

from ._derived import derive
from ._per_cluster import per_cluster
from ._source import (
    Source,
    collect,
    from_us,
    groups,
    hours,
    labels,
    look_up,
    names,
    pandas_table,
    times_from_us,
)
from .estimators import cumulative_incidence, kaplan_meier, mean_cumulative
from .explain import explain_stops
from .runs import build_runs


@per_cluster
def survival(source: Source, by: str | Iterable[str] = "job_version") -> pd.DataFrame:
    """Estimate how long runs last before they fail, by group.

    The event is a failure. Runs that go on, or were stopped, restarted on request or lost with their node,
    are censored. Runs whose start is gone from the ring are left out, and counted.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    by : str or list of str
        Columns of `runs`.

    Returns
    -------
    pandas.DataFrame
        For each group the rows of `kaplan_meier`: the columns of `by`, time (hours), at_risk, events,
        censored, survival, lower, upper (95 %), runs, and left_out. `plots.survival` draws it.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> curves = af.stats.survival(snap, by="job_id")
    >>> bool(curves["survival"].between(0, 1).all())
    True
    """
    keys = names(by)
    curves = []
    for group, part in groups(build_runs(source), keys):
        # length bias: a run whose start is lost is a long one, and only a part of it can be seen
        whole = part[~part["left_truncated"].astype(bool)]
        curve = kaplan_meier(
            hours(whole["duration"]).to_numpy(dtype=float), whole["failure"].to_numpy(dtype=bool)
        )
        curves.append(curve.assign(**labels(keys, group), runs=len(whole), left_out=len(part) - len(whole)))
    return _join_curves(
        curves,
        keys,
        ["time", "at_risk", "events", "censored", "survival", "lower", "upper", "runs", "left_out"],
    )


@per_cluster
def cumulative_restarts(source: Source, by: str | Iterable[str] = "job_version") -> pd.DataFrame:
    """Estimate the mean number of restarts that a task has had by each age, by group.

    Tasks with a truncated ring enter at the first event that is left (late entry), so that restarts which the
    ring has lost do not count as none.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    by : str or list of str
        namespace, job_id, job_version, task_group, task, node_name, and other columns of tasks.

    Returns
    -------
    pandas.DataFrame
        For each group the rows of `mean_cumulative`: the columns of `by`, time (hours since the allocation
        was created), at_risk, events, mean, lower, upper (95 %), and tasks. `plots.cumulative_restarts` draws
        it.

    Raises
    ------
    TypeError
        `source` lacks one of the tables.

    Examples
    --------
    >>> curves = af.stats.cumulative_restarts(snap, by="job_id")
    >>> bool((curves["mean"] >= 0).all())
    True
    """
    keys, derived = names(by), derive(source)
    tasks = collect(derived.tasks)
    tasks["unit"] = _task_name(tasks)
    origin = times_from_us(tasks["first_seen_us"])
    if "created_at" in pandas_table(source, "allocations").columns:
        allocations = pandas_table(source, "allocations").drop_duplicates("alloc_id")
        created = allocations.set_index(allocations["alloc_id"].astype("str"))["created_at"]
        origin = look_up(tasks["alloc_id"], created)
    last_end = build_runs(source).assign(unit=_task_name).groupby("unit")["ended_at"].max()
    tasks["until"] = hours(look_up(tasks["unit"], last_end) - origin)
    entry = hours(times_from_us(tasks["first_seen_us"]) - origin).clip(lower=0)
    tasks["entry"] = np.where(tasks["truncated"].astype(bool), entry, 0.0)
    restarting = collect(
        derived.events.filter(nw.col("type") == "Restarting").select("alloc_id", "task", "time_us")
    )
    restarting["unit"] = _task_name(restarting)
    restarting["age"] = hours(
        times_from_us(restarting["time_us"]) - look_up(restarting["unit"], origin.set_axis(tasks["unit"]))
    )
    curves = []
    for group, part in groups(tasks.dropna(subset=["until"]), keys):
        group_restarts = restarting[restarting["unit"].isin(part["unit"])]
        until = dict(zip(part["unit"], part["until"].clip(lower=0), strict=True))
        entries = dict(zip(part["unit"], part["entry"], strict=True))
        ages = group_restarts["age"].clip(lower=0)  # clocks of nodes and servers differ
        curve = mean_cumulative(group_restarts["unit"], ages, until, since=entries)
        curves.append(curve.assign(**labels(keys, group), tasks=len(part)))
    return _join_curves(curves, keys, ["time", "at_risk", "events", "mean", "lower", "upper", "tasks"])


def _task_name(rows: pd.DataFrame) -> pd.Series[str]:
    return rows["alloc_id"].astype("str") + "/" + rows["task"].astype("str")


@per_cluster
def end_causes(source: Source, by: str | Iterable[str] = "job_type") -> pd.DataFrame:
    """Estimate the share of allocations that has ended in each way by each age. The ways compete.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    by : str or list of str
        Columns of `allocations`.

    Returns
    -------
    pandas.DataFrame
        One row for each group, time and kind of end: the columns of `by`, time (hours since creation),
        at_risk, kind ("failed", "completed", "lost", or the reason of the stop, see `explain_stops`) and
        share (Aalen and Johansen's estimate, 0 to 1). Servers remove ended allocations after about an hour:
        earlier ends are missing.

    Raises
    ------
    TypeError
        `source` holds no `allocations`.

    Examples
    --------
    >>> set(af.stats.end_causes(snap)["kind"]) >= {"failed", "lost"}
    True
    """
    keys = names(by)
    allocations = explain_stops(source)
    status = allocations["client_status"].astype("str")
    kind = status.map({"failed": "failed", "lost": "lost", "complete": "completed"}).astype("str")
    kind = kind.mask((status == "complete") & allocations["stop_reason"].notna(), allocations["stop_reason"])
    observed = from_us(derive(source).observed_us)
    until = allocations["modified_at"].where(kind.notna(), observed)
    age = hours(until - allocations["created_at"]).clip(lower=0)
    table = allocations[keys].assign(kind=kind, age=age).dropna(subset=["age"])
    curves = []
    for group, part in groups(table, keys):
        wide = cumulative_incidence(part["age"].to_numpy(dtype=float), part["kind"])
        long = wide.melt(id_vars=["time", "at_risk"], var_name="kind", value_name="share")
        curves.append(long.assign(**labels(keys, group)))
    return _join_curves(curves, keys, ["time", "at_risk", "kind", "share"])


def _join_curves(curves: list[pd.DataFrame], keys: list[str], columns: list[str]) -> pd.DataFrame:
    if not curves:
        return pd.DataFrame(columns=[*keys, *columns])
    return pd.concat(curves, ignore_index=True)[[*keys, *columns]]
