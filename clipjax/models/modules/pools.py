"""Pools of maps [B, H, W, C]."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from clipjax.models.modules.binding import Layer
from clipjax.models.modules.convolutions import Padding, outlined, pads
from clipjax.models.modules.forms import in_form
from clipjax.models.training import Mode


def average_pool(x: Float[Array, "B H W C"], window: int, *, mode: Mode) -> Float[Array, "B h w C"]:
    """Mean over non-overlapping windows: h is H // window, w is W // window.

    In bfloat16 on a TPU: `window_means`. The other form took 40 % of RN50's time there.
    """
    batch, height, width, channels = x.shape
    rows, cols = height // window, width // window
    x = x[:, : rows * window, : cols * window]

    def reduced(x: Array) -> Array:
        return x.reshape(batch, rows, window, cols, window, channels).mean(axis=(2, 4))

    ways = {"windows": partial(window_means, window=window), "reshaped": reduced}
    return in_form("average_pool", ways, x, mode=mode)


def window_means(x: Float[Array, "B H W C"], window: int) -> Float[Array, "B h w C"]:
    """Like `average_pool`, but one reduction over windows; the sum is float32."""
    size = (1, window, window, 1)
    total = jax.lax.reduce_window(x.astype(jnp.float32), 0.0, jax.lax.add, size, size, "VALID")
    return (total / window**2).astype(x.dtype)


def max_pool(
    x: Float[Array, "B H W C"], *, window: int, stride: int, padding: Padding, outside: float, mode: Mode
) -> Float[Array, "B h w C"]:
    """Maximum over windows; `outside` fills the padding: -inf never wins (PyTorch's rule), 0 may.

    On a CPU XLA's derivative is slow, so it is written out. There pixels that tie for the maximum share the
    gradient; elsewhere the first gets it.
    """
    sides = [pads(size, window, stride, padding) for size in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *sides, (0, 0)), constant_values=outside)

    def plain(x: Array) -> Array:
        size, strides = (1, window, window, 1), (1, stride, stride, 1)
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, size, strides, "VALID")

    def shifted(x: Array) -> Array:
        rows, cols = ((x.shape[axis] - window) // stride * stride + 1 for axis in (1, 2))
        terms = [
            x[:, i : i + rows : stride, j : j + cols : stride] for i in range(window) for j in range(window)
        ]
        return functools.reduce(jnp.maximum, terms)

    return in_form("max_pool", {"shifted": outlined(shifted), "windows": plain}, x, mode=mode)


class AveragePool(Layer):
    """`average_pool` over windows of `window` x `window`."""

    def __init__(self, window: int):
        self.window = window

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        return average_pool(x, self.window, mode=self.mode)


class MaxPool(Layer):
    """`max_pool` with these options."""

    def __init__(self, *, window: int, stride: int, padding: Padding, outside: float):
        self.window, self.stride, self.outside = window, stride, outside
        self.padding: Padding = padding

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        options: Any = {"window": self.window, "stride": self.stride, "padding": self.padding}
        return max_pool(x, **options, outside=self.outside, mode=self.mode)
