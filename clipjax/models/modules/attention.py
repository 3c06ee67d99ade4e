"""Multi-head attention without its projections, and how a query's scores become weights.

On a CPU the scores of a few heads at a time stay in the cache. On a TPU elementwise work on a product's
operands and result is nearly free, but a pass of its own over the scores [B, heads, M, N] costs as much as a
product. So in bfloat16 the scores are divided, not the result. Training keeps the result and the softmax's
sums: the backward pass then gets the weights and their gradients as results of products. The gradients:
Dao et al. 2022 (arXiv 2205.14135), appendix B.2. On a GPU cuDNN's kernel writes no scores at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Bool, Float

from clipjax.devices import platforms
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.forms import in_form, is_possible
from clipjax.models.training import Mode

KEPT = "kept"  # names what a block keeps for its backward pass on a TPU

_LONG = 2**17  # scores of a head: half a million bytes; a core's cache holds a few heads
_CHUNK_HEADS = 4

# True where a query sees a key.
Visible = Bool[Array, "..."]


class MultiHead(Layer):
    """Multi-head attention of queries, keys and values, without their projections."""

    def __init__(self, heads: int):
        self.heads = heads

    def __call__(
        self,
        q: Float[Array, "B M D"],
        k: Float[Array, "B N D"],
        v: Float[Array, "B N D"],
        visible: Visible | None = None,
    ) -> Float[Array, "B M D"]:
        """See `attend`."""
        return attend(q, k, v, visible, heads=self.heads, mode=self.mode)

    def split(self, x: Float[Array, "B N D"]) -> Float[Array, "B heads N d"]:
        return split_heads(x, self.heads)

    def of_heads(
        self,
        q: Float[Array, "B heads M d"],
        k: Float[Array, "B heads N d"],
        v: Float[Array, "B heads N d"],
        *,
        bias: Float[Array, "P heads M N"] | None = None,
    ) -> Float[Array, "B M heads*d"]:
        """Attention of queries, keys and values that `split` returned; see `attend_heads`."""
        return attend_heads(q, k, v, mode=self.mode, bias=bias)


def attend(
    q: Float[Array, "B M D"],
    k: Float[Array, "B N D"],
    v: Float[Array, "B N D"],
    visible: Visible | None = None,
    *,
    heads: int,
    mode: Mode,
) -> Float[Array, "B M D"]:
    """Multi-head attention without the projections.

    visible: which keys a query sees, broadcast to [B, heads, M, N]; None: all.
    """
    q, k, v = (split_heads(x, heads) for x in (q, k, v))
    return attend_heads(q, k, v, visible, mode=mode)


def split_heads(x: Float[Array, "B N D"], heads: int) -> Float[Array, "B {heads} N d"]:
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x: Float[Array, "B heads N d"]) -> Float[Array, "B N heads*d"]:
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attend_heads(
    q: Float[Array, "B heads M d"],
    k: Float[Array, "B heads N d"],
    v: Float[Array, "B heads N d"],
    visible: Visible | None = None,
    *,
    mode: Mode,
    bias: Float[Array, "P heads M N"] | None = None,
) -> Float[Array, "B M heads*d"]:
    """`attend` after `split_heads`; `bias` is added to the scaled scores.

    Row b of the batch gets bias[b % P], and P divides B: with P windows per image each has its own. On a CPU
    long sequences without mask and bias run a few heads at a time: their scores stay in its cache.
    """

    def chunked(q: Array, k: Array, v: Array) -> Array:
        flat = [x.reshape(-1, *x.shape[2:]) for x in (q, k, v)]
        mixed = jax.lax.map(lambda head: mix(*head), tuple(flat), batch_size=_CHUNK_HEADS)
        return mixed.reshape(q.shape)

    ways: dict[str, Callable[..., Array]] = {
        "divided_scores": partial(mix_divided, visible=visible, bias=bias),
        "divided_result": partial(mix, visible=visible, bias=bias),
    }
    if bias is None:
        ways["recomputed"] = lambda q, k, v: attended(q, k, v, visible)
        # Prompts are learned through masked texts in passes that are not in training.
        gradients = mode.training is not None or visible is not None
        if is_possible("attention", "fused", mode, q.dtype) and can_fuse(q, k, v, visible, gradients):
            ways["fused"] = partial(fused, visible=visible, gradients=gradients)
    if visible is None and bias is None and q.shape[2] * k.shape[2] >= _LONG:
        ways["few_heads"] = chunked
    return merge_heads(in_form("attention", ways, q, k, v, mode=mode))


def mix(q: Array, k: Array, v: Array, visible: Array | None = None, bias: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(d) + bias) v over the last two axes; the softmax in float32.

    Dividing the result [M, D] by the softmax's sum, not the scores [M, N], saves a pass over the scores.
    """
    weights = exponentials(scaled_scores(q, k, visible, bias))
    mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (mixed / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)


def mix_divided(
    q: Array, k: Array, v: Array, visible: Array | None = None, bias: Array | None = None
) -> Array:
    """Like `mix`, but the scores are divided: a TPU does it as it reads them for the product with `v`.

    Dividing last costs a TPU two passes more: one for the sums, one that turns them to the result's layout.
    """
    weights = exponentials(scaled_scores(q, k, visible, bias))
    weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)
    return jnp.matmul(weights, v, preferred_element_type=jnp.float32).astype(v.dtype)


def scaled_scores(q: Array, k: Array, visible: Array | None = None, bias: Array | None = None) -> Array:
    """q k^T / sqrt(d) + bias in float32; -inf where a query does not see the key."""
    scores = jnp.matmul(q * q.shape[-1] ** -0.5, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)
    if bias is not None:  # row b gets bias b % P: the batch as [B / P, P]
        scores = (scores.reshape(-1, *bias.shape) + bias.astype(jnp.float32)).reshape(scores.shape)
    if visible is not None:
        scores = jnp.where(visible, scores, -jnp.inf)
    return scores


def exponentials(scores: Array) -> Array:
    """exp(scores), each row divided by its largest so that none overflows; that needs no gradient."""
    return jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))


def causal(length: int) -> Bool[Array, "{length} {length}"]:
    """The mask with which a token sees itself and earlier ones."""
    return jnp.tri(length, dtype=bool)


# ------------------------------------------------------------------------------------------ on a GPU

LEAST_CAPABILITY = (8, 0)  # of an A100: cuDNN's kernel needs its tensor cores


def can_fuse(q: Array, k: Array, v: Array, visible: Visible | None, gradients: bool) -> bool:
    """Whether `fused` takes these on this process's GPU: its generation, cuDNN's version, the heads' size.

    A single query has a row of scores per head: nothing to save.
    """
    if q.shape[2] == 1 or platforms.gpu_capability() < LEAST_CAPABILITY:
        return False

    def run(q: Array, k: Array, v: Array) -> Array:
        return fused(q, k, v, visible, gradients=gradients).astype(jnp.float32).sum()

    try:  # JAX asks the GPU and cuDNN while it traces
        jax.eval_shape(jax.grad(run) if gradients else run, q, k, v)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def fused(q: Array, k: Array, v: Array, visible: Visible | None, *, gradients: bool) -> Array:
    """`mix` without a bias in cuDNN's kernel, which keeps the scores of a tile on the chip.

    gradients: whether it can be differentiated.
    """
    batch, tokens, options = len(q), q.shape[2], {}
    if visible is not None:  # cuDNN wants both axes of tokens whole
        shape = (1,) * (4 - visible.ndim) + visible.shape
        visible = jnp.broadcast_to(visible, (*shape[:2], tokens, k.shape[2]))
    if gradients and (tokens % 2 or k.shape[2] % 2):  # JAX 0.10 refuses gradients of an odd number
        for name, x in (("query", q), ("key_value", k)):
            options[f"{name}_seq_lengths"] = jnp.full(batch, x.shape[2], jnp.int32)
        q, k, v = (_even(x, axes=(2,)) for x in (q, k, v))
        visible = None if visible is None else _even(visible, axes=(2, 3))
    by_token = (x.swapaxes(1, 2) for x in (q, k, v))
    mixed = jax.nn.dot_product_attention(*by_token, mask=visible, implementation="cudnn", **options)
    return mixed[:, :tokens].swapaxes(1, 2)


def _even(x: Array, axes: tuple[int, ...]) -> Array:
    """A zero more at the end of each of `axes` whose length is odd."""
    return jnp.pad(x, [(0, n % 2 if axis in axes else 0) for axis, n in enumerate(x.shape)])


# ------------------------------------------------------------------------------- training on a TPU


@jax.custom_vjp
def attended(q: Array, k: Array, v: Array, visible: Array | None) -> Array:
    """`mix` without a bias, with its own gradient.

    q: queries [B, heads, M, d].
    k: keys [B, heads, N, d].
    v: values [B, heads, N, d].
    """
    return _forward(q, k, v, visible)[0]


def _forward(q: Array, k: Array, v: Array, visible: Array | None) -> tuple[Array, Any]:
    scores = scaled_scores(q, k, visible)
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    mixed = _product((weights / total).astype(v.dtype), v).astype(v.dtype)
    mixed, logarithm = (checkpoint_name(x, KEPT) for x in (mixed, highest + jnp.log(total)))
    return mixed, (q, k, v, visible, mixed, logarithm)


def _backward(kept: Any, gradient: Array) -> tuple[Array, Array, Array, None]:
    """Gradients: with w = softmax(s), mixed = w v: dw = dmixed v^T, ds = w * (dw - sum(dmixed * mixed))."""
    q, k, v, visible, mixed, logarithm = kept
    weights = jnp.exp(scaled_scores(q, k, visible) - logarithm).astype(v.dtype)
    shared = (gradient.astype(jnp.float32) * mixed.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    of_scores = weights.astype(jnp.float32) * (_product(gradient, v.swapaxes(-1, -2)) - shared)
    of_scores = (of_scores * q.shape[-1] ** -0.5).astype(v.dtype)
    of_values = _product(weights.swapaxes(-1, -2), gradient).astype(v.dtype)
    of_queries = _product(of_scores, k).astype(q.dtype)
    return of_queries, _product(of_scores.swapaxes(-1, -2), q).astype(k.dtype), of_values, None


attended.defvjp(_forward, _backward)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)
