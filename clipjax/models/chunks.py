"""A batch run a few examples at a time, so that what passes between layers stays in a TPU's fast memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import ClosedJaxpr, Jaxpr

# Bytes of a product's largest result, for all examples together. A v5e and a v6e have 128 MiB of fast memory,
# which also holds the other arrays of a layer. By the compiler's estimates for ViTs, 50 to 729 tokens.
LARGEST_BYTES = 80e6


def in_chunks(tower: Callable[[Array], Array], inputs: Array, devices: int) -> Array:
    """`tower(inputs)` [B, ...] -> [B, ...], as many examples at a time as leave a product's result small.

    devices: the compiler splits the batch over this many, in order. Each takes its own examples in chunks of
        equal size, if need be with zeros at the end. A batch that they do not share evenly runs whole.
    """
    own = len(inputs) // devices
    count = -(-own // together(tower, inputs))
    if count <= 1 or len(inputs) % devices:
        return tower(inputs)
    size, rest = -(-own // count), inputs.shape[1:]
    parts = inputs.reshape(devices, own, *rest)
    parts = jnp.pad(parts, [(0, 0), (0, count * size - own), *[(0, 0)] * len(rest)])
    chunks = parts.reshape(devices, count, size, *rest).swapaxes(0, 1)
    outputs = jax.lax.map(tower, chunks.reshape(count, devices * size, *rest))
    rest = outputs.shape[2:]
    outputs = outputs.reshape(count, devices, size, *rest).swapaxes(0, 1)
    return outputs.reshape(devices, count * size, *rest)[:, :own].reshape(len(inputs), *rest)


def together(tower: Callable[[Array], Array], inputs: Array) -> int:
    """The number of examples to run at a time: a power of two."""
    example = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    largest = max(map(_tiled_bytes, _products(jax.make_jaxpr(tower)(example).jaxpr)), default=1)
    return 2 ** max(0, math.floor(math.log2(LARGEST_BYTES / largest)))


def is_small(batch: Array, devices: int) -> bool:
    """Whether each device's share of a batch would fit in a chunk."""
    return _tiled_bytes(batch) <= LARGEST_BYTES * devices


def _tiled_bytes(array: Any) -> int:
    """A TPU's tiles have 8 rows of 128 numbers."""
    *outer, rows, columns = (1, 1, *array.shape)
    tiles = -(-rows // 8) * -(-columns // 128)  # -(-a // b) is a / b rounded up
    return math.prod(outer) * tiles * 8 * 128 * array.dtype.itemsize


def _products(jaxpr: Jaxpr) -> Iterator[Any]:
    """The results of a program's dots and convolutions, also of those in loops."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation.outvars[0].aval
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr):
                    yield from _products(inner.jaxpr)
                elif isinstance(inner, Jaxpr):
                    yield from _products(inner)
