"""Rates of restarts, failures, failed starts and OOM kills, by whatever they are grouped: count, exposure, exact interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import _confidence, vocabulary
from ._derived import Facts, facts
from ._per_cluster import apart
from ._source import Source, Tables, collected, grouped, moment, names, pandas_table, us

_HOUR = 3_600_000_000
_OF_EVENT = ("cause", "exit_meaning", "oom", "type")
MOST_BINS = 1000


@dataclass(frozen=True)
class _Window:
    """The time that is looked at, in microseconds, and how it is cut into bins."""

    since: int
    until: int
    width: int | None

    @property
    def edges(self) -> list[tuple[int, int]]:
        width = self.width or self.until - self.since
        return [
            (start, min(start + width, self.until)) for start in range(self.since, self.until, max(width, 1))
        ]


@apart
def restarts(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002 - what it is called
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count restarts and their rate.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        Of pandas, DuckDB or Spark.
    by : str or list of str
        namespace, job_id, job_version, task_group, task, node_name, alloc_id; cause; with `allocations` also node_id, job_type, name.
    bin : str, optional
        Also by time: a width such as ``"1h"``.
    since, until : time, optional
        Only what happened then; else everything that the tables hold.

    Returns
    -------
    pandas.DataFrame
        The columns of `by` (and `bin`), and

        count : int
            `Restarting` events in the ring.
        exposure_hours, rate_per_hour, lower, upper : float
            Time that tasks ran, count over exposure, and the exact 95 % Poisson interval; missing without exposure.
        tasks, truncated_share, window_start, window_end
            How many tasks, and which share of them has lost events.
        counter, lost_to_ring, unexplained : int
            What the nodes counted (`Restarts`) in the life of those tasks; how many of these the rings of truncated tasks have lost; and
            what differs in whole rings. Only where `task_states` is given, for everything and not by cause or time.

    Examples
    --------
    >>> table = af.stats.restarts(snap, by="job_id")
    >>> bool((table["counter"] - table["lost_to_ring"] == table["count"]).all())
    True
    """
    found = _rates(source, nw.col("type") == "Restarting", names(by), bin, since, until)
    whole = bin is None and since is None and until is None and not set(names(by)) & set(_OF_EVENT)
    return _with_counter(found, source, names(by)) if whole else found


@apart
def failures(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count failures and their rate: bad ends of runs that nobody asked for, and failed starts. See `restarts`.

    Examples
    --------
    >>> table = af.stats.failures(snap, by=["job_id", "cause"])
    >>> bool((table["lower"] <= table["rate_per_hour"]).dropna().all())
    True
    """
    return _rates(source, nw.col("failure"), names(by), bin, since, until)


@apart
def failed_starts(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count starts that failed (artifact, setup, driver, validation) and their rate. See `restarts`.

    Examples
    --------
    >>> af.stats.failed_starts(snap, by="job_id")["count"].sum()
    np.int64(0)
    """
    counted = nw.col("type").is_in(list(vocabulary.FAILED_STARTS))
    return _rates(source, counted, names(by), bin, since, until)


@apart
def oom_kills(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str | None = None,  # noqa: A002
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Count kills for memory that the driver confirmed, and their rate. See `restarts`.

    Group by ``"oom"`` in `explain_events` for those that are only suspected.

    Examples
    --------
    >>> int(af.stats.oom_kills(snap, by="job_id")["count"].max()) > 0
    True
    """
    return _rates(source, nw.col("oom") == "confirmed", names(by), bin, since, until)


@apart
def failure_share(source: Source, by: str | Iterable[str] = "job_id") -> pd.DataFrame:
    """Return the share of finished allocations that failed, with Wilson's 95 % interval.

    Nomad removes finished allocations after about an hour (a day for batch jobs on newer servers): the share is of what is left.

    Parameters
    ----------
    by : str or list of str
        Columns of `allocations`.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, failed, finished, share (missing where nothing finished), lower, upper, allocations, oldest_at.

    Examples
    --------
    >>> table = af.stats.failure_share(snap, by="job_type")
    >>> bool(table["share"].dropna().between(0, 1).all())
    True
    """
    allocations = pandas_table(source, "allocations")
    status = allocations["client_status"]
    counted = allocations.assign(
        failed=status == "failed", finished=status.isin(["failed", "complete", "lost"])
    )
    found: pd.DataFrame = grouped(counted, names(by)).agg(
        failed=("failed", "sum"),
        finished=("finished", "sum"),
        allocations=("alloc_id", "size"),
        oldest_at=("created_at", "min"),
    )
    share, lower, upper = _confidence.wilson(found["failed"], found["finished"])
    for place, (name, values) in enumerate({"share": share, "lower": lower, "upper": upper}.items()):
        found.insert(2 + place, name, pd.Series(values, index=found.index, dtype="Float64"))
    return found.sort_values("failed", ascending=False, kind="stable").reset_index(drop=not names(by))


def _rates(
    source: Source,
    counted: nw.Expr,
    by: list[str],
    bin: str | None,  # noqa: A002
    since: pd.Timestamp | str | None,
    until: pd.Timestamp | str | None,
) -> pd.DataFrame:
    known = facts(source)
    _check(by, known.tasks)
    window = _window(known, bin, since, until)
    exposure = _exposure(known, [name for name in by if name not in _OF_EVENT], window)
    counts = _counts(known.events, known.tasks, counted, by, window, known.given)
    return _judged(exposure, counts, by, window)


def _check(by: list[str], of_task: nw.LazyFrame[Any]) -> None:
    known = [
        name
        for name in of_task.collect_schema().names()
        if not name.startswith("_") and not name.endswith("_us")
    ]
    for name in by:
        if name not in known and name not in _OF_EVENT:
            raise ValueError(
                f"cannot group by {name!r}; by: {', '.join(sorted({*known, *_OF_EVENT} - {'task_key'}))}"
            )


def _window(
    known: Facts,
    bin: str | None,  # noqa: A002
    since: pd.Timestamp | str | None,
    until: pd.Timestamp | str | None,
) -> _Window:
    begin = us(since) if since is not None else known.began_us
    end = us(until) if until is not None else known.given.observed_us
    if end < begin:
        raise ValueError(f"since ({moment(begin)}) is after until ({moment(end)})")
    if bin is None:
        return _Window(begin, max(end, begin + 1), None)
    width = int(pd.Timedelta(bin) // pd.Timedelta(microseconds=1))
    if width <= 0 or (end - begin) // width > MOST_BINS:
        raise ValueError(
            f"bin={bin!r} cuts {moment(begin)} to {moment(end)} into no bins, or more than {MOST_BINS}"
        )
    begin -= begin % width
    return _Window(begin, max(end, begin + 1), width)


def _exposure(known: Facts, by: list[str], window: _Window) -> pd.DataFrame:
    """Return the hours that tasks ran, by group and bin, and how many tasks there are."""
    parts = {}
    for number, (start, end) in enumerate(window.edges):
        first, last = nw.max_horizontal("start_us", nw.lit(start)), nw.min_horizontal("end_us", nw.lit(end))
        parts[f"_{number}"] = nw.when(last > first).then(last - first).otherwise(nw.lit(0))
    task = known.given.task
    ran = known.spans.with_columns(**parts).group_by(*task).agg(*(nw.col(name).sum() for name in parts))
    per_task = known.tasks.select(*dict.fromkeys([*task, *by, "truncated"])).join(ran, on=task, how="left")
    filled = per_task.with_columns(
        *(nw.col(name).fill_null(0) for name in parts), nw.col("truncated").cast(nw.Int64), _all=nw.lit(1)
    )
    totals = filled.group_by(*by, "_all").agg(
        *(nw.col(name).sum() for name in parts), nw.len().alias("tasks"), nw.col("truncated").sum()
    )
    wide = _named(collected(totals).drop(columns="_all"), by)
    if window.width is None:
        return wide.rename(columns={"_0": "exposure"})
    fixed = [*by, "tasks", "truncated"]
    long = wide.melt(id_vars=fixed, value_vars=list(parts), var_name="bin", value_name="exposure")
    return long.assign(bin=long["bin"].str.slice(1).astype("int64"))


def _named(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return a frame whose names are text, of whatever engine they came."""
    text = [
        name
        for name in by
        if isinstance(frame[name].dtype, pd.CategoricalDtype) or frame[name].dtype == object
    ]
    return frame.assign(**{name: frame[name].astype("str") for name in text})


def _counts(
    events: nw.LazyFrame[Any],
    of_task: nw.LazyFrame[Any],
    counted: nw.Expr,
    by: list[str],
    window: _Window,
    given: Tables,
) -> pd.DataFrame:
    missing = [name for name in by if name not in events.collect_schema().names()]
    if missing:
        events = events.join(of_task.select(*given.task, *missing), on=given.task, how="left")
    when = nw.col("time_us")
    chosen = events.filter(counted & (when >= window.since) & (when <= window.until)).with_columns(
        _all=nw.lit(1)
    )
    keys = [*by, "_all"]
    if window.width is not None:
        chosen = chosen.with_columns(bin=(when - window.since) // window.width)
        keys.append("bin")
    return _named(collected(chosen.group_by(*keys).agg(nw.len().alias("count"))).drop(columns="_all"), by)


def _together(exposure: pd.DataFrame, counts: pd.DataFrame, by: list[str], binned: list[str]) -> pd.DataFrame:
    """Put counts beside exposures: every group, or where the event tells groups apart, those that were seen."""
    shared = [name for name in by if name not in _OF_EVENT] + binned
    if shared:
        return exposure.merge(counts, on=shared, how="left" if shared == by + binned else "right")
    if by:
        return counts.merge(exposure, how="cross")
    return exposure.assign(count=counts["count"].sum())


def _judged(exposure: pd.DataFrame, counts: pd.DataFrame, by: list[str], window: _Window) -> pd.DataFrame:
    """Put counts and exposures together and give each rate its interval."""
    binned = ["bin"] if window.width is not None else []
    found = _together(exposure, counts, by, binned)
    count, tasks = found["count"].fillna(0).astype("int64"), found["tasks"].fillna(0).astype("int64")
    hours = found["exposure"].fillna(0).astype("float64") / _HOUR
    rate, lower, upper = _confidence.poisson(count, hours)
    result = found[by].copy()
    if binned:
        result["bin"] = [moment(window.since + int(number) * (window.width or 0)) for number in found["bin"]]
    result["count"], result["exposure_hours"] = count, hours
    for name, values in (("rate_per_hour", rate), ("lower", lower), ("upper", upper)):
        result[name] = pd.array(values, dtype="Float64")
    result["tasks"] = tasks
    result["truncated_share"] = (found["truncated"].astype("Float64") / tasks.where(tasks > 0)).to_numpy()
    result["window_start"], result["window_end"] = moment(window.since), moment(window.until)
    ascending = [True] * len(binned) + [False] + [True] * len(by)
    order = [*binned, "count", *by]
    return result.sort_values(order, ascending=ascending, kind="stable").reset_index(drop=True)


def _with_counter(found: pd.DataFrame, source: Source, by: list[str]) -> pd.DataFrame:
    """Add what the nodes counted, and why it differs from the events."""
    known = facts(source)
    if known.given.task_states is None:
        return found
    rows = collected(known.tasks)
    counter, events = rows["restarts"].fillna(0).astype("int64"), rows["restarts_seen"].astype("int64")
    cut = rows["truncated"].astype(bool)
    lost, odd = np.where(cut, counter - events, 0), np.where(cut, 0, counter - events)
    told = _named(rows[by], by).assign(counter=counter, lost_to_ring=lost, unexplained=odd)
    if not by:
        return found.assign(**{str(name): value for name, value in told.sum().items()})
    return found.merge(told.groupby(by, dropna=False, as_index=False).sum(), on=by, how="left")
