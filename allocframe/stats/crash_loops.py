"""Crash loops: tasks that crash, restart and crash again."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from .._utils.memory import release_memory
from ._attempts import GAVE_UP
from ._derived import PART_ROWS, derive
from ._per_cluster import per_cluster
from ._source import (
    TASK,
    Source,
    are_among,
    collect,
    column_names,
    rank_texts,
    take_rows,
    times_from_us,
)
from .runs import build_runs, categorise_slots
from .vocabulary import CAUSES, CRASH_CAUSES, STOPPING_STATUSES

_SLOT_TASK = ["slot", "task"]
_OF_RUNS = [*_SLOT_TASK, "left_truncated", "right_censored", "duration", "end"]
_CALM = pd.Timedelta("1h")
"""Crashes that are further apart belong to different loops."""

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
    task slot (a task of an instance, across replacements) loops in a job version if it had `min_restarts`
    crashes within `window`, or if `min_exhaustions` of its allocations gave up within `exhaustion_window`. If
    the event history is truncated, the nodes' counter is evidence, too: a cycle of four events or more never
    shows three crashes in ten events, but the pause between those that it shows and the restarts that it has
    lost do.

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
            Who loops, in which version, and the list of its nodes.
        kind : str
            "fast", "slow", or "delayed" (its policy waits for the next interval).
        state : str
            "ongoing"; "gave up" (no restart and no replacement is left); "recovered" (its last run still runs
            and has lasted three times as long as the median pause between crashes, or a batch task
            completed); "stopped" (its allocation is no longer desired, or a newer version took its place).
        resolved : bool
            The state is not "ongoing".
        crashes, exhaustions, restarts_lost : int
            Seen in the events of this loop; and restarts that the rings have lost (the nodes' count less
            those seen).
        first_at, last_at : datetime64[ns, UTC]
            First and last crash of the loop: the crashes that follow each other without an hour of calm.
        began_before : bool
            Older events are lost: it began at `first_at` or earlier.
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
    crashes = _crashes(source, observed_at)
    if crashes.empty:
        return _empty()
    limits = (min_restarts, window, min_exhaustions, exhaustion_window)
    evidence = _loop_evidence(crashes, *limits).index
    if evidence.empty:
        return _empty()
    many = len(crashes) > PART_ROWS
    # the last run of crashes without a long calm between; what came before it is another story
    at = crashes["at"]
    calm = at.groupby(crashes["loop"]).diff() > _CALM
    crashes["series"] = calm.groupby(crashes["loop"]).cumsum()
    looping = crashes.loc[evidence, ["loop", "series"]].groupby("loop")["series"].max()
    last = looping.reindex(crashes["loop"]).to_numpy()
    crashes = crashes[crashes.pop("series").to_numpy() == last]
    del evidence, at, calm, last
    if many:
        release_memory()  # or what follows would come on top
    loops = _summarise(crashes)
    del crashes
    if many:
        release_memory()
    # what follows groups by names, so it looks at the slots that loop alone
    task_runs = build_runs(source, observed_at)
    task_runs = task_runs.loc[are_among(task_runs["slot"], loops["slot"]), _OF_RUNS]
    for name in _SLOT_TASK:
        if isinstance(task_runs[name].dtype, pd.CategoricalDtype):
            task_runs[name] = task_runs[name].cat.remove_unused_categories()
    loops = loops.join(_run_lengths(task_runs), on=_SLOT_TASK, how="left")
    loops = loops.join(_restarts_lost(source, loops["slot"]), on=_SLOT_TASK, how="left")
    newest = _last_tasks(source, observed_at, loops["slot"])
    return _classify_loops(loops, task_runs, newest, pd.Timedelta(fast_below))


@per_cluster
def looping_crashes(source: Source) -> pd.DataFrame:
    """Return the crashes at which a slot was in a loop, by the default thresholds: slot, task, at."""
    crashes = _crashes(source, None)
    if crashes.empty:
        return pd.DataFrame({"slot": [], "task": [], "at": pd.Series(dtype="datetime64[ns, UTC]")})
    return _with_texts(_loop_evidence(crashes, 3, "10min", 2, "1h"))[[*_SLOT_TASK, "at"]]


def looping_slots(source: Source, observed_at: pd.Timestamp | str | None = None) -> set[str]:
    """Return the slots and tasks, as "slot/task", that were in a loop by the default thresholds."""
    crashes = _crashes(source, observed_at)
    if crashes.empty:
        return set()
    looping = _with_texts(_loop_evidence(crashes, 3, "10min", 2, "1h").drop_duplicates(_SLOT_TASK))
    return set(looping["slot"] + "/" + looping["task"])


def _with_texts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return few of many rows with texts in the place of categories, by which pandas would group for all."""
    texts = (*_SLOT_TASK, "node_name", "cause", "end")
    return rows.astype({name: "str" for name in texts if name in rows})


def _loop_evidence(
    crashes: pd.DataFrame, min_restarts: int, window: str, min_exhaustions: int, exhaustion_window: str
) -> pd.DataFrame:
    """Return the crashes that come soon enough after those before them to make a loop."""
    dense = _ends_dense_series(crashes, min_restarts, window)
    gave_up = crashes[crashes["gave_up"]]
    exhausted = _ends_dense_series(gave_up, min_exhaustions, exhaustion_window)
    # in a truncated event history: two crashes at the pace of a loop, and enough restarts by the counter
    pace = pd.Timedelta(window) / max(min_restarts - 1, 1)
    pause = crashes["at"].groupby(crashes["loop"]).diff()
    by_counter = (pause <= pace) & (crashes["restarts"] >= min_restarts) & crashes["truncated"]
    chosen = dense | by_counter
    chosen.loc[gave_up.index] |= exhausted
    return crashes[chosen]


def _ends_dense_series(crashes: pd.DataFrame, count: int, window: str) -> pd.Series[Any]:
    """Return which crashes are the last of `count` crashes of the same loop within `window`."""
    at = crashes["at"]
    earlier = at.groupby(crashes["loop"]).shift(count - 1)
    return (at - earlier) <= pd.Timedelta(window)


def _crashes(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return the attempts that ended in a crash, by slot and time.

    The column `loop` numbers slots, tasks and versions.
    """
    derived = derive(source, observed_at)
    codes = [CAUSES.index(cause) for cause in CRASH_CAUSES]
    # without a decision of the restart policy, the task was done or Nomad ended it
    decided = nw.col("cause_code").is_in(codes) & (nw.col("_next") > 0)
    of_attempts = [*derived.task_columns, "cause_code", "_next", "last_us", "exit_code", "delayed"]
    have = column_names(derived.tasks)
    more = [name for name in ("restarts", "truncated") if name in have]
    of_tasks = dict.fromkeys([*derived.task_columns, "alloc_id", "task", *_DIMENSIONS, *more])
    parts = [
        collect(
            part.attempts.filter(decided)
            .select(*of_attempts)
            .join(part.tasks.select(*of_tasks), on=derived.task_columns, how="left")
        )
        for part in derived.split()
    ]
    rows = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    del parts
    cause = pd.Categorical.from_codes(
        rows["cause_code"].astype("int8"), categories=pd.Index(CAUSES, dtype="str")
    )
    rows["cause"] = cause.reorder_categories(sorted(CAUSES))
    rows["slot"] = categorise_slots(source, rows)
    rows["at"] = times_from_us(rows.pop("last_us"))
    rows["gave_up"] = rows.pop("_next") == GAVE_UP
    rows = rows.drop(columns=[TASK, "alloc_id", "cause_code"], errors="ignore")
    rows["restarts"] = rows["restarts"].astype("Int64").fillna(0).astype("int64") if "restarts" in rows else 0
    rows["truncated"] = rows["truncated"].fillna(value=False).astype(bool)
    # by the ranks of the different texts: pandas would make an object of each, for each use
    version = rows["job_version"].to_numpy(dtype="float64", na_value=np.inf)
    keys = (rows["slot"].cat.codes.to_numpy(), rank_texts(rows["task"]), version)
    order = np.lexsort((rows["at"].astype("int64").to_numpy(), *keys[::-1]))
    rows = take_rows(rows, order)
    begins = np.zeros(len(rows), dtype=bool)
    for key in keys:
        begins[1:] |= key[order][1:] != key[order][:-1]
    return rows.assign(loop=np.cumsum(begins))


def _last_tasks(
    source: Source, observed_at: pd.Timestamp | str | None, looping: pd.Series[Any]
) -> pd.DataFrame:
    """Return of each task of the slots its newest allocation: its version, and whether it is wanted."""
    derived = derive(source, observed_at)
    have = column_names(derived.tasks)
    names = [name for name in ("client_status", "desired_status", "state", "created_at_us") if name in have]
    tasks = collect(
        derived.tasks.select(
            *dict.fromkeys(
                [*derived.task_columns, "alloc_id", "task", "job_version", "first_seen_us", *names]
            )
        )
    )
    tasks["slot"] = categorise_slots(source, tasks)
    tasks = _with_texts(tasks[are_among(tasks["slot"], looping)])
    for name in ("client_status", "desired_status", "state"):
        tasks[name] = tasks[name].astype("str") if name in tasks else None
    order = "created_at_us" if "created_at_us" in tasks else "first_seen_us"
    last = tasks.sort_values(order, kind="stable").drop_duplicates(_SLOT_TASK, keep="last")
    columns = {"job_version": "newest_version", "client_status": "status", "desired_status": "desired"}
    return last.rename(columns=columns).set_index(_SLOT_TASK)[[*columns.values(), "state"]]


_DIMENSIONS = ("namespace", "job_id", "task_group", "job_version", "node_name")


def _most_frequent(crashes: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return the most frequent value of a column for each loop that has one."""
    counts = crashes.groupby(["loop", name], sort=True, observed=True).size().rename("n").reset_index()
    first = counts.sort_values("n", ascending=False, kind="stable").drop_duplicates("loop")
    return first.set_index("loop")[name]


def _summarise(crashes: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each loop."""
    by_loop = crashes["loop"]
    pauses = crashes["at"].groupby(by_loop).diff()
    loops = crashes.assign(pause=pauses).groupby("loop").agg(
        slot=("slot", "first"), task=("task", "first"), job_version=("job_version", "first"),
        namespace=("namespace", "last"), job_id=("job_id", "last"), task_group=("task_group", "last"),
        crashes=("at", "size"), exhaustions=("gave_up", "sum"), first_at=("at", "min"), last_at=("at", "max"),
        pause=("pause", "median"), delayed=("delayed", "max"), began_before=("truncated", "first"),
    )  # fmt: skip
    nodes = _with_texts(crashes[["loop", "node_name"]].drop_duplicates()).sort_values("node_name")
    loops["node_names"] = nodes.groupby("loop")["node_name"].agg(list)
    for name in ("cause", "exit_code"):
        loops[name] = _most_frequent(crashes, name)
    return _with_texts(loops.reset_index(drop=True))


def _run_lengths(task_runs: pd.DataFrame) -> pd.DataFrame:
    """Return median and variation of the crashed runs; the length of a run that is cut is not known."""
    crashed = task_runs[
        ~task_runs["right_censored"] & ~task_runs["left_truncated"] & task_runs["end"].isin(CRASH_CAUSES)
    ]
    seconds = crashed.assign(seconds=crashed["duration"].dt.total_seconds()).groupby(
        _SLOT_TASK, observed=True
    )["seconds"]
    mean = seconds.mean()
    lengths = pd.DataFrame(
        {
            "median_run": pd.to_timedelta(seconds.median(), unit="s"),
            "run_cv": (seconds.std(ddof=1) / mean.where(mean > 0)).astype("Float64"),
        }
    )
    return _with_texts(lengths.reset_index()).set_index(_SLOT_TASK)


def _restarts_lost(source: Source, looping: pd.Series[Any]) -> pd.Series[Any]:
    """Return how many restarts the rings have lost of each task of the slots."""
    derived = derive(source)
    if not derived.has_task_states:
        return pd.Series(
            dtype="Int64", name="restarts_lost", index=pd.MultiIndex.from_arrays([[], []], names=_SLOT_TASK)
        )
    columns = dict.fromkeys([*derived.task_columns, "alloc_id", "task", "restarts", "restarts_seen"])
    tasks = collect(derived.tasks.filter(nw.col("truncated")).select(*columns))
    tasks["slot"] = categorise_slots(source, tasks)
    tasks = _with_texts(tasks[are_among(tasks["slot"], looping)])
    lost = (tasks["restarts"].astype("Int64") - tasks["restarts_seen"]).clip(lower=0)
    return lost.groupby([tasks[name] for name in _SLOT_TASK]).sum().rename("restarts_lost")


def _classify_loops(
    loops: pd.DataFrame, task_runs: pd.DataFrame, newest: pd.DataFrame, fast_below: pd.Timedelta
) -> pd.DataFrame:
    """Add `kind`, `state` and `resolved`."""
    last_run = _with_texts(task_runs.groupby(_SLOT_TASK, observed=True).tail(1))
    last_run = last_run.set_index(_SLOT_TASK)[["end", "duration"]]
    last_run = last_run.rename(columns={"end": "last_end", "duration": "last_duration"})
    loops = loops.join(last_run, on=_SLOT_TASK, how="left").join(newest, on=_SLOT_TASK, how="left")
    never_ran = loops["median_run"].isna()
    loops["kind"] = np.where(
        loops["delayed"] == 1,
        "delayed",
        np.where(never_ran | (loops["median_run"] < fast_below), "fast", "slow"),
    )
    replaced = (loops["job_version"] != loops["newest_version"]).fillna(value=False).to_numpy(dtype=bool)
    lasted = loops["last_duration"] > _RESOLVED_AFTER * loops["pause"].fillna(pd.Timedelta(0))
    well = ((loops["last_end"] == "running") & lasted) | (loops["last_end"] == "completed")
    dead = loops["status"].isin(["failed", "lost"]) | (loops["state"] == "dead")
    loops["state"] = np.select(
        [replaced, loops["desired"].isin(list(STOPPING_STATUSES)), well, dead],
        ["stopped", "stopped", "recovered", "gave up"],
        "ongoing",
    )
    loops["resolved"] = loops["state"] != "ongoing"
    loops["restarts_lost"] = loops["restarts_lost"].fillna(0).astype("int64")
    loops["exhaustions"] = loops["exhaustions"].astype("int64")
    return loops[_COLUMNS].sort_values("crashes", ascending=False, kind="stable").reset_index(drop=True)


_COLUMNS = [
    "namespace", "job_id", "task_group", "slot", "task", "job_version", "node_names", "kind", "state",
    "resolved", "crashes", "exhaustions", "restarts_lost", "first_at", "last_at", "began_before",
    "median_run", "run_cv", "cause", "exit_code",
]  # fmt: skip


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype="object") for name in _COLUMNS})
