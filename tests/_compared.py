"""Runs with given per-image tables, for tests that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.evaluation.comparison.compare import Comparison
from clipjax.results.store import ResultStore, new_run_id
from clipjax.tasks.task import Measure, find_task


def write(
    folder: Path,
    images: dict[str, Any],
    /,
    *,
    task: str = "zeroshot",
    model: str = "a",
    measures: Sequence[Measure] = (),
    **changed: Any,
) -> str:
    """A run with these per-image columns, and a row a measure; returns its id."""
    run_id = new_run_id()
    empty = ("aggregates", "note", "sample", "reference", "per_device_batch", "slice", "xla_flags", "device")
    fields: dict[str, Any] = dict.fromkeys((*empty, "git_revision", "versions", "interval"))
    fields |= {
        "schema_version": 1,
        "run_id": run_id,
        "recipe_hash": "a" * 64,
        "recipe": {"images": "digest"},
        "origin": "measured",
        "task": task,
        "task_version": find_task(task).version,
        "dataset": "d",
        "model": model,
        "model_facts": {},
        "metric": "any",
        "value": 0.5,
        "n": len(images["id"]),
        "convention": {"prompts": "single"},
        "skipped": 0,
        "precision": "parity",
        "wall_time": 1.5,
        "compile_count": 3,
    }
    rows = [{k: getattr(each, k) for k in ("metric", "value", "n", "slice", "note")} for each in measures]
    ResultStore(folder).add([fields | changed | row for row in rows or [{}]], images)
    return run_id


def add(
    folder: Path,
    model: str,
    accuracy: float = 0.5,
    n: int = 300,
    *,
    order: np.ndarray | None = None,
    seed: int = 0,
    **changed: Any,
) -> str:
    """A run with the same hard images for every model; `order`: of the table's rows."""
    shared, own = np.random.default_rng(seed), np.random.default_rng([seed, *model.encode()])
    hard = shared.random(n)
    correct = 0.7 * hard + 0.3 * own.random(n) < accuracy
    order = np.arange(n) if order is None else order
    names = np.array(changed.pop("ids", ids(n)))
    measures = [Measure("top1", float(correct.mean()), n)]
    columns = {"id": names[order].tolist(), "correct": correct[order]}
    return write(folder, columns, model=model, measures=measures, **changed)


def ids(n: int) -> list[str]:
    return [f"{i}.png" for i in range(n)]


def by_metric(found: list[Comparison]) -> dict[str, Comparison]:
    return {each.metric: each for each in found}


def retrieval_table(n: int, seed: int, worst: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    counts = np.random.default_rng(0).integers(1, 6, n)
    return {
        "id": ids(n),
        "caption_ranks": [sorted(rng.integers(0, worst, k).tolist()) for k in counts],
        "image_ranks": [rng.integers(0, worst, k).tolist() for k in counts],
        "captions_cut": [0] * n,
    }


def ood_table(seed: int, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    inside = np.arange(90) < 60
    names = ("mcm", "max_logit")
    scores = {name: (rng.normal(size=90) + inside).astype(np.float32) for name in names}
    return (
        {"id": [f"{'known' if i < 60 else 'd'}/{i}" for i in range(90)], "in_distribution": inside}
        | scores
        | more
    )


def calibration_table(seed: int, temperature: float, n: int = 200) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"id": ids(n), "label": [0] * n, "prediction": [0] * n}
    columns |= {"correct": rng.random(n) < 0.6, "temperature": [temperature] * n}
    columns |= {"temperature_error": [0.1] * n, "calibration_images": [n] * n}
    for state in ("before", "after"):
        columns[f"confidence_{state}"] = rng.uniform(0.4, 1, n)
        columns |= {f"{name}_{state}": rng.random(n) for name in ("nll", "brier")}
    return columns
