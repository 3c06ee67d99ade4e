"""Bootstrap over models: how much a statistic would change with other models like these.

Each draw takes N of N models with replacement (Efron 1979); intervals are percentiles of the draws. Where
models come in units that are alike (epochs of one training run), it takes whole units (Davison and Hinkley
1997, section 3.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.errors import UsageError

RESAMPLES, SEED, LEVEL = 2000, 0, 0.95
FEWEST = 5
"""The fewest models with an interval: 4 models have only 35 different draws."""
_ROUNDING = 1e-12
METHOD = "bootstrap_of_models_percentile"
METHOD_OF_UNITS = "bootstrap_of_units_percentile"


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic over models, with its values in bootstrap draws.

    Attributes:
        draws: where defined, [R]; empty without a bootstrap.
        n: models, or units of models.
        undefined: number of other draws (a slope: all models have one x).
        fewest: n with an interval.
    """

    value: float
    n: int
    draws: np.ndarray
    undefined: int = 0
    level: float = LEVEL
    fewest: int = FEWEST
    method: str = METHOD

    @property
    def interval(self) -> dict[str, Any] | None:
        """lo, hi, level and method, as in a result row.

        None for fewer than `fewest` models, or if at most half of the draws define the statistic. Also None
        if all draws agree (models in perfect order): they show no uncertainty.
        """
        limits = self.at(self.level)
        if limits is None:
            return None
        return {"lo": limits[0], "hi": limits[1], "level": self.level, "method": self.method}

    def at(self, level: float) -> tuple[float, float] | None:
        few = self.n < self.fewest or len(self.draws) <= self.undefined
        if few or np.ptp(self.draws) <= _ROUNDING * abs(self.value):
            return None
        lo, hi = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(lo), float(hi)


def estimate(value: float, n: int, draws: np.ndarray, level: float = LEVEL) -> Estimate:
    """A number with its values in draws, of which those that are NaN are counted as undefined."""
    defined = draws[np.isfinite(draws)]
    return Estimate(float(value), n, defined, len(draws) - len(defined), level)


def numbered(units: Sequence[str] | None) -> np.ndarray | None:
    """The models' units as 0, 1, ..., int [N]; None if each model is a unit of its own."""
    if units is None or len(set(units)) == len(units):
        return None
    numbers = {unit: k for k, unit in enumerate(dict.fromkeys(units))}
    return np.array([numbers[unit] for unit in units])


def count_of(units: np.ndarray | None, models: int) -> int:
    """The number of units that are drawn: the models, or their groups where `units` numbers these."""
    return models if units is None else int(units.max()) + 1


def check_settings(level: float, resamples: int) -> None:
    """Raises UsageError unless 0 < level < 1 and resamples >= 0."""
    if not 0 < level < 1:
        raise UsageError(f"the level of intervals is {level:g}: it must be between 0 and 1")
    if resamples < 0:
        raise UsageError(f"{resamples} resamples: give 0 (no intervals) or more")


def draw(n: int, resamples: int, seed: int, stream: int = 0) -> np.ndarray:
    """The models in each draw: int [resamples, n], below n; independent by `stream`."""
    return np.random.default_rng([seed, stream]).integers(0, n, (resamples, n))


def multiplicities(n: int, resamples: int, seed: int, stream: int = 0) -> np.ndarray:
    """Count how often each draw has each model: float64 [resamples, n]."""
    drawn = draw(n, resamples, seed, stream) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)


def draw_units(
    units: np.ndarray, resamples: int, seed: int, stream: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws of as many units as there are, put together by their number of models.

    Returns [(which draws, int [D]; their models, int [D, n]), ...]. units: int [N], as `numbered`.
    """
    by_unit, sizes = np.argsort(units, kind="stable"), np.bincount(units)
    starts = sizes.cumsum() - sizes
    drawn = draw(len(sizes), resamples, seed, stream)
    models = sizes[drawn].sum(1)
    batches = []
    for n in np.unique(models):
        which = np.flatnonzero(models == n)
        flat = drawn[which].ravel()
        ends = sizes[flat].cumsum()
        # Place of each model among those of its unit, then in `by_unit`.
        place = np.arange(ends[-1]) - np.repeat(ends - sizes[flat], sizes[flat])
        batches.append((which, by_unit[np.repeat(starts[flat], sizes[flat]) + place].reshape(-1, n)))
    return batches


def multiplicities_of(
    units: np.ndarray | None, n: int, resamples: int, seed: int, stream: int = 0
) -> np.ndarray:
    """`multiplicities` of n models in units: models of one unit come together."""
    if units is None:
        return multiplicities(n, resamples, seed, stream)
    return multiplicities(count_of(units, n), resamples, seed, stream)[:, units]
