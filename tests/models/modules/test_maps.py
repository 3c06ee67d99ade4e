"""Grouped convolutions, pools and the layers of `maps.py` against PyTorch's: values, gradients, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from timm.layers.squeeze_excite import SEModule
from timm.layers.std_conv import StdConv2d
from torch.nn import functional as F

from clipjax.models.modules import convolutions, maps, pools
from clipjax.models.training import Mode
from tests.models._modes import INFERENCE, bound, mode_of

PLAIN = mode_of(platform="tpu")  # the form of other platforms, run here


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def nchw(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(x).transpose(0, 3, 1, 2))


def vector(x: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(x))


def oihw(kernel: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1))


def assert_same(
    ours: Callable[..., Any], theirs: Callable[..., torch.Tensor], *args: tuple[np.ndarray, Any]
) -> None:
    """Values, and the gradients of a weighted sum in every argument, given with its change of layout."""
    tensors = [layout(value).requires_grad_() for value, layout in args]
    expected = theirs(*tensors)
    weights = normal(*expected.shape, seed=9)
    (expected * torch.from_numpy(weights)).sum().backward()

    def with_gradients(factor: Any, *values: Any) -> Any:
        found, pull = jax.vjp(ours, *values)
        return found, pull(factor)

    factor = weights.transpose(0, 2, 3, 1)
    found, gradients = jax.jit(with_gradients)(factor, *(value for value, _ in args))
    np.testing.assert_allclose(nchw(found), expected.detach(), rtol=2e-5, atol=2e-5)
    for gradient, tensor, (_, layout) in zip(gradients, tensors, args, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(layout(gradient), tensor.grad, rtol=1e-4, atol=1e-4)


def called(layer: nnx.Module, params: dict[str, Any], *args: Any) -> Any:
    """The layer's output with these params in place of its own."""
    graphdef, _ = nnx.split(layer)
    return nnx.merge(graphdef, params)(*args)


# --- grouped convolutions ---


@pytest.mark.parametrize("mode", [INFERENCE, PLAIN])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("groups", "width"), [(2, 4), (8, 4), (11, 8), (3, 12)])
def test_grouped_convolution(groups: int, width: int, stride: int, mode: Mode) -> None:
    x, kernel = normal(2, 9, 8, groups * width), normal(3, 3, width, groups * 5, seed=1) / 6

    def ours(x: Any, kernel: Any) -> Any:
        return convolutions.conv2d(x, kernel, stride=stride, padding="symmetric", mode=mode)

    def theirs(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, kernel, stride=stride, padding=1, groups=groups)

    assert_same(ours, theirs, (x, nchw), (kernel, oihw))


def test_groups_are_dense_convolutions_on_the_cpu_only_narrow_ones_together() -> None:
    def convolved(width: int, groups: int, platform: str) -> list[str]:
        def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return convolutions.conv2d(x, kernel, stride=1, padding="symmetric", mode=mode_of(None, platform))

        shapes = [(1, 8, 8, groups * width), (3, 3, width, groups * width)]
        args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        program = jax.jit(run).trace(*args).lower(lowering_platforms=(platform,)).as_text()
        return [line for line in program.splitlines() if "stablehlo.convolution" in line]

    for width, together in ((4, 4), (8, 2), (16, 1), (24, 1)):
        assert len(convolved(width, 32, "cpu")) == 32 // together
        assert not any("feature_group_count = 32" in line for line in convolved(width, 32, "cpu"))
        (line,) = convolved(width, 32, "tpu")
        assert "feature_group_count = 32" in line


def test_a_convolution_of_groups_has_the_kernel_and_the_initial_range_of_torch() -> None:
    conv = convolutions.Conv(32, 64, kernel=3, groups=8, rngs=nnx.Rngs(0))
    theirs = torch.nn.Conv2d(32, 64, 3, groups=8)
    assert oihw(conv.kernel[...]).shape == theirs.weight.shape
    bound = (4 * 9) ** -0.5
    assert 0.95 * bound < np.abs(conv.kernel[...]).max() <= bound


# --- pools ---


@pytest.mark.parametrize("mode", [INFERENCE, PLAIN])
@pytest.mark.parametrize(("window", "padding"), [(3, "symmetric"), (2, "symmetric"), (3, "none")])
@pytest.mark.parametrize("size", [(8, 8), (9, 6)])
def test_max_pool(size: tuple[int, int], window: int, padding: Any, mode: Mode) -> None:
    x = normal(2, *size, 3) - 2  # mostly negative: zeros outside would win

    def ours(x: Any) -> Any:
        return pools.max_pool(x, window=window, stride=2, padding=padding, outside=-np.inf, mode=mode)

    zeros = (window - 1) // 2 if padding == "symmetric" else 0
    assert_same(ours, lambda x: F.max_pool2d(x, window, 2, zeros), (x, nchw))


@pytest.mark.parametrize("mode", [INFERENCE, PLAIN])
def test_max_pool_with_zeros_outside(mode: Mode) -> None:
    x = normal(2, 8, 8, 3) - 2

    def ours(x: Any, outside: float = 0.0) -> Any:
        return pools.max_pool(x, window=3, stride=2, padding="symmetric", outside=outside, mode=mode)

    assert_same(ours, lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2), (x, nchw))
    outside = jax.jit(ours, static_argnums=1)
    assert np.abs(np.asarray(outside(x)) - outside(x, -np.inf)).max() > 0.5


# --- norms ---


@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_group_norm(shift: float) -> None:
    x, scale, bias = normal(2, 5, 4, 12) * 0.1 + np.float32(shift), normal(12, seed=1), normal(12, seed=2)
    layer = maps.GroupNorm(12, groups=4, eps=1e-5)

    def ours(x: Any, scale: Any, bias: Any) -> Any:
        return called(layer, {"scale": scale, "bias": bias}, x)

    def theirs(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, 4, scale, bias, eps=1e-5)

    if shift:
        exact = theirs(nchw(x).double(), *(torch.from_numpy(v).double() for v in (scale, bias)))
        np.testing.assert_allclose(nchw(jax.jit(ours)(x, scale, bias)), exact, atol=1e-3)
    else:
        assert_same(ours, theirs, (x, nchw), (scale, vector), (bias, vector))


def test_group_norm_of_bfloat16_is_computed_in_float32() -> None:
    x = jnp.asarray(normal(2, 4, 4, 8) + 30, jnp.bfloat16)
    layer = maps.GroupNorm(8, groups=2, eps=1e-5)
    assert layer(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(layer(x), layer(x.astype(jnp.float32)).astype(jnp.bfloat16))


@pytest.mark.parametrize("stride", [1, 2])
def test_standardised_convolution(stride: int) -> None:
    x, kernel = normal(2, 8, 8, 6), 1e-3 * normal(3, 3, 6, 4, seed=1) + np.float32(5e-4)
    conv = maps.StandardConv(6, 4, kernel=3, stride=stride, eps=1e-8, rngs=nnx.Rngs(0))
    reference = StdConv2d(6, 4, 3, stride=stride, padding=1, eps=1e-8)

    def ours(x: Any, kernel: Any) -> Any:
        return called(bound(conv), {"kernel": kernel}, x)

    def theirs(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(reference, {"weight": kernel}, (x,))

    found, expected = jax.jit(ours)(x, kernel), theirs(nchw(x), oihw(kernel)).detach()
    np.testing.assert_allclose(nchw(found), expected, rtol=1e-4, atol=1e-4)
    # At this size of weight the gradient is a thousand times the values.
    assert_same(
        lambda x, kernel: ours(x, kernel * 1e-3), lambda x, kernel: theirs(x, kernel * 1e-3),
        (x, nchw), (kernel * 1000, oihw),
    )  # fmt: skip


@pytest.mark.parametrize(("eps", "seen"), [(1e-6, 0.1), (1e-10, 2e-3)])
def test_the_eps_of_a_standardised_kernel_is_seen(eps: float, seen: float) -> None:
    both = jax.jit(lambda kernel: [maps.standardize(kernel, each) for each in (eps, 1e-8)])
    found, right = jax.device_get(both(1e-3 * normal(3, 3, 6, 4)))
    assert np.abs(found - right).max() > seen


# --- squeeze and excitation ---


@pytest.mark.parametrize(("activation", "gate"), [("relu", "sigmoid"), ("silu", "hard_sigmoid")])
def test_squeeze_excite(activation: str, gate: str) -> None:
    torch_gate = {"sigmoid": torch.nn.Sigmoid, "hard_sigmoid": torch.nn.Hardsigmoid}[gate]
    torch_act = {"relu": torch.nn.ReLU, "silu": torch.nn.SiLU}[activation]
    reference = SEModule(8, rd_channels=3, act_layer=torch_act, gate_layer=torch_gate)
    layer = bound(maps.SqueezeExcite(8, 3, activation=activation, gate=gate, rngs=nnx.Rngs(0)))
    kernels = {"fc1": normal(8, 3, seed=1), "fc2": normal(3, 8, seed=2)}
    biases = {"fc1": normal(3, seed=3), "fc2": normal(8, seed=4)}
    names = [(name, leaf) for name in ("fc1", "fc2") for leaf in ("kernel", "bias")]

    def ours(x: Any, *values: Any) -> Any:
        params: dict[str, Any] = {"fc1": {}, "fc2": {}}
        for (name, leaf), value in zip(names, values, strict=True):
            params[name][leaf] = value
        return called(layer, params, x)

    def theirs(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        keys = [f"{name}.{ {'kernel': 'weight', 'bias': 'bias'}[leaf] }" for name, leaf in names]
        return torch.func.functional_call(reference, dict(zip(keys, values, strict=True)), (x,))

    def as_conv(kernel: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(kernel).T.copy())[:, :, None, None]

    given: list[tuple[np.ndarray, Any]] = [
        (kernels[name], as_conv) if leaf == "kernel" else (biases[name], vector) for name, leaf in names
    ]
    assert_same(ours, theirs, (normal(2, 5, 4, 8), nchw), *given)
