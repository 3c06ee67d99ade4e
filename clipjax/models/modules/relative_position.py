"""Attention with a learned bias for the distance of two patches.

Sources: Liu et al. 2021 (arXiv 2103.14030) section 3.2; timm 1.0
`swin_transformer.get_relative_position_index` and `beit.gen_relative_position_index`.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import Initializer
from jaxtyping import Float, Int32

from clipjax.models.modules import attention, layers
from clipjax.models.modules.binding import Layer
from clipjax.models.modules.forms import in_form

_LANES = 128  # channels of a TPU's tile


def relative_index(height: int, width: int, *, class_token: bool) -> Int32[np.ndarray, "N N"]:
    """The row of a bias table for each (query, key) of a window of height x width patches, row-major.

    Patches `dy` rows and `dx` columns apart (query minus key) have row
    (dy + height - 1) * (2 width - 1) + dx + width - 1. For a 1 x 2 window: [[1, 0], [2, 1]].
    A class token comes first and adds three last rows: class to patch, patch to class, class to class.
    """
    y, x = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
    dy, dx = (place[:, None] - place for place in (y, x))
    index = (dy + height - 1) * (2 * width - 1) + dx + width - 1
    if class_token:
        rows = (2 * height - 1) * (2 * width - 1)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0], index[:, 0], index[0, 0] = rows, rows + 1, rows + 2
    return index.astype(np.int32)


def relative_bias(
    table: Float[Array, "R heads"], index: Int32[np.ndarray, "N N"]
) -> Float[Array, "1 heads N N"]:
    """A table's biases for each pair of tokens, as `attention.attend_heads` takes them."""
    return jnp.moveaxis(table[index], -1, 0)[None]


def picked_bias(
    table: Float[Array, "R heads"], height: int, width: int, *, class_token: bool
) -> Float[Array, "1 heads N N"]:
    """`relative_bias` by products with zeros and ones: a TPU reads single rows slowly."""
    down, across = (_ones_at_distances(side, table.dtype) for side in (height, width))
    last = (2 * height - 1) * (2 * width - 1)
    grid = table[:last].reshape(2 * height - 1, 2 * width - 1, -1)
    bias = jnp.einsum("yar,xbs,rsh->hyxab", down, across, grid)
    bias = bias.reshape(-1, height * width, height * width)
    if class_token:
        to_patch, to_class, own = table[last:, :, None, None]
        to_class = jnp.broadcast_to(to_class, (*bias.shape[:2], 1))
        from_class = jnp.broadcast_to(to_patch, (len(bias), 1, bias.shape[2]))
        first = jnp.concatenate([own, from_class], axis=2)
        bias = jnp.concatenate([first, jnp.concatenate([to_class, bias], axis=2)], axis=1)
    return bias[None]


def _ones_at_distances(side: int, dtype: jnp.dtype) -> Float[Array, "side side _"]:
    """1 where the distance of a query and a key is the last index's: 1 - side to side - 1."""
    place = jnp.arange(side)
    distance = place[:, None] - place + side - 1
    return (distance[..., None] == jnp.arange(2 * side - 1)).astype(dtype)


class RelativeAttention(Layer):
    """Self-attention within a window of height x width patches.

    Params: {q,k,v,out}/{kernel,bias}, no k/bias without `key_bias`, and table [R, heads].
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window: tuple[int, int],
        class_token: bool,
        key_bias: bool,
        init: Initializer,
        rngs: nnx.Rngs,
    ):
        self.q = layers.Linear(dim, dim, kernel_init=init, rngs=rngs)
        self.k = layers.Linear(dim, dim, kernel_init=init, use_bias=key_bias, rngs=rngs)
        self.v = layers.Linear(dim, dim, kernel_init=init, rngs=rngs)
        self.out = layers.Linear(dim, dim, kernel_init=init, rngs=rngs)
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) + (3 if class_token else 0)
        self.table = nnx.Param(init(rngs.params(), (rows, heads), jnp.float32))
        self.attend = attention.MultiHead(heads)
        self.window = window
        self.class_token = class_token

    def __call__(
        self, x: Float[Array, "B N D"], more: Float[Array, "P 1 N N"] | None = None
    ) -> Float[Array, "B N D"]:
        """more: added to the bias; row b of the batch gets `more[b % P]`."""
        q, k, v = (self.attend.split(linear(x)) for linear in (self.q, self.k, self.v))
        return self.out(self.attend.of_heads(q, k, v, bias=self.bias(more)))

    def runs(
        self, x: Float[Array, "P B N D"], more: Float[Array, "P 1 N N"] | None = None
    ) -> Float[Array, "P B N D"]:
        """Like a call in which run p of B rows gets `more[p]`, in a TPU's form (`attend_in_slabs`)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.out(attend_in_slabs(q, k, v, self.bias(more)))

    def bias(self, more: Array | None) -> Float[Array, "P heads N N"]:
        kind = {"class_token": self.class_token}
        index = relative_index(*self.window, **kind)
        ways = {
            "products": lambda table: picked_bias(table, *self.window, **kind),
            "rows": lambda table: relative_bias(table, index),
        }
        bias = in_form("distance_bias", ways, self.table[...], mode=self.mode)
        return bias if more is None else bias.astype(more.dtype) + more


def attend_in_slabs(
    q: Float[Array, "P B N D"],
    k: Float[Array, "P B N D"],
    v: Float[Array, "P B N D"],
    bias: Float[Array, "_ heads N N"],
) -> Float[Array, "P B N D"]:
    """Multi-head attention for a TPU; bias: for each of the P runs, or one for all.

    A slab has the heads that share a tile's channels. A head is its slab with zeros in the channels of the
    others: multiplying zeros costs less than moving narrow heads to tiles of their own and back.
    """
    heads, width = bias.shape[1], q.shape[-1] // bias.shape[1]
    divisors = [n for n in range(1, heads + 1) if heads % n == 0]
    together = max(n for n in divisors if n == 1 or n * width <= _LANES)
    outputs = []
    for start in range(0, heads, together):
        queries, keys, values = (x[..., start * width : (start + together) * width] for x in (q, k, v))
        mixed: Any = 0.0
        for i in range(together):
            # 1 in the head's channels: of four heads of 32, 0 to 31, 32 to 63, 64 to 95 or 96 to 127.
            own = (jnp.arange(together * width) // width == i).astype(q.dtype)
            scores = jnp.matmul(
                queries * (own * width**-0.5), keys.swapaxes(-1, -2), preferred_element_type=jnp.float32
            )
            weights = attention.exponentials(scores + bias[:, start + i, None].astype(jnp.float32))
            weights = (weights / weights.sum(axis=-1, keepdims=True)).astype(v.dtype)
            mixed += jnp.matmul(weights, values * own, preferred_element_type=jnp.float32)
        outputs.append(mixed.astype(v.dtype))
    return jnp.concatenate(outputs, axis=-1)
