"""How many images a paired comparison needs: the power of McNemar's test. Imports no JAX.

Two models differ by `difference` in accuracy, and exactly one of them is right on a share `discordance` of
the images. The formula of normal approximation (Connor 1987) is a start; the exact test, which `clipjax
compare` uses, has less power than it says, so its images are found by enumeration.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.special
from jaxtyping import Float64, Int

from clipjax.metrics.uncertainty.intervals import LEVEL

POWER = 0.8
KEPT = 5  # grid points in a row that must have the power: that of an exact test goes up and down with n
MOST = 10**8  # images, of an enumeration that takes a second
STEP = 200  # the grid's step is a 200th of the images


def images_by_formula(
    discordance: float, difference: float, power: float = POWER, level: float = LEVEL
) -> float:
    """n = (z sqrt(D) + z' sqrt(D - d^2))^2 / d^2, not rounded.

    Raises:
        ValueError: the discordance is not in 0..1, or the difference is 0 or larger than it.
    """
    _check(discordance, difference)
    z, of_power = scipy.special.ndtri([(1 + level) / 2, power])
    spread = z * math.sqrt(discordance) + of_power * math.sqrt(discordance - difference**2)
    return (spread / difference) ** 2


def exact_power(n: int, discordance: float, difference: float, level: float = LEVEL) -> float:
    """The probability that the exact McNemar test of n images rejects at 1 - `level`, both sides together.

    Raises:
        ValueError: as `images_by_formula`.
    """
    _check(discordance, difference)
    reach = 10 * math.sqrt(n * discordance * (1 - discordance)) + 10
    counts = np.arange(max(0, int(n * discordance - reach)), min(n, int(n * discordance + reach)) + 1)
    chances = np.exp(
        scipy.special.gammaln(n + 1)
        - scipy.special.gammaln(counts + 1)
        - scipy.special.gammaln(n - counts + 1)
        + scipy.special.xlogy(counts, discordance)
        + scipy.special.xlog1py(n - counts, -discordance)
    )
    most = _most_of_the_rarer(counts, level)
    share = (discordance + abs(difference)) / (2 * discordance)
    # The number of images that the better model gains, among the discordant ones.
    low = scipy.special.bdtr(np.maximum(most, 0), counts, share)
    high = scipy.special.bdtr(np.maximum(most, 0), counts, 1 - share)
    return float(chances @ np.where(most >= 0, low + high, 0))


def images_needed(discordance: float, difference: float, power: float = POWER, level: float = LEVEL) -> int:
    """The images from which the exact test keeps the power, to about a 200th.

    Raises:
        ValueError: as `images_by_formula`, or more than `MOST` images.
    """
    start = math.ceil(images_by_formula(discordance, difference, power, level))
    if start > MOST:
        raise ValueError(f"a difference of {difference} needs {start:,} images; give a larger one")
    step, kept, n = max(1, start // STEP), 0, start
    while True:
        kept = kept + 1 if exact_power(n, discordance, difference, level) >= power else 0
        if kept == KEPT:
            return n - (KEPT - 1) * step
        n += step


def detectable(n: int, discordance: float, power: float = POWER, level: float = LEVEL) -> float | None:
    """The smallest difference that the exact test of n images finds with this power; None: it finds none."""
    lo, hi = 0.0, discordance
    if exact_power(n, discordance, hi, level) < power:
        return None
    for _ in range(30):
        middle = (lo + hi) / 2
        lo, hi = (lo, middle) if exact_power(n, discordance, middle, level) >= power else (middle, hi)
    return hi


def _most_of_the_rarer(counts: Int[np.ndarray, " C"], level: float) -> Float64[np.ndarray, " C"]:
    """The largest count of the rarer side with which the exact test rejects; -1: none."""
    tail = (1 - level) / 2
    most = np.floor(scipy.special.bdtrik(tail, np.maximum(counts, 1), 0.5))
    most = np.where(np.isfinite(most), most, -1)
    for move in (1, -1):  # the inverse may be one off by rounding
        moved = np.clip(most + max(move, 0), 0, counts)
        fits = scipy.special.bdtr(moved, counts, 0.5) <= tail
        most = np.where(fits, moved, most if move > 0 else most - 1)
    return np.where(scipy.special.bdtr(0, counts, 0.5) <= tail, most, -1)


def _check(discordance: float, difference: float) -> None:
    if not 0 < discordance <= 1:
        raise ValueError(f"the discordance is {discordance}; give a share above 0")
    if not 0 < abs(difference) <= discordance:
        raise ValueError(
            f"the difference is {difference}; it is not 0, and at most the discordance, {discordance}"
        )
