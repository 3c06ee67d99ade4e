"""Attention biases that depend on how far two patches are apart.

Sources: Liu et al. 2021 (arXiv 2103.14030) section 3.2; timm 1.0
`swin_transformer.get_relative_position_index` and `beit.gen_relative_position_index`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int32


def relative_index(height: int, width: int, *, class_token: bool) -> Int32[np.ndarray, "N N"]:
    """The row of a bias table for each (query, key) of a window of height x width patches, row-major.

    Patches `dy` rows and `dx` columns apart (query minus key) have row
    (dy + height - 1) * (2 width - 1) + dx + width - 1. With a class token, which comes first, there are three
    more rows: its own query of a patch, a patch's query of it, and its query of itself.
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
    """The bias of `layers.attend_heads` from a table and `relative_index`."""
    return jnp.moveaxis(table[index], -1, 0)[None]
