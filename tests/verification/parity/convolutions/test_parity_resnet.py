"""ResNets on conditioned weights: every stage is timm's, and likely mistakes are seen where they are made.

No test can tell zeros from -inf around the stem's max pool: it reads what a ReLU gave.
"""

from __future__ import annotations

from typing import Any

import jax
import pytest
import torch
from _long import mostly_long
from _mutants import (
    Wrong,
    assert_same,
    interleaved,
    seen_with,
    timm_case,
    with_attributes,
    with_options,
)
from _parity import narrow_case, source_of

from clipjax.models.arch import load_arch
from clipjax.models.families.convolutions import resnet
from clipjax.models.modules import convolutions, layers, maps, pools
from clipjax.models.network import Network
from converters.engine import conversion_of, detect_table
from converters.golden import build_model


def test_the_widened_ones_of_simclr() -> None:
    assert_same(narrow_case("resnet50x2_simclr", "simclr", "resnet50x2").compare(), "vision.stem")


@pytest.mark.parametrize("width", [2, 4])
def test_every_tensor_of_simclr_has_its_place(width: int) -> None:
    """At full size, by the layout of the loader's code: the files were not seen."""
    with torch.device("meta"):
        source = source_of(build_model(f"resnet50x{width}", "simclr"))
    assert account(source, f"resnet50x{width}_simclr") == "timm_resnet"


def test_every_tensor_of_pycontrast_has_its_place() -> None:
    """The encoder's keys, its two projections, which are ignored, and the classifier of the second file."""
    with torch.device("meta"):
        found = source_of(build_model("resnet50", "timm"))
    source = {f"encoder.{key}": tensor for key, tensor in found.items() if not key.startswith("fc.")}
    source |= {"head.0.weight": found["fc.weight"], "head_jig.fc1.bias": found["fc.bias"]}
    source |= {f"classifier.{part}": found[f"fc.{part}"] for part in ("weight", "bias")}
    assert account(source, "resnet50") == "pycontrast_resnet"


def account(source: Any, arch: str) -> str:
    """The layout's name, after every tensor was used, carried or ignored."""
    table = detect_table(source)
    conversion = conversion_of(source, Network(load_arch(arch)).abstract_params(), table)
    used = {piece.key for pieces in conversion.pieces.values() for piece in pieces}
    left = {key for key in source if key not in used and not table.drops(key)}
    assert all(key.endswith("num_batches_tracked") for key in left)
    return table.name


# --- mutations ---


@pytest.mark.parametrize("eps", mostly_long([1e-3, 1e-6], keep=[1e-3]))
def test_another_eps_is_seen(eps: float) -> None:
    assert timm_case("resnet18").first_difference(until="stem", bn_eps=eps) == "vision.stem"


def no_relu(call: Wrong) -> Wrong:
    """A block without the activation after the addition: the next one's input is not what it was."""

    def wrong(self: Any, x: Any) -> Any:
        relu, calls = jax.nn.relu, []

        def counted(y: Any) -> Any:
            calls.append(y)
            return y if len(calls) == self.depth else relu(y)

        jax.nn.relu = counted
        try:
            return call(self, x)
        finally:
            jax.nn.relu = relu

    return wrong


def stride_on_first(call: Wrong) -> Wrong:
    def wrong(self: Any, x: Any) -> Any:
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride
        return call(self, x)

    return wrong


def averaged(call: Wrong) -> Wrong:
    """The shortcut of an anti-aliased ResNet: a mean over 2x2, then the convolution with stride 1."""

    def wrong(self: Any, x: Any) -> Any:
        x = pools.average_pool(x, self.conv.stride, mode=self.conv.mode)
        self.conv.stride = 1
        return call(self, x)

    return wrong


SILU = layers.ACTIVATIONS["silu"]


def mean_pool(_: Wrong) -> Wrong:
    return lambda x, mode, **_options: pools.average_pool(x, 2, mode=mode)


MISTAKES = [
    ("resnet18", pools, "max_pool", with_options(padding="tf_same"), "stem"),
    ("resnet18", pools, "max_pool", mean_pool, "stem"),
    ("resnet18", resnet.Block, "__call__", no_relu, "layer1.0"),
    ("resnet18", resnet.Block, "__call__", stride_on_first, "layer2.0"),
    ("resnet50", resnet.Block, "__call__", no_relu, "layer1.0"),
    ("resnet50", resnet.Block, "__call__", stride_on_first, "layer2.0"),
    ("resnet50", resnet.Downsample, "__call__", averaged, "layer2.0"),
    ("resnext50_32x4d", convolutions.Conv, "__call__", interleaved, "layer1.0"),
    ("seresnext50_32x4d", maps.SqueezeExcite, "__call__", lambda _: lambda _self, x: x, "layer1.0"),
    (
        "seresnext50_32x4d",
        maps.SqueezeExcite,
        "__call__",
        with_attributes(activation=SILU),
        "layer1.0",
    ),
    (
        "seresnext50_32x4d",
        maps.SqueezeExcite,
        "__call__",
        with_attributes(gate=layers.ACTIVATIONS["hard_sigmoid"]),
        "layer1.0",
    ),
]


@pytest.mark.parametrize(
    ("name", "owner", "attribute", "wrong", "seen"),
    mostly_long(MISTAKES, keep=[MISTAKES[0], MISTAKES[3], MISTAKES[10]]),
)
def test_a_mistake_is_seen(
    name: str, owner: Any, attribute: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen_with(timm_case(name), monkeypatch, seen, (owner, attribute, wrong)) == f"vision.{seen}"
