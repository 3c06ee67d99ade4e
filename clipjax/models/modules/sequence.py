"""Blocks in sequence: stacked, scanned, and what they keep for a backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from clipjax.models.chunks import in_chunks
from clipjax.models.cut import any_cut, whole
from clipjax.models.modules.attention import KEPT
from clipjax.models.modules.binding import mode_of_block
from clipjax.models.modules.convolutions import Conv
from clipjax.models.modules.forms import form
from clipjax.models.modules.initializers import in_shapes_only
from clipjax.models.modules.layers import Block
from clipjax.models.training import PRODUCT, statistics
from clipjax.models.unstacked import each_block, is_unstacked

M = TypeVar("M", bound=nnx.Module)


def stack(make: Callable[[nnx.Rngs], M], depth: int, rngs: nnx.Rngs) -> M:
    """`depth` modules as one: every param gets a leading axis of that length."""
    if in_shapes_only():  # nnx.vmap would be a quarter of the time in which shapes are found
        module = make(rngs)
        nnx.update(module, jax.tree.map(lambda leaf: _repeated(leaf, depth), nnx.state(module)))
        return module

    @nnx.split_rngs(splits=depth)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> M:
        return make(rngs)

    return build(rngs)


def _repeated(leaf: Any, times: int) -> Any:
    shape = (times, *leaf.shape)
    return (
        np.broadcast_to(leaf, shape, subok=True)
        if isinstance(leaf, np.ndarray)
        else jnp.broadcast_to(leaf, shape)
    )


def scan(blocks: Any, x: Array, *shared: Any, capture: bool) -> tuple[Array, Array | None]:
    """Applies stacked modules in turn, all with `shared`; compile time does not depend on the depth.

    Two kinds are written out, and do take longer to compile: modules that were unstacked
    (`clipjax.models.unstacked`), and BatchNorm's blocks in a CPU's training steps. The latter keep whole maps
    for the backward pass, which a loop would copy into stacks and out of them (15 % of RN50's step).

    Blocks whose convolutions run by frequencies take the batch in chunks (`clipjax.models.chunks`).

    Returns: the last output; if `capture`, all outputs on a new leading axis.
    """
    if not (capture or shared) and _chunked(blocks, x):
        mode = mode_of_block(blocks)
        return in_chunks(lambda some: _scan(blocks, some, capture=False)[0], x, mode), None
    return _scan(blocks, x, *shared, capture=capture)


def _chunked(blocks: Any, x: Array) -> bool:
    convolutions = (each for _, each in nnx.iter_modules(blocks) if isinstance(each, Conv))
    if not any(each.by_frequencies(x) for each in convolutions) or any_cut(blocks):  # chunks gather anew
        return False
    return form("batch", mode_of_block(blocks), x.dtype) == "chunks"


def _scan(blocks: Any, x: Array, *shared: Any, capture: bool) -> tuple[Array, Array | None]:
    if any(map(is_unstacked, jax.tree.leaves(blocks, is_leaf=is_unstacked))):
        written_out = []
        for block in each_block(blocks):
            x, _ = _called(block, x, *shared, loop=False)
            written_out.append(x)
        return x, (jnp.stack(written_out) if capture else None)
    ways = ("written_out", "scanned") if statistics(blocks) else ("scanned",)
    unrolled = form("blocks", mode_of_block(blocks), x.dtype, ways) == "written_out"

    def step(x: Array, block: Any) -> tuple[Array, Any]:
        x, new_statistics = _called(whole(block), x, *shared, loop=not unrolled)
        return x, (x if capture else None, new_statistics)

    loop = functools.partial(jax.lax.scan, unroll=True) if unrolled else jax.lax.scan
    x, (outputs, new_statistics) = loop(step, x, blocks)
    nnx.update(blocks, new_statistics)
    return x, outputs


def kept(step: Callable[..., Any], blocks: Any) -> Callable[..., Any]:
    """A step of a scan over `blocks`; where the pass recomputes activations it keeps what it is given."""
    return jax.checkpoint(step) if mode_of_block(blocks).remat else step


def apply(block: Any, x: Array, *shared: Any) -> Array:
    x, new_statistics = _called(block, x, *shared, loop=False)
    nnx.update(block, new_statistics)
    return x


def _called(block: Any, x: Array, *shared: Any, loop: bool) -> tuple[Array, Any]:
    """A block's output and its new statistics: scan and checkpoint run a copy and lose writes to it."""
    mode = mode_of_block(block)

    def pure(block: Any, x: Array, *shared: Any) -> tuple[Array, Any]:
        x = block(x, *shared)
        return x, {} if mode.batch_norm == "frozen" else statistics(block)

    keeps = form("kept", mode, x.dtype, None if isinstance(block, Block) else ("products", "nothing"))
    if mode.training is not None and (mode.remat or not statistics(block)):
        policy = None if mode.remat else _POLICIES[keeps]
        # In a loop XLA cannot merge the two passes, so the guard against that is not needed.
        pure = jax.checkpoint(pure, prevent_cse=not loop, policy=policy)
    return pure(block, x, *shared)


def _is_fused_attention(primitive: Any, *_: Any, **__: Any) -> bool:
    """cuDNN's, whose result and sums of the softmax the backward pass reads."""
    return primitive.name.startswith("dot_product_attention_fwd")


# A block without BatchNorm keeps matrix products and convolutions for its backward pass, and recomputes
# elementwise results: that is cheaper than storing them, and keeps 40 % of a transformer's activations.
# For BatchNorm's passes over whole maps recomputing costs more than it saves.
# "few": on a TPU a `Block` in bfloat16 keeps its attention's result, its hidden channels and its means.
# Computing the other products again takes less time than storing and reading them.
_POLICIES = {
    "products": functools.reduce(
        jax.checkpoint_policies.save_from_both_policies,
        (
            jax.checkpoint_policies.dots_saveable,
            jax.checkpoint_policies.save_only_these_names(PRODUCT),
            _is_fused_attention,
        ),
    ),
    "few": jax.checkpoint_policies.save_only_these_names(KEPT),
}


def scan_at(blocks: Any, x: Array, *shared: Any, at: Sequence[int]) -> list[Array]:
    """The outputs of the stacked modules `at` (ascending); keeps no others, runs no later ones."""
    outputs, start = [], 0
    for index in at:
        some = jax.tree.map(lambda param, first=start, last=index: param[first : last + 1], blocks)
        x, _ = scan(some, x, *shared, capture=False)
        outputs.append(x)
        start = index + 1
    return outputs
