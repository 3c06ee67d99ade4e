"""Result rows are checked, and the lines of a run become rows. Imports no JAX.

Two rules go beyond the record (`results.row`): an interval's lower limit is not above its upper one, and a
run has each number once.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from clipjax.errors import DataError
from clipjax.results.row import AnyRow, Fields, Row
from clipjax.storage.reading import parse_json
from clipjax.storage.records import read

PEOPLE = "people"  # the kind of facts, and the `model`, of a row that is of people

# Identifies a number of a run. Recipes differ by precision; imported runs have many models.
_NUMBER = ("metric", "slice", "model", "task", "dataset", "recipe_hash")


def of_people(row: Row) -> bool:
    """Rows of people are not of a model: no group, trend, table or claim may use them."""
    return row["model_facts"].get("kind") == PEOPLE


def validate_rows(rows: Sequence[AnyRow]) -> list[Row]:
    """Check and return a run's rows.

    Raises:
        DataError: no rows, a row breaks the schema (names the field), or two rows are one number.
    """
    if not rows:
        raise DataError("a run without rows is not a result")
    seen = set[tuple[Any, ...]]()
    for row in rows:
        where = f"result row {row.get('metric')!r}"
        read(Row, row, where)
        _check_beyond(row, where, seen)
    return cast(list[Row], list(rows))


def refuse_unwritable(rows: Sequence[AnyRow]) -> None:
    """Raises DataError for what no reader of JSON accepts.

    It is half of a surrogate pair (of a name that is not UTF-8), or a number that is not finite.
    """
    for row in rows:
        where = f"result row {row.get('metric')!r}"
        try:
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError as error:
            text = error.object[max(0, error.start - 40) : error.end + 20]
            raise DataError(f"{where}: {text!r} is not Unicode: rename what has this name") from None
        except ValueError:
            raise DataError(
                f"{where}: a number is NaN or infinite, which JSON does not have: write null, and the reason "
                "in `note`"
            ) from None


def _check_beyond(row: AnyRow, where: str, seen: set[tuple[Any, ...]]) -> None:
    """The rules beyond the record. Adds the row's number to `seen`."""
    interval = row["interval"]
    if interval is not None and interval["lo"] > interval["hi"]:
        raise DataError(f"{where}: interval: lo ({interval['lo']}) is above hi ({interval['hi']})")
    number = tuple([row[name] for name in _NUMBER])
    if number in seen:
        raise DataError(f"{where}: an earlier row has the same metric, slice ({row['slice']}) and recipe")
    seen.add(number)


def parse_rows(shared: Fields, lines: Sequence[str], path: Path) -> list[Row]:
    """The checked rows of a run: `shared` fields, and a JSON object of the others per line.

    Raises:
        DataError: a line is not a row, or repeats an earlier number; names the line.
    """
    with without_gc(), restorable(path.parent):
        return list(_joined(shared, lines, path))


def _joined(shared: Fields, lines: Sequence[str], path: Path) -> Iterator[Row]:
    keys, seen = None, set[tuple[Any, ...]]()
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        rest = parse_json(line, where)
        row = cast(Row, shared | rest)
        if rest.keys() == keys:  # the shared fields were checked with the first row: a quarter of the time
            read(Row, rest, where, part=True)
        else:
            read(Row, row, where)
        _check_beyond(row, where, seen)
        keys = rest.keys()
        yield row


@contextlib.contextmanager
def without_gc() -> Iterator[None]:
    """Python does not look for cycles meanwhile: rows have none, and the search takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def restorable(run: Path) -> Iterator[None]:
    """A `DataError` gets what to do with the run's folder."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{error}; delete {run} or restore it") from None


def damaged(path: Path, problem: str) -> DataError:
    # It stops every table: one without the run would mislead.
    return DataError(f"{path}: cannot be read ({problem}); delete {path.parent} or restore it")


def headline(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row["value"] is not None), rows[0])
    return f"{row['metric']} {row['note'] if row['value'] is None else format(row['value'], '.4f')}"
