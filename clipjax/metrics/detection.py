"""Out-of-distribution detection: how well a score separates in-distribution (ID) from OOD images.

A larger score means more in-distribution. Tied images are one step of a curve; weights give exactly the
resampled images' numbers.

Published code uses one name for different numbers. Each has its own name here:

===================  ========  ==============================================================================
measure              positive  as computed by
===================  ========  ==============================================================================
auroc                either    everyone: ties count one half
aupr_in, _out        ID, OOD   scikit-learn's average_precision_score (MOS, MCM; natural-adv-examples: OOD)
aupr_*_trapezoid     ID, OOD   OpenOOD: trapezoids under scikit-learn's precision_recall_curve
fpr95_mos            ID        MOS, MCM: at the threshold whose recall is closest to 0.95
fpr95_ninco          ID        NINCO: at the 5 % quantile of the ID scores, linearly interpolated
fpr95_openood        OOD       OpenOOD: at the first point of the ROC curve with recall >= 0.95
fpr95_imagenet_o     OOD       natural-adv-examples: as MOS, with OOD as positive
===================  ========  ==============================================================================

NINCO's code reads NaN as 0; here it is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float, Float64, Int
from numpy.typing import ArrayLike

from clipjax.metrics.curves import (
    RECALL,
    Counts,
    area_under_roc,
    average_precision,
    fpr_closest,
    fpr_first,
    trapezoidal_precision,
)
from clipjax.metrics.uncertainty.intervals import LEVEL, Interval, wilson, wilson_of_mean


# NumPy: on a CPU its sort is ten times faster than XLA's. `curves.tally` gives the same integers for scores
# sharded over devices.
@dataclass(frozen=True, eq=False)
class Ranking:
    """Finite scores, from `rank`; columns start at the most positive score."""

    id_scores: Float[np.ndarray, " N"]
    ood_scores: Float[np.ndarray, " M"]

    @cached_property
    def id_sorted(self) -> Float[np.ndarray, " N"]:
        return np.sort(self.id_scores)

    @cached_property
    def ood_sorted(self) -> Float[np.ndarray, " M"]:
        return np.sort(self.ood_scores)

    @cached_property
    def id_order(self) -> Int[np.ndarray, " N"]:
        """Highest score first."""
        return np.argsort(self.id_scores)[::-1].copy()

    @cached_property
    def ood_order(self) -> Int[np.ndarray, " M"]:
        """Lowest score first."""
        return np.argsort(self.ood_scores)

    @cached_property
    def id_columns(self) -> _Columns:
        start, _, left, right = (part[::-1].copy() for part in _steps(self.id_sorted, self.ood_sorted))
        return _columns(len(self.id_scores) - start, right, left, len(self.id_scores))

    @cached_property
    def ood_columns(self) -> _Columns:
        _, end, left, right = _steps(self.ood_sorted, self.id_sorted)
        n = len(self.id_scores)
        return _columns(end, n - left, n - right, len(self.ood_scores))


def rank(id_scores: ArrayLike, ood_scores: ArrayLike) -> Ranking:
    """Raises ValueError if a side is empty, not one-dimensional, or not finite."""
    ranking = Ranking(_checked(id_scores, "ID"), _checked(ood_scores, "OOD"))
    n, m = len(ranking.id_scores), len(ranking.ood_scores)
    if not n or not m:
        raise ValueError(f"detection needs ID and OOD images, there are {n} ID and {m} OOD scores")
    return ranking


def _checked(scores: ArrayLike, side: str) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(f"{side} scores must be one number per image, their shape is {scores.shape}")
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise ValueError(
            f"{len(bad)} {side} scores are not finite, the first is {scores[bad[0]]} at {bad[0]}"
        )
    return scores


class _Steps(NamedTuple):
    """The K distinct values of sorted scores, ascending; int [K] each.

    Value k is scores[start[k]:end[k]]; others[left[k]:right[k]] of the other side equal it.
    """

    start: np.ndarray
    end: np.ndarray
    left: np.ndarray
    right: np.ndarray


def _steps(scores: np.ndarray, others: np.ndarray) -> _Steps:
    change = np.flatnonzero(scores[1:] != scores[:-1]) + 1
    start, end = np.append(0, change), np.append(change, len(scores))
    values = scores[start]
    return _Steps(start, end, np.searchsorted(others, values), np.searchsorted(others, values, side="right"))


def _cumulative(weights: np.ndarray | None, order: Callable[[], np.ndarray], n: int) -> np.ndarray:
    """Weighted number of images before each position of an order. int [B, n+1]; B = 1 if unweighted.

    E.g. order 2 0 1, weights 1 0 3 -> 0 3 4 4.
    """
    if weights is None:
        return np.arange(n + 1)[None]
    if weights.ndim != 2 or weights.shape[1] != n or weights.dtype.kind not in "biu":
        raise ValueError(f"weights must be whole numbers [B, {n}], not {weights.dtype} {list(weights.shape)}")
    total = weights.sum(axis=1, dtype=np.int64)
    if not total.all():
        raise ValueError(f"row {int(np.argmin(total))} of the weights counts no image")
    # int32 halves the time of everything that follows.
    kind = np.int32 if total.max() < 2**30 else np.int64
    ahead = np.zeros((len(weights), n + 1), kind)
    np.cumsum(np.take(weights, order(), axis=1), axis=1, dtype=kind, out=ahead[:, 1:])
    return ahead


class _Columns(NamedTuple):
    """Columns of cumulative counts at each distinct score of the positives."""

    tp: np.ndarray | None  # positives at or above it; None: every column but the first
    before: np.ndarray  # negatives above it
    fp: np.ndarray  # negatives at or above it; `before` itself if no score ties across the sides


def _columns(tp: np.ndarray, before: np.ndarray, fp: np.ndarray, positives: int) -> _Columns:
    return _Columns(None if len(tp) == positives else tp, fp if np.array_equal(before, fp) else before, fp)


def _counts(columns: _Columns, positives: np.ndarray, negatives: np.ndarray, total: np.ndarray) -> Counts:
    tp = positives[:, 1:] if columns.tp is None else np.take(positives, columns.tp, axis=1)
    fp = np.take(negatives, columns.fp, axis=1)
    before = fp if columns.before is columns.fp else np.take(negatives, columns.before, axis=1)
    return Counts(tp, before, fp, total.astype(np.int64))


def _id_positive(ranking: Ranking, id_above: np.ndarray, ood_below: np.ndarray) -> Counts:
    """ID images as positives, from those above and the OOD images below each position."""
    total = ood_below[:, -1:]
    return _counts(ranking.id_columns, id_above, total - ood_below, total[:, 0])


def _ood_positive(ranking: Ranking, id_above: np.ndarray, ood_below: np.ndarray) -> Counts:
    total = id_above[:, -1:]
    return _counts(ranking.ood_columns, ood_below, total - id_above, total[:, 0])


# fpr95_openood searches every point of the ROC curve. OpenOOD's `roc_curve` (scikit-learn) drops points
# inside straight pieces; values differ only on slanted ones (ties between ID and OOD at several levels).
# AUROC is the same from either side. OOD as positive is faster: OOD sets are smaller than ImageNet.
_OF_COUNTS: dict[str, tuple[Callable[..., Counts], Callable[[Counts], np.ndarray]]] = {
    "auroc": (_ood_positive, area_under_roc),
    "aupr_in": (_id_positive, average_precision),
    "aupr_out": (_ood_positive, average_precision),
    "aupr_in_trapezoid": (_id_positive, trapezoidal_precision),
    "aupr_out_trapezoid": (_ood_positive, trapezoidal_precision),
    "fpr95_mos": (_id_positive, fpr_closest),
    "fpr95_openood": (_ood_positive, fpr_first),
    "fpr95_imagenet_o": (_ood_positive, fpr_closest),
}
MEASURES = (*_OF_COUNTS, "fpr95_ninco")


def measures(
    ranking: Ranking,
    names: Sequence[str] = MEASURES,
    id_weights: np.ndarray | None = None,
    ood_weights: np.ndarray | None = None,
) -> dict[str, Float64[np.ndarray, " B"]]:
    """The named measures, as fractions, of the images or of B resamples.

    Args:
        id_weights: how often each ID image counts: integers >= 0 or bools [B, N], no row all zero. None: once
            each, B = 1.
        ood_weights: how often each OOD image counts, in the same way, [B, M].

    Raises:
        ValueError: an unknown name, or other weights.
    """
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise ValueError(f"there is no measure {unknown[0]!r}; there are {', '.join(MEASURES)}")
    id_above = _cumulative(id_weights, lambda: ranking.id_order, len(ranking.id_scores))
    ood_below = _cumulative(ood_weights, lambda: ranking.ood_order, len(ranking.ood_scores))
    made: dict[Callable[..., Counts], Counts] = {}
    values = {}
    for name in names:
        if name == "fpr95_ninco":
            values[name] = _fpr_quantile(ranking, id_above, ood_below)
            continue
        side, measure = _OF_COUNTS[name]
        if side not in made:
            made[side] = side(ranking, id_above, ood_below)
        values[name] = measure(made[side])
    return values


def _threshold(ranking: Ranking, id_above: Int[np.ndarray, "B positions"]) -> Float64[np.ndarray, " B"]:
    """The 5 % quantile of each resample's ID scores, interpolated as by np.quantile.

    Args:
        id_above: how many drawn ID images come before each position from the top (`_cumulative`).
    """
    last = id_above[:, -1].astype(np.int64) - 1  # index of the highest of the drawn scores, ascending
    position = last * (1 - RECALL)
    whole = np.floor(position).astype(np.int64)
    part = position - whole
    low, high = (
        ranking.id_sorted[-1 - _ranked(id_above, last - index)].astype(np.float64)
        for index in (whole, np.minimum(whole + 1, last))
    )
    # np.quantile interpolates from the nearer end, which rounds in another way.
    return np.where(part < 0.5, low + (high - low) * part, high - (high - low) * (1 - part))


def _ranked(above: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Position, from the top, of the image that comes after this many `others`. int [B]."""
    return np.array([row.searchsorted(k, "right") - 1 for row, k in zip(above, others.astype(above.dtype))])


def _fpr_quantile(ranking: Ranking, id_above: np.ndarray, ood_below: np.ndarray) -> np.ndarray:
    threshold = _threshold(ranking, id_above)
    below = np.searchsorted(ranking.ood_sorted.astype(np.float64), threshold)
    total = ood_below[:, -1]
    return (total - np.take_along_axis(ood_below, below[:, None], axis=1)[:, 0]) / total


def detection(
    id_scores: ArrayLike, ood_scores: ArrayLike, names: Sequence[str] = MEASURES
) -> dict[str, float]:
    """The named measures of detection, from ID scores [N] and OOD scores [M]. Raises ValueError as `rank`."""
    values = measures(rank(id_scores, ood_scores), names)
    return {name: float(value[0]) for name, value in values.items()}


def auroc(id_scores: ArrayLike, ood_scores: ArrayLike) -> float:
    """The area under the ROC curve of ID scores [N] against OOD scores [M]. Raises ValueError as `rank`."""
    return detection(id_scores, ood_scores, ["auroc"])["auroc"]


def tied_share(ranking: Ranking) -> float:
    """The share of (ID, OOD) pairs whose two scores are equal."""
    ends = (np.searchsorted(ranking.ood_sorted, ranking.id_sorted, side=side) for side in ("left", "right"))
    left, right = (end.sum(dtype=np.int64) for end in ends)
    return float(right - left) / (len(ranking.id_scores) * len(ranking.ood_scores))


# Means over OOD classes.


def class_values(
    ranking: Ranking, classes: np.ndarray, id_weights: np.ndarray | None = None
) -> dict[str, Float64[np.ndarray, "B C"]]:
    """AUROC and `fpr95_ninco` of each OOD class against all ID images; one threshold (NINCO).

    Args:
        classes: int [M], 0..C-1 without a gap.

    Raises:
        ValueError: not M classes, or a class without an image.
    """
    size = np.bincount(classes)
    if len(classes) != len(ranking.ood_scores) or not size.all():
        raise ValueError(
            f"{len(classes)} classes for {len(ranking.ood_scores)} OOD scores; classes without an image: "
            f"{np.flatnonzero(size == 0).tolist()}"
        )
    order = np.argsort(classes, kind="stable")
    start, scores = np.cumsum(size) - size, ranking.ood_scores[order]
    id_above = _cumulative(id_weights, lambda: ranking.id_order, len(ranking.id_scores))
    total, last = id_above[:, -1:].astype(np.int64), id_above.shape[1] - 1
    left, right = (last - np.searchsorted(ranking.id_sorted, scores, side=side) for side in ("left", "right"))
    twice = np.take(id_above, left, axis=1) + np.take(id_above, right, axis=1)
    passed = scores >= _threshold(ranking, id_above)[:, None]
    return {
        "auroc": np.add.reduceat(twice, start, axis=1, dtype=np.int64) / (2 * total * size),
        "fpr95_ninco": np.add.reduceat(passed, start, axis=1, dtype=np.int64) / size,
    }


def class_mean(
    values: Float64[np.ndarray, "B C"], class_weights: Int[np.ndarray, "B C"] | None = None
) -> Float64[np.ndarray, " B"]:
    # A bootstrap draws classes: images of one class are not an independent sample of everything OOD.
    if class_weights is None:
        return values.mean(axis=1)
    return (values * class_weights).sum(axis=1) / class_weights.sum(axis=1)


# The interval of AUROC.


def auroc_variance(ranking: Ranking) -> float:
    """DeLong et al. 1988, in O(n log n). NaN with one ID or one OOD image."""
    n, m = len(ranking.id_scores), len(ranking.ood_scores)
    if min(n, m) < 2:
        return float("nan")
    sides = (ranking.id_sorted, ranking.ood_sorted), (ranking.ood_sorted, ranking.id_sorted)
    parts = []
    for scores, others in sides:
        twice = np.searchsorted(others, scores) + np.searchsorted(others, scores, side="right")
        parts.append(np.var(twice / (2 * len(others)), ddof=1) / len(scores))
    return float(sum(parts))


def auroc_interval(ranking: Ranking, level: float = LEVEL) -> Interval:
    """DeLong's variance on the logit scale, so within 0..1.

    Where that is 0 or undefined (one image on a side, perfect separation, all scores equal): Wilson's
    interval of min(N, M) pairs.
    """
    area = float(measures(ranking, ["auroc"])["auroc"][0])
    variance = auroc_variance(ranking)
    if not variance > 0:
        # Disjoint pairs are independent.
        pairs = min(len(ranking.id_scores), len(ranking.ood_scores))
        return wilson_of_mean(area, pairs, "pairs", level)
    z = scipy.special.ndtri((1 + level) / 2)
    half = z * np.sqrt(variance) / (area * (1 - area))
    lo, hi = scipy.special.expit(scipy.special.logit(area) + np.array([-half, half]))
    return Interval(float(lo), float(hi), level, "delong_logit")


# The interval of one class's FPR.


def fpr95_interval(ranking: Ranking, level: float = LEVEL) -> Interval:
    """The interval of `fpr95_ninco`, for OOD images that are drawn one by one.

    Wilson's interval, widened by the noise of the threshold (MOVER, Zou & Donner 2008): on each side by the
    change of the rate when the threshold moves to a limit of its own interval, which is order statistics of
    the ID scores.
    """
    scores = ranking.ood_sorted.astype(np.float64)
    rate = float(measures(ranking, ["fpr95_ninco"])["fpr95_ninco"][0])
    low, high = _threshold_limits(ranking.id_sorted.astype(np.float64), level)
    most, least = (float(np.mean(scores >= threshold)) for threshold in (low, high))
    lo, hi, *_ = wilson(rate * len(scores), len(scores), level)
    down, up = np.hypot(rate - lo, rate - min(least, rate)), np.hypot(hi - rate, max(most, rate) - rate)
    return Interval(max(rate - float(down), 0.0), min(rate + float(up), 1.0), level, "mover_wilson_threshold")


def _threshold_limits(id_sorted: Float64[np.ndarray, " N"], level: float) -> tuple[float, float]:
    """The limits of the 5 % quantile of the ID scores; infinite where there are too few images to tell.

    Among n images, Binomial(n, .05) lie below the quantile. E.g. n = 200: the 4th and the 17th lowest score.
    """
    n, share = len(id_sorted), 1 - RECALL
    # The limits are far below ten standard deviations above the mean: no need for all n + 1 probabilities.
    most = min(n, int(share * n + 10 * np.sqrt(share * n) + 10))
    below = scipy.special.bdtr(np.arange(most + 1), n, share)
    first, last = np.searchsorted(below, [(1 - level) / 2, (1 + level) / 2])
    low = float(id_sorted[first - 1]) if first > 0 else -np.inf
    return low, float(id_sorted[last]) if last < n else np.inf
