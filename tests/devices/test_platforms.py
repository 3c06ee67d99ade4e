"""Choices by platform: at compile time, unless the platform is given."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipjax.devices.platforms import by_platform


def scaled(x: Array, platform: str | None = None) -> Array:
    return by_platform(x, platform=platform, cpu=lambda x: 2 * x, default=lambda x: 3 * x)


def test_the_platform_compiled_for_chooses() -> None:
    x = jnp.ones(2)
    np.testing.assert_array_equal(jax.jit(scaled)(x), 2 * np.ones(2))
    assert "platform_index" in str(jax.make_jaxpr(scaled)(x)), "nothing is decided yet"
    other = jax.jit(scaled).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "3.0" in other
    assert "2.0" not in other


def test_a_platform_that_is_given_leaves_no_branch() -> None:
    for platform, factor in (("cpu", "2.0"), ("tpu", "3.0")):
        program = str(jax.make_jaxpr(partial(scaled, platform=platform))(jnp.ones(2)))
        assert "platform_index" not in program
        assert factor in program
