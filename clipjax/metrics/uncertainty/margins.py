"""Is a model worse than another by less than a margin? A one-sided test of a paired difference. Needs no JAX.

    aim = Aim(above=-0.005, truth=0.0)                  # not worse by .005; power counts for an equal model
    test = MarginTest(50_000, aim.above, alpha=0.025)
    test.limits(gained=310, lost=330)                   # the difference is shown if the lower one is above

Tango's score test (1998). Where models disagree on few images it passes with up to 1.4 times its nominal
probability. So `MarginTest` lowers the nominal one until the true one, enumerated over discordances, is at
most alpha. McNemar's exact test of `clipjax compare` has no margin.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Bool, Float64, Int
from numpy.typing import ArrayLike

from clipjax.metrics.uncertainty.power import MOST, POWER, STEP

METHOD = "tango_score_enumerated"
DISCORDANCES = 30  # where the level is enumerated
BISECTIONS = 50  # of a limit: 2 / 2^50


class Aim(NamedTuple):
    """What a one-sided test must show, and where it must be able to show it.

    Attributes:
        above: the difference that the lower limit must exceed.
        truth: the true difference at which the test's power counts.
    """

    above: float
    truth: float


@dataclass(frozen=True)
class MarginTest:
    """A test on n images that a difference is above a number, wrong with probability `alpha` at most.

    Raises:
        ValueError: no image, `above` is not inside -1..1, or alpha not above 0 and below .5.
    """

    n: int
    above: float
    alpha: float

    def __post_init__(self) -> None:
        if self.n < 1 or not -1 < self.above < 1 or not 0 < self.alpha < 0.5:
            raise ValueError(
                f"n is {self.n}, the bound {self.above} and alpha {self.alpha}: give an image or more, a "
                "number inside -1..1, and one above 0 and below .5"
            )

    @functools.cached_property
    def nominal(self) -> float:
        """The score test's alpha, of which the true one is at most `alpha` at every discordance."""
        least = max(abs(self.above), 0.5 / self.n)
        discordances = np.minimum(np.geomspace(least, 1, DISCORDANCES), 1)
        nominal = self.alpha
        while (true := max(self._chance(each, self.above, nominal) for each in discordances)) > self.alpha:
            nominal *= min(self.alpha / true, 0.999)
        return nominal

    def shows(self, gained: ArrayLike, lost: ArrayLike) -> Bool[np.ndarray, "*K"]:
        """Whether these counts show it; numbers, or int [K] each."""
        return np.asarray(score(gained, lost, self.n, self.above) > -scipy.special.ndtri(self.nominal))

    def limits(self, gained: int, lost: int) -> tuple[float, float]:
        """The lower and the upper limit of (`gained` - `lost`) / n; the lower one is above if it is shown.

        Raises ValueError for counts below 0, or more discordant images than images.
        """
        if min(gained, lost) < 0 or gained + lost > self.n:
            raise ValueError(
                f"{gained} gained and {lost} lost of {self.n} images: counts are 0 to n together"
            )
        z = -float(scipy.special.ndtri(self.nominal))
        lower, upper = (_where_score(gained, lost, self.n, each) for each in (z, -z))
        return lower, upper

    def chance(self, discordance: float, truth: float) -> float:
        """The probability of showing it where this is the true difference, by enumeration.

        Args:
            discordance: the share of images that one model alone has right.

        Raises:
            ValueError: the discordance is above 1, or smaller than the true difference.
        """
        return self._chance(discordance, truth, self.nominal)

    def _chance(self, discordance: float, truth: float, nominal: float) -> float:
        if not abs(truth) <= discordance <= 1:
            raise ValueError(f"the discordance is {discordance}; it is at least the difference, {abs(truth)}")
        n = self.n
        # The shares of images that only the second and only the first model has right.
        gain, loss = max(discordance + truth, 0) / 2, (discordance - truth) / 2
        # Beyond nine standard deviations and 25 images, a number of lost images adds no probability.
        reach = 9 * math.sqrt(n * loss * (1 - loss)) + 25
        lost = np.arange(max(0, int(n * loss - reach)), min(n, int(n * loss + reach)) + 1)
        fewest = _fewest_gained(lost, n, self.above, -scipy.special.ndtri(nominal))
        chances = np.exp(
            scipy.special.gammaln(n + 1)
            - scipy.special.gammaln(lost + 1)
            - scipy.special.gammaln(n - lost + 1)
            + scipy.special.xlogy(lost, loss)
            + scipy.special.xlog1py(n - lost, -loss)
        )
        # Given the lost images, the gained ones are a share of the others.
        share = min(gain / (1 - loss), 1.0) if loss < 1 else 0.0
        tail = scipy.special.bdtrc(np.maximum(fewest - 1, 0), n - lost, share)
        return float(chances @ np.where(fewest > n - lost, 0, np.where(fewest == 0, 1, tail)))


def score(gained: ArrayLike, lost: ArrayLike, n: int, difference: ArrayLike) -> Float64[np.ndarray, "*K"]:
    """Tango's statistic: how far (`gained` - `lost`) / n is above a true difference, in its standard errors.

    The error is that of the likeliest discordance under this difference. 0 where nothing differs.
    """
    # Tango's letters: b and c are the discordant images, d is the true difference.
    b, c, d = np.asarray(gained), np.asarray(lost), np.asarray(difference)
    linear = (2 * n - b + c) * d - b - c
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * d * (1 - d), 0))
    loss = (root - linear) / (4 * n)
    spread = np.sqrt(np.maximum(n * (2 * loss + d * (1 - d)), 0))
    return np.where(spread > 0, (b - c - n * d) / np.where(spread > 0, spread, 1), 0.0)


def images_to_show(discordance: float, aim: Aim, alpha: float, power: float = POWER) -> int:
    """The images that show `aim` with this probability, to about a 200th.

    Raises:
        ValueError: the discordance does not fit, or it needs more than `MOST` images.
    """
    z, of_power = scipy.special.ndtri([1 - alpha, power])
    distance = aim.truth - aim.above
    start = math.ceil(discordance * ((z + of_power) / distance) ** 2)
    if start > MOST:
        raise ValueError(f"a margin of {distance:g} needs {start:,} images; give a larger one")
    low, high = 0, start
    # With the nominal alpha first: enumerating the level of each n would take a minute.
    while _power(high, discordance, aim, alpha, nominal=True) < power:
        low, high = high, 2 * high
    while high - low > max(1, start // STEP):
        middle = (low + high) // 2
        enough = _power(middle, discordance, aim, alpha, nominal=True) >= power
        low, high = (low, middle) if enough else (middle, high)
    while _power(high, discordance, aim, alpha, nominal=False) < power:
        high += max(1, start // STEP)
    return high


def _power(n: int, discordance: float, aim: Aim, alpha: float, *, nominal: bool) -> float:
    test = MarginTest(n, aim.above, alpha)
    return test._chance(discordance, aim.truth, alpha) if nominal else test.chance(discordance, aim.truth)


def _fewest_gained(lost: Int[np.ndarray, " K"], n: int, above: float, z: float) -> Int[np.ndarray, " K"]:
    """The fewest gained images with a score above z; n - lost + 1: none."""
    lo, hi = np.zeros(len(lost), np.int64), n - lost + 1
    while np.any(lo < hi):
        middle = (lo + hi) // 2
        shown = (score(middle, lost, n, above) > z) | (middle > n - lost)
        unsettled = lo < hi
        lo, hi = np.where(unsettled & ~shown, middle + 1, lo), np.where(unsettled & shown, middle, hi)
    return lo


def _where_score(gained: int, lost: int, n: int, z: float) -> float:
    """The difference at which the score is z: it falls as the difference grows."""
    lo, hi = -1.0, 1.0
    for _ in range(BISECTIONS):
        middle = (lo + hi) / 2
        lo, hi = (middle, hi) if score(gained, lost, n, middle) > z else (lo, middle)
    return lo if z > 0 else hi
