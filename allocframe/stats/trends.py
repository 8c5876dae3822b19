"""Trends: how a cluster does from day to day, and against the time before. Of days that were not fully observed it says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .._utils.times import to_utc
from ..snapshot.snapshot import Snapshot
from . import _confidence
from ._derived import facts
from ._per_cluster import apart
from ._source import Source, has_table, moment, names, pandas_table
from .crash_loops import looping
from .rates import failures, restarts

_DAY = pd.Timedelta("1D")
_RATES = {"count": "", "rate_per_hour": "_per_hour", "lower": "_lower", "upper": "_upper"}


@apart
def daily(
    source: Source, *, since: pd.Timestamp | str | None = None, until: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Count failures, restarts, crash loops and lost nodes by day, and say of each day how well it was observed.

    Parameters
    ----------
    source : Snapshot, events table, or mapping of tables
        A snapshot of an archive knows which times nobody watched. Of others, each day is incomplete: Nomad has forgotten
        a part of it.
    since, until : time, optional
        The days that these times lie in are the first and the last; else from where the archive or its snapshot begins, up to
        the present of the tables.

    Returns
    -------
    pandas.DataFrame
        One row for each day (of UTC): failures and restarts with their rates per hour that tasks ran (``_per_hour``; missing without
        exposure) and the bounds of exact 95 % Poisson intervals (``_lower``, ``_upper``); exposure_hours; looping, the task slots in a
        crash loop on that day, and new_loops, those of them that were in none the day before; nodes_lost; watched, the share of the
        day, as far as it is over, in which somebody watched, and tasks_missing, the tasks of which events of that day are missing
        (both missing where that is not known); complete, whether the day is over, was watched and lacks no event; lacks, what makes it
        incomplete.

    Examples
    --------
    >>> days = af.stats.daily(snap)
    >>> days["failures"].sum() == af.stats.failures(snap, by=[])["count"].sum()
    np.True_
    """
    known = facts(source)
    info: dict[str, Any] = source.info if isinstance(source, Snapshot) else {}
    end = to_utc(until, "until") if until is not None else moment(known.given.observed_us)
    begin = to_utc(since, "since") if since is not None else _began(info) or moment(known.began_us)
    first = begin.floor("D")
    table = _counted(source, first, end)
    loops = _loops(source)
    earlier = pd.MultiIndex.from_frame(loops.assign(day=loops["day"] + _DAY))
    new = loops[~pd.MultiIndex.from_frame(loops).isin(earlier)]
    for name, rows in (("looping", loops), ("new_loops", new), ("nodes_lost", _nodes(source))):
        table[name] = table["day"].map(rows.groupby("day").size()).fillna(0).astype("int64")
    return _judged(table, info, moment(known.given.observed_us))


@apart
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
        Of an archive, to hold both periods: ``archive.snapshot(since=...)``.
    by : str or list of str
        As in `failures`; ``[]`` for all together.
    period : str
        How long each is.
    until : time, optional
        The end of the later one; else the present of the tables.

    Returns
    -------
    pandas.DataFrame
        The columns of `by`, and

        failures, exposure_hours, rate_per_hour
            Of the period.
        failures_before, exposure_hours_before, rate_per_hour_before
            Of the one before.
        ratio, lower, upper : float
            The rate over the one before, with the exact 95 % interval of the ratio of two Poisson rates; missing where one of them
            has no exposure or nothing failed. Failures that bring about each other make the true interval wider.
        sure : bool
            1 is not in the interval.

    Examples
    --------
    >>> change = af.stats.compare_periods(snap, by=[], period="1h")
    >>> int(change["failures"].iloc[0]) > 0
    True
    """
    keys, width = names(by), pd.Timedelta(period)
    end = to_utc(until, "until") if until is not None else moment(facts(source).given.observed_us)
    rates = ["count", "exposure_hours", "rate_per_hour"]
    now = failures(source, by=keys, since=end - width, until=end)[[*keys, *rates]]
    was = failures(source, by=keys, since=end - 2 * width, until=end - width)[[*keys, *rates]]
    before = was.rename(columns={name: f"{name}_before" for name in rates})
    both = now.merge(before, on=keys, how="outer") if keys else pd.concat([now, before], axis=1)
    both = both.rename(columns={"count": "failures", "count_before": "failures_before"})
    counted = ["failures", "failures_before"]
    both = both.fillna(dict.fromkeys([*counted, "exposure_hours", "exposure_hours_before"], 0))
    both[counted] = both[counted].astype("int64")
    sides = [
        both[name] for name in ("failures", "exposure_hours", "failures_before", "exposure_hours_before")
    ]
    for name, values in zip(("ratio", "lower", "upper"), _confidence.rate_ratio(*sides), strict=True):
        both[name] = pd.array(values, dtype="Float64")
    both["sure"] = ((both["lower"] > 1) | (both["upper"] < 1)).fillna(value=False).astype(bool)
    return both.sort_values("failures", ascending=False, kind="stable", ignore_index=True)


def _began(info: dict[str, Any]) -> pd.Timestamp | None:
    """Return from when on a snapshot of an archive has everything that was seen."""
    told = [pd.Timestamp(info[name]) for name in ("recorded_since", "since") if info.get(name)]
    return max(told) if told else None


def _counted(source: Source, first: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Return failures and restarts by day with their rates."""
    parts: dict[str, pd.Series[Any]] = {}
    for name, count in (("failures", failures), ("restarts", restarts)):
        found = count(source, by=[], bin="1D", since=first, until=max(end, first)).set_index("bin")
        parts |= {f"{name}{suffix}": found[column] for column, suffix in _RATES.items()}
        parts["exposure_hours"] = found["exposure_hours"]
    table = pd.DataFrame(parts).rename_axis("day").reset_index()
    return table.assign(day=table["day"].astype("datetime64[ns, UTC]"))


def _loops(source: Source) -> pd.DataFrame:
    """Return the days on which each task slot was in a crash loop."""
    rows = looping(source)
    return rows.assign(day=rows["at"].dt.floor("D"))[["day", "slot", "task"]].drop_duplicates()


def _nodes(source: Source) -> pd.DataFrame:
    """Return the days on which nodes lost allocations."""
    if not has_table(source, "allocations"):
        return pd.DataFrame(
            {"day": pd.Series(dtype="datetime64[ns, UTC]"), "node_name": pd.Series(dtype="str")}
        )
    allocations = pandas_table(source, "allocations")
    lost = allocations[allocations["client_status"] == "lost"]
    days = pd.DataFrame(
        {"day": lost["modified_at"].dt.floor("D"), "node_name": lost["node_name"].astype("str")}
    )
    return days.drop_duplicates()


def _judged(table: pd.DataFrame, info: dict[str, Any], observed: pd.Timestamp) -> pd.DataFrame:
    """Add how well each day was observed."""
    begin = _began(info)
    blind = [(pd.Timestamp(gap["since"]), pd.Timestamp(gap["until"])) for gap in info.get("gaps", [])]
    if begin is not None:
        blind = [
            (pd.Timestamp.min.tz_localize("UTC"), begin),
            *((max(a, begin), b) for a, b in blind if b > begin),
        ]
    missing = info.get("missing", {})
    known = begin is not None
    watched, tasks, lacks = [], [], []
    for day in table["day"]:
        over = min(day + _DAY, max(observed, day))
        dark = _union([(max(since, day), min(until, over)) for since, until in blind])
        share = 1 - dark / (over - day) if over > day else 1.0
        watched.append(share if known else None)
        tasks.append(missing.get(f"{day:%Y-%m-%d}", 0) if known else None)
        lacks.append("; ".join(_lacks(day, over, dark, tasks[-1])))
    table["watched"] = pd.array(watched, dtype="Float64")
    table["tasks_missing"] = pd.array(tasks, dtype="Int64")
    told = pd.Series(lacks, dtype="str", index=table.index)
    return table.assign(complete=told == "", lacks=told)


def _union(spans: list[tuple[pd.Timestamp, pd.Timestamp]]) -> pd.Timedelta:
    """Return how long spans are together, of which some may overlap or be empty."""
    total, reached = pd.Timedelta(0), None
    for since, until in sorted(spans):
        since = since if reached is None else max(since, reached)
        if until > since:
            total, reached = total + (until - since), until
    return total


def _lacks(day: pd.Timestamp, over: pd.Timestamp, dark: pd.Timedelta, tasks: int | None) -> list[str]:
    if tasks is None:
        return ["no archive: what Nomad has forgotten is not here"]
    said = [f"{dark.total_seconds() / 3600:.1f} h unwatched"] if dark else []
    said += [f"{tasks:,} {'task lacks' if tasks == 1 else 'tasks lack'} events"] if tasks else []
    return said + (["not over"] if over < day + _DAY else [])
