"""Records of mobile inverted bottlenecks: widths of blocks, what is refused, and what a record leaves out."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from clipjax.errors import DataError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch, narrow_arch
from clipjax.models.families.convolutions.mbconv import Sizes
from clipjax.models.network import Network
from converters.engine import flatten

V3 = "mobilenetv3_large_100"


def stages(name: str) -> list[list[Sizes]]:
    config = load_arch(name).vision
    return [stage.sizes(in_dim) for in_dim, stage in zip(config.in_dims, config.stages)]


def test_widths_of_blocks() -> None:
    b0, v3 = stages("tf_efficientnet_b0"), stages(V3)
    assert b0[0] == [Sizes(32, 32, 8, 1)]
    assert b0[1] == [Sizes(16, 96, 4, 2), Sizes(24, 144, 6, 1)]
    assert b0[6] == [Sizes(192, 1152, 48, 1)]
    assert stages("tf_efficientnetv2_s")[1] == [Sizes(24, 96, 0, 2), *[Sizes(48, 192, 0, 1)] * 3]
    assert v3[2] == [Sizes(24, 72, 24, 2), *[Sizes(40, 120, 32, 1)] * 2]
    assert v3[3] == [Sizes(40, 240, 0, 2), Sizes(80, 200, 0, 1), *[Sizes(80, 184, 0, 1)] * 2]


def test_blocks_of_several_shapes_are_not_stacked() -> None:
    paths = flatten(Network(load_arch(V3)).abstract_params()["vision"])
    assert paths["stage3/block1/expand/conv/kernel"].shape == (1, 1, 80, 200)
    assert paths["stage3/block3/expand/conv/kernel"].shape == (1, 1, 80, 184)
    assert paths["stage2/rest/se/fc1/kernel"].shape == (2, 120, 32)
    assert "stage3/first/expand/conv/kernel" not in paths


def test_a_record_leaves_out_what_a_network_lacks() -> None:
    """So the digests of records from before squeeze-excitation are what they were."""
    vision = arch_to_dict(load_arch("tf_efficientnet_lite0"))["vision"]
    assert "final" not in vision
    assert all("squeeze" not in stage for stage in vision["stages"])
    assert arch_to_dict(load_arch(V3))["vision"]["stages"][2]["squeeze"] == {
        "width": [24, 32, 32],
        "activation": "relu",
        "gate": "hard_sigmoid",
    }


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tf_efficientnet_b0", {"activation": ["silu", "relu"]}, "activation has 2 entries"),
        ("tf_efficientnet_b0", {"activation": "gelu"}, "activation = 'gelu'"),
        ("tf_efficientnet_b0", {"stem_width": 30}, "squeeze 4 does not divide .*30"),
        (V3, {"final": "conv"}, "final = 'conv' must be 'pooled'"),
    ],
)
def test_an_impossible_net_is_refused(name: str, change: dict[str, Any], message: str) -> None:
    record = arch_to_dict(load_arch(name))
    with pytest.raises(DataError, match=message):
        arch_from_dict({**record, "vision": {**record["vision"], **change}}, "here")


@pytest.mark.parametrize(
    ("stage", "change", "message"),
    [
        (0, {"expand": 2}, '"separable" block does not widen'),
        (3, {"expand": [240, 200]}, r"expand \(240, 200\) has not one width for each of 4 blocks"),
        (4, {"squeeze": {"width": [120], "activation": "relu", "gate": "sigmoid"}}, "squeeze .* of 2 blocks"),
        (4, {"squeeze": {"width": 4, "activation": "relu"}}, "'gate' is missing"),
        (6, {"squeeze": {"width": 4, "activation": "relu", "gate": "sigmoid"}}, "no place for a squeeze"),
        (6, {"depth": 0}, "depth 0"),
    ],
)
def test_an_impossible_stage_is_refused(stage: int, change: dict[str, Any], message: str) -> None:
    record = arch_to_dict(load_arch(V3))
    record["vision"]["stages"][stage] |= change
    with pytest.raises(DataError, match=message):
        arch_from_dict(record, "here")


@pytest.mark.parametrize("name", ["tf_efficientnet_b7", "tf_efficientnetv2_l"])
def test_narrow_keeps_the_flags(name: str) -> None:
    full, narrow = load_arch(name).vision, narrow_arch(load_arch(name)).vision
    for key in ("activation", "padding", "bn_eps", "final"):
        assert getattr(full, key) == getattr(narrow, key)
    for ours, theirs in zip(narrow.stages, full.stages, strict=True):
        for key in ("block", "kernel", "stride", "expand", "squeeze"):
            assert getattr(ours, key) == getattr(theirs, key)
    leaves = jax.tree.leaves(Network(narrow_arch(load_arch(name))).abstract_params())
    assert sum(leaf.size for leaf in leaves) < 10_000_000
