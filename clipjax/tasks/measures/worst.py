"""The worst factors and classes of annotated images, as the reference counts them and held out.

The reference chooses and scores on the same images, which looks worse than it is; published numbers are
such. `*_held_out` chooses on one half and scores on the other (`clipjax.metrics.worst`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from clipjax.metrics import classification
from clipjax.metrics.factors import count_factors, worst_classes
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.worst import HeldOut, worst_factor_of_halves, worst_of_halves
from clipjax.tasks.task import Measure

WORST = 100
CLASSES = f"worst_{WORST}_classes"
HELD_OUT = "_held_out"
NO_FACTOR = "not applicable: no image has one of the factors"
NO_HALVES = "not applicable: the table has no column `second_half`: evaluate the model again"


@dataclass(frozen=True, eq=False)
class AnnotatedImages:
    """A annotated images.

    Attributes:
        labels: int [A].
        correct: bool [A].
        factors: F names.
        marks: bool [A, F].
        ten: bool [F], of the paper's ten factors.
        second: bool [A], the second half of each class; None: unknown (a table of an earlier clipjax).
    """

    labels: np.ndarray
    correct: np.ndarray
    factors: Sequence[str]
    marks: np.ndarray
    ten: np.ndarray
    second: np.ndarray | None


def worst_measures(images: AnnotatedImages, slice_: str | None) -> Iterator[Measure]:
    groups = {"worst_factor_of_ten": images.ten, "worst_factor_of_all": np.ones(len(images.ten), bool)}
    for metric, of in groups.items():
        yield _worst_factor(metric, images, of, slice_)
    yield _worst_classes(images, slice_)
    for metric in (*groups, CLASSES):
        yield _held_out(metric, images, groups.get(metric), slice_)


def _worst_factor(metric: str, images: AnnotatedImages, of: np.ndarray, slice_: str | None) -> Measure:
    """The accuracy on the worst of the factors `of`. Its interval ignores that the factor was chosen."""
    counts = count_factors(images.correct, images.marks)
    choice = int(np.sum(of & (counts.total > 0)))
    if not choice:
        return Measure(metric, None, 0, slice=slice_, note=NO_FACTOR)
    k = counts.worst(of)
    hits, n = int(counts.hits[k]), int(counts.total[k])
    note = f"{images.factors[k]}, of {choice} factors"
    return Measure(metric, hits / n, n, intervals.wilson(hits, n), slice_, note=note)


def _worst_classes(images: AnnotatedImages, slice_: str | None) -> Measure:
    size = int(images.labels.max()) + 1
    hits, total = map(
        np.asarray, classification.class_counts(images.labels, images.correct, num_classes=size)
    )
    seen = int(np.sum(total > 0))
    if seen <= WORST:
        return Measure(CLASSES, None, 0, slice=slice_, note=f"not applicable: {seen} classes have images")
    worst, value = worst_classes(hits, total, WORST)
    n = int(total[worst].sum())
    return Measure(CLASSES, value, n, intervals.wilson(int(hits[worst].sum()), n), slice_)


def _held_out(metric: str, images: AnnotatedImages, of: np.ndarray | None, slice_: str | None) -> Measure:
    """The worst factor or classes, chosen on one half of the images and measured on the other.

    Args:
        of: bool [F], the factors to choose from; None: choose classes.
    """
    name = f"{metric}{HELD_OUT}"
    if images.second is None:
        return Measure(name, None, 0, slice=slice_, note=NO_HALVES)
    if of is None:
        found = worst_of_halves(images.labels, images.correct, images.second, WORST)
        absent = f"not applicable: {WORST} classes or fewer have images in both halves"
    else:
        found = worst_factor_of_halves(images.marks[:, of], images.correct, images.second)
        absent = "not applicable: no factor has images in both halves"
    if found is None:
        return Measure(name, None, 0, slice=slice_, note=absent)
    note = _choices(found, images.factors, of)
    return Measure(name, found.value, found.n, found.interval, slice_, note=note)


def _choices(found: HeldOut, factors: Sequence[str], of: np.ndarray | None) -> str:
    """The factors by name; of classes, how many both halves choose."""
    one, other = found.choices
    if of is None:
        return f"both halves choose {len(np.intersect1d(one, other))} of them"
    names = np.array(factors, object)[of]
    return f"the halves choose {names[one[0]]} and {names[other[0]]}"
