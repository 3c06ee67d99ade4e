"""The task `margin`: how far the best class is ahead of the second, in probability."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from clipjax.heads.head import score_blocks
from clipjax.metrics import classification
from clipjax.metrics.uncertainty.intervals import wilson_of_mean
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Measure, Task, finite_column

INTERFACE = 2


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """One row per image: its `prediction`, and its `margin` in 0..1."""
    assert inputs.head is not None
    prediction, margin = np.empty(len(inputs.ids), np.int32), np.empty(len(inputs.ids), np.float32)
    for rows, scores in score_blocks(inputs.head, inputs.features, inputs.projection, ids=inputs.ids):
        values = scores.values if scores.are_probabilities else classification.softmax(scores.values)
        best = jnp.sort(values, axis=1)
        prediction[rows], margin[rows] = jnp.argmax(values, axis=1), best[:, -1] - best[:, -2]
    return {"prediction": prediction, "margin": margin}


def measure(columns: Columns, about: About) -> list[Measure]:
    """The mean over images, with Wilson's interval, which is too wide for margins between 0 and 1."""
    margin = finite_column(columns, "margin")
    mean = float(np.mean(margin, dtype=np.float64))
    return [Measure("margin", mean, len(margin), wilson_of_mean(mean, len(margin), "images"))]


TASK = Task(
    name="margin",
    version=1,
    section="none",
    needs=("head",),
    convention={"margin": "difference of the two largest probabilities"},
    describe=describe,
    measure=measure,
)
