"""Estimators of lifetimes and recurrent events on plain arrays.

Kaplan-Meier, log-rank, mean cumulative function, Aalen-Johansen, and Laplace's test of trend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from . import _distributions as distributions

Floats = NDArray[np.float64]
_Z = float(distributions.norm_ppf(0.975))


def kaplan_meier(
    durations: ArrayLike, observed: ArrayLike, *, entry: ArrayLike | None = None
) -> pd.DataFrame:
    """Estimate the share that survives longer than each duration.

    Parameters
    ----------
    durations : array of shape (n,)
        Time until the event, or until the subject was last seen without it; in any unit, 0 or more.
    observed : array of bool, shape (n,)
        Whether the event was seen; the others are right-censored.
    entry : array of shape (n,), optional
        From when on each subject was watched, if not from 0 (delayed entry): it is at risk after that time.

    Returns
    -------
    pandas.DataFrame
        One row for each distinct duration, from 0: time (in the unit of `durations`), at_risk, events,
        censored, survival (0 to 1), lower, upper (95 %; missing where nothing is left at risk).

    Raises
    ------
    ValueError
        The arrays differ in shape, or a duration is negative or NaN.

    References
    ----------
    Kaplan and Meier, Journal of the American Statistical Association 53, 1958; Kalbfleisch and Prentice, The
    Statistical Analysis of Failure Time Data, 2002, 1.4.

    Examples
    --------
    >>> af.stats.kaplan_meier([1, 2, 3, 4], [True, False, True, True])["survival"].tolist()
    [1.0, 0.75, 0.75, 0.375, 0.0]
    """
    return pd.DataFrame(survival_columns(durations, observed, entry))


def survival_columns(
    durations: ArrayLike, observed: ArrayLike, entry: ArrayLike | None = None
) -> dict[str, Any]:
    """Return the columns of `kaplan_meier`: a frame of each of a thousand groups takes a second."""
    time, at_risk, events, censored = _life_table(durations, observed, entry)
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.cumprod(1 - events / np.maximum(at_risk, 1))
        # Greenwood's variance on the log(-log) scale: the interval stays between 0 and 1
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        half_width = _Z * np.sqrt(greenwood) / np.log(survival)
        lower, upper = survival ** np.exp(-half_width), survival ** np.exp(half_width)
    # at 1 nothing has failed, and at 0 nobody is left: log(-log) is undefined at both
    inner = (survival > 0) & (survival < 1)
    edge = np.where(survival == 1, 1.0, np.nan)
    return {
        "time": time,
        "at_risk": at_risk,
        "events": events,
        "censored": censored,
        "survival": survival,
        "lower": np.where(inner, lower, edge),
        "upper": np.where(inner, upper, edge),
    }


def _life_table(
    durations: ArrayLike, observed: ArrayLike, entry: ArrayLike | None = None
) -> tuple[Floats, Any, Any, Any]:
    """Return the distinct durations, and at each the numbers at risk, with the event, and censored."""
    lengths, is_event = np.asarray(durations, dtype=float), np.asarray(observed, dtype=bool)
    if lengths.shape != is_event.shape or lengths.ndim != 1:
        raise ValueError(
            "durations and observed must be one-dimensional and of equal length, "
            f"got shapes {lengths.shape} and {is_event.shape}"
        )
    if np.isnan(lengths).any() or (lengths < 0).any():
        raise ValueError("durations must be numbers of 0 or more, got a negative one or NaN")
    time = np.unique(np.concatenate([[0.0], lengths]))
    row = np.searchsorted(time, lengths)
    events = np.bincount(row[is_event], minlength=len(time))
    censored = np.bincount(row[~is_event], minlength=len(time))
    # by convention, a subject censored at the time of an event is still at risk for it
    left = np.cumsum(events + censored)
    at_risk = len(lengths) - np.concatenate([[0], left[:-1]])
    if entry is not None:
        begins = np.asarray(entry, dtype=float)
        if begins.shape != lengths.shape or np.isnan(begins).any() or (begins > lengths).any():
            raise ValueError("entry must hold one number for each duration, not above it")
        # at risk strictly after its entry; those who enter at 0 are there from the beginning
        later = np.sort(begins[begins > 0])
        at_risk = at_risk - len(later) + np.searchsorted(later, time)
    return time, at_risk, events, censored


def logrank(durations: ArrayLike, observed: ArrayLike, groups: ArrayLike) -> dict[str, float]:
    """Test whether groups have the same survival.

    Parameters
    ----------
    durations : array of shape (n,)
        As in `kaplan_meier`.
    observed : array of bool, shape (n,)
        As in `kaplan_meier`.
    groups : array of shape (n,)
        The group of each subject; two groups or more.

    Returns
    -------
    dict
        statistic (chi-square), degrees_of_freedom, p, and for each group ``events <group>`` and ``expected
        <group>``. Of many comparisons, one in twenty has a p below 0.05 by chance.

    Raises
    ------
    ValueError
        There are fewer than two groups.

    References
    ----------
    Mantel, Cancer Chemotherapy Reports 50, 1966; Kalbfleisch and Prentice, 2002, 1.5.

    Examples
    --------
    >>> test = af.stats.logrank([1, 2, 3, 10, 11, 12], [True] * 6, ["a", "a", "a", "b", "b", "b"])
    >>> round(test["p"], 3)
    0.025
    """
    lengths, is_event, labels = np.asarray(durations, float), np.asarray(observed, bool), np.asarray(groups)
    if not lengths.shape == is_event.shape == labels.shape or lengths.ndim != 1:
        raise ValueError("durations, observed and groups must be one-dimensional and of equal length")
    if np.isnan(lengths).any() or (lengths < 0).any():
        raise ValueError("durations must be numbers of 0 or more, got a negative one or NaN")
    distinct, group = np.unique(labels, return_inverse=True)
    if len(distinct) < 2:
        raise ValueError(f"groups must hold two groups or more, got {len(distinct)}")
    time = np.unique(lengths[is_event])
    at_risk, events = (np.zeros((len(distinct), len(time))) for _ in range(2))
    for number in range(len(distinct)):
        of_group = np.sort(lengths[group == number])
        at_risk[number] = len(of_group) - np.searchsorted(of_group, time)
        row = np.searchsorted(time, lengths[(group == number) & is_event])
        events[number] = np.bincount(row, minlength=len(time))
    n, d = at_risk.sum(axis=0), events.sum(axis=0)
    # if survival is equal, the events at each time fall on the groups like balls drawn without replacement
    expected = at_risk * d / n
    share = at_risk / n
    spread = d * (n - d) / np.maximum(n - 1, 1)
    # the excesses sum to 0 over all groups, so the last group adds nothing and would make the matrix singular
    covariance = (np.diag((share * spread).sum(axis=1)) - (share * spread) @ share.T)[:-1, :-1]
    excess = (events - expected).sum(axis=1)[:-1]
    statistic = float(excess @ np.linalg.pinv(covariance) @ excess)
    result = {
        "statistic": statistic,
        "degrees_of_freedom": float(len(distinct) - 1),
        "p": float(distributions.chi2_sf(statistic, len(distinct) - 1)),
    }
    for row, group in enumerate(distinct):
        result |= {
            f"events {group}": float(events[row].sum()),
            f"expected {group}": float(expected[row].sum()),
        }
    return result


def mean_cumulative(
    units: ArrayLike, times: ArrayLike, until: dict[Any, float], *, since: dict[Any, float] | None = None
) -> pd.DataFrame:
    """Estimate the mean number of recurrent events (restarts) that a unit (task) has had by each age.

    Parameters
    ----------
    units : array of shape (n,)
        The unit of each event.
    times : array of shape (n,)
        The age of the unit at each event, in any unit of time.
    until : dict
        The age up to which each unit was observed; units without events, too.
    since : dict, optional
        The age from which a unit was observed, if not from 0 (late entry).

    Returns
    -------
    pandas.DataFrame
        One row for each distinct age, from 0: time, at_risk, events, mean (Nelson's estimate), lower, upper
        (95 %, from his robust variance, on the log scale); missing
        where nobody is at risk.

    Raises
    ------
    ValueError
        A unit that had an event is not in `until`.

    References
    ----------
    Nelson, Recurrent Events Data Analysis for Product Repairs, 2003; Lawless and Nadeau, Technometrics 37,
    1995.

    Examples
    --------
    >>> af.stats.mean_cumulative(["a", "a", "b"], [1, 3, 2], {"a": 4, "b": 4})["mean"].tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    ages = np.asarray(times, dtype=float)
    unit_rows = pd.Index(list(until)).get_indexer(pd.Index(np.asarray(units)))
    if (unit_rows < 0).any():
        raise ValueError("until must hold every unit that had an event")
    ends = np.array(list(until.values()), dtype=float)
    begins = np.array([(since or {}).get(unit, 0.0) for unit in until], dtype=float)
    return mean_cumulative_of_rows(unit_rows, ages, begins, ends)


def mean_cumulative_of_rows(units: Any, ages: Floats, begins: Floats, ends: Floats) -> pd.DataFrame:
    """Estimate the mean cumulative function of units that are numbered from 0.

    Sorting takes the most time. The robust variance at each age is the sum over units of A squared, where A
    is 1 / at_risk at each event of the unit, less the cumulated mean of all units while it was at risk. All
    units at risk move by the same amount between events, so that the sum of squares follows from the sum of A
    over the units at risk; no unit is looked at twice.
    """
    # outside its time at risk a unit is not watched: its events there do not count
    counts = (ages >= begins[units]) & (ages <= ends[units])
    units, ages = units[counts], ages[counts]
    time = np.unique(np.concatenate([[0.0], ages]))
    row = np.searchsorted(time, ages)
    watched = ends >= begins
    entered = np.searchsorted(np.sort(begins[watched]), time, side="right")
    at_risk = entered - np.searchsorted(np.sort(ends[watched]), time, side="left")
    events = np.bincount(row, minlength=len(time))
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(at_risk > 0, events / at_risk, 0.0)
        inverse = np.where(at_risk > 0, 1 / at_risk, 0.0)
    deviation = np.sqrt(_robust_variance(units, row, time, begins, ends, at_risk, step * inverse, inverse))
    mean = np.cumsum(step)
    # on the log scale: means of few events are skewed, and never below 0
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.exp(np.where(mean > 0, _Z * deviation / mean, 0.0))
    lower, upper = mean / factor, mean * factor
    nobody = at_risk == 0
    mean, lower, upper = (np.where(nobody, np.nan, values) for values in (mean, lower, upper))
    return pd.DataFrame(
        {"time": time, "at_risk": at_risk, "events": events.astype("int64"), "mean": mean, "lower": lower,
         "upper": upper}
    )  # fmt: skip


def _robust_variance(
    units: Any,
    row: Any,
    time: Floats,
    begins: Floats,
    ends: Floats,
    at_risk: Any,
    shift: Floats,
    jump: Floats,
) -> Floats:
    """Return the sum of squares of the units' A at each time; `shift` and `jump` move it at each."""
    watched = np.flatnonzero(ends >= begins)
    shifted = np.concatenate([[0.0], np.cumsum(shift)])  # before each time, and after the last
    enters = np.searchsorted(time, begins)
    leaves = np.searchsorted(time, ends, side="right")  # the first time at which it is no longer at risk
    # events of one unit at one time are one jump
    keys, number = np.unique(units * np.int64(len(time)) + row, return_counts=True)
    unit, at = keys // len(time), keys % len(time)
    size = number * jump[at]
    total = np.cumsum(size)
    first = np.searchsorted(unit, unit)
    own_before = total - size - (total - size)[first]
    own_sum = np.bincount(unit, weights=size, minlength=len(ends))
    value = own_before - (shifted[at + 1] - shifted[enters[unit]])
    # the sum of A over the units at risk before each time
    change = np.zeros(len(time) + 1)
    np.add.at(change, enters[watched], shifted[enters[watched]])
    np.add.at(change, leaves[watched], -(own_sum + shifted[enters])[watched])
    np.add.at(change, at + 1, size)
    at_risk_sum = np.cumsum(change)[: len(time)] - at_risk * shifted[:-1]
    square = -2 * shift * at_risk_sum + at_risk * shift**2
    np.add.at(square, at, 2 * value * size + size**2)
    squares: Floats = np.maximum(np.cumsum(square), 0)
    return squares


def cumulative_incidence(durations: ArrayLike, ends: Iterable[str | None]) -> pd.DataFrame:
    """Estimate the share that has ended in each of several competing ways by each time.

    Ends compete if each rules out the others: failed, migrated, updated, lost.

    Parameters
    ----------
    durations : array of shape (n,)
        Time until the end, or until the subject was last seen; in any unit, 0 or more.
    ends : n texts
        The kind of end; missing if none was seen.

    Returns
    -------
    pandas.DataFrame
        One row for each distinct duration, from 0: time, at_risk, and a column for each kind of end (0 to 1).
        One minus Kaplan-Meier would overstate each of them, because it treats the other ends as if they could
        still fail.

    Raises
    ------
    ValueError
        The arguments differ in length, or a duration is negative or NaN.

    References
    ----------
    Aalen and Johansen, Scandinavian Journal of Statistics 5, 1978.

    Examples
    --------
    >>> af.stats.cumulative_incidence([1, 2, 3, 4], ["failed", "updated", "failed", None])["failed"].tolist()
    [0.0, 0.25, 0.25, 0.5, 0.5]
    """
    kinds = pd.Series(list(ends), dtype="str")
    lengths = np.asarray(durations, dtype=float)
    time, at_risk, shares, _ = _incidence(lengths, kinds, None)
    return pd.DataFrame({"time": time, "at_risk": at_risk, **shares})


def cumulative_incidence_rows(durations: Floats, ends: pd.Series[str], entry: Floats) -> pd.DataFrame:
    """Return `cumulative_incidence` with delayed entry and intervals, a row for each time and kind of end."""
    time, at_risk, shares, deviations = _incidence(durations, ends.astype("str"), entry)
    frames = []
    for kind, share in shares.items():
        # on the log(-log) scale: the interval stays between 0 and 1
        with np.errstate(divide="ignore", invalid="ignore"):
            width = _Z * deviations[kind] / (share * np.log(share))
            lower, upper = share ** np.exp(-width), share ** np.exp(width)
        inner = (share > 0) & (share < 1)
        lower, upper = np.where(inner, lower, share), np.where(inner, upper, np.where(share == 0, 0.0, 1.0))
        frames.append(
            pd.DataFrame(
                {"time": time, "at_risk": at_risk, "kind": kind, "share": share, "lower": lower,
                 "upper": upper}
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _incidence(
    lengths: Floats, kinds: pd.Series[str], entry: Floats | None
) -> tuple[Floats, Any, dict[str, Floats], dict[str, Floats]]:
    """Return times, numbers at risk, and of each kind of end its share and standard deviation.

    The variance is that of Aalen and Johansen by the delta method (Marubini and Valsecchi, Analysing Survival
    Data from Clinical Trials, 1995, 10.3). Its sums over earlier times, of terms with the difference of
    shares squared, are three cumulated sums.
    """
    time, at_risk, events, _ = _life_table(lengths, kinds.notna().to_numpy(), entry)
    n = np.maximum(at_risk, 1)
    survival = np.cumprod(1 - events / n)
    # an end at a time needs survival of all ends up to just before it
    before = np.concatenate([[1.0], survival[:-1]])
    shares, deviations = {}, {}
    for kind in sorted(kinds.dropna().unique()):
        of_kind = np.bincount(np.searchsorted(time, lengths[(kinds == kind).to_numpy()]), minlength=len(time))
        share = np.cumsum(before * of_kind / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            all_ends = np.where(n > events, events / (n * (n - events)), 0.0)
        own = before**2 * of_kind * (n - of_kind) / n**3
        mixed = before * of_kind / n**2
        terms = (all_ends, all_ends * share, all_ends * share**2, mixed, mixed * share)
        cum = [np.cumsum(term) for term in terms]
        variance = share**2 * cum[0] - 2 * share * cum[1] + cum[2] + np.cumsum(own)
        variance -= 2 * (share * cum[3] - cum[4])
        shares[str(kind)], deviations[str(kind)] = share, np.sqrt(np.maximum(variance, 0))
    return time, at_risk, shares, deviations


def laplace(times: Any, start: Any, end: Any) -> tuple[float, float]:
    """Test whether events come ever faster (above 0) or settle (below 0) between `start` and `end`.

    Parameters
    ----------
    times : n times
    start, end : time
        The window in which they were observed.

    Returns
    -------
    (float, float)
        Laplace's statistic, which is about normal without trend, and its two-sided p; NaN with fewer than
        four events, for which the normal approximation is too coarse.

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
    # without trend the times are uniform: their mean is 1/2 with variance 1/(12 n)
    position = np.asarray((moments - start) / pd.Timedelta(seconds=1), dtype=float) / length
    return laplace_of_positions(position)


def laplace_of_positions(position: Floats) -> tuple[float, float]:
    """Return Laplace's statistic and p of events at these shares (0 to 1) of their own windows.

    Each position is uniform if its unit has no trend, however long the window is and however many there are:
    a fleet that grows has no trend of its own.
    """
    if len(position) < 4:
        return float("nan"), float("nan")
    statistic = float((position.mean() - 0.5) * np.sqrt(12 * len(position)))
    return statistic, float(2 * distributions.norm_sf(abs(statistic)))
