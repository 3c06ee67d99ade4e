"""Choices by platform: at compile time, unless it is known while tracing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipjax.devices.platforms import by_platform, tracing_for


def double(x: Array) -> Array:
    return by_platform(x, cpu=lambda x: 2 * x, default=lambda x: 3 * x)


def test_the_platform_compiled_for_chooses() -> None:
    x = jnp.ones(2)
    np.testing.assert_array_equal(jax.jit(double)(x), 2 * np.ones(2))
    assert "platform_index" in str(jax.make_jaxpr(double)(x)), "nothing is decided yet"
    other = jax.jit(double).trace(x).lower(lowering_platforms=("tpu",)).as_text()
    assert "3.0" in other
    assert "2.0" not in other


def test_a_platform_that_is_known_leaves_no_branch() -> None:
    x = jnp.ones(2)
    for platform, factor in (("cpu", "2.0"), ("tpu", "3.0")):
        with tracing_for(platform):
            program = str(jax.make_jaxpr(lambda x: double(x))(x))
        assert "platform_index" not in program
        assert factor in program
    assert "platform_index" in str(jax.make_jaxpr(lambda x: double(x))(x)), "outside of it"
