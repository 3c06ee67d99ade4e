"""Each family's forward pass against the PyTorch module it is ported from, on narrow towers."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import open_clip.transformer as reference
import pytest
import timm
import torch
from _long import mostly_long
from open_clip.modified_resnet import ModifiedResNet
from torch import nn

from clipjax.models.arch import Arch, load_arch
from clipjax.models.families.convolutions.modified_resnet import ModifiedResNetConfig
from clipjax.models.families.patches.vit import ViTConfig
from clipjax.models.families.texts.text import TextConfig
from clipjax.models.network import Network
from tests.models import _torch_weights as weights

TOLERANCE = 2e-6  # relative to the largest feature; the mutations below move the features by far more

PLAIN = (False, False, True, "all", True, False)  # crop to patches, bias, class token, positions, norm, scale
VIT = ViTConfig(32, 8, 48, 3, 4, 144, *PLAIN, "quick_gelu", 1e-5, "class", 0, 0, True, 24)
TEXT = TextConfig(16, 300, 48, 3, 4, 192, "gelu", 1e-5, True, "argmax", False, 24)
RESNET = ModifiedResNetConfig(96, 16, (2, 1, 3, 1), 8, 1e-5, 24)
TORCH_ACTIVATIONS = {
    "gelu": nn.GELU,
    "quick_gelu": reference.QuickGELU,
    "gelu_tanh": partial(nn.GELU, "tanh"),
}


def features(vision: Any, params: Any, inputs: np.ndarray, text: Any = None) -> np.ndarray:
    """Through the network of an arch with these towers; `text` makes it the text tower's features."""
    arch = Arch("narrow", vision, text if text is not None else TEXT, None, False)
    network = Network(arch)
    name, encode = ("text", network.encode_text) if text is not None else ("vision", network.encode_image)
    encode = jax.jit(partial(encode, precision="parity"))
    return np.asarray(encode({name: params}, jnp.asarray(inputs)))


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def pixels(size: int, batch: int = 3) -> np.ndarray:
    # Low contrast: the first norms see variances at which their epsilon counts.
    return (0.3 * np.random.default_rng(0).standard_normal((batch, size, size, 3))).astype(np.float32)


def run(tower: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tower(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def torch_vit(config: ViTConfig) -> nn.Module:
    norm_layer: Any = partial(reference.LayerNorm, eps=config.ln_eps)
    tower: Any = reference.VisionTransformer(
        config.image_size,
        config.patch_size,
        config.width,
        config.layers,
        config.heads,
        config.mlp_width / config.width,
        output_dim=config.embed_dim,
        act_layer=TORCH_ACTIVATIONS[config.activation],
        norm_layer=norm_layer,
    )
    weights.randomised(tower)
    with torch.no_grad():
        # A residual stream of small variance, where 1e-5 and 1e-6 give other numbers.
        for parameter in (tower.class_embedding, tower.positional_embedding, tower.conv1.weight):
            parameter.mul_(0.1)
    return tower


@pytest.mark.parametrize(
    "activation", mostly_long(["gelu", "gelu_tanh", "quick_gelu"], keep=["gelu_tanh", "quick_gelu"])
)
def test_vit(activation: Any) -> None:
    config = dataclasses.replace(VIT, activation=activation)
    tower = torch_vit(config)
    ours = features(config, weights.vit(tower), pixels(config.image_size))
    assert error(ours, run(tower, pixels(config.image_size))) < TOLERANCE


@pytest.mark.parametrize(
    "mutation",
    mostly_long(
        [{"activation": "gelu"}, {"activation": "gelu_tanh"}, {"ln_eps": 1e-6}, {"heads": 2}],
        keep=[{"ln_eps": 1e-6}],
    ),
)
def test_a_wrong_number_in_a_vit_is_seen(mutation: dict[str, Any]) -> None:
    tower = torch_vit(VIT)
    wrong = features(dataclasses.replace(VIT, **mutation), weights.vit(tower), pixels(VIT.image_size))
    assert error(wrong, run(tower, pixels(VIT.image_size))) > 10 * TOLERANCE


@pytest.mark.long("models/families/test_families.py::test_a_wrong_number_in_a_vit_is_seen")
def test_erf_gelu_is_not_the_tanh_form() -> None:
    config = dataclasses.replace(VIT, activation="gelu")
    tower = torch_vit(config)
    wrong = dataclasses.replace(config, activation="gelu_tanh")
    theirs = run(tower, pixels(config.image_size))
    assert error(features(wrong, weights.vit(tower), pixels(config.image_size)), theirs) > 10 * TOLERANCE


def torch_text(config: TextConfig) -> nn.Module:
    norm_layer: Any = partial(reference.LayerNorm, eps=config.ln_eps)
    tower = reference.TextTransformer(
        config.context_length,
        config.vocab_size,
        config.width,
        config.heads,
        config.layers,
        config.mlp_width / config.width,
        output_dim=config.embed_dim,
        act_layer=TORCH_ACTIVATIONS[config.activation],
        norm_layer=norm_layer,
    )
    return weights.randomised(tower)


def token_ids() -> np.ndarray:
    """Texts of 3 to 16 tokens, padded with 0 behind the end-of-text id 299; in one it occurs twice."""
    ids = np.random.default_rng(1).integers(1, 299, (5, 16)).astype(np.int32)
    for row, length in zip(ids, (3, 8, 12, 16, 10), strict=True):
        row[length - 1], row[length:] = 299, 0
    ids[4, 5] = 299
    return ids


def run_text(tower: nn.Module, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return tower(torch.from_numpy(ids).long()).numpy()


def test_text() -> None:
    tower = torch_text(TEXT)
    ours = features(VIT, weights.text(tower), token_ids(), text=TEXT)
    assert error(ours, run_text(tower, token_ids())) < TOLERANCE


def test_a_text_may_be_cut_behind_its_end() -> None:
    params = weights.text(torch_text(TEXT))
    ids = token_ids()[[0, 1]]  # ends at 3 and 8
    whole = features(VIT, params, ids, text=TEXT)
    cut = features(VIT, params, ids[:, :8], text=TEXT)
    assert error(cut, whole) < 1e-6
    assert error(features(VIT, params, ids[:, :7], text=TEXT), whole) > 1e-2


def test_padding_changes_nothing() -> None:
    params = weights.text(torch_text(TEXT))
    other = token_ids()
    other[0, 3:] = 17
    np.testing.assert_array_equal(
        features(VIT, params, other, text=TEXT), features(VIT, params, token_ids(), text=TEXT)
    )


def torch_resnet(config: ModifiedResNetConfig) -> nn.Module:
    tower = ModifiedResNet(
        list(config.layers), config.embed_dim, config.heads, config.image_size, config.width
    )
    return weights.randomised(tower)


def test_modified_resnet() -> None:
    tower = torch_resnet(RESNET)
    ours = features(RESNET, weights.modified_resnet(tower), pixels(RESNET.image_size))
    assert error(ours, run(tower, pixels(RESNET.image_size))) < 2 * TOLERANCE


@pytest.mark.parametrize("mutation", mostly_long([{"bn_eps": 1e-6}, {"heads": 4}], keep=[{"bn_eps": 1e-6}]))
def test_a_wrong_number_in_a_resnet_is_seen(mutation: dict[str, Any]) -> None:
    tower = torch_resnet(RESNET)
    config = dataclasses.replace(RESNET, **mutation)
    wrong = features(config, weights.modified_resnet(tower), pixels(RESNET.image_size))
    assert error(wrong, run(tower, pixels(RESNET.image_size))) > 20 * TOLERANCE


@pytest.fixture(scope="module")
def lite0() -> Any:
    return weights.randomised(timm.create_model("tf_efficientnet_lite0"))


@pytest.mark.long(
    "verification/parity/convolutions/test_parity_mbconv.py::test_other_sizes_and_dense_features"
)
@pytest.mark.parametrize("size", [64, 75])
def test_mbconv(lite0: Any, size: int) -> None:
    """75 is odd at every stride but the first: TensorFlow's padding is then symmetric, at 64 it is not."""
    arch = load_arch("tf_efficientnet_lite0")
    arch = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, image_size=size))
    encode = jax.jit(partial(Network(arch).encode_image, precision="parity"))
    ours = np.asarray(encode({"vision": weights.mbconv(lite0)}, pixels(size, batch=2)))
    theirs = run(_Pooled(lite0), pixels(size, batch=2))
    assert error(ours, theirs) < 2 * TOLERANCE


class _Pooled(nn.Module):
    """What timm's classifier reads."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)


@pytest.mark.long("verification/parity/convolutions/test_parity_mbconv.py::test_a_wrong_record_is_seen")
@pytest.mark.parametrize("mutation", [{"bn_eps": 1e-5}, {"padding": "symmetric"}])
def test_a_wrong_number_in_an_mbconv_net_is_seen(lite0: Any, mutation: dict[str, Any]) -> None:
    arch = load_arch("tf_efficientnet_lite0")
    vision = dataclasses.replace(arch.vision, image_size=64, **mutation)
    network = Network(dataclasses.replace(arch, vision=vision))
    encode = jax.jit(partial(network.encode_image, precision="parity"))
    wrong = np.asarray(encode({"vision": weights.mbconv(lite0)}, pixels(64, batch=2)))
    assert error(wrong, run(_Pooled(lite0), pixels(64, batch=2))) > 100 * TOLERANCE
