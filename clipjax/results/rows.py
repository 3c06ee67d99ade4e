"""Result rows: their schema, and the lines of a run as rows. Imports no JAX.

Two rules go beyond configs/result_row.schema.json: an interval's lower limit is not above its upper one, and
a run has each number once.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jsonschema

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.results.row import AnyRow, Fields, Row
from clipjax.results.row_check import Check, compiled
from clipjax.storage.reading import parse_json

PEOPLE = "people"  # the kind of facts, and the `model`, of a row that is of people

# Identifies a number of a run. Recipes differ by precision; imported runs have many models.
_NUMBER = ("metric", "slice", "model", "task", "dataset", "recipe_hash")


@functools.cache
def row_schema() -> dict[str, Any]:
    return json.loads((config_dir() / "result_row.schema.json").read_text(encoding="utf-8"))


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
        if problem := row_problem(row) or _beyond_schema(row, seen):
            raise DataError(f"result row {row.get('metric')!r}: {problem}")
    return cast(list[Row], list(rows))


def refuse_half_pairs(rows: Sequence[AnyRow]) -> None:
    """Raises DataError for half of a surrogate pair (of a name that is not UTF-8): no reader accepts it."""
    for row in rows:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            text = error.object[max(0, error.start - 40) : error.end + 20]
            raise DataError(
                f"result row {row.get('metric')!r}: {text!r} is not Unicode: rename what has this name"
            ) from None


def row_problem(row: AnyRow, *, whole: bool = True) -> str | None:
    """The field that breaks the schema, and why. `whole=False`: only of the fields present."""
    fits, validator = _checks(whole)
    if fits(row):
        return None
    error = next(validator.iter_errors(cast(Any, row)))
    return f"{'.'.join(map(str, error.absolute_path)) or 'the row'}: {error.message}"


@functools.cache
def _checks(whole: bool) -> tuple[Check, jsonschema.Draft202012Validator]:
    schema = row_schema() | ({} if whole else {"required": []})
    return compiled(schema), jsonschema.Draft202012Validator(schema)


def _beyond_schema(row: AnyRow, seen: set[tuple[Any, ...]]) -> str | None:
    """Adds the row's number to `seen`."""
    interval = row["interval"]
    if interval is not None and interval["lo"] > interval["hi"]:
        return f"interval: lo ({interval['lo']}) is above hi ({interval['hi']})"
    number = tuple([row[name] for name in _NUMBER])
    if number in seen:
        return f"an earlier row has the same metric, slice ({row['slice']}) and recipe"
    seen.add(number)
    return None


def parse_rows(shared: Fields, lines: Sequence[str], path: Path) -> list[Row]:
    """The checked rows of a run: `shared` fields, and a JSON object of the others per line.

    Raises:
        DataError: a line is not a row, or repeats an earlier number; names the line.
    """
    with without_gc():
        return list(_joined(shared, lines, path))


def _joined(shared: Fields, lines: Sequence[str], path: Path) -> Iterator[Row]:
    keys, seen = None, set[tuple[Any, ...]]()
    for number, line in enumerate(lines, 1):
        rest = parsed(line, path, f":{number}")
        row = shared | rest
        # Later rows are checked without the shared fields, which takes a quarter of the time.
        problem = row_problem(rest, whole=False) if rest.keys() == keys else row_problem(row)
        if problem := problem or _beyond_schema(row, seen):
            raise damaged(path, f":{number}", problem)
        keys = rest.keys()
        yield cast(Row, row)


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


def parsed(data: str | bytes, path: Path, line: str = "") -> Fields:
    """Raises DataError for anything but one JSON object."""
    try:
        return parse_json(data, f"{path}{line}")
    except DataError as error:
        raise DataError(f"{error}; delete {path.parent} or restore it") from None


def damaged(path: Path, line: str, problem: str) -> DataError:
    # It stops every table: one without the run would mislead.
    return DataError(f"{path}{line}: cannot be read ({problem}); delete {path.parent} or restore it")


def headline(rows: Sequence[Row]) -> str:
    row = next((row for row in rows if row["value"] is not None), rows[0])
    return f"{row['metric']} {row['note'] if row['value'] is None else format(row['value'], '.4f')}"
