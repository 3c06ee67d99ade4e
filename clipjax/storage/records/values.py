"""Kinds of single values: texts, numbers, choices, and what a caller reads."""

from __future__ import annotations

import abc
import copy
import dataclasses
import enum
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, Self

from clipjax.errors import DataError
from clipjax.storage.records.limits import Limit
from clipjax.storage.records.problems import shown

NO_TYPES: frozenset[type] = frozenset()


@dataclasses.dataclass(frozen=True)
class ReadingRules:
    """Rules for reading values.

    how: as in `records.read`.
    whole: as in `records.read`.
    kept: inside a `TypedDict`, values stay as they are, and are what JSON Schema allows: 5.0 is an integer.
    """

    how: tuple[tuple[Any, Callable[[Any, str], Any]], ...] = ()
    whole: bool = False
    kept: bool = False

    @property
    def of_json(self) -> bool:
        return self.whole or self.kept


class ValueType(abc.ABC):
    """Attributes:
    sure: exact types of which every value is allowed and stays as it is.
    words: of one value, and of several: "a list of 3 numbers", "lists of 3 numbers".
    json: its JSON Schema; None: it has none.
    limits: of the value, unless it is null.
    as_is: `sure` without the limits.
    """

    sure = as_is = NO_TYPES
    words: tuple[str, str]
    json: dict[str, Any] | None = None
    limits: tuple[Limit, ...] = ()

    def read(self, value: Any, where: str) -> Any:
        """The field's value. Raises DataError, beginning with `where`."""
        made = value
        if type(value) not in self.as_is:
            if not self.fits(value):
                raise self.refusal(value, where)
            made = self.made(value, where)
        for limit in self.limits:
            if value is not None and not limit.allows(value):
                raise DataError(f"{where} = {shown(value)} must be {limit.words()}")
        return made

    @abc.abstractmethod
    def fits(self, value: Any) -> bool:
        """Whether the value has the outer form; `made` checks the parts."""

    def made(self, value: Any, where: str) -> Any:
        """What a value that fits is read as."""
        return value

    def refusal(self, value: Any, where: str) -> DataError:
        return DataError(f"{where} = {shown(value)} must be {self.words[0]}")

    def limited(self, limits: tuple[Limit, ...]) -> Self:
        """The same kind with limits."""
        kind = copy.copy(self)
        kind.limits, kind.as_is, kind.sure = limits, self.sure, self.sure & {types.NoneType}
        for limit in limits if self.json is not None else ():
            kind.json = {**(kind.json or {}), **limit.schema()}
        return kind


class AnyType(ValueType):
    words, json = ("anything", "anything"), {}

    def fits(self, value: Any) -> bool:
        return True


class CustomType(ValueType):
    """Read by a function of the caller."""

    words = ("a table", "tables")

    def __init__(self, function: Callable[[Any, str], Any]) -> None:
        self.function = function

    def made(self, value: Any, where: str) -> Any:
        return self.function(value, where)

    def fits(self, value: Any) -> bool:
        return True


class PlainType(ValueType):
    """Texts, truth values, whole numbers, numbers (whole ones will do), null."""

    # type -> its words, JSON Schema's name
    KINDS: Mapping[type, tuple[tuple[str, str], str]] = {
        str: (("a text", "texts"), "string"),
        bool: (("true or false", "truth values"), "boolean"),
        int: (("a whole number", "whole numbers"), "integer"),
        float: (("a number", "numbers"), "number"),
        types.NoneType: (("null", "nulls"), "null"),
    }

    def __init__(self, kind: type, rules: ReadingRules) -> None:
        self.kind, self.rules = kind, rules
        self.words, name = self.KINDS[kind]
        self.json = {"type": name}
        self.types = (int, float) if kind is float else (kind,)
        # A float may be NaN, which only what reads and writes JSON refuses.
        self.sure = frozenset(self.types) if kind is not float or rules.kept else NO_TYPES

    def fits(self, value: Any) -> bool:
        if self.kind is int and self.rules.kept and isinstance(value, float):
            return value.is_integer()
        return isinstance(value, self.types) and (self.kind is bool or not isinstance(value, bool))

    def made(self, value: Any, where: str) -> Any:
        if self.kind is not float or self.rules.kept:
            return value
        if not abs(value) <= sys.float_info.max:  # refuses NaN, too
            raise DataError(f"{where} = {shown(value)} must be a finite number")
        return value if self.rules.whole else float(value)


class ChoiceType(ValueType):
    """A `Literal`, or an enumeration by value."""

    def __init__(
        self, choices: tuple[Any, ...], rules: ReadingRules, cls: type[enum.Enum] | None = None
    ) -> None:
        self.choices, self.rules, self.cls = choices, rules, cls
        word = " or ".join(map(repr, choices))
        self.words = word, word
        self.json = {"const": choices[0]} if len(choices) == 1 else {"enum": list(choices)}

    def fits(self, value: Any) -> bool:
        for choice in self.choices:
            if value == choice and (type(value) is type(choice) or self._is_same_number(value, choice)):
                return True
        return False

    def _is_same_number(self, value: Any, choice: Any) -> bool:
        """Whether two values are the same number, as in JSON: 1.0 is 1, and true is not."""
        return self.rules.kept and not isinstance(value, bool) and not isinstance(choice, bool)

    def made(self, value: Any, where: str) -> Any:
        return value if self.cls is None else self.cls(value)

    def refusal(self, value: Any, where: str) -> DataError:
        if len(self.choices) == 1:
            return super().refusal(value, where)
        return DataError(f"{where} = {shown(value)} is not one of {', '.join(map(repr, self.choices))}")
