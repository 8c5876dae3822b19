"""Rates of restarts, failures, failed starts and OOM kills: count, exposure and exact interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence, vocabulary
from ._derived import Derived, derive
from ._per_cluster import per_cluster
from ._source import (
    Source,
    collect,
    column_names,
    from_us,
    group_rows,
    names,
    pandas_table,
    times_from_us,
    us,
)
from ._task_life import task_life
from ._without_events import count_without_events

_US_PER_HOUR = 3_600_000_000
_EVENT_COLUMNS = ("cause", "exit_meaning", "oom", "type")
"""Columns to group by that events have and tasks have not: exposure cannot be split by them."""

MAX_BINS = 1000


@dataclass(frozen=True)
class _Window:
    """A time window, in microseconds since 1970, and the width of its bins (None: it is not cut)."""

    since: int
    until: int
    width: int | None


@per_cluster
def restarts(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002 - the field's term
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count restarts and return their rate per hour that tasks ran.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        Of pandas, DuckDB or Spark.
    by : str or list of str
        namespace, job_id, job_version, task_group, task, node_name, alloc_id; cause, exit_meaning, oom, type;
        with `allocations` also node_id, job_type, name. ``[]`` counts all together.
    bin : str, optional
        Width of time bins such as ``"1h"``; at most 1000 bins.
    since, until : time, optional
        The window; else all that the tables hold. A time without an offset is UTC.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the largest count first: the columns of `by`, `bin` (its start, if asked for),
        and

        count : int
            `Restarting` events that were seen.
        counted, exposure_hours : float
            What the rate counts, and the time that it covers. See `basis`.
        rate_per_hour, lower, upper : float
            Counted over exposure, and its exact 95 % Poisson interval; missing without exposure.
        tasks : int
            Tasks in the group.
        truncated_share : float
            Share of the tasks that have lost events.
        basis : str
            "events": nothing is lost, and the events seen are counted over the time that tasks ran.
            "counter": some event histories are truncated; the nodes' own count of restarts is taken for those
            tasks, over their life since they were created, less about the time that they were down.
            "truncated events": the counter cannot tell (windows, bins, causes). Each truncated history
            counts from its oldest end that is left. Tasks that fail more are known for a shorter time, so
            that the rate of a mixed group is nearer to that of its calm tasks.
        window_start, window_end : datetime64[ns, UTC]
            The time that is counted.
        counter, lost_to_ring, unexplained : int
            The nodes' own count (`Restarts`) over the life of these tasks; how many of these restarts the
            rings of truncated tasks have lost; and by how much it differs from whole rings. Only with
            `task_states`, without a window or bins, and not by columns of events.

    Raises
    ------
    ValueError
        A column of `by` does not exist, `since` is after `until`, or `bin` makes too many bins.
    TypeError
        `source` holds no events table, or it lacks a column.

    References
    ----------
    NIST/SEMATECH e-Handbook of Statistical Methods, 8.1.7 (rates of repairable systems).

    Examples
    --------
    >>> table = af.stats.restarts(snap, by="job_id")
    >>> bool((table["counter"] - table["lost_to_ring"] == table["count"]).all())
    True
    """
    table = _rates(source, nw.col("type") == vocabulary.RESTART, names(by), bin, since, until, "restarts")
    # the counter covers the whole life of a task and knows neither times nor causes
    comparable = bin is None and since is None and until is None and not set(names(by)) & set(_EVENT_COLUMNS)
    return _add_counter(table, source, names(by)) if comparable else table


@per_cluster
def failures(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count failures and return their rate: bad ends of runs that nobody asked for, and failed starts.

    Parameters, columns and errors are those of `restarts`, without the counter. `without_events` is the
    number of allocations that failed and show no failure among their events, such as those that failed before
    their tasks: the rate does not count them. It is there only without a window or bins, and by columns of
    allocations.

    Examples
    --------
    >>> table = af.stats.failures(snap, by=["job_id", "cause"])
    >>> bool((table["lower"] <= table["rate_per_hour"]).dropna().all())
    True
    """
    table = _rates(source, nw.col("failure"), names(by), bin, since, until, "failures")
    whole = bin is None and since is None and until is None
    return _add_without_events(table, source, names(by)) if whole else table


@per_cluster
def failed_starts(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count failed starts (artifact, setup, driver, validation) and return their rate.

    Parameters, columns and errors are those of `restarts`, without the counter.

    Examples
    --------
    >>> af.stats.failed_starts(snap, by="job_id")["count"].sum()
    np.int64(0)
    """
    is_failed_start = nw.col("type").is_in(list(vocabulary.FAILED_STARTS))
    return _rates(source, is_failed_start, names(by), bin, since, until)


@per_cluster
def oom_kills(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count OOM kills that the driver confirmed, and return their rate.

    Parameters, columns and errors are those of `restarts`, without the counter. For kills that are only
    suspected, count the values of `oom` in `explain_events`.

    Examples
    --------
    >>> int(af.stats.oom_kills(snap, by="job_id")["count"].max()) > 0
    True
    """
    return _rates(source, nw.col("oom") == "confirmed", names(by), bin, since, until)


@per_cluster
def failure_share(source: Source, by: str | Iterable[str] = "job_id") -> pd.DataFrame:
    """Return the share of finished allocations that failed, with Wilson's 95 % interval.

    Nomad removes finished allocations after about an hour (batch jobs on newer servers: a day); the share is
    of those that are left.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    by : str or list of str
        Columns of `allocations`.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one with most failed allocations first: the columns of `by`, failed,
        finished, share (0 to 1), lower, upper (missing if nothing finished), allocations, and oldest_at
        (earliest creation).

    References
    ----------
    Wilson, Journal of the American Statistical Association 22, 1927.

    Examples
    --------
    >>> table = af.stats.failure_share(snap, by="job_type")
    >>> bool(table["share"].dropna().between(0, 1).all())
    True
    """
    needed = ("alloc_id", "client_status", "created_at")
    allocations = pandas_table(source, "allocations", *dict.fromkeys([*names(by), *needed]))
    status = allocations["client_status"]
    finished = status.isin(vocabulary.FINISHED_STATUSES)
    flagged = allocations.assign(failed=status == "failed", finished=finished)
    table: pd.DataFrame = group_rows(flagged, names(by)).agg(
        failed=("failed", "sum"),
        finished=("finished", "sum"),
        allocations=("alloc_id", "size"),
        oldest_at=("created_at", "min"),
    )
    share, lower, upper = _confidence.wilson(table["failed"], table["finished"])
    for position, (name, values) in enumerate({"share": share, "lower": lower, "upper": upper}.items()):
        table.insert(2 + position, name, pd.Series(values, index=table.index, dtype="Float64"))
    return table.sort_values("failed", ascending=False, kind="stable").reset_index(drop=not names(by))


def _rates(
    source: Source,
    counted: nw.Expr,
    by: list[str],
    bin: str | None,  # noqa: A002
    since: pd.Timestamp | str | None,
    until: pd.Timestamp | str | None,
    life_measure: str | None = None,
) -> pd.DataFrame:
    """Return the rate of the events for which `counted` is true.

    `life_measure` is what the nodes' counter can tell of it: "restarts", "failures", or nothing.
    """
    derived = derive(source)
    _check_columns(by, derived.tasks)
    window = _window(derived, bin, since, until)
    exposure = _exposure(derived, [name for name in by if name not in _EVENT_COLUMNS], window)
    counts = _counts(derived, counted, by, window)
    # the counter covers the whole life of a task and knows neither times nor causes
    whole_life = bin is None and since is None and until is None and not set(by) & set(_EVENT_COLUMNS)
    life = None
    if life_measure is not None and whole_life and derived.has_task_states and exposure["truncated"].sum():
        life = _group_life(derived, by, life_measure)
    return _add_intervals(exposure, counts, by, window, life)


def _group_life(derived: Derived, by: list[str], measure: str) -> pd.DataFrame:
    """Return the count and exposure of each group over the life of its tasks."""
    tasks = task_life(derived, by)
    tasks["group"], groups = _number_groups(tasks, by)
    sums = tasks.groupby("group")[[measure, "hours"]].sum()
    return groups.assign(life_count=sums[measure], life_hours=sums["hours"])


def _check_columns(by: list[str], tasks: nw.LazyFrame[Any]) -> None:
    columns = [name for name in column_names(tasks) if not name.startswith("_") and not name.endswith("_us")]
    for name in by:
        if name not in columns and name not in _EVENT_COLUMNS:
            allowed = ", ".join(sorted({*columns, *_EVENT_COLUMNS} - {"task_key"}))
            raise ValueError(f"by must name columns among {allowed}, got {name!r}")


def _window(
    derived: Derived,
    bin: str | None,  # noqa: A002
    since: pd.Timestamp | str | None,
    until: pd.Timestamp | str | None,
) -> _Window:
    start = us(since) if since is not None else derived.began_us
    end = us(until) if until is not None else derived.observed_us
    if end < start:
        raise ValueError(f"since ({from_us(start)}) is after until ({from_us(end)})")
    if bin is None:
        return _Window(start, max(end, start + 1), None)
    width = int(pd.Timedelta(bin) // pd.Timedelta(microseconds=1))
    if width <= 0 or (end - start) // width > MAX_BINS:
        raise ValueError(
            f"bin must cut {from_us(start)} to {from_us(end)} into 1 to {MAX_BINS} bins, got {bin!r}"
        )
    start -= start % width  # bins begin at whole hours, days, ..., whatever the window
    return _Window(start, max(end, start + 1), width)


def _exposure(derived: Derived, by: list[str], window: _Window) -> pd.DataFrame:
    """Return the time that tasks ran and the number of tasks, by group and bin.

    Of a truncated event history, only the time counts in which its events are known (see `add_known_from`).
    """
    tasks = collect(derived.tasks.select(*dict.fromkeys([*derived.task_columns, *by, "truncated"])))
    tasks["group"], groups = _number_groups(tasks, by)
    spans = collect(derived.spans.select(*derived.task_columns, "start_us", "end_us", "known_from_us"))
    group = _group_of_task(spans, tasks, derived.task_columns)
    start = np.fmax(
        spans["start_us"].astype("float64").to_numpy(), spans["known_from_us"].astype("float64").to_numpy()
    )
    exposure = _bin_exposure(group, start, spans["end_us"].astype("float64").to_numpy(), len(groups), window)
    # tasks that never ran count among the tasks, with no exposure
    table = groups.assign(
        tasks=np.bincount(tasks["group"], minlength=len(groups)),
        truncated=np.bincount(tasks["group"], weights=tasks["truncated"], minlength=len(groups)),
    )
    bins = exposure.shape[1]
    long = table.loc[table.index.repeat(bins)].reset_index(drop=True).assign(exposure=exposure.ravel())
    return long if window.width is None else long.assign(bin=np.tile(np.arange(bins), len(table)))


def _number_groups(rows: pd.DataFrame, by: list[str]) -> tuple[Any, pd.DataFrame]:
    """Return the number of each row's group, and the keys of the groups as text."""
    if not by:
        return np.zeros(len(rows), dtype="int64"), pd.DataFrame(index=range(1 if len(rows) else 0))
    grouped = rows.groupby(by, observed=True, dropna=False, sort=False)
    keys = rows[by].take(np.sort(grouped.head(1).index.to_numpy())) if len(rows) else rows[by]
    return grouped.ngroup().to_numpy(), _with_text_keys(keys.reset_index(drop=True), by)


def _group_of_task(rows: pd.DataFrame, tasks: pd.DataFrame, task_columns: list[str]) -> Any:
    """Return the number of the group of each row's task."""
    if len(task_columns) == 1:
        name = task_columns[0]
        return tasks.set_index(name)["group"].reindex(rows[name]).to_numpy(dtype="int64")
    merged = rows[task_columns].merge(tasks[[*task_columns, "group"]], on=task_columns, how="left")
    return merged["group"].to_numpy(dtype="int64")


def _bin_exposure(group: Any, start: Any, end: Any, count: int, window: _Window) -> Any:
    """Return how much of the spans lies in each bin, by group: an array of groups and bins.

    A difference array: a span adds a part to its first and its last bin, and one to the slope between them,
    so that the time is linear in spans and bins together, not in their product.
    """
    width = window.width or window.until - window.since
    bins = -(-(window.until - window.since) // width)
    start, end = np.maximum(start, window.since), np.minimum(end, window.until)
    inside = end > start
    group, start, end = group[inside], start[inside] - window.since, end[inside] - window.since
    first = np.minimum(start // width, bins - 1).astype("int64")
    last = np.minimum(end // width, bins - 1).astype("int64")
    size = count * (bins + 1)

    def total(at: Any, weights: Any) -> Any:
        sums = np.bincount(group * (bins + 1) + at, weights=weights, minlength=size)
        return sums.reshape(count, bins + 1)

    parts = total(first, (first + 1) * width - start) + total(last, end - last * width)
    ones = np.ones(len(group))
    slope = total(first + 1, ones) - total(last, ones)
    return (parts + np.cumsum(slope, axis=1) * width)[:, :bins]


def _with_text_keys(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return a frame whose keys are text: engines differ in their dtypes, and merges need equal ones."""
    text = [
        name
        for name in by
        if isinstance(frame[name].dtype, pd.CategoricalDtype) or frame[name].dtype == object
    ]
    return frame.assign(**{name: frame[name].astype("str") for name in text})


def _counts(derived: Derived, counted: nw.Expr, by: list[str], window: _Window) -> pd.DataFrame:
    """Count events by group and bin: all that were seen, and those that exposure covers (`counted`)."""
    when = nw.col("time_us")
    # half open, so that no event lies in two windows; a window to the end of observation holds its last event
    last = when <= window.until if window.until >= derived.observed_us else when < window.until
    inside = counted & (when >= window.since) & last
    # of tasks, not of events, whose jobs are runs of their parents
    of_tasks = [name for name in by if name not in _EVENT_COLUMNS]
    keys = [*by, "_all", *([] if window.width is None else ["bin"])]
    known = nw.col("known_from_us").is_null() | (when >= nw.col("known_from_us"))
    found = []
    for part in derived.split():
        chosen = part.events.filter(inside).with_columns(_all=nw.lit(1))
        named = part.tasks.select(*dict.fromkeys([*derived.task_columns, *of_tasks, "known_from_us"]))
        keep = [name for name in column_names(chosen) if name not in column_names(named)]
        chosen = chosen.select(*derived.task_columns, *keep).join(named, on=derived.task_columns, how="left")
        chosen = chosen.with_columns(_known=nw.when(known).then(nw.lit(1)).otherwise(nw.lit(0)))
        if window.width is not None:
            chosen = chosen.with_columns(bin=(when - window.since) // window.width)
        counts = chosen.group_by(*keys).agg(nw.len().alias("count"), nw.col("_known").sum().alias("counted"))
        found.append(_with_text_keys(collect(counts), by))
    rows = pd.concat(found).groupby(keys, dropna=False, sort=False, as_index=False).sum()
    return rows.drop(columns="_all")


def _join_counts(
    exposure: pd.DataFrame, counts: pd.DataFrame, by: list[str], bin_keys: list[str]
) -> pd.DataFrame:
    """Join counts and exposures: all groups, or by columns of events only those that occur."""
    shared = [name for name in by if name not in _EVENT_COLUMNS] + bin_keys
    if shared:
        return exposure.merge(counts, on=shared, how="left" if shared == by + bin_keys else "right")
    if by:
        return counts.merge(exposure, how="cross")
    return exposure.assign(count=counts["count"].sum(), counted=counts["counted"].sum())


def _add_intervals(
    exposure: pd.DataFrame, counts: pd.DataFrame, by: list[str], window: _Window, life: pd.DataFrame | None
) -> pd.DataFrame:
    """Join counts and exposures and add each rate with its interval.

    `life` has the counts and exposures of groups over the whole life of their tasks, by the nodes' counter.
    """
    bin_keys = ["bin"] if window.width is not None else []
    joined = _join_counts(exposure, counts, by, bin_keys)
    tasks = joined["tasks"].fillna(0).astype("int64")
    joined["truncated"] = joined["truncated"].fillna(0)
    joined["exposure"] = joined["exposure"].fillna(0).astype("float64") / _US_PER_HOUR
    joined["counted"] = joined["counted"].fillna(0).astype("float64")
    joined["basis"] = np.where(joined["truncated"] > 0, "truncated events", "events")
    if life is not None:
        joined = _prefer_counter(joined, life, by)
    # if all histories are truncated, the count was fixed and the time is random: chi-square with 2 n degrees
    only_cut = joined["basis"].eq("truncated events") & (joined["truncated"] >= tasks) & (tasks > 0)
    rate, lower, upper = _confidence.poisson(joined["counted"], joined["exposure"], only_cut)
    table = joined[by].copy()
    if bin_keys:
        starts = window.since + joined["bin"].to_numpy(dtype="int64") * (window.width or 0)
        table["bin"] = times_from_us(pd.Series(starts, index=table.index)).to_numpy()
        table["bin"] = table["bin"].astype("datetime64[ns, UTC]")
    table["count"] = joined["count"].fillna(0).astype("int64")
    table["counted"], table["exposure_hours"] = joined["counted"], joined["exposure"]
    for name, values in (("rate_per_hour", rate), ("lower", lower), ("upper", upper)):
        table[name] = pd.array(values, dtype="Float64")
    table["tasks"] = tasks
    table["truncated_share"] = (joined["truncated"].astype("Float64") / tasks.where(tasks > 0)).to_numpy()
    table["basis"] = joined["basis"].astype("str")
    table["window_start"], table["window_end"] = from_us(window.since), from_us(window.until)
    ascending = [True] * len(bin_keys) + [False] + [True] * len(by)
    order = [*bin_keys, "count", *by]
    return table.sort_values(order, ascending=ascending, kind="stable").reset_index(drop=True)


def _prefer_counter(joined: pd.DataFrame, life: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Take count and exposure of groups with truncated event histories from the nodes' counter."""
    keyed = joined.merge(life, on=by, how="left") if by else joined.merge(life, how="cross")
    by_counter = (keyed["truncated"] > 0) & keyed["life_hours"].gt(0)
    return keyed.assign(
        counted=keyed["counted"].mask(by_counter, keyed["life_count"]),
        exposure=keyed["exposure"].mask(by_counter, keyed["life_hours"]),
        basis=keyed["basis"].mask(by_counter, "counter"),
    )


def _add_counter(table: pd.DataFrame, source: Source, by: list[str]) -> pd.DataFrame:
    """Add the nodes' own count of restarts, and why it differs from the events."""
    derived = derive(source)
    if not derived.has_task_states:
        return table
    columns = ("restarts", "restarts_seen", "truncated")
    tasks = collect(derived.tasks.select(*dict.fromkeys([*by, *columns])))
    counter, seen = (tasks[name].fillna(0).to_numpy(dtype="int64") for name in columns[:2])
    truncated = tasks["truncated"].to_numpy(dtype=bool)
    # a whole ring has lost nothing: a difference there is an error of Nomad's or of these tables
    lost, unexplained = (np.where(rows, counter - seen, 0) for rows in (truncated, ~truncated))
    number, groups = _number_groups(tasks, by)
    for name, values in (("counter", counter), ("lost_to_ring", lost), ("unexplained", unexplained)):
        groups[name] = np.bincount(number, values, minlength=len(groups)).astype("int64")
    return table.merge(groups, on=by, how="left") if by else pd.concat([table, groups], axis=1)


def _add_without_events(table: pd.DataFrame, source: Source, by: list[str]) -> pd.DataFrame:
    """Add the failed allocations that no event tells of; a group of nothing else has a row of its own."""
    counts = count_without_events(source, by)
    if counts is None:
        return table
    if not by:
        return table.assign(without_events=int(counts["without_events"].iloc[0]))
    keys = table[by].astype("str")
    merged = keys.merge(counts, on=by, how="left")["without_events"].fillna(0).astype("int64")
    table = _with_text_keys(table, by).assign(without_events=merged.to_numpy())
    known = pd.MultiIndex.from_frame(keys)
    alone = counts[~pd.MultiIndex.from_frame(counts[by]).isin(known)]
    if alone.empty:
        return table
    rows = alone.assign(count=0, counted=0.0, exposure_hours=0.0, tasks=0, basis="events")
    rows = rows.reindex(columns=table.columns).astype({name: table[name].dtype for name in by})
    return pd.concat([table, rows], ignore_index=True)
