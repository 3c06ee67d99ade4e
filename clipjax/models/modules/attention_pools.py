"""Attention pooling: learned queries that read a transformer's tokens.

Sources: Zhai et al. 2022 (arXiv 2106.04560) section 3.3 and timm 1.0 `attention_pool.AttentionPoolLatent` for
the multihead attention pooling (MAP) of SigLIP; Yu et al. 2022 (arXiv 2205.01917) section 3.2 and open_clip
3.3 `transformer.AttentionalPooler` for CoCa.

Params: query [M,E], attn/{q,k,v,out}/{kernel,bias}; MAP also ln/{scale,bias} and
mlp/{c_fc,c_proj}/{kernel,bias}, CoCa also ln_q/{scale,bias} and ln_k/{scale,bias}.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from clipjax.models.modules import attention, layers
from clipjax.models.modules.initializers import normal, xavier_uniform


class CrossAttention(nnx.Module):
    def __init__(self, dim: int, token_dim: int, heads: int, *, rngs: nnx.Rngs):
        init = xavier_uniform()
        self.q = layers.Linear(dim, dim, kernel_init=init, rngs=rngs)
        self.k = layers.Linear(token_dim, dim, kernel_init=init, rngs=rngs)
        self.v = layers.Linear(token_dim, dim, kernel_init=init, rngs=rngs)
        self.out = layers.Linear(dim, dim, rngs=rngs)
        self.attend = attention.MultiHead(heads)

    def __call__(
        self, queries: Float[Array, "B M D"], tokens: Float[Array, "B N T"]
    ) -> Float[Array, "B M D"]:
        return self.out(self.attend(self.q(queries), self.k(tokens), self.v(tokens)))


class MapPool(nnx.Module):
    """SigLIP's pooling of normalised tokens: one query, then a residual MLP."""

    def __init__(
        self, dim: int, heads: int, mlp_width: int, *, activation: str, ln_eps: float, rngs: nnx.Rngs
    ):
        self.query = nnx.Param(normal(dim**-0.5)(rngs.params(), (1, dim)))
        self.attn = CrossAttention(dim, dim, heads, rngs=rngs)
        self.ln = layers.LayerNorm(dim, eps=ln_eps)
        init = layers.torch_uniform
        self.mlp = layers.Mlp(dim, mlp_width, activation=activation, fc_init=init, proj_init=init, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B N T"]) -> Float[Array, "B D"]:
        read = self.attn(_for_each(tokens, self.query[...]), tokens)[:, 0]
        return read + self.mlp(self.ln(read))


class CocaPool(nnx.Module):
    """The pool of CoCa: its first query's reading of tokens that are not normalised.

    The others serve only the captioner: they are not computed.
    """

    def __init__(self, dim: int, token_dim: int, heads: int, queries: int, *, ln_eps: float, rngs: nnx.Rngs):
        self.query = nnx.Param(normal(1.0)(rngs.params(), (queries, dim)))
        self.ln_q = layers.LayerNorm(dim, eps=ln_eps)
        self.ln_k = layers.LayerNorm(token_dim, eps=ln_eps)
        self.attn = CrossAttention(dim, token_dim, heads, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B N T"]) -> Float[Array, "B D"]:
        query = self.ln_q(self.query[:1])
        return self.attn(_for_each(tokens, query), self.ln_k(tokens))[:, 0]


def _for_each(tokens: Float[Array, "B N T"], query: Float[Array, "M D"]) -> Float[Array, "B M D"]:
    return jnp.broadcast_to(query, (tokens.shape[0], *query.shape))
