"""Classification accuracy: zero-shot for a CLIP model, with its own head for a classifier.

If the head has more classes than the data set (ImageNet-R: 200 of 1,000) or finer ones (ObjectNet), its
scores are projected, which may add:

- `top1_full`: the best of *all* the head's classes is a right one.
- `top1_restricted`, if a class takes the largest score of several head classes: the same among just these
  (ObjectNet: 125). It equals `top1` except for ties.

The column `accepted` lists all right labels of an image; its class is the first. Without labels there are
only predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import DataError
from clipjax.heads.head import score_blocks
from clipjax.metrics import classification
from clipjax.metrics.uncertainty import intervals
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Measure, Paired, PredictionFiles, Task

TOP = 5


class Predictions(NamedTuple):
    """Predictions of N images.

    Attributes:
        ranked: int32 [N, k], best first.
        confidence: float32 [N], the probability of the first.
        full: int32 [N], the best of all the head's classes; None: the first of `ranked`.
        restricted: int32 [N], the best of the head's classes that stand for a class of the data set;
            None if no class of the data set takes the largest score of several.
        tied: bool [N], whether several classes share the largest score; None: no ties.
    """

    ranked: np.ndarray
    confidence: np.ndarray
    full: np.ndarray | None = None
    restricted: np.ndarray | None = None
    tied: np.ndarray | None = None


def predict(inputs: ImageInputs) -> Predictions:
    """The k = min(5, classes) best classes of each image, in blocks: [N, K] never exists.

    Raises:
        DataError: there are no images, or an image's logits are not finite.
    """
    assert inputs.head is not None
    assert inputs.label_space is not None
    n, k = len(inputs.features), min(TOP, len(inputs.label_space))
    if n == 0:
        raise DataError("there are no images to evaluate")
    ranked, confidence, ties = np.empty((n, k), np.int32), np.empty(n, np.float32), np.empty(n, bool)
    for rows, scores in score_blocks(inputs.head, inputs.features, inputs.projection, ids=inputs.ids):
        probabilities = scores.values if scores.are_probabilities else classification.softmax(scores.values)
        ranked[rows] = classification.top_k(scores.values, k=k)
        # NumPy compiles nothing, and gives the same bits.
        confidence[rows] = np.asarray(probabilities).max(axis=1)
        ties[rows] = classification.is_tied(np.asarray(scores.values))
    tied = ties if ties.any() else None
    if inputs.projection is None:
        return Predictions(ranked, confidence, tied=tied)
    return Predictions(ranked, confidence, *_among_the_heads(inputs, inputs.projection), tied=tied)


def tie_note(tied: Sequence[bool] | np.ndarray | None) -> str | None:
    """The note on tied scores; None without ties."""
    ties = 0 if tied is None else int(np.sum(tied))
    if tied is None or not ties:
        return None
    return (
        f"top-1 of {ties:,} of {len(tied):,} images is a tie: of equal largest scores the lowest class "
        "index is taken"
    )


def _among_the_heads(inputs: ImageInputs, projection: Projection) -> tuple[np.ndarray, np.ndarray | None]:
    """The best of the head's classes for each image, as `Predictions.full` and `Predictions.restricted`."""
    members = np.array(sorted({column for group in projection.groups for column in group}), np.int32)
    n, head = len(inputs.features), inputs.head
    full, restricted = np.empty(n, np.int32), np.empty(n, np.int32)
    assert head is not None
    for rows, scores in score_blocks(head, inputs.features, ids=inputs.ids):
        values = np.asarray(scores.values)
        full[rows] = np.argmax(values, axis=1)
        restricted[rows] = members[np.argmax(values[:, members], axis=1)]
    finer = projection.kind == "max" and len(members) > len(projection.groups)
    return full, restricted if finer else None


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """Raises DataError as `predict`, or if a label is outside the label space."""
    predictions, space = predict(inputs), inputs.label_space
    assert space is not None
    names = np.asarray(space.classes, object)
    columns: dict[str, Any] = {
        "prediction": predictions.ranked[:, 0],
        "prediction_name": names[predictions.ranked[:, 0]],
        "confidence": predictions.confidence,
        "top5": predictions.ranked,
        "top5_names": names[predictions.ranked],
    }
    over_head = {"full": predictions.full, "restricted": predictions.restricted}
    over_head = {name: best for name, best in over_head.items() if best is not None}
    columns |= {f"prediction_{name}": best for name, best in over_head.items()}
    if predictions.tied is not None:
        columns["tied"] = predictions.tied
    if inputs.labels is None:
        return columns
    labels = np.asarray(inputs.labels, np.int32)
    check_labels(labels, inputs.ids, space)
    accepted = accepted_labels(labels, inputs.columns.get("accepted"))
    check_labels(accepted.max(axis=1, initial=0), inputs.ids, space)
    columns |= {
        "label": labels,
        "correct": np.any(predictions.ranked[:, :1] == accepted, axis=1),
        "correct_top5": np.any(predictions.ranked[:, :, None] == accepted[:, None, :], axis=(1, 2)),
    }
    if inputs.projection is not None:
        for name, best in over_head.items():
            columns[f"correct_{name}"] = right_of_all(best, accepted, inputs.projection.groups)
    return columns


def accepted_labels(labels: np.ndarray, accepted: Sequence[Sequence[int]] | None) -> np.ndarray:
    """int32 [N, L], padded with -1.

    labels [1, 2], accepted [[1], [2, 3]] -> [[1, -1], [2, 3]]
    """
    if accepted is None:
        return labels[:, None]
    table = np.full((len(labels), max(map(len, accepted))), -1, np.int32)
    for row, classes in zip(table, accepted):
        row[: len(classes)] = classes
    return table


def right_of_all(best: np.ndarray, accepted: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Whether the best class is in the group of a right label. bool [N]."""
    correct = np.zeros(len(best), bool)
    for label, group in enumerate(groups):
        correct |= np.any(accepted == label, axis=1) & np.isin(best, group)
    return correct


def check_labels(labels: np.ndarray, ids: Sequence[str], space: LabelSpace) -> None:
    """Raises DataError naming the first image whose label is outside the space."""
    outside = np.flatnonzero((labels < 0) | (labels >= len(space)))
    if outside.size:
        first = int(outside[0])
        raise DataError(
            f"{ids[first]}: label {labels[first]} is outside the {len(space)} classes of {space.name!r}"
        )


def measure(images: Columns, about: About) -> list[Measure]:
    """A missing column `correct_...` gives no number."""
    if "label" not in images:
        note = "not applicable: the data set has no labels"
        return [Measure("top1", None, len(images["prediction"]), note=note)]
    space = about.label_space
    assert space is not None
    labels, correct = np.asarray(images["label"], np.int32), np.asarray(images["correct"], bool)
    n = len(labels)
    hits, total = map(np.asarray, classification.class_counts(labels, correct, num_classes=len(space)))
    few = "there is 1 class" if len(space) == 1 else f"there are {len(space)} classes"
    alone = f"{few}, so that every prediction is right" if len(space) == 1 else None
    note = "; ".join(filter(None, (alone, tie_note(images.get("tied"))))) or None
    measures = [dataclasses.replace(accuracy("top1", int(correct.sum()), n), note=note)]
    for name in ("full", "restricted"):
        if f"correct_{name}" in images:
            measures.append(accuracy(f"top1_{name}", int(np.sum(images[f"correct_{name}"])), n))
    if "correct_top5" not in images:
        measures.append(Measure("top5", None, n, note="not applicable: there are no ranked predictions"))
    elif len(space) > TOP:
        measures.append(accuracy("top5", int(np.sum(images["correct_top5"])), n))
    else:
        measures.append(Measure("top5", None, n, note=f"not applicable: {few}"))
    return [*measures, *class_measures(hits, total, space)]


def class_measures(hits: np.ndarray, total: np.ndarray, space: LabelSpace) -> list[Measure]:
    """The mean accuracy of the classes that have images, then each one's accuracy.

    Args:
        hits: int [K], each class's images that are right.
        total: int [K], each class's images.
    """
    seen = total > 0
    mean = Measure(
        "mean_per_class",
        float(np.mean(hits[seen] / total[seen])),
        int(total.sum()),
        intervals.mean_of_proportions(hits[seen], total[seen]),
        aggregates="classes",
        note=None if seen.all() else f"{int(seen.sum())} of {len(space)} classes have images",
    )
    return [
        mean,
        *(
            accuracy("class_accuracy", int(hits[k]), int(total[k]), f"class:{space.ids[k]}")
            for k in np.flatnonzero(seen)
        ),
    ]


def accuracy(metric: str, hits: int, n: int, part: str | None = None) -> Measure:
    return Measure(metric, hits / n, n, intervals.wilson(hits, n), slice=part)


def paired(images: Columns, about: About) -> Paired:
    """Accuracies are proportions; their mean over classes is resampled."""
    columns = {"top1": "correct", "top5": "correct_top5"}
    columns |= {f"top1_{name}": f"correct_{name}" for name in ("full", "restricted")}
    right = {k: np.asarray(images[name], bool) for k, name in columns.items() if name in images}
    return Paired(right, _mean_per_class(images) if "label" in images else None)


def _mean_per_class(images: Columns) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The mean over the classes that have images in a resample."""
    labels, correct = np.asarray(images["label"]), np.asarray(images["correct"], bool)
    order = np.argsort(labels, kind="stable")
    start = np.unique(labels[order], return_index=True)[1]

    # Images sorted by class: `reduceat` sums each class's part, from its `start` to the next.
    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights[:, order]
        total = np.add.reduceat(drawn, start, axis=1)
        hits = np.add.reduceat(drawn * correct[order], start, axis=1)
        return {"mean_per_class": (hits / np.maximum(total, 1)).sum(axis=1) / (total > 0).sum(axis=1)}

    return resampled


TASK = Task(
    name="zeroshot",
    version=2,
    section="III-B",
    needs=("head",),
    convention={"ties": "lowest class index", "top_k": [1, TOP]},
    describe=describe,
    measure=measure,
    paired=paired,
    proportions=("top1", "top5", "top1_*"),
    headlines=(("top1",),),
    shares=("top1", "top5"),
    predictions=PredictionFiles(arrays={"logits": True, "labels": True, "ids": False}),
    compares_precisions=True,
)
