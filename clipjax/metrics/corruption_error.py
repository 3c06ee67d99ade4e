"""Corruption errors: a model's errors on corrupted images, divided by those of a reference model.

Hendrycks and Dietterich 2019 (arXiv 1903.12261): CE of a kind is the sum of a model's errors over the
severities, divided by AlexNet's; mCE is the mean of CE over the kinds. The relative CE compares what
corruption adds to the error on clean images.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike


def corruption_errors(errors: ArrayLike, reference: ArrayLike) -> Float64[np.ndarray, " K"]:
    """CE of each kind.

    Args:
        errors: [K, S], shares in [0, 1], of each kind and severity.
        reference: [K], the reference model's mean error over the same severities.

    Raises:
        ValueError: an error is not a share, a reference error is 0, or the shapes do not fit.
    """
    ours, theirs = _shares("errors", errors, 2), _shares("reference", reference, 1)
    if len(ours) != len(theirs) or not ours.size:
        raise ValueError(f"errors {ours.shape} and reference {theirs.shape} need one row a kind each")
    if not theirs.all():
        raise ValueError("a reference error is 0, so nothing can be divided by it")
    return ours.mean(1) / theirs


def mean_corruption_error(errors: ArrayLike, reference: ArrayLike) -> float:
    """mCE, the mean of `corruption_errors`. Raises ValueError as it does."""
    return float(corruption_errors(errors, reference).mean())


def relative_corruption_errors(
    errors: ArrayLike, clean: float, reference: ArrayLike, reference_clean: float
) -> Float64[np.ndarray, " K"]:
    """Relative CE of each kind: mean(errors - clean) / (reference - reference_clean).

    Args:
        clean: the model's error on clean images.
        reference_clean: the reference's error on clean images.

    Raises:
        ValueError: as `corruption_errors`, or corruption adds nothing to the reference's error.
    """
    ours, theirs = corruption_errors(errors, reference), _shares("reference", reference, 1)
    added = theirs - reference_clean
    if not (added > 0).all():
        raise ValueError("a kind adds nothing to the reference's error, so nothing can be divided by it")
    return (ours * theirs - clean) / added


def _shares(name: str, values: ArrayLike, dimensions: int) -> Float64[np.ndarray, " ..."]:
    array = np.asarray(values, np.float64)
    if array.ndim != dimensions:
        raise ValueError(f"{name} has {array.ndim} dimensions, not {dimensions}")
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name} must be shares between 0 and 1")
    return array
