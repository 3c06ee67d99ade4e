"""Kinds of single values: texts, numbers, choices, and what a caller reads."""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.errors import DataError
from clipjax.storage.records.problems import shown

NO_TYPES: frozenset[type] = frozenset()


@dataclasses.dataclass(frozen=True)
class Rules:
    """How kinds are read.

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


class Kind:
    """Attributes:
    sure: exact types of which every value is allowed and stays as it is.
    """

    sure = NO_TYPES

    def read(self, value: Any, where: str) -> Any:
        """The field's value. Raises DataError, beginning with `where`."""
        if not self.fits(value):
            raise self.refusal(value, where)
        return self.made(value, where)

    def fits(self, value: Any) -> bool:
        """Only the outer form; `made` checks the parts."""
        raise NotImplementedError

    def made(self, value: Any, where: str) -> Any:
        """`value` fits."""
        return value

    def word(self, several: bool = False) -> str:
        """E.g. "a list of 3 numbers"; `several`: "lists of 3 numbers"."""
        raise NotImplementedError

    def refusal(self, value: Any, where: str) -> DataError:
        return DataError(f"{where} = {shown(value)} must be {self.word()}")

    def schema(self) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} has no JSON Schema")


class Anything(Kind):
    def fits(self, value: Any) -> bool:
        return True

    def word(self, several: bool = False) -> str:
        return "anything"

    def schema(self) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class Custom(Kind):
    """Read by a function of the caller."""

    function: Callable[[Any, str], Any]

    def read(self, value: Any, where: str) -> Any:
        return self.function(value, where)

    made = read

    def fits(self, value: Any) -> bool:
        return True

    def word(self, several: bool = False) -> str:
        return "tables" if several else "a table"


class Plain(Kind):
    """Texts, truth values, whole numbers, null."""

    # type -> singular, plural, JSON Schema's name
    WORDS: Mapping[type, tuple[str, str, str]] = {
        str: ("a text", "texts", "string"),
        bool: ("true or false", "truth values", "boolean"),
        int: ("a whole number", "whole numbers", "integer"),
        types.NoneType: ("null", "nulls", "null"),
    }

    def __init__(self, kind: type, rules: Rules) -> None:
        self.kind, self.rules = kind, rules
        self.sure = frozenset({kind})

    def fits(self, value: Any) -> bool:
        if self.kind is int and self.rules.kept and isinstance(value, float):
            return value.is_integer()
        return isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))

    def word(self, several: bool = False) -> str:
        return self.WORDS[self.kind][several]

    def schema(self) -> dict[str, Any]:
        return {"type": self.WORDS[self.kind][2]}


class Number(Kind):
    """Whole numbers will do."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        # JSON has no NaN: what reads and writes it refuses it.
        self.sure = frozenset({int, float}) if rules.kept else NO_TYPES

    def fits(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def made(self, value: Any, where: str) -> Any:
        if self.rules.kept:
            return value
        if not abs(value) <= sys.float_info.max:  # refuses NaN, too
            raise DataError(f"{where} = {shown(value)} must be a finite number")
        return value if self.rules.whole else float(value)

    def word(self, several: bool = False) -> str:
        return "numbers" if several else "a number"

    def schema(self) -> dict[str, Any]:
        return {"type": "number"}


@dataclasses.dataclass(frozen=True)
class Choice(Kind):
    """A `Literal`, or an enumeration by value."""

    choices: tuple[Any, ...]
    rules: Rules
    cls: type[enum.Enum] | None = None

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

    def word(self, several: bool = False) -> str:
        return " or ".join(map(repr, self.choices))

    def refusal(self, value: Any, where: str) -> DataError:
        if len(self.choices) == 1:
            return super().refusal(value, where)
        return DataError(f"{where} = {shown(value)} is not one of {', '.join(map(repr, self.choices))}")

    def schema(self) -> dict[str, Any]:
        return {"const": self.choices[0]} if len(self.choices) == 1 else {"enum": list(self.choices)}
