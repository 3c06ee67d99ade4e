"""Checks of a value that end in one sentence.

A record's own check raises ValueError, to which its reader adds the file; other callers name the `error`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from clipjax.errors import UsageError, unknown_name


def at_least(bound: str, value: float, least: float, error: type[Exception] = UsageError) -> None:
    """Refuse a number below `least`; `bound` begins the sentence: "the limit must be at least 1 image"."""
    if value < least:
        raise error(f"{bound}, not {value}")


def known_name(kind: str, name: object, known: Collection[str], *, shown: int = 12) -> None:
    """Refuse a name that is not among the `known`, as `clipjax.errors.unknown_name`."""
    if name not in known:
        raise unknown_name(kind, str(name), list(known), shown=shown)


def multiple_of(
    name: str, value: int, divisor: int, of: str = "", error: type[Exception] = ValueError
) -> None:
    """Refuse a value below 1, or one that `divisor` does not divide; `of` is the divisor's name, if any."""
    if min(value, divisor) < 1 or value % divisor:
        raise error(f"{name} {value} is not a multiple of {f'{of} {divisor}' if of else divisor}")


def groups_in(pattern: str, where: str = "") -> int:
    """The number of a regular expression's groups. Raises ValueError for another text, after `where`."""
    try:
        return re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{where}{pattern!r} is not a regular expression ({error})") from None


def is_number(value: object) -> bool:
    """Whether a value is a finite number; bools are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
