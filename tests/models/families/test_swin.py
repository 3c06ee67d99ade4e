"""Swin's form for TPUs, which no parity test runs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.families.patches import swin
from clipjax.models.modules import windows
from tests.models._modes import bound


@pytest.mark.parametrize("moves", [False, True])
def test_windows_by_place(moves: bool) -> None:
    sizes: Any = {"width": 32, "embed_dim": 32, "depths": (2,), "heads": (2,), "windows": (3,)}
    config = swin.SwinConfig(image_size=24, patch_size=4, activation="gelu", ln_eps=1e-5, **sizes)
    block = nnx.eval_shape(lambda: swin.Block(32, 2, 3, config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def drawn(leaf: Any) -> jax.Array:
        return jax.device_put(0.5 * rng.standard_normal(leaf.shape, np.float32))

    graph, state = nnx.split(block.attn)
    attn = bound(nnx.merge(graph, jax.tree.map(drawn, state)))
    x = rng.standard_normal((2, 9, 6, 32), np.float32)
    shifts = windows.shifts(9, 6, 3) if moves else (0, 0)
    more = jnp.asarray(windows.window_mask((9, 6), 3, shifts)) if moves else None
    by_image = jax.jit(lambda x: windows.joined(attn(windows.partition(x, 3), more), 3, 9, 6))
    by_place = jax.jit(lambda x: windows.joined_runs(attn.runs(windows.runs(x, 3), more), 3, 9, 6))
    np.testing.assert_allclose(by_place(x), by_image(x), rtol=1e-5, atol=1e-5)
