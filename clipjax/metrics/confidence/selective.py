"""Selective prediction: a model that answers only where it is confident. Imports no JAX.

Coverage is the share of images that are answered, the most confident first; images of one confidence are
answered together. Selective risk is the mean loss of the answered images, generalised risk their summed loss
over all images. Areas under both curves by trapezoids over coverage; at coverage 0 the selective risk is that
of the most confident images, the generalised risk 0 (fd-shifts; Traub et al. 2024 for AUGRC).

Everything takes weights, so that a bootstrap counts an image several times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Num, Shaped


class Ordered(NamedTuple):
    """The images by falling confidence.

    Attributes:
        order: int [N], the images' rows.
        ends: int [G], the last place in `order` of each distinct confidence.
        loss: float64 [N], in this order.
        confidence: float64 [G], the distinct values.
    """

    order: np.ndarray
    ends: np.ndarray
    loss: np.ndarray
    confidence: np.ndarray


class RiskCoverage(NamedTuple):
    """One row per resample, one column per distinct confidence, the highest first: float64 [R, G].

    At confidences above a resample's first image, coverage is 0 and the selective risk is that of its first
    images.
    """

    coverage: np.ndarray
    selective: np.ndarray
    generalised: np.ndarray


def ordered(confidence: Shaped[np.ndarray, " N"], loss: Shaped[np.ndarray, " M"]) -> Ordered:
    """Sort N > 0 images by falling confidence; `loss` is between 0 and 1.

    Raises:
        ValueError: no images, arrays of different lengths, or a number that is not finite.
    """
    values, losses = np.asarray(confidence, np.float64), np.asarray(loss, np.float64)
    if values.shape != losses.shape or not len(values):
        raise ValueError(f"{len(values)} confidences and {len(losses)} losses; give one of each per image")
    for name, each in (("confidence", values), ("loss", losses)):
        if not np.isfinite(each).all():
            raise ValueError(f"row {int(np.argmin(np.isfinite(each)))}: its {name} is not finite")
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    return Ordered(order, ends, losses[order], values[order][ends])


def curves(images: Ordered, weights: Num[np.ndarray, "R N"] | None = None) -> RiskCoverage:
    """The risks at each distinct confidence. `weights`: how often each image counts; None: once."""
    counts = np.ones((1, len(images.order))) if weights is None else weights[:, images.order]
    answered = np.cumsum(counts, axis=1, dtype=np.float64)
    total = answered[:, -1:].copy()
    lost = np.cumsum(counts * images.loss, axis=1)[:, images.ends]
    answered = answered[:, images.ends]
    selective = lost / np.maximum(answered, 1)
    first = (answered > 0).argmax(axis=1)
    empty = answered == 0
    selective = np.where(empty, selective[np.arange(len(first)), first][:, None], selective)
    return RiskCoverage(answered / total, selective, lost / total)


def aurc(found: RiskCoverage) -> Float64[np.ndarray, " R"]:
    """The area under the selective risk."""
    return _area(found.coverage, found.selective, found.selective[:, :1])


def augrc(found: RiskCoverage) -> Float64[np.ndarray, " R"]:
    """The area under the generalised risk. It does not depend on the order of ties."""
    return _area(found.coverage, found.generalised, np.zeros((len(found.coverage), 1)))


def excess_aurc(found: RiskCoverage) -> Float64[np.ndarray, " R"]:
    """AURC minus that of the best order of infinitely many images with the same risk (0/1 losses)."""
    risk = np.minimum(found.generalised[:, -1], 1)
    rest = 1 - risk
    best = risk + rest * np.log(np.where(rest > 0, rest, 1))
    return aurc(found) - best


def risk_at_coverage(found: RiskCoverage, coverage: float) -> Float64[np.ndarray, " R"]:
    """The selective risk at the highest confidence threshold that answers at least this share."""
    reached = (found.coverage >= coverage - 1e-12).argmax(axis=1)
    return found.selective[np.arange(len(reached)), reached]


def coverage_at_risk(found: RiskCoverage, risk: float) -> Float64[np.ndarray, " R"]:
    """The largest coverage with a selective risk of at most `risk`; 0 if no coverage has one."""
    held = (found.selective <= risk + 1e-12) & (found.coverage > 0)
    return np.where(held, found.coverage, 0).max(axis=1)


def _area(
    coverage: Float64[np.ndarray, "R G"], risk: Float64[np.ndarray, "R G"], start: Float64[np.ndarray, "R 1"]
) -> Float64[np.ndarray, " R"]:
    widths = np.diff(coverage, axis=1, prepend=0)
    before = np.concatenate([start, risk[:, :-1]], axis=1)
    return (widths * (before + risk) / 2).sum(axis=1)
