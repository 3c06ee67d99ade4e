"""Whether models bend away from their trend: a straight line may not be what robustness is held against.

    bend = curvature(standard, fit_points(standard))
    bend.thirds          # mean residual of the models of small, middle and large x
    bend.quadratic       # with an interval: 0 for models about a line

Effective robustness far from the trend's models, or beyond them, depends on the form of the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from clipjax.analysis.rows.points import Point, coordinates
from clipjax.analysis.rows.scales import transform
from clipjax.analysis.trends.resampling import LEVEL
from clipjax.analysis.trends.trends import Fit

FEWEST = 6
"""Models with a curvature: two of each third."""


@dataclass(frozen=True)
class Curvature:
    """The dependence of a trend's residuals on x.

    Attributes:
        thirds: mean residual in y's own units, of the models of small, middle and large x.
        quadratic: coefficient of ((x - mean) / standard deviation)^2 in least squares, in y's coordinates.
        lo: lower end of its Student's t interval of `level`, with models as independent.
        hi: upper end of that interval.
    """

    thirds: tuple[float, float, float]
    quadratic: float
    lo: float
    hi: float
    level: float


def curvature(points: Sequence[Point], trend: Fit, level: float = LEVEL) -> Curvature | None:
    """Measure how far the trend's own models bend away from its line.

    None for fewer models than `FEWEST`, or fewer than three values of x.
    """
    x, y, n_x, n_y = coordinates(points)
    if len(x) < FEWEST or len(np.unique(x)) < 3:
        return None
    across, up = transform(x, trend.scale_x, n_x), transform(y, trend.scale_y, n_y)
    off = y - trend.predict(x, n_x)
    small, middle, large = (float(part.mean()) for part in np.array_split(off[np.argsort(across)], 3))
    # Least squares of up = a + b z + c z^2. c's variance is the noise times its entry of inv(X' X).
    z = (across - across.mean()) / across.std()
    design = np.stack([np.ones_like(z), z, z**2], axis=1)
    found, *_ = np.linalg.lstsq(design, up, rcond=None)
    freedom = len(z) - 3
    variance = float(((up - design @ found) ** 2).sum()) / freedom
    error = math.sqrt(variance * float(np.linalg.inv(design.T @ design)[2, 2]))
    wide = error * float(scipy.special.stdtrit(freedom, (1 + level) / 2))
    value = float(found[2])
    return Curvature((small, middle, large), value, value - wide, value + wide, level)
