"""Convolutions of single pixels or channels have the same gradients in a CPU's training step as XLA's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _long import mostly_long

from clipjax.models.modules.convolutions import conv2d
from clipjax.models.training import Training
from tests.models._modes import mode_of


@pytest.mark.parametrize(
    ("side", "kernel", "stride", "padding"),
    [
        *((6, 1, 1, "none"), (6, 1, 2, "none"), (7, 1, 2, "none"), (7, 1, 3, "none")),
        *((8, 4, 4, "none"), (9, 4, 4, "none")),
        *((6, 7, 1, "depthwise symmetric"), (7, 2, 1, "depthwise tf_same"), (5, 3, 1, "depthwise none")),
    ],
)
@pytest.mark.parametrize("dtype", mostly_long([jnp.float32, jnp.bfloat16], keep=[jnp.float32]))
def test_gradients_are_xlas_and_the_forward_pass_is_the_same(
    side: int, kernel: int, stride: int, padding: Any, dtype: Any
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, side, side, 5)).astype(dtype)
    *depthwise, padding = padding.split()
    weight = rng.normal(size=(kernel, kernel, *((1, 5) if depthwise else (5, 4)))).astype(dtype)

    def forward(platform: str | None) -> Any:
        return partial(conv2d, stride=stride, padding=padding, mode=mode_of(Training(), platform))

    def run(platform: str | None, dtype: Any) -> Any:
        def both(upper: jax.Array, *operands: jax.Array) -> Any:
            y, back = jax.vjp(jax.jit(forward(platform)), *operands)
            return y, back(upper)

        shape = jax.eval_shape(forward(platform), x, weight).shape
        upper = np.random.default_rng(1).normal(size=shape).astype(x.dtype)
        return jax.jit(both)(*(each.astype(dtype) for each in (upper, x, weight)))

    own = ["custom_vjp" in str(jax.make_jaxpr(forward(name))(x, weight)) for name in ("cpu", None)]
    assert own == [True, False]
    (y, gradients), plain = run("cpu", dtype), run(None, dtype)
    np.testing.assert_array_equal(y, plain[0])
    # jaxlib 0.12's gradients in bfloat16 are less exact than ours.
    _, expected = plain if dtype == jnp.float32 else run(None, jnp.float32)
    for ours, theirs, array in zip(gradients, expected, (x, weight), strict=True):
        assert (ours.shape, ours.dtype) == (array.shape, dtype)
        ours, theirs = (np.asarray(value, np.float32) for value in (ours, theirs))
        tolerance = 1e-6 if dtype == jnp.float32 else 4e-3
        np.testing.assert_allclose(ours, theirs, atol=tolerance * float(np.abs(theirs).max()))
