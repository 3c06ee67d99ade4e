"""Result rows as columns: one schema for data frames and for exports. Imports no JAX.

Each field of the record (`results.row`) is a column, with its type also where no row has a value. A field of
several parts (recipe, versions, ...) is JSON text in a table. The parts of the interval, the published
numbers, the prompts and the label space have columns of their own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

from clipjax.errors import DataError
from clipjax.results.row import AnyRow, Limits, Row
from clipjax.storage.records import field_names

BATCH = 5_000  # rows of a batch

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_FIELDS = [name for name in field_names(Row) if name != "interval"]
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
    names = schema().names
    return dict(zip(names, zip(*map(cells, rows)) if rows else [()] * len(names)))


def cells(row: AnyRow) -> tuple[Any, ...]:
    """The values of a row, in the order of `schema`. Fields of several parts are as in the row."""
    interval, convention = row["interval"] or {}, row["convention"]
    return (
        *map(row.get, _FIELDS),
        *map(interval.get, _LIMITS),
        *(published(row) if row["reference"] else ("", "", "")),
        *map(convention.get, _CONVENTION),
    )


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
        arrays = [_array(field, found[field.name]) for field in schema()]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema())


def row_table(rows: Sequence[AnyRow]) -> pa.Table:
    """All rows by the schema. Raises as `batches`."""
    return pa.Table.from_batches(batches(rows), schema())


def _array(field: pa.Field, values: Sequence[Any]) -> pa.Array:
    if field.name in nested():
        values = json_texts(values)
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
