"""Bootstrap over models: how far a statistic of some models would move with other models like them.

Models are drawn with replacement, as many as there are (Efron 1979); an interval is the central part of what
the statistic is in the draws (the percentile interval). Seeded: the same numbers give the same interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from clipjax.errors import UsageError

RESAMPLES, SEED, LEVEL = 2000, 0, 0.95
FEWEST = 5
"""Models from which on there is an interval: of 4 there are only 35 different draws."""
_ROUNDING = 1e-12
METHOD = "bootstrap_of_models_percentile"


@dataclass(frozen=True, eq=False)
class Estimate:
    """A statistic of models, with what it was in the draws.

    Attributes:
        n: models that it rests on.
        draws: its values in the draws in which it was defined [R]. Empty without a bootstrap.
        undefined: draws in which it was not defined, e.g. a slope where all models drawn have one x.
        level: of `interval`.
    """

    value: float
    n: int
    draws: np.ndarray
    undefined: int = 0
    level: float = LEVEL

    @property
    def interval(self) -> dict[str, Any] | None:
        """lo, hi, level, method, as result rows have it.

        None for fewer than `FEWEST` models, without draws, where it was defined in no more than half of them,
        or where all agree (as on models in perfect order): then resampling does not see how sure it is.
        """
        found = self.at(self.level)
        if found is None:
            return None
        return {"lo": found[0], "hi": found[1], "level": self.level, "method": METHOD}

    def at(self, level: float) -> tuple[float, float] | None:
        """The limits of the interval of another level."""
        few = self.n < FEWEST or len(self.draws) <= self.undefined
        if few or np.ptp(self.draws) <= _ROUNDING * abs(self.value):
            return None
        lo, hi = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        return float(lo), float(hi)


def estimate(value: float, n: int, draws: np.ndarray, level: float = LEVEL) -> Estimate:
    """An `Estimate` of draws among which NaN stands for "not defined"."""
    defined = draws[np.isfinite(draws)]
    return Estimate(float(value), n, defined, len(draws) - len(defined), level)


def check_settings(level: float, resamples: int) -> None:
    """Raises UsageError unless intervals can be made so."""
    if not 0 < level < 1:
        raise UsageError(f"the level of intervals is {level:g}: it must lie between 0 and 1")
    if resamples < 0:
        raise UsageError(f"{resamples} resamples: give 0 (no intervals) or more")


def draw(n: int, resamples: int, seed: int, stream: int = 0) -> np.ndarray:
    """Which models each draw holds: int [resamples, n], indices below n.

    Args:
        stream: groups that are drawn independently have different ones.
    """
    return np.random.default_rng([seed, stream]).integers(0, n, (resamples, n))


def multiplicities(n: int, resamples: int, seed: int, stream: int = 0) -> np.ndarray:
    """The draws of `draw` as how often each model is in them: float64 [resamples, n]."""
    drawn = draw(n, resamples, seed, stream) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(np.float64)
