"""Runs of a sweep from files of predictions: `{ name = "mine", predictions = "preds/{dataset}.parquet" }`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipjax.errors import ClipjaxError
from clipjax.evaluation.collection import Done, Loaded
from clipjax.evaluation.predictions.run import evaluate_predictions, predictions_recipe
from clipjax.storage.buckets import place
from clipjax.sweep.plan import Item


def recipe_of(item: Item, loaded: Loaded) -> dict[str, Any]:
    """What the rows of its file would have; raises ClipjaxError for a missing or wrong file."""
    return predictions_recipe(item.job.task, **_arguments(item, loaded))


def run_predictions(items: Sequence[Item], loaded: Loaded, results: Path) -> Iterator[Done]:
    """In order; a wrong file does not stop the others."""
    for item in items:
        try:
            arguments = _arguments(item, loaded)
            result = evaluate_predictions(
                item.job.task, **arguments, model=item.chosen.title, results=results
            )
        except ClipjaxError as error:
            yield Done(item.job, None, error)
        else:
            yield Done(item.job, result)


def _arguments(item: Item, loaded: Loaded) -> dict[str, Any]:
    job, pattern = item.job, item.chosen.predictions
    assert pattern is not None
    request = loaded.request(job, item.request)
    return {
        "file": place(pattern.format(dataset=job.data.card.name, task=job.task)),
        "dataset": job.data.card,
        "annotations": request.annotations,
        "seed": request.seed,
        "resamples": request.resamples,
    }
