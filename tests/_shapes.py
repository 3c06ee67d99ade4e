"""Annotated shapes (jaxtyping) are checked in the tests by `checked`, which conftest.py installs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import AbstractArray

ROOT = Path(__file__).resolve().parent.parent

# The modules that state shapes.
ANNOTATED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("clipjax/**/*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a check of its arguments and result, if it states a shape.

    Others are left as they are: pyright checks their types, and a function inside another is made anew, check
    and all, each time that the other runs, which was an eighth of the time of tracing.

    As typing has it, an int is a float, too. Protocols are not checked: that would read the properties.
    Nor are NumPy's, of which `ArrayLike` has several: Python 3.11 takes 60 us for each call to check them.
    """
    hints = [part for hint in function.__annotations__.values() for part in _parts(hint)]
    if not any(isinstance(hint, type) and issubclass(hint, AbstractArray) for hint in hints):
        return function
    protocols = {hint for hint in hints if getattr(hint, "_is_protocol", False)}
    overrides = FrozenDict(dict.fromkeys(protocols, object))
    return beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=overrides))(function)


def _parts(hint: Any) -> Iterator[Any]:
    """A type and those that it is made of: `tuple[int, str]`, int and str."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)
