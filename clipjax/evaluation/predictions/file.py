"""A file of predictions, and the checks that all formats share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.data.cards import Dataset, DatasetCard
from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import ClipjaxError, DataError
from clipjax.tasks.inputs import About
from clipjax.tasks.task import Task


@dataclass(frozen=True, eq=False)
class PredictionsFile:
    """A file of predictions and its context.

    Attributes:
        space: the classes of the labels; None if unknown.
        columns_of: the classes of the columns of logits.
        run: `run.json` beside a table of ours, else empty.
    """

    path: Path
    task: Task
    dataset: str
    space: LabelSpace | None
    columns_of: LabelSpace | None
    about: About
    run: Mapping[str, Any]
    card: DatasetCard | None = None


class PredictionTable(NamedTuple):
    """The contents of a file of predictions.

    Attributes:
        columns: per image, with `id`.
        projection: from the logits' classes to these; None if they are the same.
        ids: all images of the data set; None: those of `columns`.
        id_ids: all images of the ID set; None: those of `columns`.
    """

    columns: dict[str, Any]
    label_space: LabelSpace | None
    projection: Projection | None = None
    ids: Sequence[str] | None = None
    id_ids: Sequence[str] | None = None


Read = Callable[[PredictionsFile], PredictionTable]


def with_file(path: Path, columns: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """Errors about the columns name the file, and an empty cell's row."""
    try:
        return measure()
    except ClipjaxError as error:
        raise error if str(path) in str(error) else type(error)(f"{path}: {error}") from None
    except KeyError as error:
        raise DataError(f"{path}: there is no column {error.args[0]!r}, which the task measures") from None
    except (TypeError, ValueError) as error:
        for name, values in columns.items():
            if isinstance(values, list) and None in values:
                raise DataError(f"{path}: row {values.index(None)} has no value in {name!r}") from None
        raise DataError(f"{path}: {error}") from None


def check_ids(path: Path, ids: Sequence[str]) -> None:
    if not len(ids):
        raise DataError(f"{path} holds no images")
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        if seen.setdefault(name, row) != row:
            if path.suffix == ".csv":  # the header is line 1
                where = f"{path}:{row + 2}: {name!r} is in line {seen[name] + 2}, too"
            else:
                where = f"{path}: {name!r} is in row {seen[name]} and in row {row}"
            raise DataError(f"{where}; give each image once")


def check_known(path: Path, ids: Sequence[str], images: Dataset | None) -> None:
    """Raises DataError for an image that the data set does not have."""
    known = None if images is None else set(images.manifest.ids)
    stray = next((name for name in ids if known is not None and name not in known), None)
    if images is not None and stray is not None:
        raise DataError(
            f"{path}: {stray!r} is not an image of {images.card.name}: name them by their paths in the "
            f"folder, as in {images.manifest.ids[0]!r}"
        )
