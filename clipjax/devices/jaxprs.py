"""Walks over traced programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """A program's equations, and those inside them, such as in loops."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in subprograms(equation.params):
            yield from equations(inner)


def subprograms(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs among an equation's params, such as the body of a scan."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
