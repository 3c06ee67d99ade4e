"""Strict records: a TOML table or JSON object becomes a dataclass, every key and value checked.

    @dataclass(frozen=True)
    class Schedule:
        kind: Literal["cosine", "constant"]
        warmup: int = 0

    read(Schedule, {"kind": "cosine", "warmup": "500"}, "mine.toml")
    # DataError: mine.toml: warmup = '500' must be a whole number

The annotations are the format; a field without a default is required. Rules between fields belong in
`__post_init__`, which raises ValueError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from clipjax.errors import ClipjaxError, DataError, near_names

T = TypeVar("T")
Key = TypeVar("Key")
How = Mapping[Any, Callable[[Any, str], Any]]
"""Kind of a field -> the function that reads it: (value, where) -> the field's value."""

_MOST = 20  # problems in a message
_SHOWN = 200  # characters of a wrong value in a message
# kind -> singular, plural
_WORDS: dict[Any, tuple[str, str]] = {
    str: ("a text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "truth values"),
    types.NoneType: ("null", "nulls"),
    dict: ("a table", "tables"),
}


class Problems:
    """What is wrong with a file, gathered so that it is mended in one go."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._texts = dict.fromkeys(known)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """The block's `ClipjaxError` becomes a problem."""
        try:
            yield
        except ClipjaxError as error:
            self._texts[str(error)] = None

    def refuse(self) -> None:
        """Raises DataError if there are problems: with each once, at most `_MOST` of them."""
        texts = list(self._texts)
        more = [f"{len(texts) - _MOST} more"] if len(texts) > _MOST else []
        if texts:
            raise DataError("; also ".join([*texts[:_MOST], *more]))


def read(
    cls: type[T],
    record: Any,
    where: object,
    *,
    given: Mapping[str, Any] | None = None,
    how: How | None = None,
    whole: bool = False,
) -> T:
    """Read a dataclass from a record.

    Kinds of fields: str, int, float (whole numbers will do), bool, Any, Literal, enumerations (by value),
    dataclasses, unions, tuple[X, ...], tuple[X, Y], list[X], frozenset[X], Mapping[str, X], dict. Lists
    become the field's type; mappings become dicts.

    Args:
        where: a message begins with it.
        given: fields that the caller sets; the record may not.
        how: readers for other kinds, or in place of the usual ones.
        whole: for a program's record (card.json): fields with defaults are required, too, and numbers stay
            as written, because a digest may cover them.

    Raises:
        DataError: not a table; keys are missing, unknown or of another kind (all of them);
            `__post_init__` raises ValueError.
    """
    return _Reader(how or {}, whole).record(cls, record, str(where), given or {})


@functools.cache
def _fields(cls: type) -> dict[str, tuple[Any, bool]]:
    """Name -> kind, and whether it is required."""
    hints, missing = get_type_hints(cls), dataclasses.MISSING
    return {
        each.name: (hints[each.name], each.default is missing and each.default_factory is missing)
        for each in dataclasses.fields(cls)
        if each.init
    }


@dataclasses.dataclass(frozen=True)
class _Reader:
    how: How
    whole: bool

    def record(self, cls: type[T], record: Any, where: str, given: Mapping[str, Any]) -> T:
        if not isinstance(record, Mapping):
            raise DataError(f"{where} must be a table, not {_shown(record)}")
        fields = {name: each for name, each in _fields(cls).items() if name not in given}
        needed = [name for name, (_, required) in fields.items() if required or self.whole]
        parts = {key: (fields[key][0], record[key], f"{where}: {key}") for key in record if key in fields}
        values = self.parts(parts, _key_problems(record, fields, where, needed))
        try:
            return cls(**values, **given)
        # ArithmeticError: sizes of 0, numbers beyond a float. A DataError does not name `where` yet.
        except (ValueError, ArithmeticError, DataError) as error:
            raise DataError(f"{where}: {error}") from None

    def parts(self, parts: Mapping[Key, tuple[Any, Any, str]], known: Iterable[str] = ()) -> dict[Key, Any]:
        """The values of (kind, value, where). Raises DataError with every problem, `known` first."""
        problems, values = Problems(known), {}
        for key, part in parts.items():
            with problems.gathered():
                values[key] = self.value(*part)
        problems.refuse()
        return values

    def value(self, kind: Any, value: Any, where: str) -> Any:
        if _known(self.how, kind):
            return self.how[kind](value, where)
        if not self.fits(kind, value):
            if choices := _choices(kind):
                raise DataError(f"{where} = {_shown(value)} is not one of {', '.join(choices)}")
            raise DataError(f"{where} = {_shown(value)} must be {self.words(kind)}")
        origin, items = get_origin(kind) or kind, get_args(kind)
        if origin in (Union, types.UnionType):
            return self.value(next(each for each in items if self.fits(each, value)), value, where)
        if dataclasses.is_dataclass(origin):
            return self.record(origin, value, where, {})  # pyright: ignore[reportArgumentType]
        if origin in (Mapping, dict):
            inner = items[1] if items else Any
            return self.parts({key: (inner, each, f"{where}.{key}") for key, each in value.items()})
        if origin in (tuple, list, frozenset):
            # tuple[int, str] has a kind for each place; tuple[int, ...] and list[int] have one for all.
            kinds = items if origin is tuple and items[1:] != (...,) else items[:1] * len(value)
            pairs = enumerate(zip(kinds, value, strict=True))
            parts = {i: (inner, each, f"{where}[{i}]") for i, (inner, each) in pairs}
            return origin(self.parts(parts).values())
        if _is_enum(kind):
            return kind(value)
        return self.number(value, where) if kind is float else value

    def number(self, value: float, where: str) -> float:
        if not abs(value) <= sys.float_info.max:  # refuses NaN, too
            raise DataError(f"{where} = {_shown(value)} must be a finite number")
        return value if self.whole else float(value)

    def words(self, kind: Any) -> str:
        """With null only where the key is required."""
        items = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        if self.whole:
            return " or ".join(map(_word, items)).replace("a table", "an object")
        return " or ".join(_word(each) for each in items if each is not types.NoneType)

    def fits(self, kind: Any, value: Any) -> bool:
        """Only the outer form; parts are checked later."""
        origin, items = get_origin(kind) or kind, get_args(kind)
        if kind is Any or _known(self.how, kind):
            return True
        if origin in (Union, types.UnionType):
            return any(self.fits(each, value) for each in items)
        if origin is Literal:
            return any(type(value) is type(each) and value == each for each in items)
        if dataclasses.is_dataclass(origin) or origin in (Mapping, dict):
            return isinstance(value, Mapping)
        if origin in (tuple, list, frozenset):
            length = len(items) if origin is tuple and items[1:] != (...,) else None
            return isinstance(value, list | tuple) and length in (None, len(value))
        if _is_enum(kind):
            return any(value == each.value for each in kind)
        return type(value) in (int, float) if kind is float else type(value) is kind


def check_keys(record: Mapping[str, Any], known: Any, where: object, needed: Any = ()) -> None:
    """Raises DataError for an unknown key (with the nearest names) or a missing `needed` one."""
    Problems(_key_problems(record, known, where, needed)).refuse()


def _key_problems(record: Mapping[str, Any], known: Any, where: object, needed: Any) -> Iterator[str]:
    for key in record:
        if key not in known:
            near = near_names(str(key), list(known))
            hint = f"did you mean {', '.join(near)}? " if near else ""
            yield f"{where}: unknown key {key!r}; {hint}known: {', '.join(known)}"
    for key in needed:
        if key not in record:
            yield f"{where}: the key {key!r} is missing"


def one_of(name: str, value: str, known: Sequence[str]) -> None:
    """Raises ValueError for an unknown text."""
    if value not in known:
        raise ValueError(f"{name} = {value!r} is not one of {', '.join(known)}")


def _known(how: How, kind: Any) -> bool:
    try:
        return kind in how
    except TypeError:  # a kind without a hash
        return False


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [repr(each) for each in get_args(kind)]
    return [repr(each.value) for each in kind] if _is_enum(kind) else []


def _word(kind: Any, several: bool = False) -> str:
    """E.g. "a text", "a list of 3 numbers", "a whole number or null"."""
    origin, items = get_origin(kind) or kind, get_args(kind)
    if choices := _choices(kind):
        return " or ".join(choices)
    if origin in (Union, types.UnionType):
        return " or ".join(_word(each, several) for each in items)
    if origin in (tuple, list, frozenset):
        of = "lists" if several else "a list"
        if origin is tuple and items[1:] != (...,):
            return f"{of} of {len(items)} {_word(items[0], True)}"
        return f"{of} of {_word(items[0], True)}" if items and items[0] is not Any else of
    return _WORDS.get(kind, _WORDS[dict])[several]
