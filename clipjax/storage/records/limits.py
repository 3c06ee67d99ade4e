"""Limits of a field's value, in its annotation: `Annotated[int | None, AtLeast(0)]`. Null is not limited.

As in JSON Schema, NaN is within every limit: what reads numbers refuses it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The least number that is allowed, and perhaps the first that no longer is."""

    least: float
    below: float | None = None

    def allows(self, value: Any) -> bool:
        return not (value < self.least or (self.below is not None and value >= self.below))

    def words(self) -> str:
        return f"at least {self.least}" + ("" if self.below is None else f" and below {self.below}")

    def schema(self) -> dict[str, Any]:
        limit = {} if self.below is None else {"exclusiveMaximum": self.below}
        return {"minimum": self.least, **limit}


@dataclasses.dataclass(frozen=True)
class Between:
    """Numbers between two ends, both excluded."""

    low: float
    high: float

    def allows(self, value: Any) -> bool:
        return not (value <= self.low or value >= self.high)

    def words(self) -> str:
        return f"above {self.low} and below {self.high}"

    def schema(self) -> dict[str, Any]:
        return {"exclusiveMinimum": self.low, "exclusiveMaximum": self.high}


@dataclasses.dataclass(frozen=True)
class MatchesPattern:
    """Texts that match a regular expression. `form`: what such a text is, in words."""

    pattern: str
    form: str

    def allows(self, value: Any) -> bool:
        # In a JSON Schema `$` is the end alone; Python's also stands before a last newline.
        return re.search(self.pattern.replace("$", r"\Z"), value) is not None

    def words(self) -> str:
        return self.form

    def schema(self) -> dict[str, Any]:
        return {"pattern": self.pattern}


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """Lists with at least one value. `noun`: what such a value is."""

    noun: str = "a list"

    def allows(self, value: Any) -> bool:
        return len(value) > 0

    def words(self) -> str:
        return f"{self.noun} that is not empty"

    def schema(self) -> dict[str, Any]:
        return {"minItems": 1}


Limit = AtLeast | Between | MatchesPattern | NotEmpty
FilledText = Annotated[str, MatchesPattern(r"\S", "a text that is not empty")]
