"""A JSON Schema as a yes-or-no function, ten times faster than jsonschema. Imports no JAX.

    fits = compiled(schema)
    fits(value)   # the same as jsonschema.Draft202012Validator(schema).is_valid(value)

It has only the keywords of configs/result_row.schema.json; jsonschema explains a misfit.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

from jsonschema import Draft202012Validator

Check = Callable[[Any], bool]

_SILENT = {"$schema", "title", "description"}
_EXACT = {"string": str, "object": dict, "array": list, "integer": int, "number": float, "null": type(None)}


def compiled(schema: Mapping[str, Any]) -> Check:
    """Raises ValueError for an unknown keyword or `type`."""
    if unknown := schema.keys() - _SILENT - _KEYWORDS.keys() - {"properties", "additionalProperties"}:
        raise ValueError(f"{min(unknown)!r} is not a keyword that clipjax.results.row_check checks")
    checks = [_KEYWORDS[name](value) for name, value in schema.items() if name in _KEYWORDS]
    if "properties" in schema or "additionalProperties" in schema:
        checks.append(_fields(schema.get("properties", {}), schema.get("additionalProperties", True)))
    return functools.reduce(_both, checks) if checks else lambda _: True


# Calls and loops instead of all(...) and any(...): a generator costs as much as the check itself.


def _both(first: Check, second: Check) -> Check:
    return lambda value: first(value) and second(value)


def _either(first: Check, second: Check) -> Check:
    return lambda value: first(value) or second(value)


def _type(names: str | list[str]) -> Check:
    """The exact type; jsonschema decides the rest (5.0 as an integer)."""
    wanted = [names] if isinstance(names, str) else names
    if unknown := set(wanted) - _EXACT.keys():
        raise ValueError(f"{min(unknown)!r} is not a type that clipjax.results.row_check checks")
    exact = tuple(_EXACT[name] for name in wanted)
    is_type = Draft202012Validator.TYPE_CHECKER.is_type
    return lambda value: type(value) in exact or any(is_type(value, name) for name in wanted)


def _const(wanted: Any) -> Check:
    return _enum([wanted])


def _enum(wanted: list[Any]) -> Check:
    """Booleans equal only booleans: 1 is not true."""
    return lambda value: any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted
    )


def _pattern(text: str) -> Check:
    search = re.compile(text).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) or Draft202012Validator.TYPE_CHECKER.is_type(value, "number")


def _minimum(limit: float) -> Check:
    return lambda value: not (_is_number(value) and value < limit)


def _above(limit: float) -> Check:
    return lambda value: not (_is_number(value) and value <= limit)


def _below(limit: float) -> Check:
    return lambda value: not (_is_number(value) and value >= limit)


def _any_of(schemas: list[Mapping[str, Any]]) -> Check:
    return functools.reduce(_either, map(compiled, schemas))


def _items(schema: Mapping[str, Any]) -> Check:
    check = compiled(schema)
    return lambda value: not isinstance(value, list) or all(map(check, value))


def _min_items(least: int) -> Check:
    return lambda value: not isinstance(value, list) or len(value) >= least


def _required(names: list[str]) -> Check:
    wanted = set(names)
    return lambda value: not isinstance(value, dict) or value.keys() >= wanted


def _fields(properties: Mapping[str, Any], others: bool | Mapping[str, Any]) -> Check:
    known = {name: compiled(schema) for name, schema in properties.items()}
    exact = {name: _sufficient(schema) for name, schema in properties.items()}
    rest = compiled(others) if isinstance(others, Mapping) else lambda _: bool(others)
    none = frozenset[type]()

    def check_fields(value: Any) -> bool:
        if isinstance(value, dict):
            for name, field in value.items():
                if type(field) not in exact.get(name, none) and not known.get(name, rest)(field):
                    return False
        return True

    return check_fields


def _sufficient(schema: Mapping[str, Any]) -> frozenset[type]:
    """Exact types of which every value fits: most fields are decided by a look at their type."""
    if schema.keys() - _SILENT == {"type"}:
        names = schema["type"]
        return frozenset(_EXACT[name] for name in ([names] if isinstance(names, str) else names))
    if schema.keys() - _SILENT == {"anyOf"}:
        return frozenset[type]().union(*map(_sufficient, schema["anyOf"]))
    return frozenset()


_KEYWORDS: dict[str, Callable[[Any], Check]] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "pattern": _pattern,
    "minimum": _minimum,
    "exclusiveMinimum": _above,
    "exclusiveMaximum": _below,
    "anyOf": _any_of,
    "items": _items,
    "minItems": _min_items,
    "required": _required,
}
