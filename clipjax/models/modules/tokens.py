"""What the transformers of `families/` use around their blocks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from clipjax.models.modules.binding import Layer
from clipjax.models.modules.forms import form

# A table of at most this many rows is read by a product: CLIP's has 49,408, RoBERTa's 50,265. A product with
# XLM-R's 250,002 would be up to twice the work of its tower.
MOST_ROWS = 2**16


def shrink_outputs_by_depth(blocks: Any, depth: int) -> None:
    """Deeper of `depth` stacked blocks start with a smaller output (timm's `fix_init_weight`)."""
    scale = (2 * jnp.arange(1, depth + 1, dtype=jnp.float32)[:, None, None]) ** -0.5
    for linear in (blocks.attn.out, blocks.mlp.c_proj):
        linear.kernel[...] = linear.kernel[...] * scale


def prepend(x: Float[Array, "B N D"], *embeddings: nnx.Param | None) -> Float[Array, "B M D"]:
    """The embeddings [D] or [R,D] in their order, then `x`; None: no such token."""
    tokens = [jnp.atleast_2d(embedding[...]) for embedding in embeddings if embedding is not None]
    return jnp.concatenate([*(jnp.broadcast_to(t, (len(x), *t.shape)) for t in tokens), x], axis=1)


class Lookup(Layer):
    """The rows of a table.

    A product with ones and zeros gives the same numbers. A TPU gathers slowly, and sums gradients of rows
    more slowly still. Only in training: embedding reads too many ids at once.
    """

    def __call__(self, table: nnx.Param, ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        rows = table[...]
        among = None if len(rows) <= MOST_ROWS else ("rows",)
        if form("lookup", self.mode, rows.dtype, among) == "product":
            return jax.nn.one_hot(ids, len(rows), dtype=rows.dtype) @ rows
        # Ids come from the tokenizer, so they are in range: "clip" spares the default's NaN fill.
        return jnp.take(rows, ids, axis=0, mode="clip")


class HighestId(Layer):
    """The token of each text at its first highest id, in the forms of `Lookup`."""

    def __call__(
        self, x: Float[Array, "B L D"], ids: Int[Array, "B L"] | Bool[Array, "B L"]
    ) -> Float[Array, "B D"]:
        positions = jnp.argmax(ids, axis=1)
        if form("lookup", self.mode, x.dtype) == "product":
            return jnp.einsum("bl,bld->bd", jax.nn.one_hot(positions, x.shape[1], dtype=x.dtype), x)
        return at_positions(x, positions)


def at_positions(x: Float[Array, "B L D"], positions: Int[Array, " B"]) -> Float[Array, "B D"]:
    # Not x[arange, positions]: that would gather a sharded batch on every device.
    return jnp.take_along_axis(x, positions[:, None, None], axis=1, mode="clip")[:, 0]


def stages(
    patches: Array, embedded: Array, outputs: Array | None, pooled: Array, projected: Array | None
) -> dict[str, Array]:
    """The captured stages by name; none without the blocks' `outputs`.

    `projected`: None where the pooled tokens are the features.
    """
    if outputs is None:
        return {}
    stages = {"patch_embed": patches, "embed": embedded}
    stages |= {f"blocks.{i}": output for i, output in enumerate(outputs)}
    stages["pooled"] = pooled
    return stages if projected is None else stages | {"projected": projected}
