"""Biases added to attention's scores, against timm's Swin and BEiT and torch's attention."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long
from timm.models import beit, swin_transformer
from torch.nn import functional as F

from clipjax.models.modules import attention, relative_position
from clipjax.models.modules.relative_position import picked_bias, relative_bias, relative_index
from tests.models._modes import INFERENCE


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (3, 3), (2, 5)])
def test_the_index_is_timms(height: int, width: int) -> None:
    swin = swin_transformer.get_relative_position_index(height, width)
    np.testing.assert_array_equal(relative_index(height, width, class_token=False), swin)
    of_beit = beit.gen_relative_position_index((height, width))
    np.testing.assert_array_equal(relative_index(height, width, class_token=True), of_beit)


@pytest.mark.parametrize(
    ("parts", "lanes"),  # lanes of a TPU's form: both heads together, each alone
    mostly_long(itertools.product([1, 3], [None, 128, 5]), keep=[(3, None), (3, 128), (3, 5)]),
)
def test_attention_with_a_bias(parts: int, lanes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (normal(6, 2, 4, 5, seed=seed) for seed in range(3))
    bias = normal(parts, 2, 4, 4, seed=3)
    tensors = [torch.from_numpy(x).requires_grad_() for x in (q, k, v, bias)]
    tq, tk, tv, tb = tensors
    theirs = F.scaled_dot_product_attention(tq, tk, tv, attn_mask=tb.repeat(6 // parts, 1, 1, 1))
    theirs.square().sum().backward()

    if lanes is not None:
        monkeypatch.setattr(relative_position, "_LANES", lanes)

    def ours(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        if lanes is None:
            return attention.attend_heads(q, k, v, bias=bias, mode=INFERENCE)
        q, k, v = (x.swapaxes(1, 2).reshape(-1, parts, 4, 10).swapaxes(0, 1) for x in (q, k, v))
        return relative_position.attend_in_slabs(q, k, v, bias).swapaxes(0, 1).reshape(6, 4, 10)

    values = [jnp.asarray(x) for x in (q, k, v, bias)]
    wanted = theirs.detach().transpose(1, 2).reshape(6, 4, 10)
    np.testing.assert_allclose(jax.jit(ours)(*values), wanted, rtol=1e-5, atol=1e-5)
    gradients = jax.jit(jax.grad(lambda *args: jnp.square(ours(*args)).sum(), argnums=(0, 1, 2, 3)))(*values)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(gradient, tensor.grad, rtol=1e-4, atol=1e-5)


def test_a_long_sequence_keeps_its_bias() -> None:
    q, k, v = (normal(1, 2, 400, 5, seed=seed) for seed in range(3))
    bias = normal(1, 2, 400, 400, seed=3)
    tq, tk, tv, mask = map(torch.from_numpy, (q, k, v, bias))
    theirs = F.scaled_dot_product_attention(tq, tk, tv, attn_mask=mask)
    ours = jax.jit(functools.partial(attention.attend_heads, mode=INFERENCE))(q, k, v, bias=bias)
    np.testing.assert_allclose(ours, theirs.transpose(1, 2).reshape(1, 400, 10), atol=1e-5)


def test_the_bias_of_a_table() -> None:
    table, index = normal(25, 4), relative_index(3, 3, class_token=False)
    found = np.asarray(jax.jit(lambda table: relative_bias(table, index))(table))
    assert found.shape == (1, 4, 9, 9)
    np.testing.assert_array_equal(found[0, 2, 1, 5], table[index[1, 5], 2])


@pytest.mark.parametrize("class_token", [False, True])
def test_the_bias_by_products(class_token: bool) -> None:
    index = relative_index(2, 3, class_token=class_token)

    def both(table: jax.Array) -> tuple[jax.Array, jax.Array]:
        return picked_bias(table, 2, 3, class_token=class_token), relative_bias(table, index)

    np.testing.assert_array_equal(*jax.jit(both)(normal(3 * 5 + 3 * class_token, 4)))
