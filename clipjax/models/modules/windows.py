"""Attention within the windows of a map, which may be moved.

Source: Liu et al. 2021 (arXiv 2103.14030) section 3.2; timm 1.0 `swin_transformer.SwinTransformerBlock`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from clipjax.models.modules.forms import in_form
from clipjax.models.modules.relative_position import RelativeAttention

APART = -100.0  # added to scores between tokens from opposite ends of the map, which share a moved window


def shifts(height: int, width: int, window: int) -> tuple[int, int]:
    """The windows' shift along each axis of a map, in tokens; 0 along an axis with one window."""
    return window // 2 if height > window else 0, window // 2 if width > window else 0


def partition(x: Float[Array, "B H W C"], window: int) -> Float[Array, "windows N C"]:
    """N = window * window tokens a window, row by row, image after image."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.swapaxes(2, 3).reshape(-1, window * window, channels)


def joined(x: Float[Array, "windows N C"], window: int, height: int, width: int) -> Float[Array, "B H W C"]:
    """The inverse of `partition`."""
    x = x.reshape(-1, height // window, width // window, window, window, x.shape[-1])
    return x.swapaxes(2, 3).reshape(-1, height, width, x.shape[-1])


def runs(x: Float[Array, "B H W C"], window: int) -> Float[Array, "P B N C"]:
    """`partition` in another order: the windows at one place of all images are a run.

    A TPU moves whole images so, and no tile is cut.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels)
    return x.transpose(1, 3, 0, 2, 4, 5).reshape(-1, batch, window * window, channels)


def joined_runs(x: Float[Array, "P B N C"], window: int, height: int, width: int) -> Float[Array, "B H W C"]:
    """The inverse of `runs`."""
    batch, channels = x.shape[1], x.shape[3]
    x = x.reshape(height // window, width // window, batch, window, window, channels)
    return x.transpose(2, 0, 3, 1, 4, 5).reshape(batch, height, width, channels)


def window_mask(sides: tuple[int, int], window: int, shifts: tuple[int, int]) -> Float[np.ndarray, "P 1 N N"]:
    """Added to the scores in moved windows: 0, or `APART` where the map's two ends meet."""
    # Only tokens of one region see each other. Regions along an axis for side 4, window 2, shift 1, whose
    # rows 0 1 2 3 were rolled to 1 2 3 0: windows [0 0] [1 2].
    down, across = (
        (place >= side - window).astype(int) + (place >= side - shift)
        for side, shift in zip(sides, shifts, strict=True)
        for place in [np.arange(side).reshape(-1, window)]
    )
    region = 3 * down[:, None, :, None] + across[None, :, None, :]
    region = region.reshape(-1, 1, window * window)
    return np.where(region[..., :, None] == region[..., None, :], 0.0, APART).astype(np.float32)


class WindowAttention(RelativeAttention):
    """Self-attention of a map's tokens within square windows; params: those of `RelativeAttention`."""

    def of_map(self, x: Float[Array, "B H W C"], *, moves: bool) -> Float[Array, "B H W C"]:
        """moves: move the windows by half a side."""
        height, width, window = *x.shape[1:3], self.window[0]
        down, across = shifts(height, width, window) if moves else (0, 0)
        moved = bool(down or across)
        more = jnp.asarray(window_mask((height, width), window, (down, across))) if moved else None
        ways = {
            "by_image": lambda x: joined(self(partition(x, window), more), window, height, width),
            "by_place": lambda x: joined_runs(self.runs(runs(x, window), more), window, height, width),
        }
        x = jnp.roll(x, (-down, -across), axis=(1, 2)) if moved else x
        x = in_form("windows", ways, x, mode=self.mode)
        return jnp.roll(x, (down, across), axis=(1, 2)) if moved else x
