"""JAX's initialisers, which draw nothing where only shapes are asked for.

Tracing the draws takes most of the time in which the shapes of a network are found.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer

_SHAPES_ONLY = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """A context in which the initialisers below return zeros."""
    before = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(before)


def in_shapes_only() -> bool:
    """Whether the code runs within `shapes_only`."""
    return _SHAPES_ONLY.get()


def _undrawn(make: Callable[..., Initializer]) -> Callable[..., Initializer]:
    """`make`, whose initialisers return zeros within `shapes_only`."""

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Initializer:
        draw = make(*args, **options)

        # JAX's protocol has `out_sharding`; no call here names one.
        def init(key: Any, shape: Any, dtype: Any = float, out_sharding: Any = None) -> Any:
            return jnp.zeros(shape, dtype) if in_shapes_only() else draw(key, shape, dtype)

        return init

    return made


normal = _undrawn(initializers.normal)
he_normal = _undrawn(initializers.he_normal)
xavier_uniform = _undrawn(initializers.xavier_uniform)
variance_scaling = _undrawn(initializers.variance_scaling)


@_undrawn
def uniform(bound: float) -> Initializer:
    """U(-bound, bound). With 1/sqrt(fan_in) it is torch.nn.Linear's default for biases."""
    return lambda key, shape, dtype=jnp.float32, out_sharding=None: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )
