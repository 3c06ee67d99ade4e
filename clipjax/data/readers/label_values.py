"""Labels as data sets spell them: numbers or class names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.errors import DataError, counted

Names = Sequence[str] | None


def number_labels(
    raw: list[tuple[Any, str]], names: Names
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """(value, where) pairs -> int32 [N] and label names; (None, names) without pairs.

    Values are ints, numbers as text, or class names. Default `names`: the data's, sorted.

    Raises:
        DataError: an empty label, numbers among names, a label outside the set.
    """
    if not raw:
        return None, None if names is None else tuple(names)
    for value, where in raw:
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DataError(f"{where}: the label is {value!r}; it must be a class name or a whole number")
        if value == "":
            raise DataError(f"{where}: the label is empty; fill it in, or leave the whole column out")
    if names is None:
        names = _names_in(raw)
    classes = 2**31 if names is None else len(names)  # labels are int32
    labels = np.empty(len(raw), np.int32)
    # A class may be called "7": the name then decides, and not the number.
    index: dict[Any, int] = {name: i for i, name in enumerate(names or ())}
    for i, (value, where) in enumerate(raw):
        label = index[value] if value in index else int(value) if is_int(value) else -1
        if not 0 <= label < classes:
            known = "" if names is None else f" of {counted(len(names), 'class', 'classes')}"
            raise DataError(f"{where}: the label {value!r} is outside the set{known}")
        labels[i] = label
    return labels, None if names is None else tuple(names)


def _names_in(raw: list[tuple[Any, str]]) -> list[str] | None:
    """The class names among labels, sorted; None if all labels are numbers."""
    names = sorted({value for value, _ in raw if not is_int(value)})
    number = next((where for value, where in raw if is_int(value)), None)
    if names and number is not None:
        raise DataError(f"{number}: this label is a number, others are class names; use one of the two")
    return names or None


def is_int(value: Any) -> bool:
    """An int, or one as text."""
    if isinstance(value, str):
        return re.fullmatch(r"-?[0-9]{1,18}", value) is not None  # a longer number cannot be an index
    return isinstance(value, int) and not isinstance(value, bool)
