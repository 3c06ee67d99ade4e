"""EfficientNet and V2, MobileNetV2 and V3 on conditioned weights: stages are timm's, and mistakes are seen.

Mistakes are made in timm's model, and ours compared with it: that needs no compilation. Zeros of "tf_same" on
the other side are those of "symmetric", so there is no case for them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
from _long import mostly_long
from _mutants import assert_same, dense_errors, gradient_errors, size_error, timm_case, worst
from _parity import Case, case_of
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from clipjax.models.arch import arch_to_dict, load_arch, narrow_arch
from clipjax.verification import verify
from converters.golden import build_model, run

B1, V2, V3 = "tf_efficientnet_b1", "tf_efficientnetv2_s", "mobilenetv3_large_100"
MOBILE = "mobilenetv2_100"


@functools.cache
def short_case(name: str, stages: int) -> Case:
    """The first stages alone: quick to compile."""
    arch = narrow_arch(load_arch(name))
    arch = dataclasses.replace(
        arch, vision=dataclasses.replace(arch.vision, stages=arch.vision.stages[:stages])
    )
    return case_of(arch, build_model(name, "timm", arch_to_dict(arch)))


@pytest.mark.parametrize("name", mostly_long([B1, V2, MOBILE, V3], keep=[V2, V3]))
def test_every_stage(name: str) -> None:
    assert_same(timm_case(name).compare(), "vision.stem")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tf_efficientnet_b0", V3])
def test_full_size(name: str) -> None:
    assert_same(case_of(load_arch(name), build_model(name, "timm")).compare(), "vision.stem")


@pytest.mark.long(
    "models/modules/test_pointwise_gradients.py::test_gradients_are_xlas_and_the_forward_pass_is_the_same"
)
def test_gradients_are_torchs() -> None:
    assert worst(gradient_errors(short_case("tf_efficientnet_b0", 3)).values()) < 1e-4
    assert worst(gradient_errors(short_case(V2, 2)).values()) < 1e-4


def test_other_sizes_and_dense_features() -> None:
    case = short_case("tf_efficientnet_b0", 3)
    assert size_error(case, 75) < 1e-5
    # timm has the stages that end at another stride: here all.
    assert worst(dense_errors(case, [0, 1, 2], [0, 1, 2])) < 1e-5


# --- mistakes in timm's model ---


def seen(case: Case, change: Callable[[Any], None]) -> str | None:
    """The first of our stages that differs from a changed copy of timm's model."""
    model = copy.deepcopy(case.theirs)
    change(model)
    golden = verify.Golden(case.golden.inputs, run(model, case.golden.inputs["images"], None), {})
    report = dataclasses.replace(case, golden=golden).compare()
    assert report.problem is None
    return report.first_difference


def blocks_of(model: Any) -> list[Any]:
    return [block for stage in model.blocks for block in stage]


def norms_of(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BatchNormAct2d)]


def eps(value: float) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for norm in norms_of(model):
            norm.eps = value

    return change


def padding(kind: type, size: int) -> Callable[[Any], None]:
    """Of the 3x3 and 5x5 convolutions of stride 2; size: zeros beyond the inner ones of a 3x3 window."""

    def change(model: Any) -> None:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.stride[0] == 2:
                module.__class__ = kind
                module.padding = ((module.kernel_size[0] - 1) // 2 * size,) * 2

    return change


symmetric, tf_same = padding(nn.Conv2d, 1), padding(Conv2dSame, 0)


def activation(make: Callable[[], nn.Module]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for norm in norms_of(model):
            if not isinstance(norm.act, nn.Identity):
                norm.act = make()

    return change


def in_squeeze(**parts: Callable[[], nn.Module]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for block in blocks_of(model):
            for name, make in parts.items():
                if hasattr(getattr(block, "se", None), name):
                    setattr(block.se, name, make())

    return change


def without_squeeze(model: Any) -> None:
    for block in blocks_of(model):
        block.se = nn.Identity()


def squeeze_before_depthwise(model: Any) -> None:
    for block in blocks_of(model):
        if hasattr(block, "conv_pwl") and hasattr(block, "conv_dw"):
            block.conv_dw, block.se = nn.Sequential(block.se, block.conv_dw), nn.Identity()


def active_projection(model: Any) -> None:
    for block in blocks_of(model):
        [norm] = [norm for norm in norms_of(block) if isinstance(norm.act, nn.Identity)] or [None]
        if norm is not None:
            norm.act = copy.deepcopy(block.bn1.act)


def without_skip(where: Callable[[int, int], bool]) -> Callable[[Any], None]:
    """In the blocks (stage, place) of which `where` is true."""

    def change(model: Any) -> None:
        for i, stage in enumerate(model.blocks):
            for j, block in enumerate(stage):
                block.has_skip = block.has_skip and not where(i, j)

    return change


def active_after_addition(model: Any) -> None:
    for block in model.blocks[0]:
        block.forward = functools.partial(_added_first, block, block.bn1.act)
        block.bn1.act = nn.Identity()


def _added_first(block: Any, act: nn.Module, x: Tensor) -> Tensor:
    return act(block.bn1(block.conv(x)) + x)


class _OfMap(nn.Module):
    """MobileNetV3's last convolution, of the map that is to be pooled."""

    def __init__(self, model: Any):
        super().__init__()
        self.conv, self.act = model.conv_head, model.act2
        model.blocks.register_forward_hook(lambda _, _inputs, found: setattr(self, "found", found))

    def forward(self, _: Tensor) -> Tensor:
        return self.act(self.conv(self.found)).mean((2, 3), keepdim=True)


def head_before_pool(model: Any) -> None:
    model.conv_head, model.act2 = _OfMap(model), nn.Identity()


def linear_head(model: Any) -> None:
    model.act2 = nn.Identity()


@pytest.mark.parametrize(
    ("name", "change", "stage"),
    [
        (B1, eps(1e-5), "stem"),
        (B1, symmetric, "stem"),
        (B1, activation(nn.ReLU6), "stem"),
        (B1, without_squeeze, "blocks.0.0"),
        (B1, squeeze_before_depthwise, "blocks.1.0"),
        (B1, in_squeeze(act1=nn.ReLU), "blocks.0.0"),
        (B1, in_squeeze(gate=nn.Hardsigmoid), "blocks.0.0"),
        (B1, active_projection, "blocks.0.0"),
        (B1, without_skip(lambda stage, _: stage > 0), "blocks.1.1"),
        (B1, without_skip(lambda stage, _: stage == 0), "blocks.0.1"),
        (V2, eps(1e-5), "stem"),
        (V2, symmetric, "stem"),
        (V2, activation(nn.ReLU), "stem"),
        (V2, activation(nn.GELU), "stem"),
        (V2, active_after_addition, "blocks.0.0"),
        (V2, without_skip(lambda stage, _: stage == 0), "blocks.0.0"),
        (V2, without_skip(lambda stage, _: stage > 0), "blocks.1.1"),
        (V2, active_projection, "blocks.1.0"),
        (V2, without_squeeze, "blocks.3.0"),
        (MOBILE, eps(1e-3), "stem"),
        (MOBILE, tf_same, "stem"),
        (MOBILE, activation(nn.ReLU), "blocks.0.0"),
        (MOBILE, active_projection, "blocks.0.0"),
        (MOBILE, without_skip(lambda *_: True), "blocks.1.1"),
        (V3, eps(1e-3), "stem"),
        (V3, tf_same, "stem"),
        (V3, activation(nn.Hardswish), "blocks.0.0"),
        (V3, activation(nn.SiLU), "stem"),
        (V3, in_squeeze(gate=nn.Sigmoid), "blocks.2.0"),
        (V3, in_squeeze(act1=nn.Hardswish), "blocks.2.0"),
        (V3, without_squeeze, "blocks.2.0"),
        (V3, without_skip(lambda stage, _: stage == 0), "blocks.0.0"),
        (V3, head_before_pool, "hidden"),
        (V3, linear_head, "hidden"),
    ],
)
def test_a_mistake_is_seen(name: str, change: Callable[[Any], None], stage: str) -> None:
    case = short_case(name, 2) if name in (B1, MOBILE) else timm_case(name)
    assert seen(case, change) == f"vision.{stage}"


# --- mistakes in the record ---


RECORDS = [
    ({"padding": "symmetric"}, "stem"),
    ({"bn_eps": 1e-5}, "stem"),
    ({"activation": "hard_swish"}, "stem"),
    ({"activation": ("silu", "silu", "relu6", "silu")}, "blocks.1.0"),
]


@pytest.mark.parametrize(("change", "stage"), mostly_long(RECORDS, keep=[RECORDS[0], RECORDS[3]]))
def test_a_wrong_record_is_seen(change: dict[str, Any], stage: str) -> None:
    case = short_case("tf_efficientnet_b0", 2)
    assert case.first_difference(until=stage, **change) == f"vision.{stage}"


@pytest.mark.parametrize(
    "change", mostly_long([{"activation": "relu"}, {"gate": "hard_sigmoid"}], keep=[{"gate": "hard_sigmoid"}])
)
def test_a_wrong_squeeze_is_seen(change: dict[str, Any]) -> None:
    case = short_case("tf_efficientnet_b0", 2)
    first, second = case.arch.vision.stages
    squeeze = dataclasses.replace(second.squeeze, **change)
    stages = (first, dataclasses.replace(second, squeeze=squeeze))
    assert case.first_difference(stages=stages) == "vision.blocks.1.0"
