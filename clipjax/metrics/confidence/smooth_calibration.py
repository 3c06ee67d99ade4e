"""SmoothECE and class-wise ECE. Imports no JAX.

SmoothECE (Blasiok & Nakkiran 2024): the integral of |sum (confidence - correct) kernel| / N over [0, 1], the
kernel a Gaussian reflected at 0 and 1, of the width at which the value equals the width. The reflected
Gaussian is the heat kernel of [0, 1]: a cosine series, computed exactly. The package relplot halves
confidences within .001 of 0 or 1, and so differs where models are very sure.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from jaxtyping import Float, Float64, Int, Shaped

CELLS = 2**16  # that share each image between two neighbours: an error of 1e-7 at a width of .02
LEAST_WIDTH = 0.001  # a smaller SmoothECE is given at this width


def smooth_ece(confidence: Float[np.ndarray, " N"], correct: Shaped[np.ndarray, " N"]) -> tuple[float, float]:
    """SmoothECE and its width; they are equal unless the value is below `LEAST_WIDTH`."""
    from scipy.optimize import brentq  # loaded late: most runs need it for nothing else

    series = _series(confidence, correct)
    width = LEAST_WIDTH
    if _integral(series, width) > width:  # the value falls as the width grows, and is at most 1
        width = float(brentq(lambda tried: _integral(series, tried) - tried, width, 2, xtol=1e-10))
    return _integral(series, width), width


def smooth_ece_at(
    confidence: Float[np.ndarray, " N"], correct: Shaped[np.ndarray, " N"], width: float
) -> float:
    """The integral at a given width of the kernel."""
    return _integral(_series(confidence, correct), width)


def _series(confidence: np.ndarray, correct: np.ndarray) -> Float64[np.ndarray, " C"]:
    """The cosine coefficients of the images' confidence - correct, each at its confidence."""
    exact = np.asarray(confidence, np.float64)
    place = np.clip(exact, 0, 1) * CELLS
    cell = np.minimum(place.astype(np.int64), CELLS - 1)
    part, mass = place - cell, (exact - correct) / max(len(exact), 1)
    on_grid = np.bincount(cell, mass * (1 - part), CELLS + 1) + np.bincount(cell + 1, mass * part, CELLS + 1)
    on_grid[1:-1] /= 2  # DCT-I counts inner points twice
    return np.asarray(scipy.fft.dct(on_grid, type=1))


def _integral(series: Float64[np.ndarray, " C"], width: float) -> float:
    terms = int(min(len(series), np.ceil(9 / (np.pi * width)) + 2))  # the rest is below 1e-17
    damped = series[:terms] * np.exp(-((np.arange(terms) * np.pi * width) ** 2) / 2)
    points = max(2**12, 2 ** int(np.ceil(np.log2(8 * terms))))
    values = np.zeros(points + 1)
    values[:terms] = damped
    curve = np.abs(np.asarray(scipy.fft.dct(values, type=1)))
    return float((curve.sum() - (curve[0] + curve[-1]) / 2) / points)


def classwise_gaps(
    probabilities: Float[np.ndarray, "N K"], labels: Int[np.ndarray, " N"], bins: int
) -> Float64[np.ndarray, "K {bins}"]:
    """For each class and right-closed bin of its probability p: the sum of p - [the class is the label].

    The sums of a data set are the sums of its parts.
    """
    exact = np.asarray(probabilities, np.float64)
    n, classes = exact.shape
    bin_ = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], exact)
    gap = exact.copy()
    gap[np.arange(n), labels] -= 1
    cell = np.arange(classes) * bins + bin_
    return np.bincount(cell.ravel(), gap.ravel(), classes * bins).reshape(classes, bins)


def classwise_ece(gaps: Float64[np.ndarray, "K B"], n: int) -> Float64[np.ndarray, " K"]:
    """Each class's ECE over all n images; the class-wise ECE is their mean (Kull et al. 2019)."""
    return np.abs(gaps).sum(axis=1) / n
