"""A file of predictions, what is known beside it, and the checks that all formats share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipjax.data.cards import DatasetCard
from clipjax.data.labels import LabelSpace, Projection
from clipjax.errors import ClipjaxError, DataError
from clipjax.tasks.task import About, Task


@dataclass(frozen=True, eq=False)
class Given:
    """A file of predictions and what is known beside it.

    Attributes:
        dataset: the data set's name.
        card: its card, or None.
        space: what labels mean; None where nobody says.
        columns_of: what the columns of logits are: the user's `labels`, else `space`.
        about: of the numbers; its label space is `space`.
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


class Described(NamedTuple):
    """What a file of predictions holds.

    Attributes:
        columns: per image, `id` among them.
        label_space: what labels mean.
        projection: how its logits became scores of these classes; None without logits, or where both are one.
        ids, id_ids: of all images that the file holds, of the data set and of the ID set, where `columns` are
            of others; None: those of the columns.
    """

    columns: dict[str, Any]
    label_space: LabelSpace | None
    projection: Projection | None = None
    ids: Sequence[str] | None = None
    id_ids: Sequence[str] | None = None


Read = Callable[[Given], Described]


def with_file(path: Path, columns: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What `measure` returns; an error about the columns names the file, and the row where one is empty."""
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
