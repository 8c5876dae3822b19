"""Restart storms, and how far failures come in clusters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence
from ._derived import facts
from ._per_cluster import apart
from ._source import Source, collected, moment
from .crash_loops import crash_loops
from .runs import runs, slots_of

_DIMENSIONS = ("node_name", "job_id", "job_version", "cause")


@apart
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

    A scan statistic over onsets: a restart or failure counts if its task slot was quiet before, and each slot once in a
    window, so that looping tasks make no storm. In every window of the given width that begins with an onset, the count is
    held against what the rest of the time makes likely (Poisson), with p corrected for the number of windows.
    Windows with less than their width between them are one storm.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
    window : str
        Width of the window.
    min_slots : int
        Fewer different task slots are no storm.
    quiet : str
        How long a slot must have had no restart or failure for its next one to count.
    p_below : float
        How unlikely it must be, after Bonferroni's correction.

    Returns
    -------
    pandas.DataFrame
        One row for each storm, the largest first: began_at, ended_at, slots, expected (slots in one window), p,
        looping_share (of the slots, those that went on to a crash loop); and
        what explains it: node_name, job_id, job_version, cause, each the most frequent, with its share of the slots in
        ``<name>_share``.

    Examples
    --------
    >>> storms = af.stats.restart_storms(snap)
    >>> bool((storms["slots"] >= 5).all())
    True
    """
    events = _disturbances(source, observed_at)
    events = events[~(events.groupby("slot", sort=False)["at"].diff() <= pd.Timedelta(quiet))]
    loops = crash_loops(source, observed_at=observed_at)
    events = events.assign(
        looping=events["slot"].isin(
            [f"{slot}/{task}" for slot, task in zip(loops["slot"], loops["task"], strict=True)]
        )
    )
    width = pd.Timedelta(window)
    found = []
    if len(events):
        span = events["at"].max() - moment(facts(source, observed_at).began_us)
        found = list(_scanned(events, width, min_slots, p_below, max(span / width, 1.0)))
    columns = ["began_at", "ended_at", "slots", "expected", "p", "looping_share"]
    columns += [name for pair in _DIMENSIONS for name in (pair, f"{pair}_share")]
    return (
        pd.DataFrame(found, columns=columns)
        .sort_values("slots", ascending=False, kind="stable")
        .reset_index(drop=True)
    )


def _disturbances(source: Source, observed_at: pd.Timestamp | str | None) -> pd.DataFrame:
    """Return restarts, failures and give-ups with their slots, in the order of time."""
    known = facts(source, observed_at)
    chosen = known.events.filter(
        nw.col("failure") | nw.col("type").is_in(["Restarting", "Not Restarting"])
    ).select("alloc_id", "task", "time_us", *_DIMENSIONS)
    rows = collected(chosen)
    rows["slot"] = slots_of(rows, runs(source, observed_at=observed_at)) + "/" + rows["task"].astype("str")
    rows["at"] = pd.to_datetime(rows["time_us"].astype("Int64"), unit="us", utc=True)
    return rows.dropna(subset=["at"]).sort_values("at", kind="stable").reset_index(drop=True)


def _scanned(
    events: pd.DataFrame, width: pd.Timedelta, min_slots: int, p_below: float, windows: float
) -> Iterable[list[Any]]:
    """Yield the storms: greedily the window with most slots, then the best of what lies outside it; neighbours joined."""
    at = events["at"].dt.tz_localize(None).to_numpy()
    code = events["slot"].astype("category").cat.codes.to_numpy()
    end = np.searchsorted(at, at + width.to_timedelta64(), side="right")
    distinct, free, everyone = _distinct(code, end), np.ones(len(at), dtype=bool), len(np.unique(code))
    chosen: list[tuple[int, int, float, float]] = []
    while free.any():
        best = int(np.argmax(np.where(free, distinct, 0)))
        slots = int(distinct[best])
        if not free[best] or slots < min_slots:
            break
        expected = max(everyone - slots, 1) / windows
        p = min(_confidence.at_least(slots, expected) * len(at), 1.0)
        if p < p_below:
            chosen.append((best, int(end[best]), expected, p))
        free[best : int(end[best])] = False
        free[:best] &= end[:best] <= best
    yield from (
        _storm(events.iloc[first:last], expected, p)
        for first, last, expected, p in _joined(chosen, at, width)
    )


def _joined(
    chosen: list[tuple[int, int, float, float]], at: np.ndarray[Any, Any], width: pd.Timedelta
) -> Iterable[tuple[int, int, float, float]]:
    """Join windows that follow each other within their width; the joined storm keeps the smallest p."""
    current: tuple[int, int, float, float] | None = None
    for window in sorted(chosen):
        if current is not None and at[window[0]] - at[current[1] - 1] <= width.to_timedelta64():
            current = (current[0], window[1], min(current[2], window[2]), min(current[3], window[3]))
            continue
        if current is not None:
            yield current
        current = window
    if current is not None:
        yield current


def _distinct(codes: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how many different codes each window holds, whose ends only grow: one pass with two pointers."""
    code, end = codes.tolist(), ends.tolist()
    count = [0] * (max(code) + 1)
    found, different, right = [0] * len(code), 0, 0
    for left, leaving in enumerate(code):
        while right < end[left]:
            different += count[code[right]] == 0
            count[code[right]] += 1
            right += 1
        found[left] = different
        count[leaving] -= 1
        different -= count[leaving] == 0
    return np.array(found)


def _storm(inside: pd.DataFrame, expected: float, p: float) -> list[Any]:
    once = inside.drop_duplicates("slot")
    row: list[Any] = [inside["at"].min(), inside["at"].max(), len(once), expected, p, once["looping"].mean()]
    for name in _DIMENSIONS:
        counted = once[name].astype("str").value_counts()
        row += [counted.index[0], counted.iloc[0] / len(once)] if len(counted) else [None, np.nan]
    return row


@apart
def failure_clustering(source: Source, *, within: str = "1min", by: str = "node_name") -> pd.DataFrame:
    """Compare how often failures follow each other closely with how often they would by chance.

    Parameters
    ----------
    within : str
        What counts as close.
    by : str
        Among failures on the same node (``"node_name"``), or of the same job (``"job_id"``), but of different tasks.

    Returns
    -------
    pandas.DataFrame
        For each value of `by`: failures, close (failures with another one of a different task within the time), share, expected (share, if
        they came independently at the same rate), ratio. A ratio well above 1 on a node points at the node, on a job at the job.

    Examples
    --------
    >>> table = af.stats.failure_clustering(snap)
    >>> bool(table["share"].between(0, 1).all())
    True
    """
    events = _disturbances(source, None)
    width = pd.Timedelta(within)
    rows = []
    for value, part in events.groupby(by, observed=True):
        begin, end = moment(facts(source).began_us), moment(facts(source).given.observed_us)
        near = _near_another(part, width)
        rate = len(part) / max((end - begin) / width, 1.0)
        rows.append([value, len(part), int(near.sum()), float(near.mean()), 1 - float(np.exp(-2 * rate))])
    found = pd.DataFrame(rows, columns=[by, "failures", "close", "share", "expected"])
    found["ratio"] = (found["share"] / found["expected"].where(found["expected"] > 0)).astype("Float64")
    return found.sort_values("close", ascending=False, kind="stable").reset_index(drop=True)


def _near_another(part: pd.DataFrame, width: pd.Timedelta) -> np.ndarray[Any, Any]:
    """Return which events have one of another task within `width`: the nearest ones stand at the ends of a task's streak."""
    at, slot = part["at"].dt.tz_localize(None).to_numpy(), part["slot"].to_numpy()
    place = np.arange(len(at))
    begins = np.append(True, slot[1:] != slot[:-1])
    first = np.maximum.accumulate(np.where(begins, place, 0))
    last = np.append(np.flatnonzero(begins)[1:], len(at))[np.cumsum(begins) - 1] - 1
    limit = width.to_timedelta64()
    before = (first > 0) & (at - at[np.maximum(first - 1, 0)] <= limit)
    after = (last < len(at) - 1) & (at[np.minimum(last + 1, len(at) - 1)] - at <= limit)
    near: np.ndarray[Any, Any] = before | after
    return near
