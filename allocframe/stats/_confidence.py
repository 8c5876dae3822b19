"""Confidence intervals of rates, ratios of rates and proportions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _distributions as distributions

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
UPPER_BOUND_OF_ZERO = float(distributions.chi2_ppf(CONFIDENCE, 2) / 2)
"""One-sided 95 % upper bound of a Poisson count if none was seen: -ln 0.05, about 3 (the "rule of three")."""


def poisson(
    count: ArrayLike, exposure: ArrayLike, count_is_fixed: ArrayLike = False
) -> tuple[Floats, Floats, Floats]:
    """Return rate, lower and upper bound of counts over exposures; NaN without exposure.

    If the count was fixed beforehand and the time is what was observed, the upper bound is the same quantile
    as the lower one, of 2 n degrees of freedom.

    The interval is exact (Garwood 1936): the bounds are the means of the two Poisson distributions in which a
    count this large, or this small, has a chance of 2.5 %. They are quantiles of chi-square, because a
    Poisson count of n or more by time t is the n-th arrival before t, whose time is gamma distributed.
    Source: NIST/SEMATECH e-Handbook of Statistical Methods, 8.1.7.
    """
    n, time = np.asarray(count, dtype=float), np.asarray(exposure, dtype=float)
    time = np.where(time > 0, time, np.nan)
    tail = (1 - CONFIDENCE) / 2
    # chi-square with 0 degrees of freedom is undefined; the lower bound of a count of 0 is 0
    lower = np.where(n > 0, distributions.chi2_ppf(tail, 2 * np.where(n > 0, n, 1)) / 2, 0.0)
    more = np.where(np.asarray(count_is_fixed, dtype=bool) & (n > 0), 0, 2)
    upper = distributions.chi2_ppf(1 - tail, 2 * n + more) / 2
    return n / time, lower / time, upper / time


def wilson(successes: ArrayLike, trials: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return proportion, lower and upper bound by Wilson's score (1927); NaN without trials.

    Unlike the textbook interval around the proportion, it stays inside 0 to 1 and has a width at 0 of n and n
    of n.
    """
    k, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    n = np.where(n > 0, n, np.nan)
    z = float(distributions.norm_ppf((1 + CONFIDENCE) / 2))
    share = k / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half_width = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, np.clip(centre - half_width, 0, 1), np.clip(centre + half_width, 0, 1)


def rate_ratio(
    count: ArrayLike, exposure: ArrayLike, base_count: ArrayLike, base_exposure: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Return the ratio of two Poisson rates and its exact conditional interval.

    Given the sum of both counts, one of them is binomial; Clopper and Pearson's bounds of its share p become
    those of the ratio by p / (1 - p). Without exposure on either side, or without any event, all are NaN;
    without a base event the ratio and its upper bound are infinite. Source: Lehmann and Romano, Testing
    Statistical Hypotheses, 2005, 4.5.
    """
    a, b = np.asarray(count, dtype=float), np.asarray(base_count, dtype=float)
    s, t = np.asarray(exposure, dtype=float), np.asarray(base_exposure, dtype=float)
    defined = (s > 0) & (t > 0) & (a + b > 0)
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(a > 0, distributions.beta_ppf(tail, np.maximum(a, 1), b + 1), 0.0)
        high = np.where(b > 0, distributions.beta_ppf(1 - tail, a + 1, np.maximum(b, 1)), 1.0)
        factor = t / s
        bounds: list[Any] = [(a / b) * factor, low / (1 - low) * factor, high / (1 - high) * factor]
    ratio, lower, upper = (np.where(defined, values, np.nan) for values in bounds)
    return ratio, lower, upper


def poisson_tail(count: float, expected: float) -> float:
    """Return the probability of a Poisson count of `count` or more if `expected` are expected."""
    return float(distributions.poisson_sf(count - 1, expected)) if count > 0 else 1.0
