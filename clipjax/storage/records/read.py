"""A record of a file as a dataclass or a `TypedDict`, and its JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from clipjax.errors import DataError
from clipjax.storage.records.problems import shown
from clipjax.storage.records.value_types import TypedDictType, record_kind
from clipjax.storage.records.values import ReadingRules

T = TypeVar("T")
How = Mapping[Any, Callable[[Any, str], Any]]
"""Kind of a field -> the function that reads it: (value, where) -> the field's value."""

_PLAIN = ReadingRules()


def read(
    cls: type[T],
    record: Any,
    where: object,
    *,
    given: Mapping[str, Any] | None = None,
    how: How | None = None,
    whole: bool = False,
    part: bool = False,
) -> T:
    """Read a dataclass from a record, or check that a record is a `TypedDict`.

    Kinds of fields: str, int, float (whole numbers will do), bool, Any, Literal, enumerations (by value),
    dataclasses, `TypedDict`s, unions, tuple[X, ...], tuple[X, Y], list[X], frozenset[X], Mapping[str, X],
    dict, and Annotated with `limits`. Lists become the field's type; mappings become dicts.

    A `TypedDict` is the record itself, unchanged. It may have what its JSON Schema allows: 5.0 is a whole
    number.

    Args:
        where: a message begins with it.
        given: fields of a dataclass that the caller sets; the record may not.
        how: readers for other kinds, or in place of the usual ones.
        whole: for a program's record (card.json): fields with defaults are required, too, and numbers stay
            as written, because a digest may cover them.
        part: keys of a `TypedDict` may be missing.

    Raises:
        DataError: not a table; keys are missing, unknown or of another kind (all of them);
            `__post_init__` raises ValueError.
    """
    rules = _PLAIN if how is None and not whole else ReadingRules(tuple((how or {}).items()), whole)
    kind = record_kind(cls, rules)
    if not kind.fits(record):
        raise DataError(f"{where} must be {kind.words[0]}, not {shown(record)}")
    if isinstance(kind, TypedDictType):
        return kind.read(record, str(where), part)
    return kind.made(record, str(where), given or {})


def field_names(cls: type) -> list[str]:
    """The fields of a `TypedDict`, in order."""
    return list(_keys(cls).kinds)


def needed_names(cls: type) -> list[str]:
    """The fields that every record of a `TypedDict` has, in order."""
    return list(_keys(cls).needed)


def json_schema(cls: type, title: str) -> dict[str, Any]:
    """The JSON Schema of a `TypedDict`. JSON has no NaN, which `read` refuses."""
    draft = "https://json-schema.org/draft/2020-12/schema"
    schema = _keys(cls).json
    assert schema is not None, f"a field of {cls.__name__} has no JSON Schema"
    return {"$schema": draft, "title": title, **schema}


def _keys(cls: type) -> TypedDictType:
    kind = record_kind(cls, _PLAIN)
    assert isinstance(kind, TypedDictType), f"{cls.__name__} is not a TypedDict"
    return kind
