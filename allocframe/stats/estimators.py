"""Lifetimes: Kaplan-Meier, log-rank, mean cumulative function, Aalen-Johansen, and Laplace's test of trend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

Floats = NDArray[np.float64]
_Z = float(distributions.norm.ppf(0.975))


def kaplan_meier(durations: ArrayLike, observed: ArrayLike) -> pd.DataFrame:
    """Estimate the share that survives longer than each duration.

    Parameters
    ----------
    durations : array of n numbers
        Time until the event, or until it was last seen without it.
    observed : array of n bools
        Whether the event was seen; the others are right-censored.

    Returns
    -------
    pandas.DataFrame
        One row for each distinct duration, from 0: time, at_risk, events, censored, survival, lower, upper (95 %, Greenwood's
        variance on the log-log scale; missing where nothing is known).

    References
    ----------
    Kaplan and Meier (1958); Kalbfleisch and Prentice, The Statistical Analysis of Failure Time Data, 2002, 1.4.

    Examples
    --------
    >>> af.stats.kaplan_meier([1, 2, 3, 4], [True, False, True, True])["survival"].tolist()
    [1.0, 0.75, 0.75, 0.375, 0.0]
    """
    time, at_risk, events, censored = _life_table(durations, observed)
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(1 - events / np.maximum(at_risk, 1))
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        reach = _Z * np.sqrt(greenwood) / np.log(survival)
        lower, upper = survival ** np.exp(-reach), survival ** np.exp(reach)
    known = (survival > 0) & (survival < 1)
    lower, upper = (
        np.where(known, lower, np.where(survival == 1, 1.0, np.nan)),
        np.where(known, upper, np.where(survival == 1, 1.0, np.nan)),
    )
    return pd.DataFrame(
        {
            "time": time,
            "at_risk": at_risk,
            "events": events,
            "censored": censored,
            "survival": survival,
            "lower": lower,
            "upper": upper,
        }
    )


def _life_table(durations: ArrayLike, observed: ArrayLike) -> tuple[Floats, Any, Any, Any]:
    length, seen = np.asarray(durations, dtype=float), np.asarray(observed, dtype=bool)
    if length.shape != seen.shape or length.ndim != 1:
        raise ValueError(
            f"durations and observed must be two equally long lists, not {length.shape} and {seen.shape}"
        )
    if np.isnan(length).any() or (length < 0).any():
        raise ValueError("durations must be numbers of 0 or more")
    time = np.unique(np.concatenate([[0.0], length]))
    place = np.searchsorted(time, length)
    events = np.bincount(place[seen], minlength=len(time))
    censored = np.bincount(place[~seen], minlength=len(time))
    left = np.cumsum(events + censored)
    return time, len(length) - np.concatenate([[0], left[:-1]]), events, censored


def logrank(durations: ArrayLike, observed: ArrayLike, groups: ArrayLike) -> dict[str, float]:
    """Test whether groups have the same survival.

    Returns
    -------
    dict
        statistic, degrees_of_freedom, p, and for each group ``events <group>`` and ``expected <group>``. With many
        comparisons some p fall below 0.05 by chance.

    References
    ----------
    Mantel (1966); Kalbfleisch and Prentice, 2002, 1.5.

    Examples
    --------
    >>> test = af.stats.logrank([1, 2, 3, 10, 11, 12], [True] * 6, ["a", "a", "a", "b", "b", "b"])
    >>> round(test["p"], 3)
    0.025
    """
    length, seen, labels = np.asarray(durations, float), np.asarray(observed, bool), np.asarray(groups)
    kinds = np.unique(labels)
    if len(kinds) < 2:
        raise ValueError("logrank compares two groups or more")
    time = np.unique(length[seen])
    at_risk = np.array([(length[labels == kind][:, None] >= time).sum(axis=0) for kind in kinds])
    events = np.array(
        [
            ((length[labels == kind][:, None] == time) & seen[labels == kind][:, None]).sum(axis=0)
            for kind in kinds
        ]
    )
    n, d = at_risk.sum(axis=0), events.sum(axis=0)
    expected = at_risk * d / n
    share = at_risk / n
    spread = d * (n - d) / np.maximum(n - 1, 1)
    covariance = (np.diag((share * spread).sum(axis=1)) - (share * spread) @ share.T)[:-1, :-1]
    excess = (events - expected).sum(axis=1)[:-1]
    statistic = float(excess @ np.linalg.pinv(covariance) @ excess)
    found = {
        "statistic": statistic,
        "degrees_of_freedom": float(len(kinds) - 1),
        "p": float(distributions.chi2.sf(statistic, len(kinds) - 1)),
    }
    for row, kind in enumerate(kinds):
        found |= {f"events {kind}": float(events[row].sum()), f"expected {kind}": float(expected[row].sum())}
    return found


def mean_cumulative(
    units: ArrayLike, times: ArrayLike, until: dict[Any, float], *, since: dict[Any, float] | None = None
) -> pd.DataFrame:
    """Estimate the mean number of recurrent events (restarts) that a unit (task) has had by each age.

    Parameters
    ----------
    units, times : arrays of n
        For each event, whose it is and at what age of that unit.
    until : dict
        For each unit, those without events included, the age up to which it was seen.
    since : dict, optional
        The age from which it was seen, where that is not 0.

    Returns
    -------
    pandas.DataFrame
        time, at_risk, events, mean, lower, upper: Nelson's estimate with a 95 % interval from his robust variance.

    References
    ----------
    Nelson, Recurrent Events Data Analysis, 2003; Lawless and Nadeau (1995).

    Examples
    --------
    >>> af.stats.mean_cumulative(["a", "a", "b"], [1, 3, 2], {"a": 4, "b": 4})["mean"].tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    age, whose = (
        np.asarray(times, dtype=float),
        pd.Index(list(until)).get_indexer(pd.Index(np.asarray(units))),
    )
    ends = np.array(list(until.values()), dtype=float)
    if (whose < 0).any():
        raise ValueError("every unit that had an event must be in until")
    begins = np.array([(since or {}).get(unit, 0.0) for unit in until], dtype=float)
    time = np.unique(np.concatenate([[0.0], age]))
    seen = (ends[:, None] >= time) & (begins[:, None] <= time)
    at_risk = seen.sum(axis=0)
    counts = np.zeros((len(ends), len(time)))
    np.add.at(counts, (whose, np.searchsorted(time, age)), 1)
    step = counts.sum(axis=0) / np.maximum(at_risk, 1)
    excess = np.where(seen, counts - step, 0.0) / np.maximum(at_risk, 1)
    mean, deviation = np.cumsum(step), np.sqrt((np.cumsum(excess, axis=1) ** 2).sum(axis=0))
    return pd.DataFrame(
        {"time": time, "at_risk": at_risk, "events": counts.sum(axis=0).astype("int64"), "mean": mean,
         "lower": np.maximum(mean - _Z * deviation, 0), "upper": mean + _Z * deviation}
    )  # fmt: skip


def cumulative_incidence(durations: ArrayLike, ends: Iterable[str | None]) -> pd.DataFrame:
    """Estimate, for competing ends (failed, migrated, updated, lost), the share that has ended in each way by each time.

    Parameters
    ----------
    durations : array of n numbers
        Time until the end, or until it was last seen.
    ends : n texts
        The kind of end; missing where none was seen.

    Returns
    -------
    pandas.DataFrame
        time, at_risk, and a column for each kind of end: Aalen and Johansen's estimate. One minus Kaplan-Meier would overstate each.

    References
    ----------
    Aalen and Johansen (1978).

    Examples
    --------
    >>> af.stats.cumulative_incidence([1, 2, 3, 4], ["failed", "updated", "failed", None])["failed"].tolist()
    [0.0, 0.25, 0.25, 0.5, 0.5]
    """
    kinds = pd.Series(list(ends), dtype="str")
    time, at_risk, events, _ = _life_table(durations, kinds.notna().to_numpy())
    survival = np.cumprod(1 - events / np.maximum(at_risk, 1))
    before = np.concatenate([[1.0], survival[:-1]])
    length = np.asarray(durations, dtype=float)
    found = pd.DataFrame({"time": time, "at_risk": at_risk})
    for kind in sorted(kinds.dropna().unique()):
        mine = np.bincount(np.searchsorted(time, length[(kinds == kind).to_numpy()]), minlength=len(time))
        found[kind] = np.cumsum(before * mine / np.maximum(at_risk, 1))
    return found


def laplace(times: Any, start: Any, end: Any) -> tuple[float, float]:
    """Test whether events come ever faster (above 0) or settle (below 0) between `start` and `end`.

    Returns
    -------
    (float, float)
        Laplace's statistic, about normal without trend, and its two-sided p; NaN with fewer than four events.

    References
    ----------
    NIST/SEMATECH e-Handbook of Statistical Methods, 8.2.3.4.

    Examples
    --------
    >>> import pandas as pd
    >>> day = pd.date_range("2026-01-01", periods=25, freq="h", tz="UTC")
    >>> statistic, p = af.stats.laplace(day[18:24], day[0], day[24])
    >>> statistic > 3 and p < 0.01
    True
    """
    moments = pd.DatetimeIndex(times)
    length = (end - start) / pd.Timedelta(seconds=1) if len(moments) else 0.0
    if len(moments) < 4 or not length > 0:
        return float("nan"), float("nan")
    share = np.asarray((moments - start) / pd.Timedelta(seconds=1), dtype=float) / length
    statistic = float((share.mean() - 0.5) * np.sqrt(12 * len(moments)))
    return statistic, float(2 * distributions.norm.sf(abs(statistic)))
