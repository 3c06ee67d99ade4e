"""The worst of many groups, chosen on one half of the images and scored on the other.

Whatever looks worst is partly worse by chance, so a score on the images that chose it is too low: with 5
images a class the 100 worst of 1,000 classes look 17 points worse than the truly worst 100 are, and 28 points
worse than the chosen ones are. Here each half chooses once and is scored once, and the number is the mean of
both directions. It has no such bias, but is about the groups that half of the images choose: the truly worst
lie between the two numbers (`benchmarks/metrics/resampling_coverage.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from clipjax.metrics.factors import worst_classes
from clipjax.metrics.uncertainty.intervals import Interval, wilson

Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]


class HeldOut(NamedTuple):
    """`chosen`: the groups that the first and the second half choose; `n`: images scored, each once."""

    choices: tuple[np.ndarray, np.ndarray]
    value: float
    n: int
    interval: Interval


def second_half(names: Sequence[str], labels: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Whether each image is in the second half: every second one of its class, in the order of SHA-256.

    Halves of a class differ by one image at most, and depend on the names alone.
    """
    digest = np.array([hashlib.sha256(name.encode()).hexdigest() for name in names])
    order = np.lexsort((digest, labels))
    ordered = np.asarray(labels)[order]
    # [0, 0, 0, 1, 1]: the classes begin at 0 and 3, and the places within them are 0, 1, 2, 0, 1.
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])) if len(order) else np.empty(0, int)
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    second = np.empty(len(order), bool)
    second[order] = place % 2 == 1
    return second


def worst_of_halves(
    labels: Int[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], second: Bool[np.ndarray, " N"], k: int
) -> HeldOut | None:
    """Accuracy over the images of the k worst classes; None where not more than k have images in both halves.

    Args:
        labels: classes, 0..K-1.
        second: whether an image is in the second half.
    """
    size = int(labels.max(initial=0)) + 1
    total = np.stack([np.bincount(labels[half], minlength=size) for half in (~second, second)])
    hits = np.stack([np.bincount(labels[half & correct], minlength=size) for half in (~second, second)])
    if int((total > 0).all(axis=0).sum()) <= k:
        return None
    return _held_out(hits, total, lambda right, count: worst_classes(right, count, k)[0])


def worst_factor_of_halves(
    marks: Bool[np.ndarray, "N F"], correct: Bool[np.ndarray, " N"], second: Bool[np.ndarray, " N"]
) -> HeldOut | None:
    """Accuracy of the worst factor, the first of equals; None without one that has images in both halves.

    Args:
        marks: whether an image has a factor.
        second: whether an image is in the second half.
    """
    total = np.stack([marks[half].sum(axis=0) for half in (~second, second)])
    hits = np.stack([marks[half & correct].sum(axis=0) for half in (~second, second)])
    if not (total > 0).all(axis=0).any():
        return None
    return _held_out(hits, total, lambda right, count: worst_classes(right, count, 1)[0])


def _held_out(hits: Int[np.ndarray, "2 G"], total: Int[np.ndarray, "2 G"], choose: Choose) -> HeldOut:
    """Groups without images in one of the halves are not chosen."""
    both = (total > 0).all(axis=0)
    choices = [choose(hits[half] * both, total[half] * both) for half in (0, 1)]
    right = np.array([hits[1 - half, choices[half]].sum() for half in (0, 1)])
    count = np.array([total[1 - half, choices[half]].sum() for half in (0, 1)])
    one, other = (wilson(int(k), int(n)) for k, n in zip(right, count))
    # Limits are averaged, as if both directions erred alike: a group that is chosen twice had bad luck in
    # both halves, which makes both scores low.
    limits = Interval((one.lo + other.lo) / 2, (one.hi + other.hi) / 2, one.level, "wilson_of_halves")
    return HeldOut((choices[0], choices[1]), float((right / count).mean()), int(count.sum()), limits)
