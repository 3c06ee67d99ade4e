"""Kinds of values: what an annotation allows, how it is read, its words in a message, its JSON Schema.

value_type(int | None, ReadingRules()).read("3", "a.toml: n")  # a.toml: n = '3' must be a whole number
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
from collections.abc import Iterable, Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from clipjax.errors import ClipjaxError, DataError
from clipjax.storage.records.limits import Limit
from clipjax.storage.records.problems import Problems, key_problems, shown
from clipjax.storage.records.values import (
    NO_TYPES,
    AnyType,
    ChoiceType,
    CustomType,
    PlainType,
    ReadingRules,
    ValueType,
)

Key = TypeVar("Key")


class UnionType(ValueType):
    """A union: the first kind that a value fits reads it."""

    def __init__(self, kinds: Iterable[ValueType], rules: ReadingRules) -> None:
        self.kinds, self.rules = tuple(kinds), rules
        # Else the first kind that fits may make another value of it.
        self.sure = NO_TYPES.union(*(kind.sure for kind in self.kinds)) if rules.kept else NO_TYPES
        one, several = (" or ".join(words) for words in zip(*(kind.words for kind in self.kinds)))
        self.words, schemas = (one, several), [kind.json for kind in self.kinds]
        plain = [schema["type"] for schema in schemas if schema and schema.keys() == {"type"}]
        if None not in schemas:
            self.json = {"type": plain} if len(plain) == len(schemas) else {"anyOf": schemas}

    def fits(self, value: Any) -> bool:
        return any(kind.fits(value) for kind in self.kinds)

    def made(self, value: Any, where: str) -> Any:
        return next(kind for kind in self.kinds if kind.fits(value)).read(value, where)

    def refusal(self, value: Any, where: str) -> DataError:
        """The error of a value that fits no kind. It names null only where the key is required."""
        kinds = [kind for kind in self.kinds if self.rules.of_json or kind.sure != {types.NoneType}]
        return DataError(f"{where} = {shown(value)} must be {' or '.join(kind.words[0] for kind in kinds)}")


class SequenceType(ValueType):
    """`list[X]`, `tuple[X, ...]`, `frozenset[X]` or `tuple[X, Y]`."""

    def __init__(self, cls: type, items: tuple[Any, ...], rules: ReadingRules) -> None:
        self.cls, self.rules = cls, rules
        # tuple[int, str] has a kind for each place; tuple[int, ...] and list[int] have one for all.
        self.length = len(items) if cls is tuple and items[1:] != (...,) else None
        self.kinds = [value_type(each, rules) for each in items if each is not ...]
        first, count = self.kinds[0], "" if self.length is None else f"{self.length} "
        of = "" if self.length is None and isinstance(first, AnyType) else f" of {count}{first.words[1]}"
        self.words = f"a list{of}", f"lists{of}"
        self.json = None if first.json is None else {"type": "array", "items": first.json}

    def fits(self, value: Any) -> bool:
        types = list if self.rules.kept else list | tuple
        return isinstance(value, types) and self.length in (None, len(value))

    def made(self, value: Any, where: str) -> Any:
        kinds = self.kinds if self.length is not None else self.kinds[:1] * len(value)
        pairs = enumerate(zip(kinds, value, strict=True))
        values = read_parts({i: (kind, each, f"{where}[{i}]") for i, (kind, each) in pairs}).values()
        return value if self.rules.kept else self.cls(values)


class _Table(ValueType):
    """Tables of TOML, objects of JSON."""

    def __init__(self, rules: ReadingRules) -> None:
        self.rules = rules
        self.words = ("an object", "objects") if rules.of_json else ("a table", "tables")

    def fits(self, value: Any) -> bool:
        return isinstance(value, dict if self.rules.kept else Mapping)


class MappingType(_Table):
    """`Mapping[str, X]` or a dict."""

    def __init__(self, inner: Any, rules: ReadingRules) -> None:
        super().__init__(rules)
        self.inner = value_type(inner, rules)
        self.sure = frozenset({dict}) if rules.kept and isinstance(self.inner, AnyType) else NO_TYPES
        if self.inner.json is not None:
            self.json = {"type": "object"} | (
                {"additionalProperties": self.inner.json} if self.inner.json else {}
            )

    def made(self, value: Any, where: str) -> Any:
        parts = {key: (self.inner, each, f"{where}.{key}") for key, each in value.items()}
        values = read_parts(parts)
        return value if self.rules.kept else values


class DataclassType(_Table):
    """A dataclass."""

    def __init__(self, cls: type, rules: ReadingRules) -> None:
        super().__init__(rules)
        self.cls = cls
        missing = dataclasses.MISSING
        self.needed = {
            each.name: rules.whole or (each.default is missing and each.default_factory is missing)
            for each in dataclasses.fields(cls)
            if each.init
        }
        self._hints = get_type_hints(cls, include_extras=True)
        self._kinds: dict[str, ValueType] = {}

    def kind(self, name: str) -> ValueType:
        # Made when first read: a record may contain itself, and fields that the caller sets any type.
        if name not in self._kinds:
            self._kinds[name] = value_type(self._hints[name], self.rules)
        return self._kinds[name]

    def made(self, value: Any, where: str, given: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
        fields = {name: needed for name, needed in self.needed.items() if name not in given}
        parts = {key: (self.kind(key), value[key], f"{where}: {key}") for key in value if key in fields}
        needed = [name for name, is_needed in fields.items() if is_needed]
        values = read_parts(parts, key_problems(value, fields, where, needed))
        try:
            return self.cls(**values, **given)
        # ArithmeticError: sizes of 0, numbers beyond a float. A DataError does not name `where` yet.
        except (ValueError, ArithmeticError, DataError) as error:
            raise DataError(f"{where}: {error}") from None


class TypedDictType(_Table):
    """A `TypedDict`: the value stays as it is."""

    def __init__(self, cls: type, rules: ReadingRules) -> None:
        super().__init__(dataclasses.replace(rules, kept=True))
        # __required_keys__ misses annotations that are texts.
        self._hints = get_type_hints(cls, include_extras=True)
        self.needed = [name for name, hint in self._hints.items() if get_origin(hint) is not NotRequired]
        self.kinds = {name: value_type(hint, self.rules) for name, hint in self._hints.items()}
        self._sure = {name: kind.sure for name, kind in self.kinds.items()}
        self._enough = frozenset(self.needed)
        fields = {
            name: kind.json | _description(self._hints[name])
            for name, kind in self.kinds.items()
            if kind.json is not None
        }
        record = {"type": "object", "additionalProperties": False, "required": self.needed}
        self.json = None if len(fields) < len(self.kinds) else record | {"properties": fields}

    def read(self, value: Any, where: str, part: bool = False) -> Any:
        """`part`: keys may be missing."""
        if not isinstance(value, dict):
            return super().read(value, where)
        kinds, sure = self.kinds, self._sure
        try:
            for name, each in value.items():
                # A look at the type decides most fields: checking rows would take twice as long.
                if type(each) not in sure[name]:
                    kinds[name].read(each, "")
            right = part or value.keys() >= self._enough
        except (KeyError, ClipjaxError):
            right = False
        return value if right else self.made(value, where, part)

    def made(self, value: Any, where: str, part: bool = False) -> Any:
        """Raises DataError with every problem: their `where`s are written only now, which saves time."""
        known = {name: each for name, each in value.items() if name in self.kinds}
        parts = {name: (self.kinds[name], each, f"{where}: {name}") for name, each in known.items()}
        read_parts(parts, key_problems(value, self.kinds, where, [] if part else self.needed))
        return value


def _description(hint: Any) -> dict[str, str]:
    """The text in `Annotated`."""
    if get_origin(hint) is NotRequired:
        [hint] = get_args(hint)
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next(({"description": note} for note in notes if isinstance(note, str)), {})


def read_parts(parts: Mapping[Key, tuple[ValueType, Any, str]], known: Iterable[str] = ()) -> dict[Key, Any]:
    """The values of (kind, value, where). Raises DataError with every problem, `known` first."""
    problems, values = Problems(known), {}
    for key, (kind, value, where) in parts.items():
        with problems.gathered():
            values[key] = kind.read(value, where)
    problems.refuse()
    return values


@functools.lru_cache(maxsize=512)  # bounded: `how` may have functions that are made anew for each call
def record_kind(cls: type, rules: ReadingRules) -> DataclassType | TypedDictType:
    """The kind of a dataclass or a `TypedDict`."""
    return TypedDictType(cls, rules) if is_typeddict(cls) else DataclassType(cls, rules)


def value_type(annotation: Any, rules: ReadingRules) -> ValueType:
    """The type of a field's values. Raises TypeError for an annotation that records cannot have."""
    for kind, function in rules.how:
        if annotation == kind:
            return CustomType(function)
    origin, items = get_origin(annotation), get_args(annotation)
    if origin is NotRequired:
        return value_type(items[0], rules)
    if origin is Annotated:
        limits = tuple(each for each in items[1:] if isinstance(each, Limit))
        kind = value_type(items[0], rules)
        return kind.limited(limits) if limits else kind
    return _bare_type(annotation, rules)


def _bare_type(annotation: Any, rules: ReadingRules) -> ValueType:
    origin, items = get_origin(annotation) or annotation, get_args(annotation)
    if annotation is Any:
        return AnyType()
    if annotation in PlainType.KINDS:
        return PlainType(annotation, rules)
    if origin is Literal:
        return ChoiceType(items, rules)
    if origin in (Union, types.UnionType):
        return UnionType([value_type(each, rules) for each in items], rules)
    if is_typeddict(origin) or dataclasses.is_dataclass(origin):
        return record_kind(origin, rules)
    if origin in (tuple, list, frozenset):
        return SequenceType(origin, items or (Any,), rules)
    if origin in (Mapping, dict):
        return MappingType(items[1] if items else Any, rules)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ChoiceType(tuple(each.value for each in annotation), rules, annotation)
    raise TypeError(f"{annotation!r} is not a kind of field that a record can have")
