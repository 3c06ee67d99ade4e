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
    if (blank := next((where for value, where in raw if value == ""), None)) is not None:
        raise DataError(f"{blank}: the label is empty; fill it in, or leave the whole column out")
    spelled = sorted({value for value, _ in raw if isinstance(value, str) and not is_int(value)})
    if names is None and spelled:
        number = next((where for value, where in raw if is_int(value)), None)
        if number is not None:
            raise DataError(f"{number}: this label is a number, others are class names; use one of the two")
        names = spelled
    index = {name: i for i, name in enumerate(names or ())}
    labels = np.empty(len(raw), np.int32)
    for i, (value, where) in enumerate(raw):
        if isinstance(value, str) and value in index:
            labels[i] = index[value]
        elif is_int(value) and 0 <= int(value) < (2**31 if names is None else len(names)):
            labels[i] = int(value)
        else:
            known = "" if names is None else f" of {counted(len(names), 'class', 'classes')}"
            raise DataError(f"{where}: the label {value!r} is outside the set{known}")
    return labels, None if names is None else tuple(names)


def is_int(value: Any) -> bool:
    """An int, or one as text."""
    if isinstance(value, str):
        return re.fullmatch(r"-?[0-9]{1,18}", value) is not None  # a longer number cannot be an index
    return isinstance(value, int) and not isinstance(value, bool)
