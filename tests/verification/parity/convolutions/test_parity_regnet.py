"""RegNets on conditioned weights: every stage is timm's, and likely mistakes are seen where they are made."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest
from _long import mostly_long
from _mutants import (
    Wrong,
    interleaved,
    seen_with,
    timm_case,
    with_attributes,
)

from clipjax.models.families.convolutions import regnet
from clipjax.models.modules import convolutions, layers, maps, pools

# --- mutations ---


@pytest.mark.parametrize("eps", mostly_long([1e-3, 1e-6], keep=[1e-3]))
def test_another_eps_is_seen(eps: float) -> None:
    assert timm_case("regnety_016").first_difference(until="stem", bn_eps=eps) == "vision.stem"


def stride_on_first(call: Wrong) -> Wrong:
    def wrong(self: Any, x: Any) -> Any:
        first, second = self.conv1.conv, self.conv2.conv
        first.stride, second.stride = second.stride, first.stride
        return call(self, x)

    return wrong


def pooled(call: Wrong) -> Wrong:
    """A stem with ResNet's max pool, of stride 1 so that the sizes stay."""

    def wrong(self: Any, x: Any) -> Any:
        y = call(self, x)
        if x.shape[-1] != 3:
            return y
        pool = {"window": 3, "stride": 1, "padding": "symmetric", "outside": -jnp.inf}
        return pools.max_pool(y, **pool, mode=self.conv.mode)

    return wrong


def after_block(call: Wrong) -> Wrong:
    """The squeeze-excitation after the last convolution, as in SE-ResNet."""

    def wrong(self: Any, x: Any) -> Any:
        se, conv3, self.se = self.se, self.conv3, None
        self.conv3 = lambda y: se(conv3(y))
        return call(self, x)

    return wrong


MISTAKES = [
    (convolutions.Conv, interleaved, "s1.0"),
    (convolutions.Conv, with_attributes(padding="tf_same"), "stem"),
    (regnet.ConvNorm, pooled, "stem"),
    (regnet.Block, stride_on_first, "s1.0"),
    (regnet.Block, after_block, "s1.0"),
    (maps.SqueezeExcite, lambda _: lambda _self, x: x, "s1.0"),
    (maps.SqueezeExcite, with_attributes(activation=layers.ACTIVATIONS["silu"]), "s1.0"),
    (maps.SqueezeExcite, with_attributes(gate=layers.ACTIVATIONS["hard_sigmoid"]), "s1.0"),
]


@pytest.mark.parametrize(("owner", "wrong", "seen"), mostly_long(MISTAKES, keep=[MISTAKES[0], MISTAKES[5]]))
def test_a_mistake_is_seen(owner: Any, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = timm_case("regnety_016")
    assert seen_with(case, monkeypatch, seen, (owner, "__call__", wrong)) == f"vision.{seen}"
