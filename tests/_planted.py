"""Per-image columns of each task with answers that are known, and the numbers that the task makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipjax.data.labels import LabelSpace
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Measure, all_tasks

SPACE = LabelSpace("six", tuple("abcdef"), tuple("abcdef"))
RIGHT = np.array([True, False, True, True])
ACCURACY = {"label": [0, 0, 1, 1], "prediction": [0, 1, 1, 1], "correct": RIGHT, "correct_top5": RIGHT}
SCORES = {"in_distribution": [True] * 3 + [False] * 2, "mcm": [0.9, 0.8, 0.3, 0.5, 0.1]}
BINS = ["angle:0-30", "angle:30-60", "angle:60-90", "angle:90-120"]
PLANTED: dict[str, dict[str, Any]] = {
    "zeroshot": ACCURACY,
    "vid_robust": ACCURACY
    | {"anchor": ["a", "a", "b", "c"], "offset": [0, 1, 0, 0], "set_size": [2, 2, 1, 1]},
    "ood": SCORES,
    "ood ninco": SCORES | {"ood_class": ["", "", "", "x", "y"]},
    "calibration": ACCURACY
    | {f"{name}_{state}": [0.5] * 4 for name in ("nll", "brier") for state in ("before", "after")}
    | {"confidence_before": [0.9] * 4, "confidence_after": [0.8] * 4}
    | {"temperature": [1.5] * 4, "temperature_error": [0.1] * 4, "calibration_images": [9] * 4},
    "selective": ACCURACY
    | {"confidence": [0.9, 0.4, 0.8, 0.7], "classwise_ece": [0.1] * 4, "calibration_images": [99] * 4}
    | {f"{method}_size": [1, 2, 1, 3] for method in ("lac", "aps", "raps")}
    | {f"{method}_covered": RIGHT for method in ("lac", "aps", "raps")},
    "imagenet_x": ACCURACY
    | {
        "annotated": [True] * 4,
        "confidence": [0.9] * 4,
        "prototype": [False] * 4,
        "top_factors": [["larger"], ["larger"], ["shape"], ["color"]],
        "multi_factors": [["larger"], ["larger"], ["shape", "color"], ["color"]],
    },
    "retrieval": {
        "image_ranks": [[0, 7], [1, 0], [0, 0], [9, 0]],
        "caption_ranks": [[0, 1], [6, 8], [0, 3], [2, 3]],
        "captions_cut": [0, 0, 0, 0],
    },
    "shape_bias": {
        "shape": ["cat", "cat", "dog"],
        "texture": ["dog", "elk", "cat"],
        "decision": ["cat", "elk", "dog"],
        "object": ["cat1", "cat2", "dog1"],
        "conflict": [True] * 3,
        "decided_for": ["shape", "texture", "shape"],
    },
    "correspondence": {
        "matches": [4, 4, 2, 4] * 6,
        **{
            name: [0.5, 0.75, 0.5, 1.0] * 6
            for name in ("recall", "recall_3d@0.02", "recall_2d@10", "pck@0.1")
        },
        "counted": [True] * 24,
        "bin": [[name] for name in BINS[:4]] * 6,
        "bins": [BINS] * 24,
        "unit": list("abcdefghijklmnopqrstuvwx"),
        "cluster": list("abcdefghijkl") * 2,  # fewer than ten have no interval
    },
    "multiple_choice": {
        "options": [["a", "b"]] * 3,
        "right": [0, 1, 0],
        "choice_parsed": [[0, 0], [-1, 1], [1, 0]],
        "choice_letter": [[0, 1], [1, 1], [0, 0]],
    },
    "imagenet_d": ACCURACY | {"correct_4way_own": RIGHT, "correct_4way_list": RIGHT},
}


def planted(task: str, dataset: str = "planted") -> list[Measure]:
    """What the task measures; `dataset` where its columns depend on it."""
    columns = PLANTED[f"{task} {dataset}" if f"{task} {dataset}" in PLANTED else task]
    ids = [f"{k}.png" for k in range(len(next(iter(columns.values()))))]
    return all_tasks()[task].measure({"id": ids, **columns}, About(dataset, SPACE, resamples=20))


def emitted(task: str) -> set[tuple[str, str | None]]:
    """The metrics and slices that have a value."""
    return {(measure.metric, measure.slice) for measure in planted(task) if measure.value is not None}
