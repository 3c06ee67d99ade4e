"""The layers of a decoder of the Llama kind.

Sources: Touvron et al. 2023 (arXiv 2302.13971) section 2.2 and Jiang et al. 2023 (arXiv 2310.06825);
transformers' `LlamaForCausalLM` and `MistralForCausalLM`.

Params: embedding [V,D], blocks/{attn_norm,mlp_norm}/scale, blocks/attn/{q,k,v,out}/kernel,
blocks/mlp/{gate,up,down}/kernel, norm/scale and, unless the matrices are tied, head/kernel [D,V]. Blocks are
stacked on axis 0, kernels are [in, out], and nothing has a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from clipjax.models.language.config import DecoderConfig
from clipjax.models.modules import attention, layers, sequence
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.forms import form, is_possible
from clipjax.models.modules.initializers import full, normal
from clipjax.models.training import Mode

INIT = normal(0.02)  # of every matrix, as transformers draws it

Tables = tuple[Array, Array]
Kept = Any  # the keys and values of earlier positions, of all blocks
# (kept, block's index, its new keys, its new values) -> kept, and the keys and values that the block reads
Remember = Callable[[Kept, Array, Array, Array], tuple[Kept, Array, Array]]


def nothing(kept: Kept, block: Array, keys: Array, values: Array) -> tuple[Kept, Array, Array]:
    """A pass without earlier positions."""
    return kept, keys, values


# ------------------------------------------------------------------------------------------- positions


def positions_of(valid: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """0 at each row's first valid position; the padding before it has 0 too."""
    return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)


def sees(
    queries: Int[Array, "B M"],
    keys: Int[Array, "B N"],
    valid: Bool[Array, "B N"],
    window: int | None,
) -> Bool[Array, "B M N"]:
    """The mask of keys that each query sees: the valid ones at its own position or before.

    A query at padding has position 0 and sees the row's first id: a softmax needs at least one key.
    """
    distance = queries[:, :, None] - keys[:, None, :]
    visible = (distance >= 0) & valid[:, None, :]
    return visible if window is None else visible & (distance < window)


def rotary_tables(config: DecoderConfig, positions: Int[Array, "B L"]) -> Tables:
    """Cosines and sines [B, 1, L, head_dim / 2] float32 (Su et al. 2021, arXiv 2104.09864, section 3.2.2)."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    # The power rounded to float32 before its inverse is taken: PyTorch's frequencies to the bit.
    frequencies = np.float32(1) / (config.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Float[Array, "B heads L head"], cos: Array, sin: Array) -> Float[Array, "B heads L head"]:
    """Turns channel i of a head's first half with channel i of its second half."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


# ---------------------------------------------------------------------------------------------- layers


class RMSNorm(nnx.Module):
    """x / sqrt(mean(x^2) + eps) in float32, cast to the dtype of `x`, then times the scale."""

    def __init__(self, dim: int, *, eps: float):
        self.scale = nnx.Param(full((dim,), 1.0))
        self.eps = eps

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        wide = x.astype(jnp.float32)
        y = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.eps)
        return self.scale[...] * y.astype(x.dtype)


def attend_grouped(
    q: Float[Array, "B heads M d"],
    k: Float[Array, "B blocks N wide"],
    v: Float[Array, "B blocks N wide"],
    visible: Bool[Array, "B M N"],
    *,
    mode: Mode,
) -> Float[Array, "B M heads*d"]:
    """Attention of neighbouring query heads to the key head that they share, which is not copied for them.

    A block holds one key head, or several side by side (`cache.join_heads`).
    """
    batch, heads, length, dim = q.shape
    if k.shape[3] == dim and _is_fused(q, k, v, visible[:, None], mode):
        return attention.merge_heads(attention.fused(q, k, v, visible[:, None], gradients=False))
    rows = heads // k.shape[1] * length
    q = q.reshape(batch, k.shape[1], rows, dim)
    visible = jnp.tile(visible, (1, rows // length, 1))[:, None]
    if k.shape[3] > dim:
        mix = mix_joined
    else:
        allowed = ("repeated", "plain") if rows < TILE else ("plain",)
        few = form("few_queries", mode, q.dtype, allowed) == "repeated"
        mix = mix_few if few else attention.mix
    mixed = mix(q, k, v, visible).reshape(batch, heads, length, dim)
    return attention.merge_heads(mixed)


def _is_fused(q: Array, k: Array, v: Array, visible: Array, mode: Mode) -> bool:
    """Whether cuDNN's kernel attends. A GPU's heads are never joined."""
    fits = is_possible("attention", "fused", mode, q.dtype) and attention.can_fuse(
        q, k, v, visible, gradients=False
    )
    allowed = ("fused", "divided_result") if fits else ("divided_result",)
    return form("attention", mode, q.dtype, allowed) == "fused"


TILE = 8  # rows of a TPU's registers


def mix_few(q: Array, k: Array, v: Array, visible: Array) -> Array:
    """`attention.mix` of a few queries, each repeated so that together they fill a tile.

    A TPU's matrix units multiply a tile. A single query is multiplied elementwise, which reads the keys and
    values at a third of the speed.
    """
    times = -(-TILE // q.shape[2])
    q, visible = (jnp.repeat(x, times, axis=2) for x in (q, visible))
    return attention.mix(q, k, v, visible)[:, :, ::times]


def mix_joined(
    q: Float[Array, "B blocks rows d"],
    k: Float[Array, "B blocks N wide"],
    v: Float[Array, "B blocks N wide"],
    visible: Bool[Array, "B 1 rows N"],
) -> Float[Array, "B blocks rows d"]:
    """`attention.mix` with key heads side by side, each of which serves as many neighbouring rows.

    A row's query is zero where the other heads are, and of its result only its own head's part is kept. So
    the queries of several heads fill a tile of a TPU's matrix units.
    """
    *of_rows, dim = q.shape
    rows, joined = q.shape[2], k.shape[3] // dim
    own = (jnp.arange(rows)[:, None] // (rows // joined) == jnp.arange(joined))[..., None]
    q = jnp.where(own, (q * dim**-0.5)[..., None, :], 0).reshape(*of_rows, joined * dim)
    scores = jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    weights = attention.exponentials(jnp.where(visible, scores, -jnp.inf))
    mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    mixed = jax.lax.optimization_barrier(mixed)  # a product of its own, which reads the values at full speed
    mixed = jnp.where(own, mixed.reshape(*of_rows, joined, dim), 0).sum(axis=-2)
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)


class Attention(Layer):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = config
        linear = partial(layers.Linear, use_bias=False, kernel_init=INIT, rngs=rngs)
        self.q = linear(c.width, c.heads * c.head_dim)
        self.k = linear(c.width, c.kv_heads * c.head_dim)
        self.v = linear(c.width, c.kv_heads * c.head_dim)
        self.out = linear(c.heads * c.head_dim, c.width)
        self.config = c

    def project(self, x: Float[Array, "B L D"], tables: Tables) -> tuple[Array, Array, Array]:
        """Queries, keys and values, split into heads [B, heads, L, head_dim]."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        allowed = ("apart", "plain") if x.shape[1] == 1 else ("plain",)
        if form("decoder_projections", self.mode, x.dtype, allowed) == "apart":
            # Otherwise the compiler splits the weights and the cache for one position, and copies those of
            # each layer.
            q, k, v = jax.lax.optimization_barrier((q, k, v))
        q = attention.split_heads(q, self.config.heads)
        k, v = (attention.split_heads(y, self.config.kv_heads) for y in (k, v))
        return rotate(q, *tables), rotate(k, *tables), v

    def attend(self, q: Array, k: Array, v: Array, visible: Array) -> Array:
        """See `attend_grouped`."""
        return attend_grouped(q, k, v, visible, mode=self.mode)


class Mlp(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        linear = partial(layers.Linear, use_bias=False, kernel_init=INIT, rngs=rngs)
        self.gate = linear(config.width, config.mlp_width)
        self.up = linear(config.width, config.mlp_width)
        self.down = linear(config.mlp_width, config.width)

    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.attn_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config, rngs)
        self.mlp_norm = RMSNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config, rngs)


class Transformer(nnx.Module):
    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        c = config
        self.embedding = nnx.Param(INIT(rngs.params(), (c.vocab_size, c.width)))
        self.blocks = sequence.stack(partial(Block, c), c.layers, rngs)
        self.norm = RMSNorm(c.width, eps=c.norm_eps)
        self.head = (
            None
            if c.tied
            else layers.Linear(c.width, c.vocab_size, use_bias=False, kernel_init=INIT, rngs=rngs)
        )
        self.config = c

    def __call__(
        self,
        embedded: Float[Array, "B L D"],
        positions: Int[Array, "B L"],
        visible: Bool[Array, "B L N"],
        *,
        kept: Kept = None,
        remember: Remember = nothing,
        capture: bool = False,
    ) -> tuple[Float[Array, "B L D"], Kept, Array | None]:
        """All blocks.

        visible: which of the keys that `remember` returns a position sees.

        Returns: the last block's output; what is kept; if `capture`, the outputs [layers, B, L, D].
        """
        tables = rotary_tables(self.config, positions)

        def step(carry: tuple[Array, Kept], layer: tuple[Array, Any]) -> tuple[tuple[Array, Kept], Any]:
            (x, kept), (index, block) = carry, layer
            q, k, v = block.attn.project(block.attn_norm(x), tables)
            kept, keys, values = remember(kept, index, k, v)
            x = x + block.attn.out(block.attn.attend(q, keys, values, visible))
            x = x + block.mlp(block.mlp_norm(x))
            return (x, kept), (x if capture else None)

        # A CPU copies each layer's weights out of the stack. With an array a layer SmolLM2 decodes the same
        # ids in 0.6 of the time, but compiles for 17 s instead of 7 s, and longer the deeper the model.
        numbered = jnp.arange(self.config.layers), self.blocks
        (x, kept), outputs = jax.lax.scan(step, (embedded, kept), numbered)
        return x, kept, outputs

    def logits(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
        """The last block's output [..., D] -> logits [..., V], float32."""
        table = self.embedding[...].T if self.head is None else self.head.kernel[...]
        return jnp.matmul(self.norm(x), table, preferred_element_type=jnp.float32)
