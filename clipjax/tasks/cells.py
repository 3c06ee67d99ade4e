"""Numbers from the cells of a CSV file of predictions."""

from __future__ import annotations

import math

from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError


def class_number(text: str, column: str, space: LabelSpace, where: str) -> int:
    """A class, also from a float ("394.0"). Raises DataError if it is not one of `space`."""
    value = _number(text)
    if not (value.is_integer() and 0 <= value < len(space)):
        raise DataError(f"{where}: {column} is {text!r}; it must be 0..{len(space) - 1} ({space.name})")
    return int(value)


def probability(text: str, column: str, where: str) -> float:
    """Raises DataError unless it is 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise DataError(f"{where}: {column} is {text!r}; it must be 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
