"""Annotated shapes are checked under pytest: a wrong one is refused where it is passed."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from _shapes import checked
from jax import Array
from jaxtyping import Float, TypeCheckError, jaxtyped
from numpy.typing import ArrayLike

from clipjax.data.labels import LabelSpace
from clipjax.heads.head import Head
from clipjax.metrics import classification
from clipjax.metrics.uncertainty import bootstrap
from clipjax.models.modules import attention
from tests.models._modes import INFERENCE


def test_metrics_refuse_a_wrong_shape() -> None:
    with pytest.raises(TypeCheckError, match="labels"):
        classification.in_top_k(jnp.zeros((3, 2), jnp.int32), jnp.zeros(4, jnp.int32))
    with pytest.raises(TypeCheckError, match="weights"):
        bootstrap.weighted_mean(np.ones(3), np.ones((2, 4)))


def test_a_wrong_dtype_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="labels"):
        classification.in_top_k(jnp.zeros((3, 2), jnp.int32), jnp.zeros(3, bool))


def test_forward_functions_refuse_a_wrong_shape() -> None:
    tokens, others = jnp.zeros((2, 3, 8)), jnp.zeros((2, 3, 6))
    with pytest.raises(TypeCheckError, match="attend"):
        attention.attend(tokens, others, others, heads=2, mode=INFERENCE)


def test_heads_refuse_a_wrong_shape() -> None:
    space = LabelSpace("three", ("a", "b", "c"), ("a", "b", "c"))
    with pytest.raises(TypeCheckError, match="bias"):
        Head(jnp.zeros((4, 3)), jnp.zeros(4), 1.0, False, space)


@jaxtyped(typechecker=checked)
def shifted(values: Float[np.ndarray, " K"], by: ArrayLike) -> Float[np.ndarray, " K"]:
    return values + np.asarray(by)


def test_shapes_beside_an_array_like_are_checked() -> None:
    """What `ArrayLike` allows is not."""
    np.testing.assert_array_equal(shifted(np.ones(2), [1, 2]), [2, 3])
    with pytest.raises(TypeCheckError, match="values"):
        shifted(np.ones((2, 2)), 1)
    with pytest.raises(TypeCheckError, match="return"):
        shifted(np.ones(2), np.ones((3, 2)))


def test_what_states_no_shape_is_left_as_it_is() -> None:
    """Also a function inside another; a shape may be part of a larger annotation."""

    def plain(x: Array, times: int) -> tuple[Array, ...]:
        return (x,) * times

    def shaped(x: Array) -> dict[str, tuple[Float[Array, "N C"], ...]]:
        return {"x": (x,)}

    nothing: Any = None
    assert jaxtyped(plain, typechecker=checked)(nothing, 2) == (None, None)
    with pytest.raises(TypeCheckError, match="return value"):
        jaxtyped(shaped, typechecker=checked)(jnp.zeros(3))


def test_a_function_without_a_shape_stays_as_it_is() -> None:
    def plain(values: Array, by: int) -> dict[str, int]:
        return {"": by}

    def stating(values: Array, by: tuple[Float[Array, " K"], int]) -> int:
        return by[1]

    decorate = jaxtyped(typechecker=checked)
    assert decorate(plain) is plain
    assert decorate(stating) is not stating
