"""Changepoints: when a failure rate changed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from . import _confidence
from ._per_cluster import per_cluster
from ._source import Source, groups, names
from .rates import failures


@per_cluster
def changepoints(
    source: Source,
    by: str | Iterable[str] = "job_id",
    *,
    bin: str = "1h",  # noqa: A002 - the field's term
    since: pd.Timestamp | str | None = None,
    until: pd.Timestamp | str | None = None,
) -> pd.DataFrame:
    """Split the time into pieces of constant failure rate.

    Parameters
    ----------
    source, by, since, until
        As in `failures`.
    bin : str
        Width of the bins in which failures are counted; a change is found to within one.

    Returns
    -------
    pandas.DataFrame
        One row for each group and piece: the columns of `by`, began_at, ended_at, count, exposure_hours,
        rate_per_hour, lower, upper (exact 95 % Poisson), and ratio, ratio_lower, ratio_upper (of the rate to
        that of the piece before, exact conditional 95 %; missing for the first piece). One row means that
        nothing has changed. Groups whose tasks never ran have no row. If event histories are truncated, early
        pieces rest on the tasks that are still known then.

    Notes
    -----
    The partition has the largest Poisson likelihood less a penalty of 2 log(n) for each change, where n is
    the number of bins with exposure: a change without a cause is seen in fewer than 5 of 100 groups. Failures
    that cause each other, as in a crash loop, make changes of their own.

    References
    ----------
    Jackson et al., IEEE Signal Processing Letters 12, 2005 (optimal partitioning); Killick, Fearnhead and
    Eckley, Journal of the American Statistical Association 107, 2012.

    Examples
    --------
    >>> pieces = af.stats.changepoints(snap, by=[], bin="30min")
    >>> bool((pieces["ended_at"] > pieces["began_at"]).all())
    True
    """
    keys = names(by)
    bins = failures(source, keys, bin=bin, since=since, until=until)
    width = pd.Timedelta(bin)
    rows = []
    for group, part in groups(bins, keys):
        there = part[part["exposure_hours"] > 0].sort_values("bin")
        if there.empty:  # its tasks never ran
            continue
        count, exposure = there["counted"].to_numpy(), there["exposure_hours"].to_numpy()
        starts = partition(count, exposure)
        for start, end in zip(starts, [*starts[1:], len(there)], strict=True):
            if end > start:
                span = slice(start, end)
                edge = there["bin"].iloc[end - 1] + width
                rows.append([*group, there["bin"].iloc[start], edge, count[span].sum(), exposure[span].sum()])
    table = pd.DataFrame(rows, columns=[*keys, "began_at", "ended_at", "count", "exposure_hours"])
    for name, values in zip(
        ("rate_per_hour", "lower", "upper"), _confidence.poisson(table["count"], table["exposure_hours"]),
        strict=True,
    ):  # fmt: skip
        table[name] = pd.array(values, dtype="Float64")
    grouped = table.groupby(keys, sort=False, dropna=False) if keys else table
    before = grouped[["count", "exposure_hours"]].shift(1)
    ratios = _confidence.rate_ratio(
        table["count"], table["exposure_hours"], before["count"], before["exposure_hours"]
    )
    for name, values in zip(("ratio", "ratio_lower", "ratio_upper"), ratios, strict=True):
        table[name] = pd.array(values, dtype="Float64")
    return table


def partition(count: Any, exposure: Any) -> list[int]:
    """Return where the pieces of constant rate begin, by optimal partitioning."""
    n = len(count)
    if n == 0:
        return []
    events, time = (np.concatenate([[0.0], np.cumsum(values)]) for values in (count, exposure))
    penalty = 2 * np.log(max(n, 2))
    best, last = np.zeros(n + 1), np.zeros(n + 1, dtype="int64")
    best[0] = -penalty
    for end in range(1, n + 1):
        d, t = events[end] - events[:end], time[end] - time[:end]
        with np.errstate(divide="ignore", invalid="ignore"):
            cost = np.where(d > 0, -d * np.log(d / t), 0.0)  # less what does not depend on the partition
        total = best[:end] + cost + penalty
        last[end] = int(np.argmin(total))
        best[end] = total[last[end]]
    starts, end = [], n
    while end > 0:
        end = int(last[end])
        starts.append(end)
    return starts[::-1]
