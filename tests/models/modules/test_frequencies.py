"""The form of depthwise convolutions for a TPU against the general one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.modules import convolutions
from clipjax.models.modules.convolutions import Padding
from clipjax.models.modules.frequencies import by_frequencies
from clipjax.models.training import Mode, Training
from tests.models._modes import INFERENCE, bound, mode_of

TPU = mode_of(None, "tpu")


def error(ours: Any, exact: Any) -> float:
    """As a share of the exact map's deviation from its mean."""
    deviation = exact - exact.mean((1, 2), keepdims=True)
    return float(np.linalg.norm(np.float64(ours) - exact) / np.linalg.norm(deviation))


@pytest.mark.parametrize(("height", "width", "size"), [(16, 16, 7), (8, 8, 7), (7, 12, 5), (9, 4, 3)])
@pytest.mark.parametrize("mean", [0, 3])
def test_the_error_is_that_of_a_few_roundings(height: int, width: int, size: int, mean: float) -> None:
    """2^-8 is bfloat16's largest error: here one rounding's share of the deviation is 0.0017 to 0.0042."""
    random = np.random.default_rng(0)
    x = (random.standard_normal((2, height, width, 24)) + mean).astype(jnp.bfloat16)
    kernel = (random.standard_normal((size, size, 1, 24)) / size).astype(jnp.bfloat16)
    conv = partial(convolutions.conv2d, stride=1, padding="symmetric", mode=mode_of(None, "tpu"))
    general = np.asarray(jax.jit(conv)(x.astype(np.float32), kernel.astype(np.float32)))
    exact = np.float64(general)
    once = error(general.astype(jnp.bfloat16), exact)
    assert once < error(jax.jit(by_frequencies)(x, kernel), exact) < 3 * once


@pytest.mark.parametrize(
    ("side", "size", "dtype", "mode", "taken"),
    [
        (16, 7, jnp.bfloat16, TPU, True),
        (36, 7, jnp.bfloat16, TPU, True),
        (37, 7, jnp.bfloat16, TPU, False),  # more to multiply than for the general form
        (16, 8, jnp.bfloat16, TPU, False),
        (16, 5, jnp.bfloat16, TPU, False),
        (16, 7, jnp.float32, TPU, False),
        (16, 7, jnp.bfloat16, INFERENCE, False),
        (16, 7, jnp.bfloat16, mode_of(Training(remat=False), "tpu"), False),
    ],
)
def test_where_it_is_taken(side: int, size: int, dtype: Any, mode: Mode, taken: bool) -> None:
    x, kernel = (jax.device_put(np.ones(shape, dtype)) for shape in ((1, side, side, 2), (size, size, 1, 2)))
    conv = convolutions.Conv(2, 2, kernel=size, groups=2, rngs=nnx.Rngs(0))
    assert bound(conv, mode).by_frequencies(x) == taken
    ways: list[tuple[int, Padding]] = [(1, "symmetric"), (2, "symmetric"), (1, "none")]
    for stride, padding in ways:
        layer = partial(convolutions.conv2d, stride=stride, padding=padding, mode=mode)
        by_products = "dot_general" in str(jax.make_jaxpr(layer)(x, kernel))
        assert by_products == (taken and (stride, padding) == (1, "symmetric"))


def test_an_outliers_error_is_spread_over_its_map() -> None:
    """Beside a pixel 100 times as large it is 3 % of the other numbers; the whole map's stays small."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 16, 16, 24)).astype(jnp.bfloat16)
    x[0, 3, 3] = 100
    kernel = (random.standard_normal((7, 7, 1, 24)) / 7).astype(jnp.bfloat16)
    conv = partial(convolutions.conv2d, stride=1, padding="symmetric", mode=TPU)
    exact = np.asarray(jax.jit(conv)(x.astype(np.float32), kernel.astype(np.float32)))
    ours = np.asarray(jax.jit(by_frequencies)(x, kernel), np.float32)
    assert error(ours, exact) < 0.02
    far = np.s_[:, 8:, 8:]
    assert 0.005 < np.linalg.norm(ours[far] - exact[far]) / np.linalg.norm(exact[far]) < 0.05
