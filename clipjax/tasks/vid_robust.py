"""Accuracy that holds over the frames of a video: ImageNet-Vid-Robust (Shankar et al. 2021).

A set is an anchor frame and the frames at most 10 before and after it. A frame with several classes is right
with any of them.

- `pm0`, also called `benign`: the share of right anchors.
- `pm10`: the share of sets in which *all* frames are right; `pm1` to `pm9` use only frames that near.
- `top1_all_frames`: every frame by itself, with its first class alone (wise-ft).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clipjax.errors import DataError
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, interval_of_mean, weighted_mean
from clipjax.metrics.uncertainty.intervals import Interval
from clipjax.tasks import zeroshot
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Measure, Paired, PredictionFiles, Task

FARTHEST = 10  # frames from the anchor
COLUMNS = ("anchor", "offset", "set_size")


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The columns of `zeroshot.describe` and COLUMNS.

    Raises:
        DataError: such a column or labels are missing; as `zeroshot.describe`.
    """
    missing = [name for name in COLUMNS if name not in inputs.columns]
    if missing or inputs.labels is None:
        raise DataError(
            f"{inputs.dataset} has no {missing[0] if missing else 'labels'}: vid_robust is about the frames "
            "of ImageNet-Vid-Robust, as the card imagenet_vid_robust reads them"
        )
    return {**zeroshot.describe(inputs), **{name: list(inputs.columns[name]) for name in COLUMNS}}


class FrameSets(NamedTuple):
    """N frames in A sets.

    Attributes:
        set_of: int [N], 0..A-1.
        reach: int [A], frames from the anchor to the nearest wrong one; FARTHEST + 1 if all are right.
            Offsets [-2, 0, 1] with only the first wrong: 2.
    """

    set_of: np.ndarray
    reach: np.ndarray


def sets_of(images: Columns) -> FrameSets:
    """Raises DataError naming an anchor with an incomplete set: fewer frames would be easier."""
    anchors, set_of = np.unique(np.asarray(images["anchor"], str), return_inverse=True)
    offset, size = np.asarray(images["offset"], int), np.asarray(images["set_size"], int)
    here = np.bincount(set_of)
    whole = np.zeros(len(anchors), int)
    whole[set_of] = size
    has_anchor = np.bincount(set_of, weights=offset == 0) == 1
    if not (has_anchor & (here == whole)).all():
        first = int(np.argmin(has_anchor & (here == whole)))
        raise DataError(
            f"the set of {anchors[first]} has {here[first]} of its {whole[first]} frames: vid_robust needs "
            "whole sets, so run it on all frames, without a limit, and mend those that cannot be read"
        )
    reach = np.full(len(anchors), FARTHEST + 1)
    wrong = ~np.asarray(images["correct"], bool)
    # Not `reach[...] = ...`: several wrong frames may belong to one set.
    np.minimum.at(reach, set_of[wrong], abs(offset[wrong]))
    return FrameSets(set_of, reach)


def measure(images: Columns, about: About) -> list[Measure]:
    sets = sets_of(images)
    n = len(sets.reach)
    lasting = [int(np.sum(sets.reach > k)) for k in range(FARTHEST + 1)]
    first = np.asarray(images["prediction"]) == np.asarray(images["label"])
    return [
        zeroshot.accuracy("benign", lasting[0], n),
        *(zeroshot.accuracy(f"pm{k}", hits, n) for k, hits in enumerate(lasting)),
        zeroshot.accuracy("pm0_to_pm10_drop", lasting[0] - lasting[FARTHEST], n),
        Measure("top1_all_frames", float(first.mean()), len(first), _interval(first, sets.set_of, about)),
    ]


def _interval(correct: np.ndarray, set_of: np.ndarray, about: About) -> Interval:
    """The interval of resampled sets; if they cannot differ, Wilson's for as many sets."""
    sets = int(set_of.max()) + 1
    draws = None
    if sets > 1:
        resampling = Resampling(about.dataset, len(correct), set_of, about.resamples, about.seed)
        draws = bootstrap(lambda weights: {"mean": weighted_mean(correct, weights)}, resampling)["mean"]
    return interval_of_mean(float(correct.mean()), draws, sets, "sets", clustered=True)


def paired(images: Columns, about: About) -> Paired:
    """`benign` is left out: it is `pm0` and would count twice."""
    sets = sets_of(images)
    first = np.asarray(images["prediction"]) == np.asarray(images["label"])
    return Paired(
        {f"pm{k}": sets.reach > k for k in range(FARTHEST + 1)},
        lambda weights: {"top1_all_frames": weighted_mean(first, weights)},
        clusters=[str(name) for name in images["anchor"]],
    )


TASK = Task(
    name="vid_robust",
    version=1,
    section="III-B",
    needs=("head", "labels"),
    convention={
        "ties": "lowest class index",
        "several_labels": "any is right; top1_all_frames: the first",
        "unit": "an anchor with its neighbours",
    },
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=("pm*",),
    headlines=(("pm10",),),
    predictions=PredictionFiles(several_labels=True),
)
