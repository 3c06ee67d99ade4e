"""The form of attention in training on a TPU against JAX's own gradient of the other form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clipjax.models.modules import attention, layers, sequence
from clipjax.models.modules.tokens import HighestId, Lookup
from clipjax.models.training import Mode, Training
from tests.models._modes import INFERENCE, bound, mode_of

ON_TPU = mode_of(Training(), "tpu")


@pytest.mark.parametrize("visible", [None, "causal", "rows"])
def test_gradients_are_those_of_plain_attention(visible: str | None) -> None:
    random = np.random.default_rng(0)
    q, k, v, weights = (random.standard_normal((8, 2, 7, 4)).astype(np.float32) for _ in range(4))
    rows = (np.arange(7) < np.arange(1, 9)[:, None])[:, None, None]
    mask = {None: None, "causal": attention.causal(7), "rows": rows}[visible]

    def loss(attend: Any, *args: Any) -> Any:
        return (attend(*args, mask) * weights).sum()

    def plain(*args: Any) -> Any:
        return attention.mix(*args)

    def own(*args: Any) -> Any:
        return attention.attended(*args)

    with jax.default_matmul_precision("highest"):
        ours, theirs = (
            jax.jit(jax.value_and_grad(lambda *args, f=f: loss(f, *args), argnums=(0, 1, 2)))(q, k, v)
            for f in (own, plain)
        )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5)
    for mine, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-6)


def test_rows_looked_up_by_products_are_the_same() -> None:
    random = np.random.default_rng(0)
    table = random.standard_normal((50, 8)).astype(jnp.bfloat16)
    ids = random.integers(0, 50, (4, 6), np.int32)

    def read(mode: Mode) -> tuple[jax.Array, jax.Array]:
        def both(table: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
            rows = bound(Lookup(), mode)(nnx.Param(table), ids)
            return rows, bound(HighestId(), mode)(rows, ids)

        return jax.jit(both)(table, ids)

    for found, same in zip(read(INFERENCE), read(ON_TPU), strict=True):
        np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize(("rows", "product"), [(49_408, True), (250_002, False)])  # CLIP's, XLM-R's
def test_the_largest_tables_are_read_row_by_row(rows: int, product: bool) -> None:
    def read(table: jax.Array, ids: jax.Array) -> jax.Array:
        return bound(Lookup(), ON_TPU)(nnx.Param(table), ids)

    table, ids = jax.ShapeDtypeStruct((rows, 8), jnp.bfloat16), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    assert ("dot_general" in str(jax.make_jaxpr(read)(table, ids))) is product


def test_a_block_keeps_its_sums() -> None:
    """The backward pass takes again neither the two means of each norm nor the softmax's sum."""
    init = jax.nn.initializers.normal()
    inits: dict[str, Any] = dict.fromkeys(("qkv_init", "out_init", "fc_init", "proj_init"), init)
    found: list[int] = []

    def sums(mode: Mode) -> int:
        def traced(x: jax.Array) -> None:
            block = layers.Block(8, 2, 16, activation="gelu", ln_eps=1e-5, **inits, rngs=nnx.Rngs(0))
            narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), block)
            _, backward = jax.vjp(lambda x: sequence.apply(bound(narrow, mode), x), x)
            found.append(str(jax.make_jaxpr(backward)(x)).count("reduce_sum"))

        jax.eval_shape(traced, jax.ShapeDtypeStruct((2, 5, 8), jnp.bfloat16))
        return found.pop()

    assert sums(mode_of(Training(remat=True), "tpu")) - sums(ON_TPU) == 2 * 2 + 1
