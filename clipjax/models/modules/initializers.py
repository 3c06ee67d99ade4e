"""JAX's initialisers, which make nothing where only shapes are asked for.

Tracing them takes most of the time in which the shapes of a network are found.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import initializers
from jax.nn.initializers import Initializer

_SHAPES_ONLY = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """A context in which the initialisers below return NumPy's zeros, which take no memory."""
    before = _SHAPES_ONLY.set(True)
    try:
        yield
    finally:
        _SHAPES_ONLY.reset(before)


def in_shapes_only() -> bool:
    """Whether the code runs within `shapes_only`."""
    return _SHAPES_ONLY.get()


class _Nothing(np.ndarray):
    """What is written to it is forgotten: a module may scale what it drew."""

    def __setitem__(self, where: Any, value: Any) -> None:
        pass


def _nothing(shape: tuple[int, ...], dtype: Any) -> Any:
    """Zeros in the memory of one."""
    return np.broadcast_to(np.zeros((), dtype).view(_Nothing), shape, subok=True)


def _undrawn(make: Callable[..., Initializer]) -> Callable[..., Initializer]:
    """`make`, whose initialisers draw nothing within `shapes_only`."""

    @functools.wraps(make)
    def made(*args: Any, **options: Any) -> Initializer:
        draw = make(*args, **options)

        # JAX's protocol has `out_sharding`; no call here names one.
        def init(key: Any, shape: Any, dtype: Any = np.float32, out_sharding: Any = None) -> Any:
            if in_shapes_only():
                return _nothing(shape, dtype)
            return draw(key, shape, dtype)

        return init

    return made


normal = _undrawn(initializers.normal)
he_normal = _undrawn(initializers.he_normal)
xavier_uniform = _undrawn(initializers.xavier_uniform)
variance_scaling = _undrawn(initializers.variance_scaling)
zeros = _undrawn(lambda: initializers.zeros)()
ones = _undrawn(lambda: initializers.ones)()


@_undrawn
def uniform(bound: float) -> Initializer:
    """U(-bound, bound). With 1/sqrt(fan_in) it is torch.nn.Linear's default for biases."""
    return lambda key, shape, dtype=np.float32, out_sharding=None: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def full(shape: tuple[int, ...], value: float) -> Array:
    """float32 of one value; NumPy's within `shapes_only`."""
    if in_shapes_only():
        return _nothing(shape, jnp.float32)
    return jnp.full(shape, value, jnp.float32)
