"""ConvNeXt's record, layers and stages on their own; test_parity_convnext.py has the numbers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _drawn import drawn, initialised
from flax import nnx
from timm.layers.grn import GlobalResponseNorm as timm_grn
from torch.nn import functional as F

from clipjax.errors import DataError
from clipjax.models.arch import Arch, arch_from_dict, arch_to_dict, load_arch, narrow_arch
from clipjax.models.families.convolutions.convnext import GlobalResponseNorm
from clipjax.models.modules import convolutions
from clipjax.models.network import Network
from tests.models._modes import INFERENCE, bound

NARROW = narrow_arch(load_arch("convnext_base-in1k"))
V2 = "convnextv2_base-in1k-384"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def torch_conv(x: np.ndarray, weight: np.ndarray, **options: Any) -> np.ndarray:
    image, kernel = (torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight).permute(3, 2, 0, 1))
    return F.conv2d(image, kernel, **options).permute(0, 2, 3, 1).numpy()


# --------------------------------------------------------------------------------------------- record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 100}, "image_size 100 is not a multiple of 32"),
        ({"widths": [16, 32, 48]}, "widths .* are not four positive numbers"),
        ({"depths": [3, 0, 3, 3]}, "depths .* are not four positive numbers"),
        ({"embed_dim": 96}, "embed_dim 96 must be the last width, 80"),
        ({"projection": "conv"}, "projection = 'conv'"),
        ({"activation": "relu6"}, "activation = 'relu6'"),
        ({"mlp_ratio": 4}, "unknown key 'mlp_ratio'"),
        ({"grn": False}, "grn = False must be True"),
    ],
)
def test_an_impossible_record_is_refused(change: dict[str, Any], message: str) -> None:
    record = arch_to_dict(NARROW)
    with pytest.raises(DataError, match=message):
        arch_from_dict({**record, "vision": {**record["vision"], **change}}, "here")


def test_nothing_has_a_default() -> None:
    """But `grn`: without it the checkpoint's norms have no place (test_parity_convnext.py)."""
    record = arch_to_dict(NARROW)
    for key in set(record["vision"]) - {"family"}:
        vision = {name: value for name, value in record["vision"].items() if name != key}
        with pytest.raises(DataError, match=f"the key '{key}' is missing"):
            arch_from_dict({**record, "vision": vision}, "here")


@pytest.mark.parametrize("name", ["convnext_base_w", "convnext_large_d", "convnext_large_mlp", V2])
def test_narrow_keeps_the_flags(name: str) -> None:
    full, narrow = load_arch(name), narrow_arch(load_arch(name))
    sizes = {"image_size", "widths", "depths", "embed_dim"}
    for field in dataclasses.fields(full.vision):
        if field.name not in sizes:
            assert getattr(full.vision, field.name) == getattr(narrow.vision, field.name)
    count = sum(leaf.size for leaf in jax.tree.leaves(Network(narrow).abstract_params()["vision"]))
    assert count < 500_000


# --------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize(("size", "kernel"), [((8, 12), 4), ((8, 6), 2), ((9, 11), 4), ((6, 6), 1)])
def test_patches_are_a_matrix_product(size: tuple[int, int], kernel: int) -> None:
    """Cells that fill no whole patch are left out, as PyTorch does."""
    x, weight = normal(2, *size, 5), normal(kernel, kernel, 5, 7)
    convolve = partial(convolutions.conv2d, stride=kernel, padding="none", mode=INFERENCE)
    ours = jax.jit(convolve)(x, weight)
    np.testing.assert_allclose(ours, torch_conv(x, weight, stride=kernel), atol=2e-5)
    assert "conv" not in str(jax.make_jaxpr(convolve)(x, weight))


def test_no_padding_where_windows_overlap() -> None:
    x, weight = normal(2, 8, 9, 5), normal(3, 3, 5, 7)
    ours = convolutions.conv2d(jnp.asarray(x), jnp.asarray(weight), stride=2, padding="none", mode=INFERENCE)
    np.testing.assert_allclose(ours, torch_conv(x, weight, stride=2), atol=2e-5)


@pytest.mark.parametrize("size", [(12, 9), (3, 3)])
def test_depthwise_seven_by_seven_with_bias(size: tuple[int, int]) -> None:
    """The window is larger than the last map of a small image."""
    conv = convolutions.Conv(6, 6, kernel=7, groups=6, use_bias=True, rngs=nnx.Rngs(0))
    x, bias = normal(2, *size, 6), normal(6)
    conv.bias[...] = jnp.asarray(bias)  # pyright: ignore[reportOptionalSubscript]
    kernel = np.array(conv.kernel[...])
    expected = torch_conv(x, kernel, padding=3, groups=6, bias=torch.from_numpy(bias))
    np.testing.assert_allclose(jax.jit(bound(conv))(jnp.asarray(x)), expected, atol=2e-5)


def test_a_depthwise_convolution_has_the_gradient_of_the_plain_one() -> None:
    x, weight = jnp.asarray(normal(2, 6, 5, 3)), jnp.asarray(normal(3, 3, 1, 3))

    def ours(x: jax.Array, weight: jax.Array) -> jax.Array:
        return jnp.sin(convolutions.conv2d(x, weight, stride=1, padding="symmetric", mode=INFERENCE)).sum()

    def plain(x: jax.Array, weight: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, weight, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=3
        )
        return jnp.sin(y).sum()

    gradients = [jax.jit(jax.grad(f, argnums=(0, 1)))(x, weight) for f in (ours, plain)]
    for found, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def one_sum(x: jax.Array, weight: jax.Array, stride: int = 1) -> jax.Array:
    """A depthwise convolution whose products are all added in one expression."""
    zeros, (rows, cols) = len(weight) // 2, x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)))
    pixels = itertools.product(range(len(weight)), repeat=2)
    terms = [x[:, i : i + rows : stride, j : j + cols : stride] * weight[i, j, 0] for i, j in pixels]
    return sum(terms[1:], terms[0])


@pytest.mark.parametrize(("kernel", "stride"), [(7, 1), (5, 1), (5, 2)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_depthwise_convolution_by_rows_has_the_bits_of_one_sum(
    kernel: int, stride: int, dtype: Any
) -> None:
    x, weight = jnp.asarray(normal(2, 9, 8, 40), dtype), jnp.asarray(normal(kernel, kernel, 1, 40), dtype)
    by_rows = partial(convolutions.conv2d, padding="symmetric", mode=INFERENCE)
    found, expected = (jax.jit(partial(f, stride=stride))(x, weight) for f in (by_rows, one_sum))
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(found, expected)


def test_a_depthwise_convolution_is_computed_once() -> None:
    """A LayerNorm reads it three times; fused into each, the 49 products would be there three times over."""

    def products(convolve: Callable[..., jax.Array]) -> int:
        def block(x: jax.Array, weight: jax.Array, bias: jax.Array) -> jax.Array:
            y = convolve(x, weight) + bias
            centred = y - y.mean(axis=-1, keepdims=True)
            return centred / jnp.square(centred).mean(axis=-1, keepdims=True)

        sizes = ((2, 16, 16, 64), (7, 7, 1, 64), (64,))
        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in sizes]
        program = jax.jit(block).lower(*shapes).compile().as_text()
        assert program is not None
        return program.count(" multiply(")

    once = products(partial(convolutions.conv2d, stride=1, padding="symmetric", mode=INFERENCE))
    assert 49 <= once < 60
    assert products(one_sum) >= 3 * 49  # what `outlined` is for: remove it when XLA no longer does this


@pytest.mark.parametrize("size", [1.0, 1e-6])
def test_response_norm_is_timms(size: float) -> None:
    """Inputs as small as its eps show the eps. A channel without any response has a gradient."""
    norm, theirs = GlobalResponseNorm(6), timm_grn(6)
    x = size * normal(2, 5, 4, 6)
    x[1, ..., 3] = 0
    given = torch.from_numpy(x).requires_grad_()
    for ours_of, of_theirs, value in ((norm.scale, theirs.weight, 0.7), (norm.bias, theirs.bias, 0.1)):
        vector = value * normal(6)
        ours_of.set_value(jax.device_put(vector))
        of_theirs.data = torch.from_numpy(vector)
    expected = theirs(given)
    np.testing.assert_allclose(jax.jit(norm)(x), expected.detach(), atol=1e-6 * size, rtol=1e-5)
    (expected - theirs.bias).square().sum().backward()
    gradient = jax.jit(jax.grad(lambda x: jnp.square(norm(x) - norm.bias[...]).sum()))(x)
    assert given.grad is not None
    np.testing.assert_allclose(gradient, given.grad, atol=1e-5 * size, rtol=1e-4)


# --------------------------------------------------------------------------------------------- stages


@pytest.fixture(scope="module")
def params() -> Any:
    return drawn(Network(NARROW).abstract_params())


def pixels(arch: Arch) -> jax.Array:
    size = arch.vision.image_size
    return jnp.asarray(normal(2, size, size, 3))


@pytest.mark.long("models/test_dense_map.py::test_maps_are_probe3ds")
def test_stages_and_dense_features(params: Any) -> None:
    """The dense maps are the outputs of the four stages, at 1/4 to 1/32 of the image's side."""
    network, images = Network(NARROW), pixels(NARROW)
    encode = partial(network.encode_image, precision="parity", capture=True)
    run = jax.jit(encode)
    features, stages = run(params, images)
    blocks = [f"stages.{i}.{j}" for i, depth in enumerate(NARROW.vision.depths) for j in range(depth)]
    assert list(stages) == ["stem", *blocks, "pooled"]
    np.testing.assert_array_equal(features, stages["pooled"])
    encode_dense = partial(network.encode_dense, layers=[0, 1, 2, 3], precision="parity")
    dense = jax.jit(encode_dense)
    maps = dense(params, images)
    last = [f"stages.{i}.{depth - 1}" for i, depth in enumerate(NARROW.vision.depths)]
    for i, (found, name) in enumerate(zip(maps, last, strict=True)):
        assert found.shape == (2, 24 // 2**i, 24 // 2**i, NARROW.vision.widths[i])
        np.testing.assert_allclose(found, stages[name], atol=1e-5)


def test_compiled_size_does_not_grow_with_depth() -> None:
    def size(depths: tuple[int, ...]) -> int:
        arch = dataclasses.replace(NARROW, vision=dataclasses.replace(NARROW.vision, depths=depths))
        network = Network(arch)
        images = jax.ShapeDtypeStruct(pixels(arch).shape, jnp.float32)
        encode = jax.jit(partial(network.encode_image, precision="parity"))
        return len(encode.lower(network.abstract_params(), images).as_text())

    assert size((2, 2, 27, 2)) < 1.01 * size((2, 2, 2, 2))


def test_initialisation_is_timms() -> None:
    """Kernels of deviation 0.02, biases zero, layer scale 1e-6."""
    vision = initialised(NARROW)["vision"]
    for stage in range(4):
        block = vision[f"stage{stage}"]["blocks"]
        assert float(block["mlp"]["c_fc"]["kernel"].std()) == pytest.approx(0.02, rel=0.05)
        assert float(jnp.abs(block["conv"]["bias"]).max()) == 0
        np.testing.assert_allclose(block["ls"]["scale"], 1e-6, rtol=1e-6)
