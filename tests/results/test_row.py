"""The type of a result row is configs/result_row.schema.json: the same fields, kinds and required keys."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from clipjax.results.row import Row
from clipjax.results.rows import row_schema

KINDS = {"string": str, "integer": int, "number": float, "null": type(None)}


def of_schema(schema: Mapping[str, Any]) -> set[Any]:
    """The kinds that a schema allows, in the form of `of_type`."""
    if "anyOf" in schema:
        return set().union(*map(of_schema, schema["anyOf"]))
    if "type" not in schema:
        return set(schema["enum"]) if "enum" in schema else {schema["const"]}
    names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return {_of_name(name, schema) for name in names}


def _of_name(name: str, schema: Mapping[str, Any]) -> Any:
    if name == "array":
        return ("list", frozenset(of_schema(schema["items"])))
    if name != "object":
        return KINDS[name]
    if "properties" not in schema:
        return ("dict", frozenset(of_schema(schema.get("additionalProperties", {"const": Any}))))
    assert schema["additionalProperties"] is False
    fields = schema["properties"].items()
    return _record({key: (key in schema["required"], of_schema(each)) for key, each in fields})


def of_type(kind: Any) -> set[Any]:
    """The kinds of a type; its union's members each for itself."""
    origin, items = get_origin(kind), get_args(kind)
    if origin is NotRequired:
        return of_type(items[0])
    if origin is types.UnionType:
        return set().union(*map(of_type, items))
    if origin is Literal:
        return set(items)
    if origin is list:
        return {("list", frozenset(of_type(items[0])))}
    if origin is dict:
        return {("dict", frozenset(of_type(items[1])))}
    if is_typeddict(kind):
        hints = get_type_hints(kind, include_extras=True).items()  # __required_keys__ misses texts of hints
        return {_record({key: (get_origin(each) is not NotRequired, of_type(each)) for key, each in hints})}
    return {kind}


def _record(fields: Mapping[str, tuple[bool, set[Any]]]) -> Any:
    return frozenset((key, needed, frozenset(kinds)) for key, (needed, kinds) in fields.items())


def test_the_type_of_a_row_is_its_schema() -> None:
    [of_row], [schema] = of_type(Row), of_schema(row_schema())
    assert of_row == schema
