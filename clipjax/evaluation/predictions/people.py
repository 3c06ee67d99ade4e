"""Decisions of people as one result: the mean of each one's number, with an interval across people.

    rows = people_rows("model_vs_human", "raw-data/cue-conflict")     # a folder, one CSV file per person
    ResultStore("results").add(rows)

The rows have `model` "people": they are in no group, trend or claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.errors import DataError, UsageError
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.evaluation.rows import NOT_EMBEDDED, Result, identity
from clipjax.metrics.uncertainty.intervals import student_across
from clipjax.results.published.references import sources
from clipjax.results.row import Fields, Row
from clipjax.results.rows import PEOPLE, validate_rows
from clipjax.storage.digests import sha256_files, sha256_json
from clipjax.storage.reading import is_dir
from clipjax.storage.remote.buckets import as_path
from clipjax.tasks.task import find_task

FEWEST = 2  # people: one has no interval across people
RESAMPLES = 100  # of intervals that are not used: an interval across people is


def people_sources() -> list[str]:
    return [name for name, source in sources().items() if "people" in source]


def people_rows(source: str, path: str | Path) -> list[Row]:
    """The rows of one run: each number of the whole data set, as the mean over people.

    A number that is undefined for a person is left out. `n` is the number of images that count for the task.

    Raises:
        UsageError: unknown source.
        DataError: fewer than two people, or different images; as `evaluate_predictions`.
    """
    if source not in people_sources():
        raise UsageError(f"the source {source!r} has no people; known: {', '.join(people_sources())}")
    record, folder = sources()[source]["people"], as_path(path)
    files = sorted(folder.glob(record["files"])) if is_dir(folder) else []
    if len(files) < FEWEST:
        raise DataError(
            f"{folder} holds {len(files)} files {record['files']}; give a folder with one per person"
        )
    results = [_person(record, file) for file in files]
    _check_images(files, results)
    common = _common(source, record, files, results)
    images = max(row["n"] or 0 for row in results[0].rows if row["slice"] is None)
    return validate_rows([common | _fields(of_all, images) for of_all in _by_metric(results)])


def _person(record: dict[str, Any], file: Path) -> Result:
    return evaluate_predictions(record["task"], file, dataset=record["dataset"], resamples=RESAMPLES)


def _check_images(files: Sequence[Path], results: Sequence[Result]) -> None:
    first = set(results[0].images["id"].to_pylist())
    for file, result in zip(files, results):
        if set(result.images["id"].to_pylist()) != first:
            raise DataError(
                f"{file} and {files[0]} are of different images; give people who saw the same ones"
            )


def _by_metric(results: Sequence[Result]) -> Iterator[list[Row]]:
    """Numbers of the whole data set that everyone has."""
    tables = [{row["metric"]: row for row in result.rows if row["slice"] is None} for result in results]
    for metric in tables[0]:
        rows = [table[metric] for table in tables if metric in table]
        if len(rows) == len(tables) and all(row["value"] is not None for row in rows):
            yield rows


def _common(source: str, record: dict[str, Any], files: Sequence[Path], results: Sequence[Result]) -> Fields:
    task = find_task(record["task"])
    recipe = {
        **{
            name: results[0].rows[0]["recipe"][name] for name in ("task", "task_version", "dataset", "labels")
        },
        "source": source,
        "people": len(files),
        "predictions": sorted(sha256_files(files)),
    }
    facts = {"kind": PEOPLE, "people": len(files)}
    return {
        **identity(PEOPLE, facts, task, record["dataset"]),
        **NOT_EMBEDDED,
        "origin": "published",
        "recipe": recipe,
        "recipe_hash": sha256_json(recipe),
        "convention": {
            **{name: results[0].rows[0]["convention"][name] for name in ("decision", "label_space")},
            "source": source,
            "people": len(files),
            "value": "mean over people of each one's number",
            "intervals": "of the mean over people: Student's t across people",
        },
    }


def _fields(rows: Sequence[Row], images: int) -> Fields:
    values = np.array([row["value"] for row in rows])
    return {
        "metric": rows[0]["metric"],
        "slice": None,
        "value": float(values.mean()),
        "interval": student_across(values, PEOPLE)._asdict(),
        "n": images,
        "aggregates": PEOPLE,
        "note": "; ".join(filter(None, [f"mean of {len(rows)} people", rows[0]["note"]])),
    }
