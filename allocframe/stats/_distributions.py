"""The few functions of distributions that statistics need.

scipy.special has what scipy.stats is made of, and saves half a second of loading in each command.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special


def norm_ppf(q: Any) -> Any:
    """Return the quantile of the normal distribution."""
    return special.ndtri(q)


def norm_sf(x: Any) -> Any:
    """Return the probability that a normal variable is greater than `x`."""
    return special.ndtr(-np.asarray(x, dtype=float))


def chi2_ppf(q: Any, df: Any) -> Any:
    """Return the quantile of the chi-square distribution with `df` degrees of freedom."""
    return 2 * special.gammaincinv(np.asarray(df, dtype=float) / 2, q)


def chi2_sf(x: Any, df: Any) -> Any:
    """Return the probability that a chi-square variable is greater than `x`."""
    return special.chdtrc(df, x)


def beta_ppf(q: Any, a: Any, b: Any) -> Any:
    """Return the quantile of the beta distribution."""
    return special.betaincinv(a, b, q)


def f_sf(x: float, over: float, under: float) -> float:
    """Return the probability that an F variable with these degrees of freedom is greater than `x`."""
    return float(special.fdtrc(over, under, x))


def binom_sf(k: Any, n: Any, p: Any) -> Any:
    """Return the probability of more than `k` successes in `n` trials."""
    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    inside = special.betainc(np.maximum(k + 1, 1), np.maximum(n - k, 1), p)
    return np.where(k < 0, 1.0, np.where(k >= n, 0.0, inside))


def binom_ppf(q: float, n: int, p: float) -> int:
    """Return the smallest number of successes that is not exceeded with probability `q`."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if 1 - float(binom_sf(middle, n, p)) >= q:
            high = middle
        else:
            low = middle + 1
    return low


def hypergeom_pmf(k: Any, total: int, bad: int, drawn: int) -> Any:
    """Return the probability of `k` bad ones among `drawn` of `total`, `bad` of which are bad."""
    k, good = np.asarray(k, dtype=float), total - bad
    possible = (k >= max(0, drawn - good)) & (k <= min(bad, drawn))
    inside = np.where(possible, k, max(0, drawn - good))
    logarithm = (
        _log_choose(bad, inside) + _log_choose(good, drawn - inside) - _log_choose(total, float(drawn))
    )
    return np.where(possible, np.exp(logarithm), 0.0)


def hypergeom_sf(k: int, total: int, bad: int, drawn: int) -> float:
    """Return the probability of more than `k` bad ones among `drawn`."""
    tail = hypergeom_pmf(np.arange(k + 1, min(bad, drawn) + 1), total, bad, drawn)
    return float(min(tail.sum(), 1.0))


def _log_choose(total: Any, chosen: Any) -> Any:
    return -np.log1p(total) - special.betaln(total - chosen + 1, chosen + 1)


def poisson_sf(k: Any, mean: Any) -> Any:
    """Return the probability of more than `k` events where `mean` are expected."""
    k = np.asarray(k, dtype=float)
    return np.where(k < 0, 1.0, special.gammainc(np.maximum(k + 1, 1), mean))
