"""Crash loops: tasks that crash, restart and crash again."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from ._attempts import labelled
from ._derived import facts
from ._per_cluster import apart
from ._source import Source, collected, looked_up, moments
from .runs import runs, slot_of, slots_of
from .vocabulary import CAUSES

_TASK = ["slot", "task"]
_SOLVED_AFTER = 3


@apart
def crash_loops(
    source: Source,
    *,
    min_restarts: int = 3,
    within: str = "10min",
    min_exhaustions: int = 2,
    exhausted_within: str = "1h",
    fast_below: str = "10s",
    observed_at: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Find the tasks that crash again and again.

    A crash is an end of the task by itself after which its restart policy had to decide. A task slot (a task of
    ``job.group[0]``, across replacements) loops if it had `min_restarts` crashes within `within`, or gave up
    `min_exhaustions` times within `exhausted_within`.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    min_restarts, within : int and str
        So many crashes in so long.
    min_exhaustions, exhausted_within : int and str
        So many allocations of the slot failed for good in so long.
    fast_below : str
        Runs shorter than this, by the median, make a loop "fast".

    Returns
    -------
    pandas.DataFrame
        One row for each looping task slot, the one with most crashes first.

        namespace, job_id, task_group, slot, task, job_version, node_names
            Who loops, in which version last, and on which nodes.
        kind : str
            "fast", "slow", or "delayed" (its policy waits out an interval).
        resolved : bool
            Its last run goes on, and has lasted longer than three times the median pause between crashes.
        crashes, exhaustions, restarts_lost : int
            Seen in the events; and restarts that the rings have lost (`restarts` counted by nodes, less those seen).
        first_at, last_at, median_run, run_cv
            When; and the median and coefficient of variation of the runs: about 0 for a crash at the same point each time,
            about 1 at random.
        cause, exit_code
            The most frequent.

    Examples
    --------
    >>> loops = af.stats.crash_loops(snap)
    >>> set(loops["kind"]) <= {"fast", "slow", "delayed"}
    True
    """
    ran = runs(source, observed_at=observed_at)
    crashes = _crashes(source, ran, observed_at)
    if crashes.empty:
        return _empty()
    tell = _telling(crashes, min_restarts, within, min_exhaustions, exhausted_within)
    if tell.empty:
        return _empty()
    loops = pd.MultiIndex.from_frame(tell[_TASK].drop_duplicates())
    crashes = crashes[pd.MultiIndex.from_frame(crashes[_TASK]).isin(loops)]
    found = _summary(crashes).join(_lengths(ran), how="left").join(_lost(source, ran), how="left")
    return _classed(found, ran, crashes, pd.Timedelta(fast_below))


@apart
def looping(source: Source) -> pd.DataFrame:
    """Return the crashes with which a loop is one, by the same rules: slot, task, at."""
    crashes = _crashes(source, runs(source), None)
    if crashes.empty:
        return pd.DataFrame({"slot": [], "task": [], "at": pd.Series(dtype="datetime64[ns, UTC]")})
    return _telling(crashes, 3, "10min", 2, "1h")[[*_TASK, "at"]]


def _telling(
    crashes: pd.DataFrame, min_restarts: int, within: str, min_exhaustions: int, exhausted_within: str
) -> pd.DataFrame:
    """Return the crashes that come soon enough after those before them to make a loop."""
    dense = _dense(crashes["at"], [crashes["slot"], crashes["task"]], min_restarts, within)
    given_up = crashes[crashes["gave_up"]]
    spent = _dense(given_up["at"], [given_up["slot"], given_up["task"]], min_exhaustions, exhausted_within)
    return pd.concat([crashes[dense], given_up[spent]])


def _crashes(source: Source, ran: pd.DataFrame, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return the attempts that failed by themselves and were decided on, in the order of slots and times."""
    known = facts(source, observed_at)
    wanted = [CAUSES.index(c) for c in _CRASHES]
    decided = known.attempts.filter(nw.col("cause_code").is_in(wanted) & (nw.col("_next") > 0))
    named = known.tasks.select(*dict.fromkeys([*known.given.task, "alloc_id", "task", *_NAMED]))
    rows = collected(
        decided.join(named, on=known.given.task, how="left").with_columns(
            cause=labelled(nw.col("cause_code"))
        )
    )
    rows["slot"] = slots_of(rows, ran)
    rows["at"] = moments(rows["last_us"])
    rows["gave_up"] = rows["_next"] == 2
    return rows.sort_values([*_TASK, "at"], kind="stable").reset_index(drop=True)


_CRASHES = (
    "failure", "out of memory", "health check", "artifact", "setup", "driver", "validation", "hook", "completed",
)  # fmt: skip
_NAMED = ("namespace", "job_id", "task_group", "job_version", "node_name")


def _dense(at: pd.Series[Any], keys: list[pd.Series[Any]], count: int, within: str) -> pd.Series[Any]:
    """Return which events are the last of `count` of the same key in a time of `within`."""
    earlier = at.groupby(keys, sort=False).shift(count - 1)
    return (at - earlier) <= pd.Timedelta(within)


def _most(crashes: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return the most frequent value of a column for each task slot."""
    counts = crashes.groupby([*_TASK, name], sort=True, observed=True).size().rename("n").reset_index()
    most = counts.sort_values("n", ascending=False, kind="stable").drop_duplicates(_TASK)
    return most.set_index(_TASK)[name]


def _summary(crashes: pd.DataFrame) -> pd.DataFrame:
    pauses = crashes["at"].groupby([crashes["slot"], crashes["task"]], sort=False).diff()
    found = crashes.assign(pause=pauses).groupby(_TASK, sort=False).agg(
        namespace=("namespace", "last"), job_id=("job_id", "last"), task_group=("task_group", "last"),
        job_version=("job_version", "last"), crashes=("at", "size"), exhaustions=("gave_up", "sum"),
        first_at=("at", "min"), last_at=("at", "max"), pause=("pause", "median"), delayed=("delayed", "max"),
    )  # fmt: skip
    nodes = crashes[[*_TASK, "node_name"]].astype("str").drop_duplicates().sort_values("node_name")
    found["node_names"] = nodes.groupby(_TASK)["node_name"].agg(list)
    for name in ("cause", "exit_code"):
        found[name] = _most(crashes, name)
    return found


def _lengths(ran: pd.DataFrame) -> pd.DataFrame:
    """Return the median and variation of the runs that failed."""
    failed = ran[~ran["right_censored"] & ~ran["left_truncated"] & ran["end"].isin(_CRASHES)]
    seconds = failed.assign(seconds=failed["duration"].dt.total_seconds()).groupby(_TASK)["seconds"]
    mean = seconds.mean()
    return pd.DataFrame(
        {
            "median_run": pd.to_timedelta(seconds.median(), unit="s"),
            "run_cv": (seconds.std(ddof=1) / mean.where(mean > 0)).astype("Float64"),
        }
    )


def _lost(source: Source, ran: pd.DataFrame) -> pd.Series[Any]:
    """Return how many restarts of each slot the rings have lost."""
    known = facts(source)
    if known.given.task_states is None:
        return pd.Series(
            dtype="Int64", name="restarts_lost", index=pd.MultiIndex.from_arrays([[], []], names=_TASK)
        )
    rows = collected(known.tasks.filter(nw.col("truncated")))
    slot = looked_up(rows["alloc_id"], slot_of(ran))
    lost = (rows["restarts"].astype("Int64") - rows["restarts_seen"]).clip(lower=0)
    return (
        lost.groupby([slot.rename("slot"), rows["task"].astype("str").rename("task")])
        .sum()
        .rename("restarts_lost")
    )


def _classed(
    found: pd.DataFrame, ran: pd.DataFrame, crashes: pd.DataFrame, fast: pd.Timedelta
) -> pd.DataFrame:
    last = (
        ran.groupby(_TASK)
        .tail(1)
        .set_index(_TASK)[["end", "duration"]]
        .rename(columns={"end": "state", "duration": "lasted"})
    )
    found = found.join(last, how="left")
    never_ran = found["median_run"].isna()
    found["kind"] = np.where(
        found["delayed"] == 1, "delayed", np.where(never_ran | (found["median_run"] < fast), "fast", "slow")
    )
    found["resolved"] = (found["state"] == "running") & (
        found["lasted"] > _SOLVED_AFTER * found["pause"].fillna(pd.Timedelta(0))
    )
    found["restarts_lost"] = found["restarts_lost"].fillna(0).astype("int64")
    found["exhaustions"] = found["exhaustions"].astype("int64")
    return (
        found.reset_index()[_COLUMNS]
        .sort_values("crashes", ascending=False, kind="stable")
        .reset_index(drop=True)
    )


_COLUMNS = [
    "namespace", "job_id", "task_group", "slot", "task", "job_version", "node_names", "kind", "resolved", "crashes", "exhaustions",
    "restarts_lost", "first_at", "last_at", "median_run", "run_cv", "cause", "exit_code",
]  # fmt: skip


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in _COLUMNS})
