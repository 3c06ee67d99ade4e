"""Lines through points: the references' numbers, and one line a set whatever the other sets are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import statsmodels.api as sm

from clipjax.analysis.trends import regression
from clipjax.analysis.trends.regression import COARSE, K, Stop, least_squares, lines


def models(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A line with heavy-tailed noise: some models far off it."""
    rng = np.random.default_rng([n, seed])
    x = rng.normal(0.5, 0.4, n)
    return x, -0.3 + 1.1 * x + 0.1 * rng.standard_t(1.5, n)


def reference(x: np.ndarray, y: np.ndarray, **settings: Any) -> Any:
    return sm.RLM(y, sm.add_constant(x), M=sm.robust.norms.HuberT(t=K)).fit(**settings)


@pytest.mark.parametrize("n", [5, 6, 9, 30, 127])
def test_huber_is_that_of_statsmodels(n: int) -> None:
    for seed in range(8):
        x, y = models(n, seed)
        found, theirs = lines(x[None], y[None]), reference(x, y, conv="coefs", tol=1e-13, maxiter=5000)
        np.testing.assert_allclose([found.intercept[0], found.slope[0]], theirs.params, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found.weights[0], theirs.weights, rtol=0, atol=1e-7)


def test_a_known_fit() -> None:
    """statsmodels 0.14's numbers of nine models on probit axes, one of them far off."""
    x = scipy.special.ndtri(np.array([0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.62, 0.72]))
    y = scipy.special.ndtri(np.array([0.40, 0.47, 0.52, 0.60, 0.66, 0.70, 0.40, 0.50, 0.61]))
    huber, ols = lines(x[None], y[None]), lines(x[None], y[None], "ols")
    np.testing.assert_allclose([huber.intercept[0], huber.slope[0]], [-0.3277872, 1.0206570], atol=1e-7)
    np.testing.assert_allclose([ols.intercept[0], ols.slope[0]], [-0.0700433, 0.3315524], atol=1e-7)
    assert huber.weights[0].argmin() == 6
    assert huber.weights[0, 6] == pytest.approx(0.0324, abs=5e-5)


def test_least_squares_is_that_of_scipy_and_statsmodels() -> None:
    for seed in range(5):
        x, y = models(20, seed)
        found = lines(x[None], y[None], "ols")
        theirs: Any = scipy.stats.linregress(x, y)
        ours, other = [found.slope[0], found.intercept[0]], [theirs.slope, theirs.intercept]
        np.testing.assert_allclose(ours, other, rtol=1e-12)
        weights: Any = np.random.default_rng(seed).uniform(0.1, 1, 20)
        weighted: Any = sm.WLS(y, sm.add_constant(x), weights=weights).fit().params
        found = least_squares(x[None], y[None], weights[None])
        np.testing.assert_allclose([found.intercept[0], found.slope[0]], weighted, rtol=1e-11)


@pytest.mark.parametrize(("method", "rows"), [("huber", 100), ("huber", 4), ("ols", 4)])
def test_many_sets_at_once_are_each_by_itself(
    method: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression, "_BLOCK", 12 * rows)  # with fewer rows than sets, sets wait for a place
    sets = [models(12, seed) for seed in range(30)]
    x, y = (np.stack(side) for side in zip(*sets))
    x[3] = 0.5  # no line
    y[4] = 2 - x[4]  # an exact one
    y[5, :8] = 1 + x[5, :8]  # most of the models on one: the scale comes to nothing
    together = lines(x, y, method)
    for k in range(len(sets)):
        alone = lines(x[k : k + 1], y[k : k + 1], method)
        np.testing.assert_array_equal([part[k] for part in together[:2]], [part[0] for part in alone[:2]])
        np.testing.assert_array_equal(together.weights[k], alone.weights[0])
    assert np.isnan(together.slope[3])
    assert np.isnan(together.intercept[3])
    np.testing.assert_allclose([together.slope[4], together.intercept[4]], [-1, 2], rtol=1e-12)
    assert np.isfinite(np.delete(together.slope, 3)).all()


def test_huber_finds_the_line_that_most_models_are_on() -> None:
    x = np.linspace(0, 1, 20)
    y = 1 + 2 * x
    y[:3] = 9.0
    found = lines(x[None], y[None])
    np.testing.assert_allclose([found.slope[0], found.intercept[0]], [2, 1], atol=1e-9)


def test_few_models_that_come_to_rest_slowly() -> None:
    """As far as the reference gets in as many steps; its default of 50 stops on the way."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 5))
    y = x + 0.3 * rng.standard_t(1.5, (3000, 5))
    slow = np.flatnonzero(np.abs(lines(x, y, stop=Stop(1e-10, 500)).slope - lines(x, y).slope) > 0.01)
    assert len(slow)
    for k in slow:
        theirs = reference(x[k], y[k], conv="coefs", tol=1e-13, maxiter=20_000)
        found = lines(x[k : k + 1], y[k : k + 1])
        np.testing.assert_allclose(found.slope[0], theirs.params[1], rtol=1e-7)


def test_coarse_lines_differ_by_little() -> None:
    x, y = (np.stack(side) for side in zip(*(models(30, seed) for seed in range(50))))
    fine, coarse = lines(x, y), lines(x, y, stop=COARSE)
    np.testing.assert_allclose(coarse.slope, fine.slope, atol=1e-5)


def test_large_numbers_lose_nothing() -> None:
    x, y = models(30, 0)
    found, moved = lines(x[None], y[None]), lines(x[None] + 1e6, y[None])
    np.testing.assert_allclose(moved.slope, found.slope, rtol=1e-7)
