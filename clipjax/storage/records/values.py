"""Kinds of single values: texts, numbers, choices, and what a caller reads."""

from __future__ import annotations

import abc
import dataclasses
import enum
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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


class Kind(abc.ABC):
    """Attributes:
    sure: exact types of which every value is allowed and stays as it is.
    words: of one value, and of several.
    json: its JSON Schema; None: it has none.
    """

    sure = NO_TYPES
    words: tuple[str, str]
    json: dict[str, Any] | None = None

    def read(self, value: Any, where: str) -> Any:
        """The field's value. Raises DataError, beginning with `where`."""
        if not self.fits(value):
            raise self.refusal(value, where)
        return self.made(value, where)

    @abc.abstractmethod
    def fits(self, value: Any) -> bool:
        """Only the outer form; `made` checks the parts."""

    def made(self, value: Any, where: str) -> Any:
        """`value` fits."""
        return value

    def word(self, several: bool = False) -> str:
        """E.g. "a list of 3 numbers"; `several`: "lists of 3 numbers"."""
        return self.words[several]

    def refusal(self, value: Any, where: str) -> DataError:
        return DataError(f"{where} = {shown(value)} must be {self.word()}")

    def schema(self) -> dict[str, Any]:
        if self.json is None:
            raise TypeError(f"{type(self).__name__} has no JSON Schema")
        return dict(self.json)


class Anything(Kind):
    words, json = ("anything", "anything"), {}

    def fits(self, value: Any) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Custom(Kind):
    """Read by a function of the caller."""

    function: Callable[[Any, str], Any]
    words: ClassVar[tuple[str, str]] = ("a table", "tables")  # pyright: ignore[reportIncompatibleVariableOverride]

    def read(self, value: Any, where: str) -> Any:
        return self.function(value, where)

    made = read

    def fits(self, value: Any) -> bool:
        return True


class Plain(Kind):
    """Texts, truth values, whole numbers, numbers (whole ones will do), null."""

    # type -> its words, JSON Schema's name
    KINDS: Mapping[type, tuple[tuple[str, str], str]] = {
        str: (("a text", "texts"), "string"),
        bool: (("true or false", "truth values"), "boolean"),
        int: (("a whole number", "whole numbers"), "integer"),
        float: (("a number", "numbers"), "number"),
        types.NoneType: (("null", "nulls"), "null"),
    }

    def __init__(self, kind: type, rules: Rules) -> None:
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
