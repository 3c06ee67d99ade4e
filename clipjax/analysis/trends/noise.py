"""Errors of x, which flatten a trend.

    too_noisy(points)     # "x is too noisy: ...", or None

Least squares takes x as exact. If x has errors with the mean square e2, its slope becomes about
slope * (1 - e2 / var(x)): the attenuation of Spearman 1904 and Fuller 1987, section 1.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.special

from clipjax.analysis.rows.cells import Cell
from clipjax.analysis.rows.points import Point, coordinates
from clipjax.analysis.rows.scales import FRACTIONS, on_scale, transform
from clipjax.errors import ClipjaxError

NOISIEST = 0.1
"""The largest share of x's variance that errors may make up."""


def too_noisy(points: Sequence[Point], scale: str | None = None) -> str | None:
    """Return why no trend over x can be trusted, or None; the scale of the fit is by default that of x."""
    share = noise_of_x(points, scale)
    if share is None or share <= NOISIEST:
        return None
    how_much = f"{share:.0%}" if share <= 1 else "more than all"
    return (
        f"x is too noisy: errors of its numbers make up {how_much} of its variance over the models, at most "
        f"{NOISIEST:.0%} may be (a trend would be as much too flat): measure more images, or add models"
    )


def noise_of_x(points: Sequence[Point], scale: str | None = None) -> float | None:
    """Mean squared error of x over its variance, in the fit's coordinates.

    Errors come from the numbers' intervals, or for fractions without one from their numbers of images. None
    if no number has either, or if all x are one. A number off the scale is left to the fit, which refuses it.
    """
    if len(points) < 2:
        return None
    scale = points[0].x.column.scale if scale is None else scale
    x, _, n, _ = coordinates(points)
    try:
        spread = float(np.var(transform(x, scale, n), ddof=1))
    except ClipjaxError:
        return None
    variances = [_variance(point.x, scale) for point in points]
    known = [each for each in variances if each is not None and math.isfinite(each)]
    return float(np.mean(known)) / spread if known and spread > 0 else None


def _variance(cell: Cell, scale: str) -> float | None:
    """Squared standard error, in coordinates."""
    assert cell.value is not None
    images = cell.n or math.nan
    if cell.interval is not None:
        return _of_interval(cell.value, cell.interval, scale, images)
    if scale not in FRACTIONS or not cell.n or not 0 <= cell.value <= 1:
        return None
    # Times the scale's slope at the value, which is kept half an image from 0 and 1.
    value = min(max(cell.value, 0.5 / images), 1 - 0.5 / images)
    ends = np.clip(value + np.array([-1e-6, 1e-6]), 1e-9, 1 - 1e-9)
    low, high = transform(ends, scale)
    slope = (high - low) / (ends[1] - ends[0])
    return value * (1 - value) / images * slope**2


def _of_interval(value: float, interval: Mapping[str, float], scale: str, images: float) -> float:
    ends = on_scale([interval["lo"], value, interval["hi"]], scale)
    low, middle, high = transform(ends, scale, [images] * 3)
    if scale == "log" and interval["lo"] <= 0:
        low = middle - abs(high - middle)  # 0 is infinitely far: the other, narrower side counts twice
    return ((high - low) / (2 * scipy.special.ndtri((1 + interval["level"]) / 2))) ** 2
