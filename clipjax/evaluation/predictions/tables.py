"""Predictions in tables: our own Parquet, and the CSV files of ImageNet-X and of shape bias."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.predictions.checks import check_table
from clipjax.evaluation.predictions.given import Described, Given, Read, check_ids, with_file
from clipjax.storage.parquet import read_columns
from clipjax.storage.reading import read_csv
from clipjax.tasks import imagenet_x, shape_bias

DECISIONS = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
CLASSES = ("file_name", "predicted_class", "predicted_probability")
NO_DECISION = ("", "na", "nan", "none")


def read_table(given: Given) -> Described:
    """A per-image table, checked row by row."""
    columns = read_columns(given.path)
    if "label" in columns and given.space is None:
        raise UsageError(
            f"{given.path}: say what its labels are: dataset=CARD or labels=NAME (or a CSV file)"
        )
    size = len(next(iter(columns.values()), []))
    columns = {"id": [f"{row:08d}" for row in range(size)], **columns}
    return Described(check_table(given, columns), given.space)


def _read_classes(given: Given) -> Described:
    """ImageNet-X's own format; see the module."""
    rows = _rows(given.path, CLASSES, CLASSES)
    space = given.space
    assert space is not None  # the task's own data set has one
    prediction, confidence = [], []
    for line, row in enumerate(rows, 2):
        where = f"{given.path}:{line}"
        prediction.append(_class(row["predicted_class"], space, where))
        confidence.append(_probability(row["predicted_probability"], where))
    ids = [row["file_name"] for row in rows]
    check_ids(given.path, ids)
    arrays = np.array(prediction, np.int32), np.array(confidence)
    join = imagenet_x.join
    columns = with_file(given.path, {}, lambda: join(ids, *arrays, space, given.about.annotations))
    return Described({"id": ids, **columns}, space)


def _class(text: str, space: LabelSpace, where: str) -> int:
    # A whole number, also one that a table of floats wrote ("394.0").
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value.is_integer() and 0 <= value < len(space)):
        raise DataError(
            f"{where}: predicted_class is {text!r}; it must be 0..{len(space) - 1} ({space.name})"
        )
    return int(value)


def _probability(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise DataError(f"{where}: predicted_probability is {text!r}; it must be 0 to 1")
    return value


def _read_decisions(given: Given) -> Described:
    """The decisions of one model or one person; see the module."""
    rows = _rows(given.path, ("object_response", "category", "imagename"), DECISIONS)
    known = set(given.space.ids) if given.space is not None else {row["category"] for row in rows}
    if len(persons := sorted({row.get("subj", "") for row in rows})) > 1:
        raise DataError(f"{given.path} holds decisions of {', '.join(persons)}: give each a file of its own")
    ids, texture, decision = [], [], []
    for line, row in enumerate(rows, 2):
        where = f"{given.path}:{line}"
        name, style = _cues_of(row["imagename"])
        said = "na" if row["object_response"].lower() in NO_DECISION else row["object_response"]
        for column, word in (("category", row["category"]), ("imagename", style), ("object_response", said)):
            if word not in known and (column, word) != ("object_response", "na"):
                raise DataError(
                    f"{where}: {column} says {word!r}, which is none of the {len(known)} categories"
                )
        ids.append(f"{row['category']}/{name}")
        texture.append(style)
        decision.append(said)
    shape = [row["category"] for row in rows]
    return Described({"id": ids, **shape_bias.cues(ids, shape, texture, decision)}, given.space)


def _cues_of(imagename: str) -> tuple[str, str]:
    """The stimulus without the trial's number and subject before it, and its texture (the reference's rule).

    "0003_s5n_s01_0_dog_00_dog10-bicycle1.png" -> "dog10-bicycle1.png", "bicycle".
    """
    name = posixpath.basename(imagename).rpartition("_")[2]
    return name, name.partition(".")[0].rpartition("-")[2].strip("0123456789")


def _rows(path: Path, needed: Sequence[str], known: Sequence[str]) -> list[dict[str, str]]:
    rows = read_csv(path)
    if not rows:
        raise DataError(f"{path} holds no predictions; expected the header {','.join(known)} and rows")
    missing = [name for name in needed if name not in rows[0]]
    unknown = [name for name in rows[0] if name not in known]
    if missing or unknown:
        what = f"no column {missing[0]!r}" if missing else f"an unknown column {unknown[0]!r}"
        raise DataError(f"{path} has {what}; its columns must be {','.join(known)}")
    return rows


CSV: dict[str, Read] = {"imagenet_x": _read_classes, "shape_bias": _read_decisions}
