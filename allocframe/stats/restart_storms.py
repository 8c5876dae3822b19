"""Restart storms, and how far failures come in clusters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, collect, from_us, rank_texts, take_rows, times_from_us
from .crash_loops import looping_slots
from .runs import build_runs, categorise_slots
from .vocabulary import RESTART_DECISIONS

_DIMENSIONS = ("node_name", "job_id", "job_version", "cause")


@per_cluster
def restart_storms(
    source: Source,
    *,
    window: str = "5min",
    min_slots: int = 5,
    quiet: str = "1h",
    p_below: float = 0.001,
    observed_at: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Find times at which many different tasks restarted or failed together.

    A scan statistic over onsets: a restart or failure counts if its task slot was quiet before it, and each
    slot counts once in a window, so that looping tasks make no storm. The count in every window that begins
    with an onset is compared with what is likely (Poisson): the onsets of the rest of the time, over the time
    that slots were there, times the slots that are there in the window. The runs of a periodic or
    parameterized job are one job. Storms less than a window apart are one.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    window : str
        Width of the window, such as ``"5min"``.
    min_slots : int
        Task slots that make a storm.
    quiet : str
        How long a slot must have had no restart or failure for its next one to count as an onset.
    p_below : float
        Upper limit of p, after Bonferroni's correction for the number of windows.
    observed_at : time, optional
        End of observation, default: when the tables were fetched, or the latest time in them.

    Returns
    -------
    pandas.DataFrame
        One row for each storm, the largest first: began_at, ended_at (datetime64[ns, UTC]), slots, expected
        (slots in one window by chance), p, looping_share (of its slots, those that went on to a crash loop);
        and the most frequent node_name, job_id, job_version and cause, each with its share of the slots in
        ``<name>_share``.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    References
    ----------
    Naus, Journal of the American Statistical Association 60, 1965 (scan statistics).

    Examples
    --------
    >>> storms = af.stats.restart_storms(snap)
    >>> bool((storms["slots"] >= 5).all())
    True
    """
    events = _restarts_and_failures(source, observed_at)
    onsets = events[~(events.groupby("slot_task", sort=False)["at"].diff() <= pd.Timedelta(quiet))].copy()
    del events
    loops = looping_slots(source, observed_at)
    # each name once: of all onsets, they would take a hundred bytes each
    different = onsets.drop_duplicates("slot_task")
    names = different["slot"].astype("str") + "/" + different["task"].astype("str")
    onsets["looping"] = onsets["slot_task"].isin(different["slot_task"][names.isin(loops)])
    width = pd.Timedelta(window)
    rows = []
    if len(onsets):
        onsets = onsets.reset_index(drop=True)
        expected = _expected_onsets(onsets, build_runs(source, observed_at), width)
        rows = list(_scan(onsets, width, min_slots, p_below, expected))
    columns = ["began_at", "ended_at", "slots", "expected", "p", "looping_share"]
    columns += [column for name in _DIMENSIONS for column in (name, f"{name}_share")]
    return (
        pd.DataFrame(rows, columns=columns)
        .sort_values("slots", ascending=False, kind="stable")
        .reset_index(drop=True)
    )


def _restarts_and_failures(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return failures and all decisions of restart policies in the order of time.

    The column `slot_task` numbers the tasks of slots.
    """
    derived = derive(source, observed_at)
    is_one = nw.col("failure") | nw.col("type").is_in(list(RESTART_DECISIONS))
    of_events = dict.fromkeys([*derived.task_columns, "time_us", "cause", "failure"])
    of_tasks = dict.fromkeys(
        [*derived.task_columns, "alloc_id", "task", *(name for name in _DIMENSIONS if name != "cause")]
    )
    parts = [
        collect(
            part.events.filter(is_one & ~nw.col("time_us").is_null())
            .select(*of_events)
            .join(part.tasks.select(*of_tasks), on=derived.task_columns, how="left")
        )
        for part in derived.split()
    ]
    rows = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
    del parts
    rows["slot"] = categorise_slots(source, rows, fold_runs=True)
    task = rank_texts(rows["task"]) + 1  # 0 is a missing one
    rows["slot_task"] = rows["slot"].cat.codes.to_numpy() * np.int64(task.max(initial=0) + 1) + task
    rows["at"] = times_from_us(rows.pop("time_us"))
    return take_rows(rows, np.argsort(rows["at"].to_numpy(dtype="datetime64[ns]"), kind="stable"))


def _expected_onsets(onsets: pd.DataFrame, runs: pd.DataFrame, width: pd.Timedelta) -> np.ndarray[Any, Any]:
    """Return how many onsets are likely in the window that begins with each, if they come evenly.

    Slots live for different times, so the rate is that of onsets over the time that all slots were there, and
    a window expects it for each slot that is there then. Its own onsets are taken out by the caller.
    """
    # by numbers: pandas would make an object of each name to group by it
    keys = [runs["slot"].cat.codes.to_numpy(), rank_texts(runs["task"])]
    extent = runs.groupby(keys, sort=False).agg(begin=("started_at", "min"), end=("ended_at", "max"))
    width_ns = width.as_unit("ns").value
    begin, end = (extent[name].astype("int64").to_numpy() for name in ("begin", "end"))
    at = onsets["at"].astype("int64").to_numpy()
    first, last = min(at.min(), begin.min(initial=at.min())), max(at.max(), end.max(initial=at.max()))
    # slots whose runs the rings have lost have at least the time from the first thing seen
    time_there = max(float((end - begin).sum()), float(last - first), float(width_ns))
    there = np.searchsorted(np.sort(begin), at, side="right") - np.searchsorted(np.sort(end), at, side="left")
    expected: np.ndarray[Any, Any] = np.maximum(there, 1) * width_ns / time_there
    return expected


def _scan(
    onsets: pd.DataFrame, width: pd.Timedelta, min_slots: int, p_below: float, per_onset: Any
) -> Iterable[list[Any]]:
    """Yield the storms: greedily the window with most slots, then the best one that does not overlap it.

    `per_onset` is what each onset of the cluster makes likely in the window that begins with each onset.
    """
    at = onsets["at"].dt.tz_localize(None).to_numpy()
    slot, _ = pd.factorize(onsets["slot_task"])
    end = np.searchsorted(at, at + width.to_timedelta64(), side="right")
    distinct, free = _count_distinct(slot, end), np.ones(len(at), dtype=bool)
    storms: list[tuple[int, int, float, float]] = []
    while free.any():
        best = int(np.argmax(np.where(free, distinct, 0)))
        slots = int(distinct[best])
        if not free[best] or slots < min_slots:
            break
        # the storm's own slots must not raise the rate that it is compared with
        expected = max(len(at) - (int(end[best]) - best), 1) * float(per_onset[best])
        # Bonferroni: as many windows as onsets were looked at, one of which may be crowded by chance
        p = min(_confidence.poisson_tail(slots, expected) * len(at), 1.0)
        if p < p_below:
            storms.append((best, int(end[best]), expected, p))
        free[best : int(end[best])] = False
        free[:best] &= end[:best] <= best
    yield from (
        _describe_storm(onsets.iloc[first:last], expected, p)
        for first, last, expected, p in _join_neighbours(storms, at, width)
    )


def _join_neighbours(
    storms: list[tuple[int, int, float, float]], at: np.ndarray[Any, Any], width: pd.Timedelta
) -> Iterable[tuple[int, int, float, float]]:
    """Join storms that follow each other within `width`, with the smallest expectation and p of them."""
    current: tuple[int, int, float, float] | None = None
    for storm in sorted(storms):
        if current is not None and at[storm[0]] - at[current[1] - 1] <= width.to_timedelta64():
            current = (current[0], storm[1], min(current[2], storm[2]), min(current[3], storm[3]))
            continue
        if current is not None:
            yield current
        current = storm
    if current is not None:
        yield current


def _count_distinct(codes: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how many different codes lie in each window, from its position to its end.

    The ends never decrease, so two pointers pass over the codes once: linear, where a set per window is
    quadratic.
    """
    code, end = codes.tolist(), ends.tolist()
    inside = [0] * (max(code) + 1)
    counts, distinct, right = [0] * len(code), 0, 0
    for left, leaving in enumerate(code):
        while right < end[left]:
            distinct += inside[code[right]] == 0
            inside[code[right]] += 1
            right += 1
        counts[left] = distinct
        inside[leaving] -= 1
        distinct -= inside[leaving] == 0
    return np.array(counts)


def _describe_storm(onsets: pd.DataFrame, expected: float, p: float) -> list[Any]:
    first = onsets.drop_duplicates("slot_task")
    row: list[Any] = [
        onsets["at"].min(), onsets["at"].max(), len(first), expected, p, first["looping"].mean()
    ]  # fmt: skip
    for name in _DIMENSIONS:
        counts = first[name].astype("str").value_counts()
        row += [counts.index[0], counts.iloc[0] / len(first)] if len(counts) else [None, np.nan]
    return row


@per_cluster
def failure_clustering(source: Source, *, window: str = "1min", by: str = "node_name") -> pd.DataFrame:
    """Compare how often failures follow each other closely with how often they would by chance.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    window : str
        How close counts as close, such as ``"1min"``.
    by : str
        Compare failures on the same node (``"node_name"``) or of the same job (``"job_id"``); only those of
        different tasks count as close.

    Returns
    -------
    pandas.DataFrame
        One row for each value of `by`, the one with most close failures first: failures, close (failures with
        one of another task within the window), share (0 to 1), expected (the share if failures were
        independent, at the same rate), ratio. A ratio well above 1 on a node points at the node, within a job
        at the job.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> table = af.stats.failure_clustering(snap)
    >>> bool(table["share"].between(0, 1).all())
    True
    """
    events = _restarts_and_failures(source, None)
    # a crash is a failure and a decision of the restart policy: it counts once, at the failure
    events = events[events["failure"].astype(bool)]
    derived = derive(source)
    width = pd.Timedelta(window)
    windows = max((from_us(derived.observed_us) - from_us(derived.began_us)) / width, 1.0)
    rows = []
    for value, part in events.groupby(by, observed=True, dropna=False):
        close = _has_close_neighbour(part, width)
        # Poisson: the chance of at least one event of another task within a window before or after
        own = part.groupby("slot_task")["at"].transform("size").to_numpy()
        by_chance = 1 - np.exp(-2 * (len(part) - own) / windows)
        rows.append([value, len(part), int(close.sum()), float(close.mean()), float(by_chance.mean())])
    table = pd.DataFrame(rows, columns=[by, "failures", "close", "share", "expected"])
    table["ratio"] = (table["share"] / table["expected"].where(table["expected"] > 0)).astype("Float64")
    return table.sort_values("close", ascending=False, kind="stable").reset_index(drop=True)


def _has_close_neighbour(part: pd.DataFrame, width: pd.Timedelta) -> np.ndarray[Any, Any]:
    """Return which events have one of another task within `width`.

    In the order of time, the nearest event of another task stands just before or after the event's own
    streak: the consecutive events of one task.
    """
    at, task = part["at"].dt.tz_localize(None).to_numpy(), part["slot_task"].to_numpy()
    position = np.arange(len(at))
    begins_streak = np.append(True, task[1:] != task[:-1])
    first = np.maximum.accumulate(np.where(begins_streak, position, 0))
    last = np.append(np.flatnonzero(begins_streak)[1:], len(at))[np.cumsum(begins_streak) - 1] - 1
    limit = width.to_timedelta64()
    close_before = (first > 0) & (at - at[np.maximum(first - 1, 0)] <= limit)
    close_after = (last < len(at) - 1) & (at[np.minimum(last + 1, len(at) - 1)] - at <= limit)
    close: np.ndarray[Any, Any] = close_before | close_after
    return close
