"""Result rows as columns: one schema for data frames and for exports. Imports no JAX.

Each field of the record (`results.row`) is a column, with its type also where no row has a value. A field of
several parts (recipe, versions, ...) is JSON text in a table. The parts of the interval, the published
numbers, the prompts and the label space have columns of their own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from clipjax.errors import DataError
from clipjax.results.row import AnyRow, Limits, Row
from clipjax.storage.records import field_names, needed_names

BATCH = 5_000  # rows of a batch

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_FIELDS = [name for name in field_names(Row) if name != "interval"]
_NEEDED = [name for name in _FIELDS if name in needed_names(Row)]
_OTHERS = [name for name in _FIELDS if name not in _NEEDED]
_LIMITS = field_names(Limits)
_PUBLISHED = ("published", "source", "difference")
_CONVENTION = ("prompts", "label_space")


@functools.cache
def schema() -> pa.Schema:
    """Name and type of each column, in order."""
    kinds = _kinds(Row)
    fields = {name: kinds[name] or pa.string() for name in _FIELDS}
    texts = dict.fromkeys((*_PUBLISHED, *_CONVENTION), pa.string())
    return pa.schema(fields | _kinds(Limits) | texts)


@functools.cache
def nested() -> frozenset[str]:
    """The columns of fields with several parts, which are JSON text in a table."""
    return frozenset(name for name in _FIELDS if _kinds(Row)[name] is None)


@functools.cache
def _kinds(record: type) -> dict[str, Any]:
    """Field -> its type in Arrow; None for a field of several parts."""
    kinds = {}
    for name, hint in get_type_hints(record).items():
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        [kind] = [each for each in options if each is not NoneType]
        kinds[name] = _TYPES.get(type(get_args(kind)[0]) if get_origin(kind) is Literal else kind)
    return kinds


def columns(rows: Sequence[AnyRow]) -> dict[str, Sequence[Any]]:
    """The values of each column, in the order of `schema`. Fields of several parts are as in the rows."""
    if not rows:
        return dict.fromkeys(schema().names, ())
    found: dict[str, Sequence[Any]] = dict.fromkeys(schema().names, ())  # in their order
    # Most of the time of a data frame is here; `get` takes twice as long as `itemgetter`.
    found |= dict(zip(_NEEDED, zip(*map(itemgetter(*_NEEDED), rows))))
    found |= {name: [row.get(name) for row in rows] for name in _OTHERS}
    intervals, conventions = [row["interval"] or {} for row in rows], [row["convention"] for row in rows]
    numbers = [published(row) if row["reference"] else ("", "", "") for row in rows]
    found |= {name: [interval.get(name) for interval in intervals] for name in _LIMITS}
    found |= dict(zip(_PUBLISHED, zip(*numbers)))
    return found | {name: [convention.get(name) for convention in conventions] for name in _CONVENTION}


def published(row: AnyRow, value: str = "{}", difference: str = "{}") -> tuple[str, str, str]:
    """(values, sources, differences) of the published numbers, each joined by "; ".

    Args:
        value: the form of a value.
        difference: the form of a difference.
    """
    numbers = row["reference"] or []
    return (
        "; ".join(value.format(one["value"]) for one in numbers),
        "; ".join(one["source"] for one in numbers),
        "; ".join(difference.format(one["difference"]) for one in numbers),
    )


def batches(rows: Sequence[AnyRow]) -> Iterator[pa.RecordBatch]:
    """The rows by the schema, `BATCH` at a time.

    Raises:
        DataError: a number needs more than 64 bits.
    """
    for start in range(0, len(rows), BATCH):
        found = columns(rows[start : start + BATCH])
        found |= {name: json_texts(found[name]) for name in nested()}
        yield _batch(schema(), found)


def row_table(rows: Sequence[AnyRow]) -> pa.Table:
    """All rows by the schema. Raises as `batches`."""
    return pa.Table.from_batches(batches(rows), schema())


def flat_and_nested(rows: Sequence[AnyRow]) -> tuple[pa.Table, dict[str, list[Any]]]:
    """The table without the fields of several parts, and these fields' values as they are in the rows.

    Raises as `batches`.
    """
    flat = pa.schema([field for field in schema() if field.name not in nested()])
    parts: list[pa.RecordBatch] = []
    values: dict[str, list[Any]] = {name: [] for name in schema().names if name in nested()}
    for start in range(0, len(rows), BATCH):
        found = columns(rows[start : start + BATCH])
        parts.append(_batch(flat, found))
        for name, column in values.items():
            column += found[name]
    return pa.Table.from_batches(parts, flat), values


def _batch(fields: pa.Schema, found: Mapping[str, Sequence[Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([_array(field, found[field.name]) for field in fields], schema=fields)


def _array(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    try:
        if field.type == pa.float64():  # a whole number of more than 53 bits is rounded, as by any reader
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, field.type)
    except (OverflowError, pa.ArrowInvalid):
        raise DataError(f"result rows: a number of {field.name!r} needs more than 64 bits") from None


def json_texts(values: Sequence[Any]) -> list[Any]:
    """Each value as JSON text; None stays."""
    texts: dict[int, str] = {}  # by object: the rows of a run share theirs
    for value in values:
        if value is not None and id(value) not in texts:
            texts[id(value)] = json.dumps(value)
    return [None if value is None else texts[id(value)] for value in values]
