"""Balance: how evenly a model's answers are spread over the classes of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from clipjax.metrics.evenness import evenness

from clipjax.tasks.cells import class_number
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Columns, Csv, Measure, PredictionFiles, Task
from clipjax.tasks.zeroshot import predict

CSV = ("file", "answer")


def describe(inputs: ImageInputs) -> dict[str, Any]:
    """The column `prediction`."""
    return {"prediction": predict(inputs).ranked[:, 0]}


def measure(columns: Columns, about: About) -> list[Measure]:
    assert about.label_space is not None
    predictions = np.asarray(columns["prediction"])
    counts = np.bincount(predictions, minlength=len(about.label_space))
    return [Measure("evenness", evenness(counts), len(predictions))]


def _read(rows: Sequence[tuple[str, Mapping[str, str]]], about: About) -> dict[str, Any]:
    assert about.label_space is not None
    answers = [class_number(row["answer"], "answer", about.label_space, where) for where, row in rows]
    return {"id": [row["file"] for _, row in rows], "prediction": answers}


TASK = Task(
    name="balance",
    version=1,
    section="none",
    needs=("head",),
    convention={"evenness": "Pielou's, over all classes of the data set"},
    describe=describe,
    measure=measure,
    predictions=PredictionFiles(
        arrays={"logits": True}, csv=Csv(CSV, needed=CSV, read=_read), dataset="tinted"
    ),
)
