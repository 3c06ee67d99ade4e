"""A batch run a few examples at a time, so that what passes between layers stays in a TPU's fast memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from clipjax.config import config_dir
from clipjax.devices.jaxprs import equations
from clipjax.models.training import Mode
from clipjax.storage.reading import read_csv

# Bytes of a product's largest result, for all examples together. A v5e and a v6e have 128 MiB of fast memory,
# which also holds the other arrays of a layer. By the compiler's estimates for ViTs, 50 to 729 tokens.
LARGEST_BYTES = 80e6


def chunk_bytes(chip: str | None, tower: Any) -> float:
    """`Mode.chunk_bytes` of a tower: the fastest by configs/chunks.csv, else `LARGEST_BYTES`.

    No store key contains it: a chunk's size changes rounding alone, as do the batch, the number of devices
    and the chip, which are in no key either.

    Args:
        chip: the kind of device; see `clipjax.devices.platforms.chip_of`.
        tower: its config.
    """
    return _fastest().get((chip, sizes_of(tower)), LARGEST_BYTES)


def sizes_of(tower: Any) -> str:
    """Towers of one value run alike: the class of a config and its sizes, without flags and `embed_dim`."""
    sizes = {name: value for name, value in vars(tower).items() if name != "embed_dim"}
    cells = [f"{name}={_text(value)}" for name, value in sizes.items() if _is_size(value)]
    return " ".join([type(tower).__name__, *cells])


def _is_size(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


@functools.cache
def _fastest() -> dict[tuple[str | None, str], float]:
    estimates: dict[tuple[str | None, str], list[tuple[float, float]]] = {}
    for row in read_csv(config_dir() / "chunks.csv"):
        of_tower = estimates.setdefault((row["chip"], row["sizes"]), [])
        of_tower.append((float(row["ms"]), float(row["megabytes"]) * 1e6))
    return {tower: min(each)[1] for tower, each in estimates.items()}


def in_chunks(tower: Callable[[Array], Array], inputs: Array, mode: Mode) -> Array:
    """`tower(inputs)` [B, ...] -> [B, ...], as many examples at a time as leave a product's result small.

    mode: states the devices over which the compiler splits the batch, in order. Each takes its own examples
        in chunks of equal size, if need be with zeros at the end. A batch that they do not share evenly runs
        whole.
    """
    devices = mode.devices
    own = len(inputs) // devices
    count = -(-own // together(tower, inputs, mode.chunk_bytes))
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


def together(tower: Callable[[Array], Array], inputs: Array, most: float) -> int:
    """The number of examples to run at a time, a power of two. most: bytes of a product's largest result."""
    example = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    program = jax.make_jaxpr(tower)(example).jaxpr
    products = (e for e in equations(program) if e.primitive.name in ("dot_general", "conv_general_dilated"))
    largest = max((_tiled_bytes(each.outvars[0].aval) for each in products), default=1)
    return 2 ** max(0, math.floor(math.log2(most / largest)))


def is_small(batch: Array, mode: Mode) -> bool:
    """Whether each device's share of a batch would fit in a chunk."""
    return _tiled_bytes(batch) <= mode.chunk_bytes * mode.devices


def _tiled_bytes(array: Any) -> int:
    """A TPU's tiles have 8 rows of 128 numbers."""
    *outer, rows, columns = (1, 1, *array.shape)
    tiles = -(-rows // 8) * -(-columns // 128)  # -(-a // b) is a / b rounded up
    return math.prod(outer) * tiles * 8 * 128 * array.dtype.itemsize
