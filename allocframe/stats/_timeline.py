"""When each instance was wanted, and when it was up: the timelines that availability is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from .._utils.memory import give_back
from ._derived import PART_ROWS, derive, pop_columns
from ._source import TASK, Array, Source, collect, column_names, find_texts, take_rows
from .runs import build_runs, categorise_slots
from .vocabulary import CAUSES, FINISHED_STATUSES, LOST, LOST_STATUSES, STOPPING_STATUSES

_TASK = ["alloc_id", "task"]
_BATCH_TYPES = ("batch", "sysbatch")
_CONTINUES_US = 60_000_000
"""A replacement that is placed within a minute of the end before it continues the same instance."""

_DIMENSIONS = (
    "namespace", "job_id", "job_version", "task_group", "node_name", "job_type", "client_status",
    "desired_status", "created_at_us", "modified_at_us", "first_seen_us", "truncated",
)  # fmt: skip


def instance_tasks(source: Source, observed_at: pd.Timestamp | str | None = None) -> pd.DataFrame:
    """Return one row for each task of each allocation that should run: who it is, and when it was wanted.

    Columns: alloc_id, task and slot as categories, the dimensions, lane (number of slot and task),
    `wanted_us` and `unwanted_us`, `known_us` (from when on its ring tells). Hook tasks that ended as they
    should are left out: nobody wants them to run on.
    """
    derived = derive(source, observed_at)
    have = column_names(derived.tasks)
    dimensions = [name for name in _DIMENSIONS if name in have]
    columns, keys = dict.fromkeys([*derived.task_columns, *_TASK, *dimensions]), derived.task_columns
    tasks = pd.concat(
        [
            collect(part.tasks.select(*columns)).merge(_endings(part.attempts, keys), on=keys, how="left")
            for part in derived.split()
        ],
        ignore_index=True,
    )
    give_back(len(tasks))
    for name in _DIMENSIONS:
        if name not in tasks:
            tasks[name] = pd.Series(pd.NA, index=tasks.index, dtype="object")
    # numbers of names: of a million allocations, each column of texts takes some hundred megabytes
    for name in _TASK:
        tasks[name] = tasks[name].astype("category")
    runs = build_runs(source, observed_at)
    extent = _extent(runs, find_tasks(runs, tasks))
    for name in map(str, list(extent)):
        tasks[name] = extent.pop(name).reindex(tasks.index)
    del runs
    give_back(len(tasks))
    tasks["slot"] = categorise_slots(source, tasks)
    tasks["lane"] = pd.factorize(_pairs(tasks["slot"].cat.codes, tasks["task"].cat.codes))[0].astype(np.int32)
    placed = tasks["created_at_us"].astype("Int64").fillna(tasks["first_seen_us"].astype("Int64"))
    tasks["placed_us"] = placed.astype("float64")
    kept = np.flatnonzero(~_is_done_hook(tasks))
    order = kept[np.lexsort([tasks[name].to_numpy()[kept] for name in ("placed_us", "lane")])]
    tasks = take_rows(tasks, order, [name for name in tasks if name != TASK])
    tasks = _add_wanted(tasks, _unwanted_from(source, tasks, derived.observed_us))
    return tasks[[*_TASK, "slot", "lane", *_DIMENSIONS, "wanted_us", "unwanted_us", "known_us"]]


def _unwanted_from(source: Source, tasks: pd.DataFrame, observed_us: int) -> pd.Series[Any]:
    """Return from when on nobody wants each task: when its job was purged, else the end of observation."""
    end = pd.Series(float(observed_us), index=tasks.index)
    history = getattr(source, "history", None)
    if history is None or (last := history.purged_at()).empty:
        return end
    jobs = pd.MultiIndex.from_frame(tasks[["namespace", "job_id"]].astype("str"))
    purged = pd.Series(_microseconds(last.reindex(jobs)), index=tasks.index)
    return end.mask(purged > tasks["placed_us"], np.fmin(purged, end))


def _endings(attempts: Any, task_columns: list[str]) -> pd.DataFrame:
    """Return of each task how its last attempt ended, and its starts that failed before the first run."""
    numbers = [CAUSES.index(name) for name in ("artifact", "volume", "setup", "driver", "validation", "hook")]
    failed_start = nw.col("cause_code").is_in(numbers) & nw.col("started_us").is_null()
    marked = attempts.with_columns(
        _last=nw.col("attempt").max().over(*task_columns),
        _failed_start=nw.when(failed_start.fill_null(value=False)).then(nw.lit(1)).otherwise(nw.lit(0)),
    )
    starts = marked.group_by(*task_columns).agg(nw.col("_failed_start").sum().alias("failed_starts"))
    last = marked.filter(nw.col("attempt") == nw.col("_last")).select(*task_columns, "cause_code", "failed")
    return collect(starts.join(last, on=task_columns, how="left"))


def find_tasks(rows: pd.DataFrame, tasks: pd.DataFrame) -> Array:
    """Return the row in `tasks` of the task of each row, by alloc_id and task; -1 if it is not there."""
    codes = []
    for name in _TASK:
        among, column = tasks[name], rows[name].astype("category")
        number = column.cat.codes.to_numpy()
        if column.cat.categories.array is not among.cat.categories.array:
            number = find_texts(column.cat.categories, among.cat.categories)[number]
        codes.append((number, among.cat.codes.to_numpy()))
    (alloc, of_alloc), (task, of_task) = codes
    known, wanted = _pairs(of_alloc, of_task), _pairs(alloc, task)
    if not len(known):
        return np.full(len(wanted), -1)
    order = np.argsort(known, kind="stable")
    at = order[np.minimum(np.searchsorted(known, wanted, sorter=order), len(order) - 1)]
    found: Array = np.where(known[at] == wanted, at, -1)
    return found


def _pairs(one: Any, other: Any) -> Array:
    """Return a number for each pair of numbers, of which the second ones are below 2**31."""
    numbers: Array = (np.asarray(one, dtype=np.int64) << 32) + np.asarray(other, dtype=np.int64)
    return numbers


def _extent(runs: pd.DataFrame, task: Array) -> pd.DataFrame:
    """Return first start and last end of the runs of each task, and how the last one ended, by its row."""
    rows = runs.loc[task >= 0, ["started_at", "ended_at", "end"]]
    extent = rows.groupby(task[task >= 0]).agg(
        first_run=("started_at", "min"), last_end=("ended_at", "max"), last_kind=("end", "last")
    )
    for name in ("first_run", "last_end"):
        extent[name] = _microseconds(extent[name])
    return extent


def _microseconds(times: pd.Series[Any]) -> Any:
    values = times.to_numpy(dtype="datetime64[us]").astype("int64").astype("float64")
    return np.where(times.isna(), np.nan, values)


def _is_done_hook(tasks: pd.DataFrame) -> pd.Series[Any]:
    """Return which tasks of services ended with 0 and were not meant to run on.

    The restart policy of a main task or a sidecar has to decide when it exits; a prestart, poststart or
    poststop task that exits with 0 leaves nothing to decide.
    """
    completed = tasks["cause_code"] == CAUSES.index("completed")
    done: pd.Series[Any] = completed.fillna(value=False) & ~tasks["job_type"].isin(_BATCH_TYPES)
    return done.astype(bool)


def _add_wanted(tasks: pd.DataFrame, observed_us: pd.Series[Any]) -> pd.DataFrame:
    """Add from when until when each task was wanted; `observed_us` ends it."""
    placed, last_end = tasks["placed_us"], tasks["last_end"]
    changed = tasks["modified_at_us"].astype("float64")
    next_placed = tasks.groupby("lane", sort=False)["placed_us"].shift(-1)
    status, desired = tasks["client_status"], tasks["desired_status"]
    lost = status.isin(LOST_STATUSES) | (tasks["last_kind"] == LOST)
    failed = tasks["failed"].fillna(value=False).astype(bool) | (status == "failed")
    finished, stopping = status.isin(FINISHED_STATUSES), desired.isin(STOPPING_STATUSES)
    is_batch, bound = tasks["job_type"].isin(_BATCH_TYPES), tasks["job_type"].isin(("system", "sysbatch"))
    ended = last_end.fillna(changed).fillna(placed)
    until = observed_us.mask(finished | stopping | tasks["last_kind"].isin(["stopped", "completed"]), ended)
    # a service that failed or was lost is wanted until it is replaced, or until somebody stops its job
    still_wanted = (failed | lost) & ~is_batch & ~(lost & bound)
    stopped_later = failed & stopping & ~lost
    until = until.mask(still_wanted, observed_us).mask(still_wanted & stopped_later, changed)
    until = until.mask((lost & bound) | (is_batch & (failed | lost)), ended)
    replaced = (failed | lost) & next_placed.notna()
    until = until.mask(replaced, next_placed)
    before = until.groupby(tasks["lane"], sort=False).shift(1)
    follows = (placed - before) <= _CONTINUES_US
    # the time to a first start is not an outage, unless starts failed in it or none succeeded
    cut = tasks["truncated"].fillna(value=False).astype(bool)
    smooth = tasks["first_run"].notna() & ~(tasks["failed_starts"].fillna(0) > 0) & ~follows & ~cut
    wanted = placed.mask(smooth, tasks["first_run"])
    known = tasks["first_seen_us"].astype("float64").where(cut, wanted)
    return tasks.assign(
        wanted_us=wanted, unwanted_us=np.fmax(np.fmin(until, observed_us), wanted), known_us=known
    )


def segments(
    tasks: pd.DataFrame, runs: pd.DataFrame, since: float | None = None, until: float | None = None
) -> pd.DataFrame:
    """Return the timeline of each lane while it was wanted, cut where something changes.

    `tasks` are sorted by lane. Columns: lane, owner (row in `tasks` of the latest allocation), begin, end (in
    us), up, unknown.
    """
    lanes = tasks["lane"].to_numpy()
    task = find_tasks(runs, tasks)
    ran = np.flatnonzero(task >= 0)
    ran = ran[np.argsort(task[ran], kind="stable")]
    task = task[ran]
    ups = [_microseconds(runs[name].take(ran)) for name in ("started_at", "ended_at")]
    del runs, ran  # made for this, and large
    wanted = [tasks[name].to_numpy() for name in ("wanted_us", "unwanted_us")]
    hidden = [wanted[0], np.clip(tasks["known_us"].to_numpy(), *wanted)]
    found = []
    # in parts of whole lanes: each change of a lane takes a hundred bytes on the way
    for first, last in _cut_at_lanes(lanes):
        part, of_runs = slice(first, last), slice(*np.searchsorted(task, [first, last]))
        rows = [
            (lanes[part], [times[part] for times in wanted]),
            (lanes[task[of_runs]], [times[of_runs] for times in ups]),
            (lanes[part], [times[part] for times in hidden]),
        ]
        found.append(_segments_of(rows, first, since, until))
    return pd.DataFrame(dict(pop_columns(found)), copy=False)


def _cut_at_lanes(lanes: Array) -> Iterator[tuple[int, int]]:
    """Yield the first row and the end of parts of about `PART_ROWS` rows that split no lane."""
    first = 0
    while len(lanes) - first > PART_ROWS:
        last = int(np.searchsorted(lanes, lanes[first + PART_ROWS], side="right"))
        yield first, last
        first = last
    yield first, len(lanes)


def _segments_of(
    parts: list[tuple[Array, list[Array]]], first: int, since: float | None, until: float | None
) -> pd.DataFrame:
    """Return the timelines of some lanes: when each was wanted, up, hidden. Their first task is `first`."""
    rows = []
    for column, (lanes, (begins, ends)) in enumerate(parts):
        begins = np.clip(begins, since, until) if (since, until) != (None, None) else begins
        ends = np.clip(ends, since, until) if (since, until) != (None, None) else ends
        longer = ends > begins
        owner = first + np.flatnonzero(longer) if column == 0 else np.full(int(longer.sum()), -1)
        for times, change in ((begins, 1), (ends, -1)):
            changes = np.zeros((int(longer.sum()), 3), dtype="int32")
            changes[:, column] = change
            by = owner if change == 1 else np.full(len(owner), -1)
            rows.append((lanes[longer], times[longer], changes, by))
    lane, time, changes, owner = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.lexsort((time, lane))
    lane, time, changes, owner = lane[order], time[order], changes[order], owner[order]
    state = np.cumsum(changes, axis=0)  # each lane ends as it begins: with nothing
    latest = pd.Series(np.where(owner >= 0, owner, np.nan)).groupby(lane).ffill().to_numpy()
    same = np.append(lane[1:] == lane[:-1], False) if len(lane) else np.zeros(0, dtype=bool)
    end = np.append(time[1:], np.nan) if len(time) else time
    keep = same & (state[:, 0] > 0) & (end > time)
    up = state[:, 1] > 0
    return pd.DataFrame(
        {
            "lane": lane[keep], "owner": latest[keep].astype("int32"), "begin": time[keep], "end": end[keep],
            "up": up[keep], "unknown": ((state[:, 2] > 0) & ~up)[keep],
        }
    )  # fmt: skip


def union_length(group: Any, begin: Any, end: Any, count: int) -> Any:
    """Return the length of the union of spans in each group, in the unit of the spans."""
    order = np.lexsort((begin, group))
    group, begin, end = group[order], begin[order], end[order]
    reached = pd.Series(end).groupby(group).cummax().groupby(group).shift(1).to_numpy()
    return np.bincount(
        group,
        weights=np.maximum(end - np.fmax(begin, np.nan_to_num(reached, nan=-np.inf)), 0),
        minlength=count,
    )
