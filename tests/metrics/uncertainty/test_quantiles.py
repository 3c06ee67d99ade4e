"""Quantiles of `scipy.special` have the bits of `scipy.stats`, which takes half a second to load."""

from __future__ import annotations

import numpy as np
import scipy.special
import scipy.stats

from clipjax.metrics.uncertainty.intervals import clopper_pearson_limits
from clipjax.metrics.uncertainty.paired import mcnemar_continuity, mcnemar_exact

LEVELS = (0.5, 0.9, 0.95, 0.99)


def counts(n_small: int = 1000, n_large: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Hits and sizes, of few and of many images; with none and with all right."""
    rng = np.random.default_rng(0)
    n = np.concatenate([rng.integers(1, 40, n_small), rng.integers(1, 60_000, n_large)])
    return (rng.random(len(n)) * (n + 1)).astype(int), n


def test_normal_quantiles() -> None:
    p = np.concatenate([np.random.default_rng(1).random(5000), [0.975, 0.75, 0.025]])
    assert np.array_equal(scipy.special.ndtri(p), scipy.stats.norm.ppf(p))


def test_students_quantiles() -> None:
    rng = np.random.default_rng(2)
    freedom = np.concatenate([rng.integers(1, 5000, 2000), 300 * rng.random(2000) + 0.5, [np.inf]])
    for level in LEVELS:
        ours = scipy.special.stdtrit(freedom, (1 + level) / 2)
        assert np.array_equal(ours, scipy.stats.t.ppf((1 + level) / 2, freedom))


def test_clopper_pearsons_limits_are_beta_quantiles() -> None:
    hits, n = counts()
    for level in LEVELS:
        tail = (1 - level) / 2
        lo, hi = clopper_pearson_limits(hits, n, level)
        some, others = hits > 0, hits < n
        lowest = np.asarray(scipy.stats.beta.ppf(tail, hits, n - hits + 1))
        highest = np.asarray(scipy.stats.beta.ppf(1 - tail, hits + 1, n - hits))
        assert np.array_equal(lo[some], lowest[some])
        assert np.array_equal(hi[others], highest[others])


def test_mcnemars_exact_p_is_that_of_a_binomial_test() -> None:
    pairs = [(k, n - k) for n in range(61) for k in range(n // 2 + 1)]
    rng = np.random.default_rng(3)
    for n in rng.integers(60, 50_000, 300).tolist():
        k = max(0, int(n / 2 - abs(rng.normal()) * n**0.5))
        pairs.append((k, n - k))
    for gained, lost in pairs:
        n = gained + lost
        expected = 1.0 if n == 0 else float(scipy.stats.binomtest(gained, n).pvalue)
        assert mcnemar_exact(gained, lost).p_value == mcnemar_exact(lost, gained).p_value == expected


def test_mcnemars_corrected_p_is_that_of_chi_squared() -> None:
    for gained, lost in np.random.default_rng(4).integers(0, 3000, (2000, 2)).tolist():
        found = mcnemar_continuity(gained, lost)
        assert found.p_value == float(scipy.stats.chi2.sf(found.statistic, 1))
