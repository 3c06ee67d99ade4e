"""Dense features equal to timm's and open_clip's intermediate outputs, and no more is computed or kept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _drawn import drawn
from _long import mostly_long
from _parity import Case, narrow_case

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.network import Network
from clipjax.verification import verify

TIMM = {"vit_base_patch16_clip_224", "deit3_large_patch16_384", "vit_large_patch14_dinov2"}
TRUNKS = {"ViT-SO400M-14-SigLIP-384", "EVA02-B-16", "EVA02-E-14", "convnext_base_w"}
OWN = {"ViT-B-32", "coca_ViT-B-32", "RN50"}


def case(name: str) -> Case:
    return narrow_case(name, "timm" if name in TIMM else "open_clip")


def ours(own: Case, layers: Any) -> list[np.ndarray]:
    encode = functools.partial(Network(own.arch).encode_dense, layers=layers, precision="parity")
    return [np.asarray(x) for x in jax.jit(encode)(own.params, own.golden.inputs["images"])]


@torch.no_grad()
def intermediates(name: str, layers: list[int]) -> list[np.ndarray]:
    """The library's, without its final norm."""
    own = case(name)
    pixels = torch.from_numpy(own.golden.inputs["images"]).permute(0, 3, 1, 2)
    if name in OWN:
        stem = int(name == "RN50")  # open_clip counts the stem, we do not
        found = own.tower.forward_intermediates(
            pixels, indices=[layer + stem for layer in layers], intermediates_only=True
        )["image_intermediates"]
    else:
        trunk = getattr(own.tower, "trunk", own.tower)
        found = trunk.forward_intermediates(pixels, indices=layers, norm=False, intermediates_only=True)
    return [x.permute(0, 2, 3, 1).numpy() for x in found]


def assert_equal(got: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    assert [x.shape for x in got] == [x.shape for x in wanted]
    for n, (a, b) in enumerate(zip(got, wanted, strict=True)):
        stage = verify.compare_stage(f"vision.map.{n}", a, b)
        assert stage.passed, stage


@pytest.mark.parametrize(
    "name",
    mostly_long(
        sorted(TIMM | TRUNKS | OWN),
        keep=["ViT-B-32", "RN50", "vit_large_patch14_dinov2"],
        guard="models/test_dense_map.py::test_maps_are_probe3ds",
    ),
)
def test_maps_are_the_librarys(name: str):
    last = 3 if name in ("RN50", "convnext_base_w") else 1
    layers = list(range(last + 1))
    assert_equal(ours(case(name), layers), intermediates(name, layers))


def test_as_timms_get_intermediate_layers():
    own = case("vit_large_patch14_dinov2")
    pixels = torch.from_numpy(own.golden.inputs["images"]).permute(0, 3, 1, 2)
    for n in (1, 2, [0], [0, 1]):
        with torch.no_grad():
            theirs = own.theirs.get_intermediate_layers(pixels, n=n, reshape=True, norm=False)
        assert_equal(ours(own, n), [x.permute(0, 2, 3, 1).numpy() for x in theirs])


def test_final_norm_would_be_seen():
    own = case("deit3_large_patch16_384")
    pixels = torch.from_numpy(own.golden.inputs["images"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        [normed] = own.theirs.forward_intermediates(pixels, indices=[1], norm=True, intermediates_only=True)
    [got] = ours(own, [1])
    assert np.abs(got - normed.permute(0, 2, 3, 1).numpy()).max() / np.abs(got).max() > 1.0


@pytest.mark.long(
    "verification/parity/convolutions/test_parity_mbconv.py::test_other_sizes_and_dense_features"
)
def test_stages_of_an_mbconv_net():
    own = narrow_case("tf_efficientnet_lite0", "timm")
    captured = own.golden.stages
    last = [max(n for n in range(9) if f"vision.blocks.{s}.{n}" in captured) for s in range(7)]
    wanted = [np.asarray(captured[f"vision.blocks.{s}.{n}"]) for s, n in enumerate(last)]
    assert_equal(ours(own, range(7)), wanted)


# ----------------------------------------------------------------------------------- which and how many


@pytest.fixture(scope="module")
def deep() -> tuple[Network, Any]:
    """Six blocks."""
    arch = narrow_arch(load_arch("ViT-B-32"))
    network = Network(dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, layers=6)))
    return network, drawn(network.abstract_params())


def maps(deep: tuple[Network, Any], layers: Any) -> tuple[jax.Array, ...]:
    network, params = deep
    size = network.arch.vision.image_size
    images = jax.random.normal(jax.random.key(1), (2, size, size, 3))
    encode = functools.partial(network.encode_dense, layers=layers, precision="parity")
    return jax.jit(encode)(params, images)


def test_any_layers_in_any_order(deep: tuple[Network, Any]):
    every = maps(deep, range(6))
    assert len(every) == 6
    assert every[0].shape == (2, 3, 3, deep[0].arch.vision.width)
    for layers, wanted in [(2, [4, 5]), ([4, 1], [4, 1]), ([-1, 2, 2], [5, 2, 2])]:
        found = maps(deep, layers)
        for got, index in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, every[index], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layers", [[], [6], [-7], [0, 9]])
def test_other_layers_are_refused(deep: tuple[Network, Any], layers: Any):
    with pytest.raises(UsageError, match=r"ViT-B-32 has the layers 0 to 5 for dense features, not \["):
        maps(deep, layers)


@pytest.mark.parametrize("layers", [6 + 1, 0, -1])
def test_other_numbers_of_layers_are_refused(deep: tuple[Network, Any], layers: int):
    with pytest.raises(
        UsageError, match=rf"last {layers} layers, of which ViT-B-32 has 6: give 1 to 6, or a"
    ):
        maps(deep, layers)


def test_no_more_blocks_are_run_or_kept_than_asked_for(deep: tuple[Network, Any]):
    network, params = deep
    size = network.arch.vision.image_size
    images = jnp.zeros((2, size, size, 3))

    def scans(layers: Sequence[int]) -> list[Any]:
        encode = functools.partial(network.encode_dense, layers=layers, precision="parity")
        return [eqn for eqn in jax.make_jaxpr(encode)(params, images).eqns if eqn.primitive.name == "scan"]

    for layers, lengths in [([1], [2]), ([5], [6]), ([3, 0], [1, 3]), ([0, 1, 2], [1, 1, 1])]:
        found = scans(layers)
        assert [eqn.params["length"] for eqn in found] == lengths
        assert {len(eqn.outvars) for eqn in found} == {1}  # the last output; nothing stacked


def test_through_a_model():
    own = case("vit_base_patch16_clip_224")
    card = dataclasses.replace(
        model_card("vit_b_32-openai"),
        arch=own.arch,
        preprocess=dataclasses.replace(
            model_card("vit_b_32-openai").preprocess, image_size=own.arch.vision.image_size
        ),
    )
    model = Model(card, own.params)
    images = own.golden.inputs["images"]
    found = model.encode_dense(images, layers=[0, -1])
    assert_equal([np.asarray(x) for x in found], intermediates("vit_base_patch16_clip_224", [0, 1]))
    fast = model.encode_dense(images, layers=1, precision="fast")[0]
    assert fast.dtype == jnp.float32
    assert 1e-5 < float(jnp.abs(fast - found[1]).max() / jnp.abs(found[1]).max()) < 0.05
    message = "cannot take images of 47 x 48 pixels: image_size 47 is not a multiple of patch_size 16"
    with pytest.raises(DataError, match=message):
        model.encode_dense(images[:, :-1], layers=1)
