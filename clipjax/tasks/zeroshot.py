"""Classification accuracy: the zero-shot accuracy of a CLIP model, or a classifier's with its own head.

Top-1 and top-5 accuracy over images with Wilson intervals, the accuracy of every class, and their unweighted
mean. A classifier whose classes are not the data set's is scored through a projection. A data set without
labels gets predictions and no numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from clipjax.errors import DataError
from clipjax.heads import score_blocks
from clipjax.labels import LabelSpace
from clipjax.metrics import classification, intervals
from clipjax.tasks import Inputs, Measure, Outcome, Task

TOP = 5


class Predictions(NamedTuple):
    """Per image: the best classes, best first (int32 [N, k]), and the score of the first as a probability."""

    ranked: np.ndarray
    confidence: np.ndarray


def predict(inputs: Inputs) -> Predictions:
    """The k = min(5, classes) best classes of each image, in blocks: no [N, K] array is ever held."""
    n, k = len(inputs.features), min(TOP, len(inputs.label_space))
    ranked, confidence = np.empty((n, k), np.int32), np.empty(n, np.float32)
    for rows, scores in score_blocks(inputs.head, inputs.features, inputs.projection):
        probabilities = scores.values if scores.are_probabilities else classification.softmax(scores.values)
        ranked[rows] = classification.top_k(scores.values, k=k)
        confidence[rows] = jnp.max(probabilities, axis=1)
    return Predictions(ranked, confidence)


def run(inputs: Inputs) -> Outcome:
    """Numbers and per-image columns; see the module's docstring.

    Raises:
        DataError: a label is outside the label space; the message names the image.
    """
    if len(inputs.features) == 0:
        raise DataError("there are no images to evaluate")
    predictions = predict(inputs)
    columns = _columns(predictions, inputs.label_space)
    if inputs.labels is None:
        note = "not applicable: the data set has no labels"
        return Outcome([Measure("top1", None, len(inputs.features), note=note)], columns)
    labels = np.asarray(inputs.labels, np.int32)
    _check_labels(labels, inputs)
    columns |= {
        "label": labels,
        "correct": predictions.ranked[:, 0] == labels,
        "correct_top5": np.asarray(classification.in_top_k(predictions.ranked, labels)),
    }
    return Outcome(measures(labels, columns["correct"], columns["correct_top5"], inputs.label_space), columns)


def measures(
    labels: np.ndarray, correct: np.ndarray, correct_top5: np.ndarray, space: LabelSpace
) -> list[Measure]:
    """All numbers of the task from its per-image columns: int [N], bool [N], bool [N]."""
    hits, total = (
        np.asarray(a) for a in classification.class_counts(labels, correct, num_classes=len(space))
    )
    seen = total > 0
    return [
        _accuracy("top1", int(correct.sum()), len(labels)),
        _accuracy("top5", int(correct_top5.sum()), len(labels))
        if len(space) > TOP
        else Measure("top5", None, len(labels), note=f"not applicable: there are {len(space)} classes"),
        Measure(
            "mean_per_class",
            float(np.mean(hits[seen] / total[seen])),
            len(labels),
            intervals.mean_of_proportions(hits[seen], total[seen]),
            aggregates="classes",
            note=None if seen.all() else f"{int(seen.sum())} of {len(space)} classes have images",
        ),
        *(
            _accuracy("class_accuracy", int(hits[k]), int(total[k]), f"class:{space.ids[k]}")
            for k in np.flatnonzero(seen)
        ),
    ]


def _accuracy(metric: str, hits: int, n: int, part: str | None = None) -> Measure:
    return Measure(metric, hits / n, n, intervals.wilson(hits, n), slice=part)


def _columns(predictions: Predictions, space: LabelSpace) -> dict[str, Any]:
    names = np.asarray(space.classes, object)
    return {
        "prediction": predictions.ranked[:, 0],
        "prediction_name": names[predictions.ranked[:, 0]],
        "confidence": predictions.confidence,
        "top5": predictions.ranked,
        "top5_names": names[predictions.ranked],
    }


def _check_labels(labels: np.ndarray, inputs: Inputs) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= len(inputs.label_space)))
    if outside.size:
        first = int(outside[0])
        raise DataError(
            f"{inputs.ids[first]}: label {labels[first]} is outside the {len(inputs.label_space)} classes of "
            f"{inputs.label_space.name!r}"
        )


TASK = Task(
    name="zeroshot",
    version=1,
    section="III-B",
    needs=("image", "head"),
    convention={"ties": "lowest class index", "top_k": [1, TOP]},
    run=run,
)
