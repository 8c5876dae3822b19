"""Crash loops: tasks that crash, restart and crash again."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from ._attempts import GAVE_UP, cause_name
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, times_from_us
from .runs import build_runs, find_slots
from .vocabulary import CAUSES, CRASH_CAUSES

_SLOT_TASK = ["slot", "task"]
_RESOLVED_AFTER = 3
"""A loop is resolved once a run has lasted this many times the median pause between its crashes."""


@per_cluster
def crash_loops(
    source: Source,
    *,
    min_restarts: int = 3,
    window: str = "10min",
    min_exhaustions: int = 2,
    exhaustion_window: str = "1h",
    fast_below: str = "10s",
    observed_at: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Find the tasks that crash again and again.

    A crash is an end of a task by itself, or a failed start, after which its restart policy had to decide. A
    task slot (a task of ``job.group[0]``, across replacements) loops if it had `min_restarts` crashes within
    `window`, or if `min_exhaustions` of its allocations gave up within `exhaustion_window`.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    min_restarts : int
        Crashes that make a loop.
    window : str
        Time in which they must come, such as ``"10min"``.
    min_exhaustions : int
        Allocations that used up their restarts that make a loop.
    exhaustion_window : str
        Time in which they must come.
    fast_below : str
        A loop is "fast" if the median run is shorter.
    observed_at : time, optional
        End of observation, default: when the tables were fetched, or the latest time in them.

    Returns
    -------
    pandas.DataFrame
        One row for each looping task slot, the one with most crashes first.

        namespace, job_id, task_group, slot, task, job_version, node_names
            Who loops, with the latest version, and the list of its nodes.
        kind : str
            "fast", "slow", or "delayed" (its policy waits for the next interval).
        resolved : bool
            Its last run goes on, and has lasted three times as long as the median pause between crashes.
        crashes, exhaustions, restarts_lost : int
            Seen in the events; and restarts that the rings have lost (the nodes' count less those seen).
        first_at, last_at : datetime64[ns, UTC]
            First and last crash.
        median_run : timedelta64[ns]
            Missing if it never ran.
        run_cv : float
            Coefficient of variation of the runs: about 0 if the task crashes at the same point each time,
            about 1 if it crashes at random (the value of an exponential distribution).
        cause, exit_code
            The most frequent.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Notes
    -----
    The thresholds mirror those of Kubernetes' alert KubePodCrashLooping; Nomad itself has no such state.

    Examples
    --------
    >>> loops = af.stats.crash_loops(snap)
    >>> set(loops["kind"]) <= {"fast", "slow", "delayed"}
    True
    """
    task_runs = build_runs(source, observed_at)
    crashes = _crashes(source, task_runs, observed_at)
    if crashes.empty:
        return _empty()
    evidence = _loop_evidence(crashes, min_restarts, window, min_exhaustions, exhaustion_window)
    if evidence.empty:
        return _empty()
    looping = pd.MultiIndex.from_frame(evidence[_SLOT_TASK].drop_duplicates())
    crashes = crashes[pd.MultiIndex.from_frame(crashes[_SLOT_TASK]).isin(looping)]
    loops = (
        _summarise(crashes)
        .join(_run_lengths(task_runs), how="left")
        .join(_restarts_lost(source, task_runs), how="left")
    )
    return _classify_loops(loops, task_runs, pd.Timedelta(fast_below))


@per_cluster
def looping_crashes(source: Source) -> pd.DataFrame:
    """Return the crashes at which a slot was in a loop, by the default thresholds: slot, task, at."""
    crashes = _crashes(source, build_runs(source), None)
    if crashes.empty:
        return pd.DataFrame({"slot": [], "task": [], "at": pd.Series(dtype="datetime64[ns, UTC]")})
    return _loop_evidence(crashes, 3, "10min", 2, "1h")[[*_SLOT_TASK, "at"]]


def looping_slots(source: Source, observed_at: pd.Timestamp | str | None = None) -> set[str]:
    """Return the slots and tasks, as "slot/task", that were in a loop by the default thresholds."""
    crashes = _crashes(source, build_runs(source, observed_at), observed_at)
    if crashes.empty:
        return set()
    looping = _loop_evidence(crashes, 3, "10min", 2, "1h").drop_duplicates(_SLOT_TASK)
    return set(looping["slot"] + "/" + looping["task"].astype("str"))


def _loop_evidence(
    crashes: pd.DataFrame, min_restarts: int, window: str, min_exhaustions: int, exhaustion_window: str
) -> pd.DataFrame:
    """Return the crashes that come soon enough after those before them to make a loop."""
    dense = _ends_dense_series(crashes, min_restarts, window)
    gave_up = crashes[crashes["gave_up"]]
    exhausted = _ends_dense_series(gave_up, min_exhaustions, exhaustion_window)
    return pd.concat([crashes[dense], gave_up[exhausted]])


def _ends_dense_series(crashes: pd.DataFrame, count: int, window: str) -> pd.Series[Any]:
    """Return which crashes are the last of `count` crashes of the same task slot within `window`."""
    at = crashes["at"]
    earlier = at.groupby([crashes["slot"], crashes["task"]], sort=False).shift(count - 1)
    return (at - earlier) <= pd.Timedelta(window)


def _crashes(source: Source, task_runs: pd.DataFrame, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return the attempts that ended in a crash, by slot and time."""
    derived = derive(source, observed_at)
    codes = [CAUSES.index(cause) for cause in CRASH_CAUSES]
    # without a decision of the restart policy, the task was done or Nomad ended it
    decided = derived.attempts.filter(nw.col("cause_code").is_in(codes) & (nw.col("_next") > 0))
    names = derived.tasks.select(*dict.fromkeys([*derived.task_columns, "alloc_id", "task", *_DIMENSIONS]))
    rows = collect(
        decided.join(names, on=derived.task_columns, how="left").with_columns(
            cause=cause_name(nw.col("cause_code"))
        )
    )
    rows["slot"] = find_slots(source, rows)
    rows["at"] = times_from_us(rows["last_us"])
    rows["gave_up"] = rows["_next"] == GAVE_UP
    return rows.sort_values([*_SLOT_TASK, "at"], kind="stable").reset_index(drop=True)


_DIMENSIONS = ("namespace", "job_id", "task_group", "job_version", "node_name")


def _most_frequent(crashes: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return the most frequent value of a column for each task slot."""
    counts = crashes.groupby([*_SLOT_TASK, name], sort=True, observed=True).size().rename("n").reset_index()
    first = counts.sort_values("n", ascending=False, kind="stable").drop_duplicates(_SLOT_TASK)
    return first.set_index(_SLOT_TASK)[name]


def _summarise(crashes: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each task slot."""
    pauses = crashes["at"].groupby([crashes["slot"], crashes["task"]], sort=False).diff()
    loops = crashes.assign(pause=pauses).groupby(_SLOT_TASK, sort=False).agg(
        namespace=("namespace", "last"), job_id=("job_id", "last"), task_group=("task_group", "last"),
        job_version=("job_version", "last"), crashes=("at", "size"), exhaustions=("gave_up", "sum"),
        first_at=("at", "min"), last_at=("at", "max"), pause=("pause", "median"), delayed=("delayed", "max"),
    )  # fmt: skip
    nodes = crashes[[*_SLOT_TASK, "node_name"]].astype("str").drop_duplicates().sort_values("node_name")
    loops["node_names"] = nodes.groupby(_SLOT_TASK)["node_name"].agg(list)
    for name in ("cause", "exit_code"):
        loops[name] = _most_frequent(crashes, name)
    return loops


def _run_lengths(task_runs: pd.DataFrame) -> pd.DataFrame:
    """Return median and variation of the crashed runs; the length of a run that is cut is not known."""
    crashed = task_runs[
        ~task_runs["right_censored"] & ~task_runs["left_truncated"] & task_runs["end"].isin(CRASH_CAUSES)
    ]
    seconds = crashed.assign(seconds=crashed["duration"].dt.total_seconds()).groupby(_SLOT_TASK)["seconds"]
    mean = seconds.mean()
    return pd.DataFrame(
        {
            "median_run": pd.to_timedelta(seconds.median(), unit="s"),
            "run_cv": (seconds.std(ddof=1) / mean.where(mean > 0)).astype("Float64"),
        }
    )


def _restarts_lost(source: Source, task_runs: pd.DataFrame) -> pd.Series[Any]:
    """Return how many restarts of each task slot the rings have lost."""
    derived = derive(source)
    if not derived.has_task_states:
        return pd.Series(
            dtype="Int64", name="restarts_lost", index=pd.MultiIndex.from_arrays([[], []], names=_SLOT_TASK)
        )
    tasks = collect(derived.tasks.filter(nw.col("truncated")))
    slot = find_slots(source, tasks)
    lost = (tasks["restarts"].astype("Int64") - tasks["restarts_seen"]).clip(lower=0)
    return (
        lost.groupby([slot.rename("slot"), tasks["task"].astype("str").rename("task")])
        .sum()
        .rename("restarts_lost")
    )


def _classify_loops(loops: pd.DataFrame, task_runs: pd.DataFrame, fast_below: pd.Timedelta) -> pd.DataFrame:
    """Add `kind` and `resolved`."""
    last_run = task_runs.groupby(_SLOT_TASK).tail(1).set_index(_SLOT_TASK)[["end", "duration"]]
    loops = loops.join(last_run.rename(columns={"end": "last_end", "duration": "last_duration"}), how="left")
    never_ran = loops["median_run"].isna()
    loops["kind"] = np.where(
        loops["delayed"] == 1,
        "delayed",
        np.where(never_ran | (loops["median_run"] < fast_below), "fast", "slow"),
    )
    loops["resolved"] = (loops["last_end"] == "running") & (
        loops["last_duration"] > _RESOLVED_AFTER * loops["pause"].fillna(pd.Timedelta(0))
    )
    loops["restarts_lost"] = loops["restarts_lost"].fillna(0).astype("int64")
    loops["exhaustions"] = loops["exhaustions"].astype("int64")
    return (
        loops.reset_index()[_COLUMNS]
        .sort_values("crashes", ascending=False, kind="stable")
        .reset_index(drop=True)
    )


_COLUMNS = [
    "namespace", "job_id", "task_group", "slot", "task", "job_version", "node_names", "kind", "resolved",
    "crashes", "exhaustions", "restarts_lost", "first_at", "last_at", "median_run", "run_cv", "cause",
    "exit_code",
]  # fmt: skip


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in _COLUMNS})
