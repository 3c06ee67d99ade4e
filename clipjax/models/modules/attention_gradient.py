"""Attention for training on a TPU: its result and the softmax's sums are kept for the backward pass.

Elementwise work on a product's operands and result is nearly free on a TPU, but a pass of its own over the
scores [B, heads, M, N] costs as much as a product. With the sums kept, the backward pass gets the softmax's
weights and their gradients as results of products. The gradients: Dao et al. 2022 (arXiv 2205.14135),
appendix B.2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from clipjax.models.training import Mode

KEPT = "kept"  # names what a block keeps for its backward pass on a TPU


def trains_on_tpu(x: Array, mode: Mode) -> bool:
    """Whether layers take their forms for training in bfloat16 on a TPU."""
    return mode.training is not None and mode.platform == "tpu" and x.dtype == jnp.bfloat16


@jax.custom_vjp
def attended(q: Array, k: Array, v: Array, visible: Array | None) -> Array:
    """`clipjax.models.modules.layers.mix` without a bias, with its own gradient.

    q, k, v: [B, heads, M or N, d].
    """
    return _forward(q, k, v, visible)[0]


def _forward(q: Array, k: Array, v: Array, visible: Array | None) -> tuple[Array, Any]:
    scores = _scores(q, k, visible)
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    mixed = _product((weights / total).astype(v.dtype), v).astype(v.dtype)
    mixed, logarithm = (checkpoint_name(x, KEPT) for x in (mixed, highest + jnp.log(total)))
    return mixed, (q, k, v, visible, mixed, logarithm)


def _backward(kept: Any, gradient: Array) -> tuple[Array, Array, Array, None]:
    """For weights w = softmax(s), mixed = w v: dw = dmixed v^T and ds = w * (dw - sum(dmixed * mixed))."""
    q, k, v, visible, mixed, logarithm = kept
    weights = jnp.exp(_scores(q, k, visible) - logarithm).astype(v.dtype)
    shared = (gradient.astype(jnp.float32) * mixed.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    of_scores = weights.astype(jnp.float32) * (_product(gradient, v.swapaxes(-1, -2)) - shared)
    of_scores = (of_scores * q.shape[-1] ** -0.5).astype(v.dtype)
    of_values = _product(weights.swapaxes(-1, -2), gradient).astype(v.dtype)
    of_queries = _product(of_scores, k).astype(q.dtype)
    return of_queries, _product(of_scores.swapaxes(-1, -2), q).astype(k.dtype), of_values, None


attended.defvjp(_forward, _backward)


def _scores(q: Array, k: Array, visible: Array | None) -> Array:
    scores = _product(q * q.shape[-1] ** -0.5, k.swapaxes(-1, -2))
    return scores if visible is None else jnp.where(visible, scores, -jnp.inf)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)
