"""Functions that the vision transformers of `families/` use around their blocks."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float


def shrink_outputs_by_depth(blocks: Any, depth: int) -> None:
    """Deeper of `depth` stacked blocks start with a smaller output (timm's `fix_init_weight`)."""
    scale = (2 * jnp.arange(1, depth + 1, dtype=jnp.float32)[:, None, None]) ** -0.5
    for linear in (blocks.attn.out, blocks.mlp.c_proj):
        linear.kernel[...] = linear.kernel[...] * scale


def prepend(x: Float[Array, "B N D"], *embeddings: nnx.Param | None) -> Float[Array, "B M D"]:
    """The embeddings [D] or [R,D] in their order, then `x`; None: no such token."""
    tokens = [jnp.atleast_2d(embedding[...]) for embedding in embeddings if embedding is not None]
    return jnp.concatenate([*(jnp.broadcast_to(t, (len(x), *t.shape)) for t in tokens), x], axis=1)


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
