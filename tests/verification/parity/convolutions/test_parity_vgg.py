"""VGGs on conditioned weights: every stage is timm's, and likely mistakes are seen where they are made."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from _long import mostly_long
from _mutants import (
    Wrong,
    seen_with,
    timm_case,
)

from clipjax.errors import UsageError
from clipjax.models.arch import load_arch
from clipjax.models.families.convolutions import vgg
from clipjax.models.modules import convolutions, pools
from clipjax.models.resample import resized_arch


def test_images_too_small_for_fc1_are_refused() -> None:
    with pytest.raises(UsageError, match=r"vgg16 cannot take images of 192 pixels: .* less than 224"):
        resized_arch(load_arch("vgg16"), 192)


# --- mutations ---


EPS = [(1e-3, "features.2"), (1e-6, "features.2")]


@pytest.mark.parametrize(("eps", "seen"), mostly_long(EPS, keep=[EPS[0]]))
def test_another_eps_is_seen(eps: float, seen: str) -> None:
    case = timm_case("vgg16_bn")
    assert case.first_difference(until=seen, bn_eps=eps) == f"vision.{seen}"


def mean_pool(_: Wrong) -> Wrong:
    return lambda x, mode, **_options: pools.average_pool(x, 2, mode=mode)


def no_bias(call: Wrong) -> Wrong:
    def wrong(self: Any, x: Any) -> Any:
        self.bias = None
        return call(self, x)

    return wrong


def transposed_fc1(call: Wrong) -> Wrong:
    """fc1 as if its file were flattened row by row with the channels last."""

    def wrong(self: Any, x: Any) -> Any:
        if self.kernel.shape[0] == vgg.WINDOW:
            kernel = self.kernel[...]
            self.kernel[...] = kernel.transpose(2, 0, 1, 3).reshape(kernel.shape)
        return call(self, x)

    return wrong


def linear_head(number: int) -> Any:
    """fc1 or fc2 without its ReLU."""

    def make(call: Wrong) -> Wrong:
        def wrong(self: Any, images: Any, capture: bool) -> Any:
            relu, calls = jax.nn.relu, []
            convs = sum(self.config.depths)

            def counted(y: Any) -> Any:
                calls.append(y)
                return y if len(calls) == convs + number else relu(y)

            jax.nn.relu = counted
            try:
                return call(self, images, capture)
            finally:
                jax.nn.relu = relu

        return wrong

    return make


def activated_first(call: Wrong) -> Wrong:
    """ReLU before BatchNorm."""
    return lambda self, x: call(self, jnp.maximum(x, 0))


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "wrong", "seen"),
    [
        ("vgg16", pools, "max_pool", mean_pool, "features.4"),
        ("vgg16", convolutions.Conv, "__call__", no_bias, "features.1"),
        ("vgg16_bn", convolutions.Conv, "__call__", no_bias, "features.2"),
        ("vgg16", convolutions.Conv, "__call__", transposed_fc1, "fc1"),
        ("vgg16", vgg.VGG, "__call__", linear_head(1), "fc1"),
        ("vgg16", vgg.VGG, "__call__", linear_head(2), "fc2"),
        ("vgg16_bn", convolutions.BatchNorm, "__call__", activated_first, "features.2"),
    ],
)
def test_a_mistake_is_seen(
    name: str, owner: Any, attribute: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen_with(timm_case(name), monkeypatch, seen, (owner, attribute, wrong)) == f"vision.{seen}"
