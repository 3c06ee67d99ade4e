"""Convolutions of single pixels have the same gradients in a CPU's training step as XLA's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.models.modules.convolutions import conv2d
from clipjax.models.training import Mode


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(6, 1, 1), (6, 1, 2), (7, 1, 2), (7, 1, 3), (8, 4, 4), (9, 4, 4)]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_xlas_and_the_forward_pass_is_the_same(
    side: int, kernel: int, stride: int, dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, side, side, 5)), dtype)
    weight = jnp.asarray(rng.normal(size=(kernel, kernel, 5, 4)), dtype)

    def forward(platform: str | None) -> Any:
        return partial(conv2d, stride=stride, padding="none", mode=Mode(None, platform))

    def run(platform: str | None) -> Any:
        y, back = jax.vjp(jax.jit(forward(platform)), x, weight)
        return y, back(jnp.asarray(np.random.default_rng(1).normal(size=y.shape), dtype))

    own = ["custom_vjp" in str(jax.make_jaxpr(forward(name))(x, weight)) for name in ("cpu", None)]
    assert own == [True, False]
    (y, gradients), (expected_y, expected) = run("cpu"), run(None)
    np.testing.assert_array_equal(y, expected_y)
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        ours, theirs = (np.asarray(value, np.float32) for value in (ours, theirs))
        tolerance = 1e-6 if dtype == jnp.float32 else 2e-2
        np.testing.assert_allclose(ours, theirs, atol=tolerance * float(np.abs(theirs).max()))
