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
    block = swin.Block(32, 2, 3, config, rngs=nnx.Rngs(0))
    attn = bound(block.attn)
    for i, param in enumerate((attn.table, *(x.kernel for x in (attn.q, attn.k, attn.v, attn.out)))):
        param[...] = 0.5 * jax.random.normal(jax.random.key(i), param.shape)
    x = jax.random.normal(jax.random.key(99), (2, 9, 6, 32))
    shifts = windows.shifts(9, 6, 3) if moves else (0, 0)
    more = jnp.asarray(windows.window_mask((9, 6), 3, shifts)) if moves else None
    by_image = windows.joined(attn(windows.partition(x, 3), more), 3, 9, 6)
    by_place = windows.joined_runs(attn.runs(windows.runs(x, 3), more), 3, 9, 6)
    np.testing.assert_allclose(by_place, by_image, rtol=1e-5, atol=1e-5)
