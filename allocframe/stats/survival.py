"""Lifetimes by group, from the tables: survival of runs, restarts by age, and how allocations end."""

from __future__ import annotations

from collections.abc import Iterable

import narwhals as nw
import numpy as np
import pandas as pd

from ._derived import facts
from ._per_cluster import apart
from ._source import Source, collected, groups, hours, labels, looked_up, moments, names, pandas_table
from .estimators import cumulative_incidence, kaplan_meier, mean_cumulative
from .explain import explain_stops
from .runs import runs


@apart
def survival(source: Source, by: str | Iterable[str] = "job_version") -> pd.DataFrame:
    """Estimate how long runs last before they fail, by group.

    The event is a failure; runs that go on, or were stopped, restarted on request or lost with their node, are censored.
    Runs whose start is gone from the ring are left out, and counted.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, then those of `kaplan_meier` with time in hours, and runs and left_out. `plots.survival` draws it.

    Examples
    --------
    >>> curves = af.stats.survival(snap, by="job_id")
    >>> bool(curves["survival"].between(0, 1).all())
    True
    """
    keys, ran = names(by), runs(source)
    parts = []
    for group, part in groups(ran, keys):
        whole = part[~part["left_truncated"].astype(bool)]
        table = kaplan_meier(
            hours(whole["duration"]).to_numpy(dtype=float), whole["failure"].to_numpy(dtype=bool)
        )
        parts.append(table.assign(**labels(keys, group), runs=len(whole), left_out=len(part) - len(whole)))
    return _gathered(
        parts,
        keys,
        ["time", "at_risk", "events", "censored", "survival", "lower", "upper", "runs", "left_out"],
    )


@apart
def cumulative_restarts(source: Source, by: str | Iterable[str] = "job_version") -> pd.DataFrame:
    """Estimate the mean number of restarts that a task has had by each age, by group.

    Tasks with a truncated ring are observed from the first event that is left (late entry), so that forgotten restarts
    do not count as none.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, then those of `mean_cumulative` with time in hours since the allocation was created, and tasks.
        `plots.cumulative_restarts` draws it.

    Examples
    --------
    >>> curves = af.stats.cumulative_restarts(snap, by="job_id")
    >>> bool((curves["mean"] >= 0).all())
    True
    """
    keys, known = names(by), facts(source)
    tasks = collected(known.tasks)
    tasks["unit"] = tasks["alloc_id"].astype("str") + "/" + tasks["task"].astype("str")
    origin = moments(tasks["first_seen_us"])
    if "created_at" in pandas_table(source, "allocations").columns:
        allocations = pandas_table(source, "allocations").drop_duplicates("alloc_id")
        created = allocations.set_index(allocations["alloc_id"].astype("str"))["created_at"]
        origin = looked_up(tasks["alloc_id"], created)
    ended = runs(source).assign(
        unit=lambda ran: ran["alloc_id"].astype("str") + "/" + ran["task"].astype("str")
    )
    tasks["until"] = hours(looked_up(tasks["unit"], ended.groupby("unit")["ended_at"].max()) - origin)
    entry = hours(moments(tasks["first_seen_us"]) - origin).clip(lower=0)
    tasks["entry"] = np.where(tasks["truncated"].astype(bool), entry, 0.0)
    restarting = collected(
        known.events.filter(nw.col("type") == "Restarting").select("alloc_id", "task", "time_us")
    )
    restarting["unit"] = restarting["alloc_id"].astype("str") + "/" + restarting["task"].astype("str")
    restarting["age"] = hours(
        moments(restarting["time_us"]) - looked_up(restarting["unit"], origin.set_axis(tasks["unit"]))
    )
    parts = []
    for group, part in groups(tasks.dropna(subset=["until"]), keys):
        mine = restarting[restarting["unit"].isin(part["unit"])]
        until = dict(zip(part["unit"], part["until"].clip(lower=0), strict=True))
        entries = dict(zip(part["unit"], part["entry"], strict=True))
        table = mean_cumulative(mine["unit"], mine["age"].clip(lower=0), until, since=entries)
        parts.append(table.assign(**labels(keys, group), tasks=len(part)))
    return _gathered(parts, keys, ["time", "at_risk", "events", "mean", "lower", "upper", "tasks"])


@apart
def end_causes(source: Source, by: str | Iterable[str] = "job_type") -> pd.DataFrame:
    """Estimate the share of allocations that has ended in each way by each age: the ways compete.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, time in hours since creation, at_risk, kind ("failed", "completed", "lost", or the reason of the
        stop) and share (Aalen and Johansen). Servers remove ended allocations after an hour: ends long ago are missing.

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
    observed = pd.Timestamp(facts(source).given.observed_us, unit="us", tz="UTC")
    until = allocations["modified_at"].where(kind.notna(), observed)
    age = hours(until - allocations["created_at"]).clip(lower=0)
    table = allocations[keys].assign(kind=kind, age=age).dropna(subset=["age"])
    parts = []
    for group, part in groups(table, keys):
        curves = cumulative_incidence(part["age"].to_numpy(dtype=float), part["kind"])
        long = curves.melt(id_vars=["time", "at_risk"], var_name="kind", value_name="share")
        parts.append(long.assign(**labels(keys, group)))
    return _gathered(parts, keys, ["time", "at_risk", "kind", "share"])


def _gathered(parts: list[pd.DataFrame], keys: list[str], columns: list[str]) -> pd.DataFrame:
    if not parts:
        return pd.DataFrame(columns=[*keys, *columns])
    return pd.concat(parts, ignore_index=True)[[*keys, *columns]]
