"""Correlations over models, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from clipjax.analysis.rows.scales import checked
from clipjax.analysis.trends.resampling import (
    LEVEL,
    METHOD,
    METHOD_OF_UNITS,
    RESAMPLES,
    SEED,
    Estimate,
    check_settings,
    count_of,
    estimate,
    multiplicities_of,
    numbered,
)
from clipjax.analysis.trends.trends import check_pairs
from clipjax.guards import known_name

KINDS = ("spearman", "kendall", "pearson")
FEWEST = 7
"""The fewest models with an interval. Without any correlation Spearman's excludes 0 in 14 % of studies of
5 models, and in 5 % of 7."""


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    kind: str = "spearman",
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = SEED,
    stream: int = 0,
    units: Sequence[str] | None = None,
) -> Estimate:
    """A correlation of x and y, float [N], with a bootstrap over models; NaN where x or y is constant.

    Kendall's is tau-b; ties share their mean rank. Fewer than `FEWEST` models have no interval.

    Args:
        units: of each model, if draws take whole units.

    Raises:
        UsageError: unknown kind, level outside 0 to 1, or negative `resamples`.
        DataError: a value is not finite, or fewer than two models.
    """
    known_name("correlation", kind, KINDS)
    check_settings(level, resamples)
    across, up = checked(x, "linear"), checked(y, "linear")
    check_pairs(across, up)
    n, order = len(across), np.lexsort((up, across))  # sorted: the caller's order does not change the draws
    across, up = across[order], up[order]
    of = None if units is None else numbered([units[int(k)] for k in order])
    times = np.concatenate([np.ones((1, n)), multiplicities_of(of, n, resamples, seed, stream)])
    value, *draws = _kendall(across, up, times) if kind == "kendall" else _pearson(across, up, times, kind)
    found = estimate(value, count_of(of, n), np.array(draws), level)
    return replace(found, fewest=FEWEST, method=METHOD if of is None else METHOD_OF_UNITS)


def _pearson(x: np.ndarray, y: np.ndarray, times: np.ndarray, kind: str) -> np.ndarray:
    """times [R, N]: how often each draw has each model."""
    total = times.sum(1, keepdims=True)
    sides = []
    for values in (x, y):
        numbers = times @ _order(values).T / 2 if kind == "spearman" else np.broadcast_to(values, times.shape)
        off = numbers - (times * numbers).sum(1, keepdims=True) / total
        # Exactly 0, not a rounding error: a constant side gives 0 / 0 = NaN.
        sides.append(np.where(_constant(values, times), 0.0, off))
    across, up = sides
    size = np.sqrt((times * across**2).sum(1) * (times * up**2).sum(1))
    with np.errstate(invalid="ignore"):
        return np.clip((times * across * up).sum(1) / size, -1, 1)  # rounding may pass 1


def _kendall(x: np.ndarray, y: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Tau-b: concordant minus discordant pairs, over the geometric mean of those untied in x and in y.

    https://en.wikipedia.org/wiki/Kendall_rank_correlation_coefficient#Tau-b. A draw that has model i n times
    and model j m times has their pair n * m times.
    """
    of_x, of_y = _order(x), _order(y)

    def pairs(which: np.ndarray) -> np.ndarray:
        return ((times @ which) * times).sum(1)

    with np.errstate(invalid="ignore"):
        return pairs(of_x * of_y) / np.sqrt(pairs(np.abs(of_x)) * pairs(np.abs(of_y)))


def _order(values: np.ndarray) -> np.ndarray:
    """[N, N]: 1 where the row's model is larger, -1 smaller, 0 tied.

    A row's sum is twice the model's mean rank, up to a constant.
    """
    return np.sign(values[:, None] - values[None, :])


def _constant(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether a draw has one value, bool [R, 1]."""
    held = np.where(times > 0, values, np.nan)
    return np.nanmax(held, axis=1, keepdims=True) == np.nanmin(held, axis=1, keepdims=True)
