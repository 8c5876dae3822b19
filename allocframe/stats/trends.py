"""Trends: how a cluster does from day to day, and compared with the time before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .._utils.times import to_utc
from ..snapshot.snapshot import Snapshot
from . import _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, are_among, collect, from_us, has_table, names, pandas_table
from .crash_loops import looping_crashes
from .rates import failures, restarts
from .vocabulary import FINISHED_STATUSES

_DAY = pd.Timedelta("1D")
_RATE_SUFFIXES = {"count": "", "rate_per_hour": "_per_hour", "lower": "_lower", "upper": "_upper"}


@per_cluster
def daily(
    source: Source, *, since: pd.Timestamp | str | None = None, until: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Count failures, restarts, crash loops and lost nodes by day, and say how well each day was observed.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        A snapshot of an archive knows which times nobody watched. For others every day is incomplete: Nomad
        has forgotten a part of it.
    since, until : time, optional
        Times in the first and the last day. Default: from the beginning of the archive, or of the tables, to
        the end of observation. A time without an offset is UTC.

    Returns
    -------
    pandas.DataFrame
        One row for each day, in UTC.

        day : datetime64[ns, UTC]
            Midnight that begins the day.
        failures, restarts : int
            Each also with ``_per_hour``, its rate per hour of running (missing without exposure), and
            ``_lower`` and ``_upper``, the exact 95 % Poisson interval of this rate.
        exposure_hours : float
            Hours that tasks ran.
        looping, new_loops : int
            Task slots in a crash loop on that day, and those that were in none the day before.
        nodes_lost : int
            Nodes that were lost on that day.
        watched : float
            Share of the day, or of its part up to now, in which somebody watched; missing if not known.
        tasks_missing : int
            Tasks that lack events of that day; missing if not known.
        complete : bool
            The day is over, was watched, and lacks no event.
        lacks : str
            What makes it incomplete.

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> days = af.stats.daily(snap)
    >>> days["failures"].sum() == af.stats.failures(snap, by=[])["count"].sum()
    np.True_
    """
    derived = derive(source)
    observed = from_us(derived.observed_us)
    info: dict[str, Any] = source.info if isinstance(source, Snapshot) else {}
    end = to_utc(until, "until") if until is not None else observed
    start = to_utc(since, "since") if since is not None else _archive_start(info) or from_us(derived.began_us)
    table = _daily_rates(source, start.floor("D"), end)
    loops = _loop_days(source)
    day_after = pd.MultiIndex.from_frame(loops.assign(day=loops["day"] + _DAY))
    new = loops[~pd.MultiIndex.from_frame(loops).isin(day_after)]
    for name, rows in (("looping", loops), ("new_loops", new), ("nodes_lost", _node_loss_days(source))):
        table[name] = table["day"].map(rows.groupby("day").size()).fillna(0).astype("int64")
    return _add_coverage(table, info, observed)


@per_cluster
def compare_periods(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    period: str = "7D",
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Compare the failure rate of a period with that of the period before.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        From an archive, to hold both periods: ``archive.snapshot(since=...)``.
    by : str or list of str
        As in `failures`; ``[]`` for all together.
    period : str
        Length of each period, such as ``"7D"``.
    until : time, optional
        End of the later period; default: the end of observation. Without an offset it is UTC.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one with most failures first: the columns of `by`, and

        failures, exposure_hours, rate_per_hour
            For the period.
        failures_before, exposure_hours_before, rate_per_hour_before
            For the previous period.
        ratio, lower, upper : float
            The rate over the previous one, with the exact conditional 95 % interval of the ratio of two
            Poisson rates. Missing if a period has no exposure or nothing failed. Failures that cause each
            other make the true interval wider.
        sure : bool
            The interval does not contain 1.
        unknown : str
            Why the periods cannot be compared, and what to do; missing if they can. Then the ratio and its
            interval are missing, and the counts are what happens to be left.

    Raises
    ------
    ValueError
        A column of `by` does not exist.
    TypeError
        `source` holds no events table, or it lacks a column.

    Examples
    --------
    >>> change = af.stats.compare_periods(snap, by=[], period="1h")
    >>> change["unknown"].iloc[0]
    'Nomad has forgotten a part of the earlier period: record an archive and take its snapshot'
    """
    keys, length = names(by), pd.Timedelta(period)
    end = to_utc(until, "until") if until is not None else from_us(derive(source).observed_us)
    measures = ["count", "counted", "exposure_hours", "rate_per_hour"]
    later = failures(source, by=keys, since=end - length, until=end)[[*keys, *measures]]
    earlier = failures(source, by=keys, since=end - 2 * length, until=end - length)[[*keys, *measures]]
    earlier = earlier.rename(columns={name: f"{name}_before" for name in measures})
    table = later.merge(earlier, on=keys, how="outer") if keys else pd.concat([later, earlier], axis=1)
    table = table.rename(columns={"count": "failures", "count_before": "failures_before"})
    counts = ["failures", "failures_before"]
    table = table.fillna(
        dict.fromkeys([*counts, "counted", "counted_before", "exposure_hours", "exposure_hours_before"], 0)
    )
    table[counts] = table[counts].astype("int64")
    sides = [table[name] for name in ("counted", "exposure_hours", "counted_before", "exposure_hours_before")]
    for name, values in zip(("ratio", "lower", "upper"), _confidence.rate_ratio(*sides), strict=True):
        table[name] = pd.array(values, dtype="Float64")
    # what is a hundredth of a period short is as good as whole
    unknown = _why_incomparable(source, end - 2 * length + length / 100)
    table["unknown"] = pd.Series(unknown, index=table.index, dtype="str")
    if unknown is not None:
        table[["ratio", "lower", "upper"]] = pd.NA
        table = table.astype(dict.fromkeys(["ratio", "lower", "upper"], "Float64"))
    table["sure"] = ((table["lower"] > 1) | (table["upper"] < 1)).fillna(value=False).astype(bool)
    table = table.drop(columns=["counted", "counted_before"])
    return table.sort_values("failures", ascending=False, kind="stable", ignore_index=True)


def _why_incomparable(source: Source, since: pd.Timestamp) -> str | None:
    """Return why the time from `since` on is not known as well as the present; None if it is.

    Nomad keeps ten events of each task, and removes allocations about an hour after they ended. Without an
    archive the present always looks worse than the past.
    """
    info: dict[str, Any] = source.info if isinstance(source, Snapshot) else {}
    start = _archive_start(info)
    if start is not None and start <= since:
        return None
    if start is not None:
        return (
            f"the archive begins at {start:%Y-%m-%d %H:%M}, after the earlier period: compare shorter periods"
        )
    derived = derive(source)
    if not bool(collect(derived.tasks.select("truncated"))["truncated"].any()) and not has_ended(source):
        return None
    return "Nomad has forgotten a part of the earlier period: record an archive and take its snapshot"


def has_ended(source: Source) -> bool:
    """Return whether some allocations have ended or follow others that are gone: then more may be gone."""
    if not has_table(source, "allocations"):
        return True
    allocations = pandas_table(source, "allocations", "alloc_id", "client_status", "previous_alloc_id")
    previous = allocations["previous_alloc_id"].dropna().astype("str")
    gone = ~are_among(previous, allocations["alloc_id"].astype("str"))
    return bool(allocations["client_status"].isin(FINISHED_STATUSES).any() or gone.any())


def _archive_start(info: dict[str, Any]) -> pd.Timestamp | None:
    """Return from when on an archive's snapshot holds everything that was seen; None for other snapshots."""
    starts = [pd.Timestamp(info[name]) for name in ("recorded_since", "since") if info.get(name)]
    return max(starts) if starts else None


def _daily_rates(source: Source, first: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Return failures and restarts by day with their rates."""
    columns: dict[str, pd.Series[Any]] = {}
    for name, rate in (("failures", failures), ("restarts", restarts)):
        rates = rate(source, by=[], bin="1D", since=first, until=max(end, first)).set_index("bin")
        columns |= {f"{name}{suffix}": rates[column] for column, suffix in _RATE_SUFFIXES.items()}
        columns["exposure_hours"] = rates["exposure_hours"]
    table = pd.DataFrame(columns).rename_axis("day").reset_index()
    return table.assign(day=table["day"].astype("datetime64[ns, UTC]"))


def _loop_days(source: Source) -> pd.DataFrame:
    """Return the days on which each task slot was in a crash loop."""
    crashes = looping_crashes(source)
    return crashes.assign(day=crashes["at"].dt.floor("D"))[["day", "slot", "task"]].drop_duplicates()


def _node_loss_days(source: Source) -> pd.DataFrame:
    """Return the days on which each node lost allocations.

    Only "lost" counts, not "unknown": a node that is out of reach may come back with its allocations.
    """
    if not has_table(source, "allocations"):
        return pd.DataFrame(
            {"day": pd.Series(dtype="datetime64[ns, UTC]"), "node_name": pd.Series(dtype="str")}
        )
    columns = ("client_status", "modified_at", "node_name")
    allocations = pandas_table(source, "allocations", *columns)
    lost = allocations[allocations["client_status"] == "lost"]
    days = pd.DataFrame(
        {"day": lost["modified_at"].dt.floor("D"), "node_name": lost["node_name"].astype("str")}
    )
    return days.drop_duplicates()


def _add_coverage(table: pd.DataFrame, info: dict[str, Any], observed: pd.Timestamp) -> pd.DataFrame:
    """Add how well each day was observed."""
    start = _archive_start(info)
    unwatched = [(pd.Timestamp(gap["since"]), pd.Timestamp(gap["until"])) for gap in info.get("gaps", [])]
    if start is not None:
        unwatched = [
            (pd.Timestamp.min.tz_localize("UTC"), start),
            *((max(since, start), until) for since, until in unwatched if until > start),
        ]
    tasks_missing_by_day = info.get("missing", {})
    from_archive = start is not None
    watched, tasks_missing, lacks = [], [], []
    for day in table["day"]:
        end = min(day + _DAY, max(observed, day))  # today is over only so far
        gap = _total_length([(max(since, day), min(until, end)) for since, until in unwatched])
        share = 1 - gap / (end - day) if end > day else 1.0
        watched.append(share if from_archive else None)
        tasks_missing.append(tasks_missing_by_day.get(f"{day:%Y-%m-%d}", 0) if from_archive else None)
        lacks.append("; ".join(_describe_lacks(end < day + _DAY, gap, tasks_missing[-1])))
    table["watched"] = pd.array(watched, dtype="Float64")
    table["tasks_missing"] = pd.array(tasks_missing, dtype="Int64")
    described = pd.Series(lacks, dtype="str", index=table.index)
    return table.assign(complete=described == "", lacks=described)


def _total_length(spans: list[tuple[pd.Timestamp, pd.Timestamp]]) -> pd.Timedelta:
    """Return the length of the union of spans, some of which may overlap or be empty."""
    total, reached = pd.Timedelta(0), None
    for since, until in sorted(spans):
        since = since if reached is None else max(since, reached)
        if until > since:
            total, reached = total + (until - since), until
    return total


def _describe_lacks(is_today: bool, gap: pd.Timedelta, tasks_missing: int | None) -> list[str]:
    if tasks_missing is None:
        return ["no archive: Nomad has forgotten older events"]
    lacks = [f"{gap.total_seconds() / 3600:.1f} h unwatched"] if gap else []
    if tasks_missing:
        lacks.append(f"{tasks_missing:,} {'task lacks' if tasks_missing == 1 else 'tasks lack'} events")
    return lacks + (["not over"] if is_today else [])
