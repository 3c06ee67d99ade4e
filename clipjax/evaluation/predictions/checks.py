"""Check a per-image table row by row: one from elsewhere may be inconsistent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clipjax.errors import DataError
from clipjax.evaluation.predictions.file import PredictionsFile
from clipjax.guards import is_number
from clipjax.tasks.task import all_tasks

# Columns that all tasks share; a task adds its own (`PredictionFiles.bools`, `PredictionFiles.ranges`).
BOOLS = ("tied", "correct", "in_distribution")
ROUNDING = 1e-6  # how far rounding to float32 may take a number out of its range; confidences stay within
PROBABILITY = (0.0, 1.0)
_OF_STATE = {"confidence": PROBABILITY, "nll": (0.0, math.inf), "brier": (0.0, 2.0)}
RANGES = {f"{name}_{state}": ends for name, ends in _OF_STATE.items() for state in ("before", "after")}
RANGES |= {"confidence": PROBABILITY}

Table = dict[str, list[Any]]
"""Column name -> a list of N."""


def check_table(file: PredictionsFile, columns: Table) -> Table:
    """The columns, classes as int (a table of floats may have 394.0).

    Raises DataError naming the row: a class is missing, a mark is not a bool, a score is out of range,
    `correct` contradicts the classes or `correct_top5`, or an OOD image's class has no name.
    """
    columns, own = dict(columns), file.task.predictions
    # A mark of another task counts, too: `annotated` decides which labels may be -1.
    bools = {*BOOLS, *(name for task in all_tasks().values() for name in task.predictions.bools)}
    ranges = {**RANGES, **own.ranges}
    for name in columns:
        if name in bools or name.startswith("correct_"):
            _check_bools(file, name, columns[name])
        elif name in ("label", "prediction"):
            columns[name] = _classes(file, name, columns)
        elif name in ranges and not (name.endswith("_after") and _has_no_temperature(columns)):
            _check_range(file, name, columns[name], *ranges[name])
    if "correct" in columns:
        _check_correct(file, columns)
    if "ood_class" in columns and "in_distribution" in columns:
        outside = [not inside for inside in columns["in_distribution"]]
        check_named(file, "ood_class", columns["ood_class"], outside)
    return columns


def check_named(file: PredictionsFile, name: str, texts: Sequence[Any], of: Sequence[bool]) -> None:
    """Raises DataError for an empty text where `of` is true."""
    for row, (text, counts) in enumerate(zip(texts, of)):
        if counts and (text is None or not str(text).strip()):
            raise DataError(f"{file.path}: row {row} has an empty {name}; name the class of each OOD image")


def _check_bools(file: PredictionsFile, name: str, values: list[Any]) -> None:
    for row, value in enumerate(values):
        if not isinstance(value, bool):
            raise _wrong(file, row, name, value, "it must be a bool, true or false")


def _check_range(file: PredictionsFile, name: str, values: list[Any], low: float, high: float) -> None:
    slack = 0.0 if name.startswith("confidence") else ROUNDING
    ends = {(False, False): "", (True, False): f", {low:g} or more", (False, True): f", {high:g} or less"}
    expected = ends.get((math.isfinite(low), math.isfinite(high)), f", {low:g} to {high:g}")
    for row, value in enumerate(values):
        if not (is_number(value) and low - slack <= value <= high + slack):
            raise _wrong(file, row, name, value, f"it must be a finite number{expected}")


def _has_no_temperature(columns: Table) -> bool:
    """T was not fitted: the columns that depend on it are NaN."""
    first = next(iter(columns.get("temperature", [])), None)
    return not (isinstance(first, int | float) and 0 < first < math.inf)


def _classes(file: PredictionsFile, name: str, columns: Table) -> list[int]:
    """Within the label space, if known; -1 if an image of ImageNet-X is not annotated."""
    space, annotated = file.space, columns.get("annotated")
    number = math.inf if space is None else len(space)
    expected = "a whole number from 0" if space is None else f"0..{len(space) - 1} ({space.name})"
    classes = []
    for row, value in enumerate(columns[name]):
        is_whole = is_number(value) and value == int(value)
        may_lack = name == "label" and annotated is not None and not annotated[row]
        if not is_whole or not (0 <= value < number or (may_lack and value == -1)):
            raise _wrong(file, row, name, value, f"it must be {expected}")
        classes.append(int(value))
    return classes


def _check_correct(file: PredictionsFile, columns: Table) -> None:
    for row, correct in enumerate(columns["correct"]):
        if "label" in columns and "prediction" in columns:
            _check_right(file, columns, row)
        if correct and not columns.get("correct_top5", columns["correct"])[row]:
            raise DataError(
                f"{file.path}: row {row} is correct but not correct_top5, though the best class is among "
                "the best five; compute both from the same scores"
            )


def _check_right(file: PredictionsFile, columns: Table, row: int) -> None:
    """The prediction must be the label, or one of `accepted`."""
    label, prediction, correct = (columns[name][row] for name in ("label", "prediction", "correct"))
    accepted = columns["accepted"][row] if "accepted" in columns else None
    if accepted is not None:
        right, what = prediction in accepted, f"{accepted} are accepted"
    else:
        right, what = prediction == label, f"the label is {label}"
        # In a table of our own run a further label of the image may be right, too.
        if correct and not right and (file.run or file.task.predictions.several_labels):
            return
    if correct != right:
        advice = "" if right else ", or give all right labels of an image as a list in a column `accepted`"
        raise DataError(
            f"{file.path}: row {row} says correct={correct}, but the prediction is {prediction} and {what}; "
            f"mend one of them{advice}"
        )


def _wrong(file: PredictionsFile, row: int, name: str, value: Any, expected: str) -> DataError:
    if value is None:
        return DataError(f"{file.path}: row {row} has no value in {name!r}; {expected}")
    return DataError(f"{file.path}: {name} of row {row} is {value!r}; {expected}")
