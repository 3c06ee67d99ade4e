"""Checks of a value that end in one sentence.

A record's own check raises ValueError, to which its reader adds the file; other callers name the `error`.
"""

from __future__ import annotations

from collections.abc import Collection

from clipjax.errors import UsageError


def at_least(bound: str, value: float, least: float, error: type[Exception] = UsageError) -> None:
    """Refuse a number below `least`; `bound` begins the sentence: "the limit must be at least 1 image"."""
    if value < least:
        raise error(f"{bound}, not {value}")


def multiple_of(
    name: str, value: int, divisor: int, of: str = "", error: type[Exception] = ValueError
) -> None:
    """Refuse a value below 1, or one that `divisor` does not divide; `of` is the divisor's name, if any."""
    if min(value, divisor) < 1 or value % divisor:
        raise error(f"{name} {value} is not a multiple of {f'{of} {divisor}' if of else divisor}")


def one_of(name: str, value: str, known: Collection[str], error: type[Exception] = ValueError) -> None:
    """Refuse a text that is not among the `known` ones."""
    if value not in known:
        raise error(f"{name} = {value!r} is not one of {', '.join(known)}")


def not_empty(name: str, values: Collection[object], noun: str, error: type[Exception] = ValueError) -> None:
    """Refuse a list without an item; `noun` is what an item is."""
    if not values:
        raise error(f"{name} = [] must hold at least one {noun}")
