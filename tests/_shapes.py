"""Annotated shapes (jaxtyping) are checked in the tests by `checked`, which conftest.py installs."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import AbstractArray

ROOT = Path(__file__).resolve().parent.parent

# The modules that state shapes.
ANNOTATED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("clipjax/**/*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
_STATING: dict[CodeType, bool] = {}  # a function inside another is made anew each time that the other runs
_jaxtyped = jaxtyping.jaxtyped


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a check of its arguments and result, if it states a shape.

    As typing has it, an int is a float, too. Protocols are not checked: that would read the properties.
    Nor are NumPy's, of which `ArrayLike` has several: Python 3.11 takes 60 us for each call to check them.
    """
    hints = list(_hints(function))
    if not _is_shape_among(hints):
        return function
    protocols = {hint for hint in hints if getattr(hint, "_is_protocol", False)}
    overrides = FrozenDict(dict.fromkeys(protocols, object))
    return beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=overrides))(function)


def where_stated(*args: Any, **kwargs: Any) -> Any:
    """`jaxtyping.jaxtyped`, which the hook puts on every function: those without a shape stay as they are.

    Pyright checks their types, and jaxtyping's wrapper was a quarter of the time of tracing.
    """
    decorate = _jaxtyped(*args, **kwargs)

    def decorated(item: Any) -> Any:
        return item if isinstance(item, FunctionType) and not states_a_shape(item) else decorate(item)

    return decorate if args else decorated


jaxtyping.jaxtyped = where_stated


def states_a_shape(function: FunctionType) -> bool:
    """Whether an argument or the result is annotated with one."""
    code = function.__code__
    if code not in _STATING:
        _STATING[code] = _is_shape_among(_hints(function))
    return _STATING[code]


def _hints(function: Callable[..., Any]) -> Iterator[Any]:
    """The types of a function's annotations and those that they are made of; unknown names are left out."""
    names = getattr(function, "__globals__", {})
    for annotation in function.__annotations__.values():
        try:
            hint = typing.get_type_hints(_annotated(annotation), names, include_extras=True)["value"]
        except NameError:  # of a type that only type checkers import
            continue
        yield from _parts(hint)


def _annotated(annotation: Any) -> Callable[..., Any]:
    def one(value: Any) -> None: ...

    one.__annotations__ = {"value": annotation}
    return one


def _is_shape_among(hints: Iterable[Any]) -> bool:
    return any(isinstance(hint, type) and issubclass(hint, AbstractArray) for hint in hints)


def _parts(hint: Any) -> Iterator[Any]:
    """A type and those that it is made of: `tuple[int, str]`, int and str."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)
