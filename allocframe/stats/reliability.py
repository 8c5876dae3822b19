"""Mean time between failures, with its interval and a test of trend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from . import _confidence
from ._derived import derive
from ._per_cluster import per_cluster
from ._source import Source, group_rows, names
from ._task_life import task_life
from .estimators import laplace_of_positions
from .runs import build_runs

_TASK = ["alloc_id", "task"]


@per_cluster
def mtbf(
    source: Source, by: str | Iterable[str] = "job_id", *, observed_at: pd.Timestamp | str | None = None
) -> pd.DataFrame:
    """Return the mean time between failures, with its exact interval and a test of trend.

    Without failures the mean is missing, and `lower` is the one-sided 95 % bound, about a third of the
    exposure. The mean says little if `trend_p` is small: failures then come ever faster (`trend` above 0) or
    settle (below 0).

    Parameters
    ----------
    source, observed_at
        As in `runs`.
    by : str or list of str
        Columns of `runs`.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one with most failures first: the columns of `by`, failures and
        exposure_hours (over the life of the tasks; by the nodes' counter if events are truncated, as in
        `failures`), mtbf_hours, lower and upper (hours, 95 %), trend (Laplace's statistic, each task in its
        own window), trend_p, slots, and truncated_share (of runs in truncated event histories).

    References
    ----------
    NIST/SEMATECH e-Handbook of Statistical Methods, 8.1.7 and 8.2.3.4.

    Examples
    --------
    >>> table = af.stats.mtbf(snap, by="job_id")
    >>> bool((table["lower"] <= table["mtbf_hours"]).dropna().all())
    True
    """
    keys = names(by)
    runs = build_runs(source, observed_at)
    group = group_rows(runs, keys).ngroup().to_numpy()
    table = runs.assign(_group=group).drop_duplicates("_group").sort_values("_group")[keys]
    table = table.reset_index(drop=True)
    grouped = runs.groupby(group)
    _add_exposure(table, source, observed_at, runs, group)
    table["slots"], table["truncated_share"] = grouped["slot"].nunique(), grouped["cut"].mean()
    position = _failure_positions(runs)
    trends = {
        number: laplace_of_positions(part.dropna().to_numpy()) for number, part in position.groupby(group)
    }
    table["trend"], table["trend_p"] = (
        [trends[number][place] for number in range(len(table))] for place in (0, 1)
    )
    return _add_mean(table, keys)


def _add_exposure(
    table: pd.DataFrame,
    source: Source,
    observed_at: pd.Timestamp | str | None,
    runs: pd.DataFrame,
    group: Any,
) -> None:
    """Add failures and hours of each group: of its runs, and what the counter adds for truncated tasks."""
    hours = runs["duration"].dt.total_seconds().to_numpy() / 3600
    derived = derive(source, observed_at)
    count, exposure = runs["failure"].to_numpy(dtype=float), hours
    if runs["cut"].any() and derived.has_task_states:
        life = task_life(derived, _TASK).astype(dict.fromkeys(_TASK, "str")).drop_duplicates(_TASK)
        keys = runs[_TASK].astype("str")
        joined = keys.merge(life[[*_TASK, "_failures", "failures", "_up", "hours"]], on=_TASK, how="left")
        first = ~keys.duplicated().to_numpy() & runs["cut"].to_numpy()
        # what the ring has lost goes to the task's first run that is left
        more = (joined["failures"] - joined["_failures"].fillna(0).astype(float)).fillna(0).to_numpy()
        longer = (joined["hours"] - joined["_up"].fillna(0).astype(float) / 3.6e9).fillna(0).to_numpy()
        count, exposure = count + np.where(first, more, 0), exposure + np.where(first, longer, 0)
    elif runs["cut"].any():
        counted = (runs["ended_at"] - runs["counted_from"]).dt.total_seconds().clip(lower=0) / 3600
        exposure = np.where(runs["cut"], counted, hours)
    table["failures"] = np.bincount(group, weights=count, minlength=len(table))
    table["exposure_hours"] = np.bincount(group, weights=exposure, minlength=len(table))


def _failure_positions(runs: pd.DataFrame) -> pd.Series[Any]:
    """Return where in the running time of its task each failure lies, 0 to 1; missing where it tells nothing.

    A window that a failure closes, because it was the last or the ring begins with it, tells nothing by that
    failure: its place was not left to chance.
    """
    start = np.maximum(
        runs["counted_from"].to_numpy(dtype="datetime64[us]"),
        runs["started_at"].to_numpy(dtype="datetime64[us]"),
    )
    length = np.maximum((runs["ended_at"].to_numpy(dtype="datetime64[us]") - start).astype("int64"), 0)
    task = runs.groupby(_TASK, sort=False, observed=True).ngroup().to_numpy()
    lengths = pd.Series(length.astype("float64"), index=runs.index)
    after = lengths.groupby(task).cumsum()
    total = lengths.groupby(task).transform("sum")
    position = (after / total.where(total > 0)).where(runs["failure"])
    return position.where((position > 0) & (position < 1 - 1e-9))


def _add_mean(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    rate, rate_lower, rate_upper = _confidence.poisson(table["failures"], table["exposure_hours"])
    no_failure = table["failures"].eq(0).to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        table["mtbf_hours"] = np.where(no_failure, np.nan, 1 / rate)
        # a mean time is the inverse of a rate, so the bounds change places
        table["lower"] = np.where(
            no_failure, table["exposure_hours"] / _confidence.UPPER_BOUND_OF_ZERO, 1 / rate_upper
        )
        table["upper"] = np.where(no_failure, np.nan, 1 / np.where(rate_lower > 0, rate_lower, np.nan))
    for name in ("mtbf_hours", "lower", "upper", "trend", "trend_p"):
        table[name] = table[name].astype("Float64").mask(table[name].isna() | table["exposure_hours"].le(0))
    order = [
        *keys, "failures", "exposure_hours", "mtbf_hours", "lower", "upper", "trend", "trend_p", "slots",
        "truncated_share",
    ]  # fmt: skip
    return table[order].sort_values("failures", ascending=False, kind="stable").reset_index(drop=True)
