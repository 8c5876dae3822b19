"""Outages and availability of what should have run, error budgets, and times to recover."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, group_rows, groups, names, times_from_us, us
from ._timeline import find_tasks, instance_tasks, segments, union_length
from .estimators import survival_columns
from .runs import build_runs
from .vocabulary import LOST

_US_PER_HOUR = 3_600_000_000
_OUTAGE = ["namespace", "job_id", "job_version", "task_group", "slot", "task", "alloc_id", "node_name"]
_NAMES = ("alloc_id", "task", "slot")
"""Columns that are categories inside, and texts in results."""

_FAILED_START = "failed start"


def _timeline(
    source: Source,
    observed_at: pd.Timestamp | str | None,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    tasks = instance_tasks(source, observed_at)
    window = [None if time is None else float(us(time)) for time in (since, until)]
    return tasks, segments(tasks, build_runs(source, observed_at), *window)


@per_cluster
def outages(source: Source, *, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return the times in which a task that should have run did not.

    A service task should run from its start until its servers or users stop it; after a failure or a loss,
    until it is replaced. A batch task should run until it completes or fails for good. A task that never
    started is out from its placement on. Prestart, poststart and poststop tasks that completed leave no
    outage, and neither does the time to a first start in which nothing failed.

    Parameters
    ----------
    source, observed_at
        As in `runs`.

    Returns
    -------
    pandas.DataFrame
        One row for each outage: namespace, job_id, job_version, task_group, slot, task, alloc_id, node_name
        (of the allocation that should have run), began_at, ended_at (datetime64[ns, UTC]), duration
        (timedelta64[ns]), cause (the end of the run before it, or "failed start"), failure (bool: after a
        failure, a loss or a failed start; not after an end on request), and open (bool: no later start was
        seen, and the outage lasts at least this long). Times whose events are lost are not outages.

    Examples
    --------
    >>> bool((af.stats.outages(snap)["duration"] > "0s").all())
    True
    """
    tasks, parts = _timeline(source, observed_at)
    down = parts[~parts["up"] & ~parts["unknown"]]
    # parts that follow each other are one outage; it belongs to the allocation that should have run first
    new = (down["lane"] != down["lane"].shift(1)) | (down["begin"] != down["end"].shift(1))
    outage = down.groupby(new.cumsum(), sort=False).agg(
        lane=("lane", "first"), owner=("owner", "first"), begin=("begin", "first"), end=("end", "last")
    )
    observed = derive(source, observed_at).observed_us
    table = tasks[_OUTAGE].take(outage["owner"].to_numpy()).reset_index(drop=True)
    table = table.astype(dict.fromkeys(_NAMES, "str"))
    table["began_at"], table["ended_at"] = (
        times_from_us(outage[name].reset_index(drop=True)) for name in ("begin", "end")
    )
    table["duration"] = table["ended_at"] - table["began_at"]
    ends = _ends_before(table, outage["lane"].to_numpy(), tasks, build_runs(source, observed_at))
    table["cause"] = ends["end"].astype("str").fillna(_FAILED_START)
    table["failure"] = ends["failure"].fillna(value=True).astype(bool) | (table["cause"] == LOST)
    table["open"] = outage["end"].to_numpy() >= observed
    return table.sort_values(["slot", "task", "began_at"], kind="stable", ignore_index=True)


def _ends_before(table: pd.DataFrame, lane: Any, tasks: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the end and failure of the last run in the lane that ended before each outage began."""
    task = find_tasks(runs, tasks)
    ran = runs.loc[task >= 0, ["ended_at", "end", "failure"]]
    ran = ran.assign(lane=tasks["lane"].to_numpy()[task[task >= 0]]).sort_values("ended_at", kind="stable")
    wanted = pd.DataFrame({"lane": lane, "began_at": table["began_at"], "row": np.arange(len(table))})
    joined = pd.merge_asof(
        wanted.sort_values("began_at", kind="stable"), ran[["lane", "ended_at", "end", "failure"]],
        left_on="began_at", right_on="ended_at", by="lane",
    )  # fmt: skip
    return joined.sort_values("row", ignore_index=True)


@per_cluster
def availability(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    observed_at: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Return the share of time that tasks were up, of the time that they should have been.

    Parameters
    ----------
    source, observed_at
        As in `runs`.
    by : str or list of str
        namespace, job_id, job_version, task_group, slot, task, alloc_id or node_name.
    since, until : time, optional
        The window; else all that the tables tell. A time without an offset is UTC.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the least available first: the columns of `by`, and

        availability : float
            Up over up and down, 0 to 1; missing without any time.
        lower, upper : float
            Bounds of it, not an interval of confidence: as if every time whose events the rings have lost had
            been an outage, and as if none had. They are equal if nothing is lost.
        full_share : float
            Share of the known time in which every task of the group that should have run was up.
        up_hours, down_hours, unknown_hours : float
            Hours of tasks.
        outages, longest_outage, slots
            Number, the longest (timedelta64[ns]), and the instances.
        truncated_share : float
            Share of the tasks whose rings have lost events.

    References
    ----------
    Beyer et al., Site Reliability Engineering, 2016, chapter 3 (time-based availability).

    Examples
    --------
    >>> table = af.stats.availability(snap, by="job_id")
    >>> bool(table["availability"].dropna().between(0, 1).all())
    True
    """
    keys = names(by)
    tasks, parts = _timeline(source, observed_at, since, until)
    tasks = tasks.assign(group=group_rows(tasks, keys).ngroup())
    count = int(tasks["group"].max()) + 1 if len(tasks) else 0
    table = tasks.drop_duplicates("group").sort_values("group")[keys].reset_index(drop=True)
    table = table.astype({name: "str" for name in _NAMES if name in keys})
    group = tasks["group"].to_numpy()[parts["owner"].to_numpy()] if len(parts) else np.zeros(0, dtype="int64")
    length = (parts["end"] - parts["begin"]).to_numpy() / _US_PER_HOUR
    up, unknown = parts["up"].to_numpy(), parts["unknown"].to_numpy()
    down = ~up & ~unknown
    sums = [np.bincount(group[rows], weights=length[rows], minlength=count) for rows in (up, down, unknown)]
    for name, hours in zip(("up_hours", "down_hours", "unknown_hours"), sums, strict=True):
        table[name] = hours
    begin, end = parts["begin"].to_numpy(), parts["end"].to_numpy()
    some_down, wanted = (
        union_length(group[rows], begin[rows], end[rows], count) for rows in (down, up | down)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = {
            "availability": table["up_hours"] / (table["up_hours"] + table["down_hours"]),
            "lower": table["up_hours"] / (table["up_hours"] + table["down_hours"] + table["unknown_hours"]),
            "upper": 1
            - table["down_hours"] / (table[["up_hours", "down_hours", "unknown_hours"]].sum(axis=1)),
            "full_share": 1 - some_down / wanted,
        }
    for name, values in shares.items():
        table[name] = pd.array(np.asarray(values, dtype=float), dtype="Float64")
    return _add_outages(table, tasks, parts[down], group[down], keys)


def _add_outages(
    table: pd.DataFrame, tasks: pd.DataFrame, down: pd.DataFrame, group: Any, keys: list[str]
) -> pd.DataFrame:
    """Add number and length of outages, and of what they are."""
    new = ((down["lane"] != down["lane"].shift(1)) | (down["begin"] != down["end"].shift(1))).to_numpy()
    number = np.cumsum(new)
    outage = pd.DataFrame({"number": number, "group": group, "us": (down["end"] - down["begin"]).to_numpy()})
    each = outage.groupby("number").agg(group=("group", "first"), us=("us", "sum")).groupby("group")["us"]
    table["outages"] = each.size().reindex(table.index).fillna(0).astype("int64")
    table["longest_outage"] = pd.to_timedelta(each.max().reindex(table.index), unit="us").astype(
        "timedelta64[ns]"
    )
    of_group = tasks.groupby("group")
    table["slots"] = of_group["slot"].nunique()
    table["truncated_share"] = (
        tasks["truncated"].fillna(value=False).astype(float).groupby(tasks["group"]).mean()
    )
    order = [
        *keys, "availability", "lower", "upper", "full_share", "up_hours", "down_hours", "unknown_hours",
        "outages", "longest_outage", "slots", "truncated_share",
    ]  # fmt: skip
    return table[order].sort_values("availability", kind="stable").reset_index(drop=True)


@per_cluster
def error_budget(
    source: Source,
    target: float | str = 0.999,
    by: str | Iterable[str] = "job_id",
    *,
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
    observed_at: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Compare the downtime of jobs with what an availability target allows.

    Parameters
    ----------
    source, by, since, until, observed_at
        As in `availability`.
    target : float or str
        The share of time that tasks should be up: a number between 0 and 1, or a text such as ``"99.9%"``.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one that has used most first: the columns of `by`, target, availability,
        lower, upper (bounds, as in `availability`), wanted_hours, budget_hours (downtime that the target
        allows in this time), down_hours, used (down over budget; above 1 the budget is spent), used_most (if
        all that the rings have lost were downtime), and left_hours. `used` is also the burn rate over the
        window: at 1 the budget lasts exactly as long as the window.

    Raises
    ------
    ValueError
        `target` is not between 0 and 1.

    References
    ----------
    Beyer et al., The Site Reliability Workbook, 2018, chapter 5.

    Examples
    --------
    >>> budget = af.stats.error_budget(snap, target="99.9%", by="job_id")
    >>> bool((budget["used"] == budget["used"].max()).iloc[0])
    True
    """
    share = parse_target(target)
    keys = names(by)
    table = availability(source, keys, since=since, until=until, observed_at=observed_at)
    wanted = table["up_hours"] + table["down_hours"]
    table = table.assign(target=share, wanted_hours=wanted, budget_hours=wanted * (1 - share))
    budget = table["budget_hours"].where(table["budget_hours"] > 0).astype("Float64")
    table["used"] = table["down_hours"] / budget
    most = table["down_hours"] + table["unknown_hours"]
    whole = ((wanted + table["unknown_hours"]) * (1 - share)).astype("Float64")
    table["used_most"] = most / whole.where(whole > 0)
    table["left_hours"] = table["budget_hours"] - table["down_hours"]
    order = [
        *keys, "target", "availability", "lower", "upper", "wanted_hours", "budget_hours", "down_hours",
        "used", "used_most", "left_hours",
    ]  # fmt: skip
    return table[order].sort_values("used", ascending=False, kind="stable", ignore_index=True)


def parse_target(target: float | str) -> float:
    """Return an availability target as a share of 1."""
    problem = f"target must be a number between 0 and 1, or a text such as '99.9%', got {target!r}"
    try:
        text = target.strip() if isinstance(target, str) else None
        share = float(text[:-1]) / 100 if text is not None and text.endswith("%") else float(target)
    except (TypeError, ValueError):
        raise ValueError(problem) from None
    if isinstance(target, bool) or not 0 < share < 1:
        raise ValueError(problem)
    return share


@per_cluster
def time_to_recover(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    after: str = "failure",
    observed_at: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Return how long tasks took to run again: median, 90th percentile and longest.

    The mean is left out: times to recover are so skewed that it says little. What has not recovered is
    censored: it takes at least as long as it has lasted. A quantile that is not reached is missing.

    Parameters
    ----------
    source, observed_at
        As in `runs`.
    by : str or list of str
        Columns of `outages`, such as ``"job_id"`` or ``"cause"``.
    after : str
        "failure": after failures, losses and failed starts. "request": after stops and restarts on request.

    Returns
    -------
    pandas.DataFrame
        One row for each group: the columns of `by`, recoveries, unrecovered; median, median_lower,
        median_upper (95 %) and p90, by Kaplan and Meier; and longest (of those that recovered). The times are
        timedelta64[ns].

    Raises
    ------
    ValueError
        `after` is neither "failure" nor "request".

    References
    ----------
    Davidovič, Incident Metrics in SRE, 2021; Brookmeyer and Crowley, Biometrics 38, 1982 (interval of the
    median).

    Examples
    --------
    >>> table = af.stats.time_to_recover(snap, by="job_id")
    >>> bool((table["longest"].dropna() > "0s").all())
    True
    """
    if after not in ("failure", "request"):
        raise ValueError(f"after must be 'failure' or 'request', got {after!r}")
    keys = names(by)
    gaps = outages(source, observed_at=observed_at)
    gaps = gaps[gaps["failure"] == (after == "failure")]
    rows = []
    for group, part in groups(gaps, keys):
        seconds = part["duration"].dt.total_seconds()
        recovered = ~part["open"]
        quantiles = censored_quantiles(seconds.to_numpy(), recovered.to_numpy())
        longest = seconds[recovered].max()
        rows.append([*group, int(recovered.sum()), int((~recovered).sum()), *quantiles, longest])
    times = ["median", "median_lower", "median_upper", "p90", "longest"]
    table = pd.DataFrame(rows, columns=[*keys, "recoveries", "unrecovered", *times])
    for name in times:
        table[name] = pd.to_timedelta(table[name].astype("float64"), unit="s").astype("timedelta64[ns]")
    return table.sort_values("unrecovered", ascending=False, kind="stable").reset_index(drop=True)


def censored_quantiles(seconds: Any, ended: Any) -> tuple[float, float, float, float]:
    """Return the median, its 95 % interval and the 90th percentile of censored times; NaN if not reached."""
    curve = survival_columns(seconds, ended)

    def reached(survival: Any, level: float) -> float:
        below = np.flatnonzero(survival <= level + 1e-12)
        return float(curve["time"][below[0]]) if len(below) else float("nan")

    return (
        reached(curve["survival"], 0.5),
        reached(np.nan_to_num(curve["lower"]), 0.5),
        reached(np.nan_to_num(curve["upper"]), 0.5),
        reached(curve["survival"], 0.1),
    )
