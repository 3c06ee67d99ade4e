"""Attention with a learned bias for the distance of two patches.

Sources: Liu et al. 2021 (arXiv 2103.14030) section 3.2; timm 1.0
`swin_transformer.get_relative_position_index` and `beit.gen_relative_position_index`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import Initializer
from jaxtyping import Float, Int32

from clipjax.models.modules import layers
from clipjax.models.training import Mode


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
    """The `bias` of `layers.attend_heads`."""
    return jnp.moveaxis(table[index], -1, 0)[None]


class RelativeAttention(nnx.Module):
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
        self.heads = heads
        self.window = window
        self.class_token = class_token

    def __call__(
        self, x: Float[Array, "B N D"], more: Float[Array, "P 1 N N"] | None = None, *, mode: Mode
    ) -> Float[Array, "B N D"]:
        """more: added to the bias; row b of the batch gets `more[b % P]`."""
        bias = relative_bias(self.table[...], relative_index(*self.window, class_token=self.class_token))
        bias = bias if more is None else bias.astype(more.dtype) + more
        q, k, v = (layers.split_heads(linear(x), self.heads) for linear in (self.q, self.k, self.v))
        return self.out(layers.attend_heads(q, k, v, mode=mode, bias=bias))
