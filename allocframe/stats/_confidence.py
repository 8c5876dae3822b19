"""Exact and score intervals of rates and proportions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
NONE_SEEN = float(distributions.chi2.ppf(CONFIDENCE, 2) / 2)
"""The one-sided upper bound of a Poisson count of which none was seen, about 3."""


def poisson(count: ArrayLike, exposure: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return rate, lower and upper bound for counts over exposures: exact, by chi-square quantiles.

    No exposure gives NaN. Source: NIST/SEMATECH e-Handbook of Statistical Methods, 8.1.7 and Garwood (1936).
    """
    n, time = np.asarray(count, dtype=float), np.asarray(exposure, dtype=float)
    time = np.where(time > 0, time, np.nan)
    tail = (1 - CONFIDENCE) / 2
    lower = np.where(n > 0, distributions.chi2.ppf(tail, 2 * np.maximum(n, 1)) / 2, 0.0)
    upper = distributions.chi2.ppf(1 - tail, 2 * n + 2) / 2
    return n / time, lower / time, upper / time


def wilson(hits: ArrayLike, of: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Return proportion, lower and upper bound by Wilson's score; none of nothing is NaN."""
    k, n = np.asarray(hits, dtype=float), np.asarray(of, dtype=float)
    n = np.where(n > 0, n, np.nan)
    z = float(distributions.norm.ppf((1 + CONFIDENCE) / 2))
    share = k / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return share, np.clip(middle - reach, 0, 1), np.clip(middle + reach, 0, 1)


def rate_ratio(
    count: ArrayLike, exposure: ArrayLike, base_count: ArrayLike, base_exposure: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Return the ratio of two Poisson rates with its exact conditional interval (Clopper-Pearson on the share).

    Without exposure on either side all are NaN; without a base event the ratio and its upper bound are infinite.
    """
    a, b = np.asarray(count, dtype=float), np.asarray(base_count, dtype=float)
    s, t = np.asarray(exposure, dtype=float), np.asarray(base_exposure, dtype=float)
    told = (s > 0) & (t > 0) & (a + b > 0)
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(a > 0, distributions.beta.ppf(tail, np.maximum(a, 1), b + 1), 0.0)
        high = np.where(b > 0, distributions.beta.ppf(1 - tail, a + 1, np.maximum(b, 1)), 1.0)
        factor = t / s
        found: list[Any] = [(a / b) * factor, low / (1 - low) * factor, high / (1 - high) * factor]
    ratio, lower, upper = (np.where(told, values, np.nan) for values in found)
    return ratio, lower, upper


def at_least(count: float, expected: float) -> float:
    """Return the probability that a Poisson count is so large or larger."""
    return float(distributions.poisson.sf(count - 1, expected)) if count > 0 else 1.0
