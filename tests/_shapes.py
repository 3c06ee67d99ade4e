"""Annotated shapes (jaxtyping) are checked in the tests by `checked`, which conftest.py installs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from beartype import BeartypeConf, FrozenDict, beartype

ROOT = Path(__file__).resolve().parent.parent

# The modules that state shapes.
ANNOTATED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted(ROOT.glob("clipjax/**/*.py"))
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """As typing has it, an int is a float, too. Protocols are not checked: that would read the properties.

    Nor are NumPy's, of which `ArrayLike` has several: Python 3.11 takes 60 us for each call to check them.
    """
    protocols = {each for hint in function.__annotations__.values() for each in _protocols(hint)}
    overrides = FrozenDict(dict.fromkeys(protocols, object))
    return beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=overrides))(function)


def _protocols(hint: Any) -> Iterator[type]:
    if getattr(hint, "_is_protocol", False):
        yield hint
    for part in get_args(hint):
        yield from _protocols(part)
