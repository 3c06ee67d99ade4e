"""Layers against PyTorch's, with the mistakes that are easily made."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from timm.layers.padding import pad_same
from torch.nn import functional as F

from clipjax.models.cut import Cut
from clipjax.models.modules import attention, convolutions, layers, pools
from clipjax.models.training import Mode, Training
from clipjax.models.unstacked import Unstacked
from tests.models._modes import INFERENCE, bound, mode_of

TPU = mode_of(platform="tpu")

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("gelu", F.gelu),
        ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
        ("relu", F.relu),
        ("relu6", F.relu6),
        ("silu", F.silu),
        ("hard_swish", F.hardswish),
        ("hard_sigmoid", F.hardsigmoid),
        ("sigmoid", torch.sigmoid),
    ],
)
def test_activations(name: str, theirs: Any) -> None:
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    np.testing.assert_allclose(jax.jit(layers.ACTIVATIONS[name])(x), theirs(torch.from_numpy(x)), atol=1e-6)


def test_the_three_gelus_differ() -> None:
    gelus = [layers.ACTIVATIONS[name] for name in ("gelu", "gelu_tanh", "quick_gelu")]
    found = jax.jit(lambda x: [gelu(x) for gelu in gelus])(np.linspace(-3, 3, 601, dtype=np.float32))
    erf, tanh, quick = map(np.asarray, found)
    assert 3e-4 < np.abs(erf - tanh).max() < 6e-4
    assert np.abs(erf - quick).max() > 1e-2


def test_gradients_of_a_product_on_a_cpu() -> None:
    """As everywhere else."""
    x, kernel, weight = (jax.device_put(normal(*shape)) for shape in ((2, 3, 5), (5, 7), (2, 3, 7)))

    def gradients(platform: str | None) -> Any:
        linear = bound(layers.Linear(5, 7, rngs=nnx.Rngs(0)), mode_of(Training(), platform))

        def total(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return jnp.sum(weight * linear.times(x, kernel))

        return jax.jit(jax.grad(total, (0, 1)))(x, kernel)

    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), gradients("cpu"), gradients(None))


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_layer_norm_does_not_cancel(mean: float) -> None:
    x = normal(8, 64) * 0.1 + np.float32(mean)
    layer = bound(layers.LayerNorm(64, eps=1e-5))
    exact = F.layer_norm(torch.from_numpy(x).double(), (64,), eps=1e-5).numpy()
    np.testing.assert_allclose(jax.jit(layer)(x), exact, atol=1e-6 if mean == 0 else 2e-3)


def test_layer_norm_of_bfloat16_is_computed_in_float32() -> None:
    x = jnp.asarray(normal(8, 64) + 30, jnp.bfloat16)
    layer = bound(layers.LayerNorm(64, eps=1e-5))
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, layer(x.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_layer_norm_in_one_pass_on_a_tpu(mean: float) -> None:
    """As two passes to bfloat16's rounding. Equal numbers, whose variance may be below zero, stay finite."""
    x = jnp.asarray(normal(8, 64) + mean, jnp.bfloat16).at[0].set(mean + 0.1)
    layer = bound(layers.LayerNorm(64, eps=1e-5))
    once, twice = (np.asarray(bound(layer, mode)(x), np.float32) for mode in (TPU, INFERENCE))
    np.testing.assert_allclose(once[1:], twice[1:], rtol=2**-7, atol=1e-3)
    assert np.abs(once[0]).max() < 0.1 if mean == 0 else np.isfinite(once[0]).all()
    wide = x.astype(jnp.float32)
    np.testing.assert_array_equal(bound(layer, TPU)(wide), layer(wide))  # parity has no other form


def test_gelu_without_erf_on_a_tpu() -> None:
    """Within 3e-5 of PyTorch's, and exact where erf is 1; nearer than tanh with OpenAI's constants."""
    x = np.concatenate([np.linspace(-12, 12, 24_001), [-1e4, -30, 30, 1e4]]).astype(np.float32)
    theirs = F.gelu(torch.from_numpy(x)).numpy()
    off = np.abs(jax.jit(layers.gelu_by_tanh)(x) - theirs)
    assert off.max() < 3e-5
    assert (off[np.abs(x) > 6] < 1e-6 * np.abs(x[np.abs(x) > 6])).all()
    assert np.abs(jax.jit(layers.ACTIVATIONS["gelu_tanh"])(x) - theirs).max() > 1e-4
    rounded = x.astype(jnp.bfloat16)
    forms = [
        np.asarray(jax.jit(bound(layers.ActivationLayer("gelu"), mode))(rounded)) for mode in (INFERENCE, TPU)
    ]
    assert forms[1].dtype == jnp.bfloat16
    assert (forms[0] != forms[1]).any()
    of_float32 = jax.jit(bound(layers.ActivationLayer("gelu"), TPU))(x)
    np.testing.assert_array_equal(of_float32, jax.jit(layers.gelu)(x))
    slopes = [jax.jit(jax.vmap(jax.grad(form)))(x) for form in (layers.gelu_by_tanh, layers.gelu)]
    np.testing.assert_allclose(*slopes, atol=2e-4)


@pytest.mark.parametrize(
    ("rows", "dtype", "mode", "apart"),
    [
        (4, jnp.bfloat16, TPU, True),
        (4, jnp.float32, TPU, False),
        (4, jnp.bfloat16, INFERENCE, False),
        (4, jnp.bfloat16, mode_of(Training(remat=False), "tpu"), False),
        (400_000, jnp.bfloat16, TPU, False),  # hidden channels above 80 MB, in tiles of 128 columns
        (400_000, jnp.bfloat16, mode_of(platform="tpu", devices=2), True),
    ],
)
def test_where_an_mlp_keeps_its_products_apart(rows: int, dtype: Any, mode: Mode, apart: bool) -> None:
    zeros = jax.nn.initializers.zeros
    init = {"fc_init": zeros, "proj_init": zeros, "rngs": nnx.Rngs(0)}
    mlp = bound(layers.Mlp(2, 8, activation="gelu", **init), mode)
    cast = nnx.merge(nnx.graphdef(mlp), jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(mlp)))
    program = str(jax.make_jaxpr(lambda x: cast(x))(jax.ShapeDtypeStruct((rows, 2), dtype)))
    assert ("optimization_barrier" in program) == apart


def norm_and_products(mode: Mode, dtype: Any = jnp.bfloat16) -> tuple[Any, list[Any]]:
    """Three norms of 64 channels, stacked, and two products that read each, one of them without a bias."""
    norm = layers.LayerNorm(64, eps=1e-5)

    def placed(values: np.ndarray) -> jax.Array:
        return jax.device_put(values.astype(dtype))

    norm.scale.set_value(placed(1 + 0.5 * normal(3, 64)))
    norm.bias.set_value(placed(normal(3, 64)))
    products = [layers.Linear(64, 40, use_bias=bias, rngs=nnx.Rngs(0)) for bias in (True, False)]
    for each in products:
        each.kernel.set_value(placed(normal(3, 64, 40) / 8))
        if each.bias is not None:
            each.bias.set_value(placed(normal(3, 40)))
    return bound(norm, mode), [bound(each, mode) for each in products]


@pytest.mark.parametrize(("mean", "times"), [(0.0, 1.1), (30.0, 2.0)])
def test_products_with_a_norm_in_them(mean: float, times: float) -> None:
    """Nearly as near to exact results, of rows before rounding, as products that read the norm."""
    wide = normal(3, 200, 64) + np.float32(mean)
    x = jax.device_put(wide.astype(jnp.bfloat16))
    norm, products = norm_and_products(TPU)

    def run(norm: Any, products: list[Any]) -> list[np.ndarray]:
        def block(x: jax.Array, norm: Any, products: list[Any]) -> list[jax.Array]:
            return [each(norm.for_products(x)) for each in products]

        return [np.asarray(y, np.float64) for y in jax.jit(jax.vmap(block))(x, norm, products)]

    apart, exact = run(norm, products), []
    centred = wide - wide.mean(axis=-1, keepdims=True, dtype=np.float64)
    normed = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + norm.eps)
    scale, shift = (np.asarray(param[...], np.float64)[:, None] for param in (norm.scale, norm.bias))
    for each in products:
        bias = 0 if each.bias is None else np.asarray(each.bias[...], np.float64)[:, None]
        exact.append((normed * scale + shift) @ np.asarray(each.kernel[...], np.float64) + bias)

    layers.fold(norm, products)
    assert norm.folded
    for ours, other, right in zip(run(norm, products), apart, exact, strict=True):
        off, off_apart = (np.sqrt(np.square(y - right).mean()) for y in (ours, other))
        assert off < times * off_apart
    with pytest.raises(AssertionError, match="call for_products"):
        norm(x[0])


@pytest.mark.parametrize(
    ("mode", "dtype", "folded"),
    [
        (TPU, jnp.bfloat16, True),
        (TPU, jnp.float32, False),
        (INFERENCE, jnp.bfloat16, False),
        (mode_of(platform="gpu"), jnp.bfloat16, False),
        (mode_of(platform="cpu", float32_products=True), jnp.bfloat16, False),
        (mode_of(Training(), "tpu"), jnp.bfloat16, False),
    ],
)
def test_where_products_have_the_norm(mode: Mode, dtype: Any, folded: bool) -> None:
    norm, products = norm_and_products(mode, dtype)
    before = jax.tree.map(jnp.copy, [nnx.state(each) for each in products])
    layers.fold(norm, products)
    assert norm.folded == folded
    if not folded:
        jax.tree.map(np.testing.assert_array_equal, before, [nnx.state(each) for each in products])


@pytest.mark.parametrize("kind", [Cut, Unstacked])
def test_params_that_are_no_arrays_keep_their_norm(kind: Any) -> None:
    norm, products = norm_and_products(TPU)
    kernel = products[1].kernel[...]
    parts = Cut(kernel, -1, 2, "data") if kind is Cut else Unstacked(tuple(kernel))
    products[1] = nnx.merge(nnx.graphdef(products[1]), {"kernel": parts})
    layers.fold(norm, products)
    assert not norm.folded


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal: bool) -> None:
    q, k, v = normal(3, 7, 24), normal(3, 7, 24), normal(3, 7, 24)
    tq, tk, tv = (torch.from_numpy(x).reshape(3, 7, 4, 6).transpose(1, 2) for x in (q, k, v))
    theirs = F.scaled_dot_product_attention(tq, tk, tv, is_causal=causal).transpose(1, 2).reshape(3, 7, 24)
    visible = attention.causal(7) if causal else None
    attend = functools.partial(attention.attend, heads=4, mode=INFERENCE)
    ours = jax.jit(attend)(q, k, v, visible)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def pairs_of_forms(scale: float, visible: jax.Array | None, bias: jax.Array | None) -> list[Any]:
    """Outputs and gradients of both forms of attention, in float32."""
    q, k, v = (normal(4, 2, 9, 8) for _ in "qkv")

    def loss(form: Any, *qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixed = form(qkv[0] * scale, *qkv[1:], visible, bias)
        return jnp.sum(jnp.sin(mixed) * jnp.arange(8.0)), mixed

    found = []
    for form in (attention.mix, attention.mix_divided):
        both = jax.value_and_grad(functools.partial(loss, form), (0, 1, 2), has_aux=True)
        (_, mixed), gradients = jax.jit(both)(q, k, v)
        found.append((mixed, *gradients))
    return found


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["plain", "scores beyond 60"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_divides_first_on_a_tpu(scale: float, masked: bool) -> None:
    visible = attention.causal(9) if masked else None
    bias = None if masked else jax.device_put(normal(2, 2, 9, 9))
    last, first = pairs_of_forms(scale, visible, bias)
    for a, b in zip(last, first, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6 * scale, rtol=1e-5)
    without = jax.jit(attention.mix_divided)(*(normal(4, 2, 9, 8) for _ in "qkv"))
    assert np.abs(without - first[0]).max() > 0.1


def test_only_bfloat16_has_a_form_for_tpus() -> None:
    qkv = [normal(3, 7, 24) for _ in "qkv"]
    forms = [jax.jit(functools.partial(attention.attend, heads=4, mode=mode)) for mode in (INFERENCE, TPU)]
    exact, same = (np.asarray(form(*qkv)) for form in forms)
    np.testing.assert_array_equal(same, exact)
    last, first = (np.asarray(form(*(x.astype(jnp.bfloat16) for x in qkv))) for form in forms)
    assert first.dtype == jnp.bfloat16
    assert (last != first).any()
    np.testing.assert_allclose(first.astype(np.float32), exact, atol=2e-2)


def test_attention_over_long_sequences_goes_in_chunks() -> None:
    q, k, v = (normal(3, 400, 10) for _ in "qkv")  # 6 heads in all: not a multiple of the chunk
    tq, tk, tv = (torch.from_numpy(x).reshape(3, 400, 2, 5).transpose(1, 2) for x in (q, k, v))
    theirs = F.scaled_dot_product_attention(tq, tk, tv).transpose(1, 2).reshape(3, 400, 10)
    attend = jax.jit(functools.partial(attention.attend, heads=2, mode=INFERENCE))
    np.testing.assert_allclose(attend(q, k, v), theirs, atol=1e-6)
    assert "while" in attend.lower(q, k, v).as_text()


def test_attention_of_one_query() -> None:
    q, k = normal(2, 1, 8), normal(2, 5, 8)
    tq, tk = (torch.from_numpy(x).reshape(2, -1, 2, 4).transpose(1, 2) for x in (q, k))
    theirs = F.scaled_dot_product_attention(tq, tk, tk).transpose(1, 2).reshape(2, 1, 8)
    ours = jax.jit(functools.partial(attention.attend, heads=2, mode=INFERENCE))(q, k, k)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def torch_conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: str) -> np.ndarray:
    groups = x.shape[-1] if kernel.shape[2] == 1 else 1
    image = torch.from_numpy(x.transpose(0, 3, 1, 2))
    weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1))
    if padding == "tf_same":
        image, zeros = pad_same(image, list(kernel.shape[:2]), [stride, stride]), 0
    else:
        zeros = (kernel.shape[0] - 1) // 2
    y = F.conv2d(image, weight, stride=stride, padding=zeros, groups=groups)
    return y.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_convolution(kernel: int, stride: int, padding: Any, depthwise: bool) -> None:
    """Of maps of three sizes, in one program."""
    maps = [normal(2, *size, 6) for size in ((8, 8), (9, 12), (7, 7))]
    weight = normal(kernel, kernel, 1 if depthwise else 6, 6 if depthwise else 10)
    conv = functools.partial(convolutions.conv2d, stride=stride, padding=padding, mode=INFERENCE)
    found = jax.jit(lambda maps, weight: [conv(x, weight) for x in maps])(maps, weight)
    for x, ours in zip(maps, found, strict=True):
        np.testing.assert_allclose(ours, torch_conv(x, weight, stride, padding), atol=2e-5)


def test_the_two_paddings_differ_where_the_size_is_even() -> None:
    conv = functools.partial(convolutions.conv2d, stride=2, mode=INFERENCE)

    def both(x: jax.Array, weight: jax.Array) -> list[jax.Array]:
        return [conv(x, weight, padding=padding) for padding in ("symmetric", "tf_same")]

    ours = jax.device_get(jax.jit(both)(normal(1, 8, 8, 4), normal(3, 3, 1, 4)))
    assert ours[0].shape == ours[1].shape
    assert np.abs(ours[0] - ours[1]).max() > 0.1


def test_convolutions_are_written_out_on_the_cpu_only() -> None:
    def count(kernel: tuple[int, ...], platform: str) -> int:
        def run(x: jax.Array, weight: jax.Array) -> jax.Array:
            return convolutions.conv2d(x, weight, stride=1, padding="symmetric", mode=INFERENCE)

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 8, 8, 16), kernel)]
        program = jax.jit(run).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        return program.count("stablehlo.convolution")

    assert count((3, 3, 1, 16), "cpu") == 0
    assert count((3, 3, 1, 16), "tpu") == 1
    assert count((3, 3, 16, 4), "cpu") == count((3, 3, 16, 4), "tpu") == 1
    assert count((1, 1, 16, 4), "cpu") == 0


def test_batch_norm() -> None:
    x, vectors = normal(2, 4, 4, 6), [normal(6), normal(6), normal(6), np.abs(normal(6)) * 0.01]
    layer = bound(convolutions.BatchNorm(6, eps=1e-3))
    for name, vector in zip(("scale", "bias", "mean", "var"), vectors, strict=True):
        getattr(layer, name).set_value(jax.device_put(vector))
    scale, bias, mean, var = map(torch.from_numpy, vectors)
    theirs = F.batch_norm(torch.from_numpy(x.transpose(0, 3, 1, 2)), mean, var, scale, bias, eps=1e-3)
    np.testing.assert_allclose(jax.jit(layer)(x), theirs.numpy().transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-5)


def test_average_pool() -> None:
    x = normal(2, 7, 4, 3)
    theirs = F.avg_pool2d(torch.from_numpy(x.transpose(0, 3, 1, 2)), 2).numpy().transpose(0, 2, 3, 1)
    ours = functools.partial(pools.average_pool, mode=INFERENCE)
    for form in (ours, pools.window_means):
        halved, same = jax.jit(lambda x, form=form: (form(x, 2), form(x, 1)))(x)
        np.testing.assert_allclose(halved, theirs, atol=1e-6)
        np.testing.assert_array_equal(same, x)
