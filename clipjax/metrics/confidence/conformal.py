"""Split-conformal prediction sets: the classes whose score is at most a threshold set on other images.

With calibration images like the test images, a set holds the label with probability 1 - alpha or more,
whatever the model. LAC (Sadinle et al. 2019), APS (Romano et al. 2020), RAPS (Angelopoulos et al. 2021).
Imports no JAX.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import scipy.special
from jaxtyping import Float, Float64, Shaped

from clipjax.metrics.uncertainty.intervals import LEVEL, Interval

LAC, APS, RAPS = METHODS = ("lac", "aps", "raps")
PENALTY, FREE_RANKS = 0.05, 2  # of RAPS: added for each rank beyond the second


def scores(
    probabilities: Float[np.ndarray, "N K"],
    uniforms: Float[np.ndarray, " N"],
    method: str,
    *,
    penalty: float = PENALTY,
    free_ranks: int = FREE_RANKS,
) -> Float64[np.ndarray, "N K"]:
    """Scores of how badly each class fits each image.

    LAC: 1 - p. APS: the summed probability of the classes down to this one, minus u p. RAPS: APS plus
    `penalty` for each rank beyond `free_ranks`. Equal probabilities rank by class.

    Args:
        probabilities: rows that sum to 1.
        uniforms: in 0..1, one for each image, for calibration and test images alike. Zeros give the
            deterministic form, whose sets are larger.
        method: "lac", "aps" or "raps".

    Raises:
        ValueError: another method.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; give {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    exact = np.asarray(probabilities, np.float64)
    if method == LAC:
        return 1 - exact
    order = np.argsort(-exact, axis=1, kind="stable")
    own = np.take_along_axis(exact, order, axis=1)
    summed = np.cumsum(own, axis=1) - np.asarray(uniforms, np.float64)[:, None] * own
    if method == RAPS:
        summed += penalty * np.maximum(np.arange(1, exact.shape[1] + 1) - free_ranks, 0)
    found = np.empty_like(summed)
    np.put_along_axis(found, order, summed, axis=1)
    return found


def rank_of_threshold(n: int, alpha: float) -> int:
    """k = ceil((n + 1) (1 - alpha)), in exact arithmetic: as floats it is one too large for some n."""
    return math.ceil((n + 1) * (1 - Fraction(str(alpha))))


def threshold(label_scores: Float[np.ndarray, " n"], alpha: float) -> float:
    """The k-th smallest score of the calibration images' labels; infinite if there are fewer than k.

    `rank_of_threshold` gives k. An interpolated quantile would be another number.

    Raises:
        ValueError: alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; give a number between 0 and 1")
    k = rank_of_threshold(len(label_scores), alpha)
    return math.inf if k > len(label_scores) else float(np.sort(label_scores)[k - 1])


def coverage_of_calibration(n: int, alpha: float, level: float = LEVEL) -> Interval:
    """The range of coverages that chance in the n calibration images leaves open: Beta(n + 1 - l, l)."""
    k = rank_of_threshold(n, alpha)
    if k > n:
        return Interval(1.0, 1.0, level, "beta_of_calibration")
    tail = (1 - level) / 2
    lo, hi = scipy.special.betaincinv(k, n + 1 - k, [tail, 1 - tail])
    return Interval(float(lo), float(hi), level, "beta_of_calibration")


def uniforms(names: Shaped[np.ndarray, " N"] | list[str]) -> Float64[np.ndarray, " N"]:
    """A number in 0..1 for each image, from its name: the same in every run and for every model."""
    import hashlib

    digests = (hashlib.sha256(f"conformal {name}".encode()).digest()[:8] for name in names)
    return np.array([int.from_bytes(each, "little") / 2**64 for each in digests])
