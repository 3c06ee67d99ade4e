"""Scales of an axis, in which a trend is a straight line.

    probit    Phi^-1(a), the normal quantile (Taori et al. 2020)      fractions 0..1
    logit     ln(a / (1 - a))                                          fractions 0..1
    log       ln(a)                                                    positive values, e.g. NLL
    linear    a

Probit and logit are infinite at 0 and 1: a value from n images (`UNKNOWN_N` if unknown) is clipped to 1/(2n)
and 1 - 1/(2n). Only 0 and 1 move: other proportions of n images are within.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import scipy.special
from numpy.typing import ArrayLike

from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name

Scale = Literal["probit", "logit", "log", "linear"]
SCALES: tuple[Scale, ...] = get_args(Scale)
FRACTIONS = ("probit", "logit")
UNKNOWN_N = 50_000
CLIPPING = f"within 1/(2n) and 1 - 1/(2n) of n images, n = {UNKNOWN_N:,} where it is not known"

_FORWARD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "probit": scipy.special.ndtri,
    "logit": scipy.special.logit,
    "log": np.log,
    "linear": np.asarray,
}
_BACK: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "probit": scipy.special.ndtr,
    "logit": scipy.special.expit,
    "log": np.exp,
    "linear": np.asarray,
}


def transform(values: ArrayLike, scale: str, n: ArrayLike | None = None) -> np.ndarray:
    """Values in the metric's own units -> coordinates, float64 of the same shape.

    Args:
        n: images per value, NaN (or None for all) where unknown.

    Raises:
        UsageError: unknown scale, or a value off the scale.
        DataError: a value is NaN or infinite.
    """
    values = checked(values, scale)
    if scale in FRACTIONS:
        values = clip(values, n)
    return _FORWARD[scale](values)


def inverse(coordinates: ArrayLike, scale: str) -> np.ndarray:
    """Raises UsageError for an unknown scale."""
    check_scale(scale)
    return _BACK[scale](np.asarray(coordinates, np.float64))


def clip(values: np.ndarray, n: ArrayLike | None = None) -> np.ndarray:
    """Fractions moved off 0 and 1, as above."""
    known = np.full(values.shape, np.nan) if n is None else np.asarray(n, np.float64)
    edge = 0.5 / np.where(known > 0, known, UNKNOWN_N)
    return np.clip(values, edge, 1 - edge)


def on_scale(limits: ArrayLike, scale: str) -> np.ndarray:
    """Limits of intervals, clipped to the ends of the scale (0 and 1; for log the smallest float)."""
    ends = np.asarray(limits, np.float64)
    if scale == "log":
        return np.maximum(ends, np.finfo(np.float64).tiny)
    return np.clip(ends, 0, 1) if scale in FRACTIONS else ends


def ends_on_scale(limits: ArrayLike, scale: str, n: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the ends of intervals, float [2, N], and which the scale cuts, bool [2, N].

    Ends within half an image of 0 or 1 (probit, logit) move to that limit; ends at or below 0 (log) to half
    the smallest positive end. n: images per interval, [N].
    """
    ends = np.asarray(limits, np.float64)
    if scale == "log":
        positive = ends[ends > 0]
        floor = positive.min() / 2 if positive.size else 1.0
        return np.log(np.where(ends > 0, ends, floor)), ends <= 0
    if scale not in FRACTIONS:
        return ends, np.zeros(ends.shape, bool)
    inside = clip(np.clip(ends, 0, 1), None if n is None else np.stack([n, n]))
    return transform(on_scale(ends, scale), scale, None if n is None else np.stack([n, n])), inside != ends


def check_scale(scale: str) -> None:
    known_name("scale", scale, SCALES)


def checked(values: ArrayLike, scale: str) -> np.ndarray:
    """Values as float64; raises as `transform`."""
    check_scale(scale)
    numbers = np.asarray(values, np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(f"{numbers[~np.isfinite(numbers)][0]} is not a value to plot or fit: leave it out")
    if scale in FRACTIONS and numbers.size and not (numbers.min() >= 0 and numbers.max() <= 1):
        wrong = numbers[(numbers < 0) | (numbers > 1)][0]
        raise UsageError(
            f"{wrong:g} has no place on a {scale} scale, which takes fractions from 0 to 1 (not percent); "
            "choose linear or log for other metrics"
        )
    if scale == "log" and numbers.size and numbers.min() <= 0:
        raise UsageError(f"{numbers.min():g} has no place on a log scale, which takes positive values only")
    return numbers
