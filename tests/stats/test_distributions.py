"""The functions of distributions agree with scipy.stats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from allocframe.stats import _distributions as ours

Q = np.array([1e-6, 0.025, 0.05, 0.5, 0.95, 0.975, 1 - 1e-6])


def test_quantiles_agree(reference: Any) -> None:
    np.testing.assert_allclose(ours.norm_ppf(Q), reference.norm.ppf(Q), rtol=1e-12, atol=1e-12)
    for df in (1, 2, 7, 2000):
        np.testing.assert_allclose(ours.chi2_ppf(Q, df), reference.chi2.ppf(Q, df), rtol=1e-10)
    for a, b in ((1, 1), (3, 8), (500, 2)):
        np.testing.assert_allclose(ours.beta_ppf(Q, a, b), reference.beta.ppf(Q, a, b), rtol=1e-9)


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (10, 0.1), (200, 0.95), (1000, 0.5), (7, 0.0), (7, 1.0)])
def test_quantiles_and_tails_of_the_binomial_agree(n: int, p: float, reference: Any) -> None:
    k = np.arange(-1, n + 2)
    np.testing.assert_allclose(ours.binom_sf(k, n, p), reference.binom.sf(k, n, p), rtol=1e-9, atol=1e-300)
    for q in (0.025, 0.5, 0.975):
        assert ours.binom_ppf(q, n, p) == reference.binom.ppf(q, n, p)


def test_tails_agree_far_out(reference: Any) -> None:
    x = np.array([-3, 0, 1.5, 8, 30])
    np.testing.assert_allclose(ours.norm_sf(x), reference.norm.sf(x), rtol=1e-12)
    for df in (1, 4, 50):
        np.testing.assert_allclose(ours.chi2_sf(np.abs(x), df), reference.chi2.sf(np.abs(x), df), rtol=1e-10)
    for over, under in ((1, 1), (11, 9), (5, 200)):
        tails = [ours.f_sf(float(each), over, under) for each in np.abs(x)]
        np.testing.assert_allclose(tails, reference.f.sf(np.abs(x), over, under), rtol=1e-10)
    k = np.array([-1, 0, 1, 5, 40])
    for mean in (0.01, 1.0, 12.5):
        np.testing.assert_allclose(ours.poisson_sf(k, mean), reference.poisson.sf(k, mean), rtol=1e-9)


@pytest.mark.parametrize(("total", "bad", "drawn"), [(1, 1, 1), (20, 7, 12), (9, 9, 4), (40_000, 30, 900)])
def test_the_hypergeometric_agrees(total: int, bad: int, drawn: int, reference: Any) -> None:
    k = np.arange(-1, min(bad, drawn) + 3)
    expected = reference.hypergeom.pmf(k, total, bad, drawn)
    np.testing.assert_allclose(ours.hypergeom_pmf(k, total, bad, drawn), expected, rtol=1e-9, atol=1e-300)
    tails = [ours.hypergeom_sf(int(number), total, bad, drawn) for number in k]
    np.testing.assert_allclose(tails, reference.hypergeom.sf(k, total, bad, drawn), rtol=1e-8, atol=1e-300)
