"""Keys and values of earlier positions, in arrays that are allocated once.

All rows of a batch write to the same slot, because they are padded on the left; their positions differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.transformer import Remember


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """The keys and values of all tokens that a decoder has read; T slots are allocated once.

    Attributes:
        keys: [layers, B, kv heads / joined, T, joined * head_dim], already turned by their positions;
            `joined` heads are side by side (`join_heads`).
        values: of the same shape, not turned.
        valid: bool [B, T], False at padding and at empty slots.
        length: int32 [], the slots filled, padding included.
    """

    keys: Array
    values: Array
    valid: Array
    length: Array

    @property
    def positions(self) -> Array:
        """The next position of each row, int32 [B]."""
        return self.valid.sum(axis=1, dtype=jnp.int32)


def empty_cache(config: DecoderConfig, batch: int, slots: int, dtype: Any, joined: int = 1) -> Cache:
    shape = config.layers, batch, config.kv_heads // joined, slots, joined * config.head_dim
    keys, values = (jnp.zeros(shape, dtype) for _ in range(2))
    return Cache(keys, values, jnp.zeros((batch, slots), bool), jnp.zeros((), jnp.int32))


def join_heads(x: Array, joined: int) -> Array:
    """[B, heads, N, d] -> [B, heads / joined, N, joined * d]: neighbouring heads side by side."""
    batch, heads, length, dim = x.shape
    blocks = x.reshape(batch, heads // joined, joined, length, dim).swapaxes(2, 3)
    return blocks.reshape(batch, heads // joined, length, joined * dim)


def part_heads(x: Array, joined: int) -> Array:
    """The inverse of `join_heads`."""
    batch, blocks, length, wide = x.shape
    heads = x.reshape(batch, blocks, length, joined, wide // joined).swapaxes(2, 3)
    return heads.reshape(batch, blocks * joined, length, wide // joined)


Pair = tuple[Array, Array]


def _write(kept: Pair, block: Array, keys: Array, values: Array, at: Array | int) -> Pair:
    # One update in place: XLA does not copy what a loop carries.
    start = (block, 0, 0, at, 0)
    joined = _joined(kept, keys)
    if joined > 1:
        # Otherwise a TPU's compiler gives the values another layout, and copies those of each layer.
        values = jax.lax.optimization_barrier(values)
        keys, values = (join_heads(x, joined) for x in (keys, values))
    first, second = (
        jax.lax.dynamic_update_slice(into, new[None], start) for into, new in zip(kept, (keys, values))
    )
    return first, second


def _joined(kept: Pair, keys: Array) -> int:
    """The number of key heads that are joined in a cache that takes the heads of `keys`."""
    return keys.shape[1] // kept[0].shape[2]


def _read(kept: Pair, block: Array) -> Pair:
    keys, values = (jax.lax.dynamic_index_in_dim(x, block, keepdims=False) for x in kept)
    return keys, values


def begin(kept: Pair, block: Array, keys: Array, values: Array) -> tuple[Pair, Array, Array]:
    """Writes a prompt into the first slots; it reads itself alone. A `Remember`."""
    return _write(kept, block, keys, values, 0), keys, values


def append(at: Array) -> Remember:
    """Writes to the slots from `at` on; reads all."""

    def remember(kept: Pair, block: Array, keys: Array, values: Array) -> tuple[Pair, Array, Array]:
        kept = _write(kept, block, keys, values, at)
        return kept, *_read(kept, block)

    return remember


def beside(kept: Pair, block: Array, keys: Array, values: Array) -> tuple[Pair, Array, Array]:
    """Writes nothing; reads all slots, and the new keys and values after them. A `Remember`."""
    joined = _joined(kept, keys)
    earlier = _read(kept, block) if joined == 1 else (part_heads(x, joined) for x in _read(kept, block))
    keys, values = (jnp.concatenate(both, axis=2) for both in zip(earlier, (keys, values)))
    return kept, keys, values
