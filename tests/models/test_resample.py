"""Position tables for other image sizes, against the functions of the libraries; what a card says of it."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import open_clip
import pytest
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch.nn import functional as F
from transformers.models.clip.configuration_clip import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings

import clipjax
from clipjax.checkpoints.card import ImageResize, Preprocess, card_from_dict
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.resize import resize_model, resized_preprocess
from clipjax.errors import UsageError
from clipjax.models.arch import Arch, arch_to_dict, family_of, load_arch, narrow_arch
from clipjax.models.network import Network
from clipjax.models.resample import RULES, antialiased, bicubic, resample_table, resized_arch
from converters.golden import build_model
from converters.golden.condition import condition

TOLERANCE = 1e-6  # on tables as large as trained ones are: the libraries' are computed in float32
HALVES = (0.5, 0.5, 0.5)
GRIDS = [(14, 24), (24, 14), (7, 14), (16, 3), (37, 16), (37, 36), (5, 6), (2, 9)]


def table_of(side: int, prefix: int = 1) -> torch.Tensor:
    return 0.05 * torch.randn(prefix + side * side, 4, generator=torch.Generator().manual_seed(side))


def ours(table: torch.Tensor, prefix: int, grid: int, rule: Any) -> np.ndarray:
    return resample_table(table.numpy(), prefix, grid, rule)


def as_image(table: torch.Tensor) -> torch.Tensor:
    side = math.isqrt(len(table))
    return table.reshape(1, side, side, -1).permute(0, 3, 1, 2)


def as_table(image: torch.Tensor) -> np.ndarray:
    return image.permute(0, 2, 3, 1).flatten(0, 2).numpy()


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("antialias", [True, False])
def test_weights_are_those_of_torch(old: int, new: int, antialias: bool):
    patches = as_image(table_of(old, prefix=0)).double()
    theirs = F.interpolate(patches, size=(new, new), mode="bicubic", antialias=antialias, align_corners=False)
    weights = antialiased(old, new) if antialias else bicubic(old, new, old / new)
    mine = np.einsum("yi,xj,bcij->bcyx", weights, weights, patches.numpy())
    assert np.abs(mine - theirs.numpy()).max() < 1e-14


class _Grid:
    """As much of a model as open_clip's function looks at."""

    def __init__(self, grid: int):
        self.visual = self
        self.grid_size = (grid, grid)


def open_clips(table: torch.Tensor, prefix: int, grid: int) -> np.ndarray:
    assert prefix == 1
    state = {"visual.positional_embedding": table}
    open_clip.model.resize_pos_embed(state, _Grid(grid))
    return state["visual.positional_embedding"].numpy()


def timms(table: torch.Tensor, prefix: int, grid: int) -> np.ndarray:
    return resample_abs_pos_embed(table[None], [grid, grid], num_prefix_tokens=prefix)[0].numpy()


@torch.no_grad()
def transformers(table: torch.Tensor, prefix: int, grid: int) -> np.ndarray:
    side = math.isqrt(len(table) - prefix)
    config = CLIPVisionConfig(hidden_size=4, image_size=8 * side, patch_size=8, num_attention_heads=2)
    embeddings = CLIPVisionEmbeddings(config)
    embeddings.position_embedding.weight.copy_(table)
    tokens = torch.zeros(1, grid * grid + prefix, 4)
    return embeddings.interpolate_pos_encoding(tokens, 8 * grid, 8 * grid)[0].numpy()


def dinov2s(table: torch.Tensor, prefix: int, grid: int) -> np.ndarray:
    """facebookresearch/dinov2 vision_transformer.py: the new grid is grid + 0.1 patches, cut down."""
    image = as_image(table[prefix:])
    factor = (grid + 0.1) / image.shape[-1]
    patches = F.interpolate(image, scale_factor=(factor, factor), mode="bicubic")
    assert patches.shape[-1] == grid
    return np.concatenate([table[:prefix].numpy(), as_table(patches)])


REFERENCES = {
    "open_clip": open_clips,
    "timm": timms,
    "transformers": transformers,
    "dinov2": dinov2s,
}


@pytest.mark.parametrize(("old", "new"), [(14, 24), (24, 14), (37, 16), (16, 3)])
@pytest.mark.parametrize("rule", RULES)
def test_tables_are_those_of_the_library(rule: Any, old: int, new: int):
    table = table_of(old)
    theirs = REFERENCES[rule](table, 1, new)
    mine = ours(table, 1, new, rule)
    assert mine.dtype == np.float32
    assert mine.shape == (1 + new * new, 4)
    assert np.abs(mine - theirs).max() < TOLERANCE
    np.testing.assert_array_equal(mine[0], table[0].numpy())  # the class token's


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [("timm", "transformers"), ("timm", "dinov2"), ("transformers", "dinov2"), ("open_clip", "dinov2")],
)
@pytest.mark.parametrize(("old", "new"), [(37, 16), (14, 24)])
def test_another_rule_is_seen(rule: Any, wrong: Any, old: int, new: int):
    table = table_of(old)
    assert np.abs(ours(table, 1, new, wrong) - REFERENCES[rule](table, 1, new)).max() > 100 * TOLERANCE


def test_a_table_without_class_token():
    table = table_of(14, prefix=0)
    assert np.abs(ours(table, 0, 24, "timm") - timms(table, 0, 24)).max() < TOLERANCE
    with_token = ours(torch.cat([table[:1], table]), 1, 24, "timm")
    np.testing.assert_array_equal(with_token[1:], ours(table, 0, 24, "timm"))


@pytest.mark.parametrize("rule", RULES)
def test_the_same_size_is_the_same_table(rule: Any):
    table = table_of(14)
    np.testing.assert_array_equal(ours(table, 1, 14, rule), table.numpy())


# ------------------------------------------------------------------------------------- whole models


def small(name: str, library: str, **card: Any) -> Model:
    """A narrow model, all params zero."""
    arch = narrow_arch(load_arch(name))
    source = dataclasses.replace(model_card("vit_b_32-openai").source, library=library)
    base = dataclasses.replace(
        model_card("vit_b_32-openai"), arch=arch, source=source, tokenizer=None, **card
    )
    size = arch.vision.image_size
    pixels = dataclasses.replace(base.preprocess, image_size=size, resize_size=size)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), Network(arch).abstract_params())
    return Model(dataclasses.replace(base, preprocess=pixels), jax.device_put(zeros))


@pytest.mark.parametrize(
    ("name", "library", "rule"),
    [
        ("ViT-B-32", "open_clip", "open_clip"),
        ("ViT-B-32", "transformers", "transformers"),
        ("vit_base_patch16_clip_224", "timm", "timm"),
        ("deit3_large_patch16_384", "timm", "timm"),
        ("vit_large_patch14_dinov2", "timm", "timm"),
        ("ViT-SO400M-14-SigLIP-384", "open_clip", "timm"),
        ("EVA02-B-16", "open_clip", "timm"),
        ("convnext_base_w", "open_clip", None),
    ],
)
def test_each_model_has_its_own_rule(name: str, library: str, rule: str | None):
    model = small(name, library)
    size = model.card.arch.vision.image_size
    step = getattr(model.card.arch.vision, "patch_size", 32)
    new = (size // step + 2) * step
    resized = resize_model(model, new)
    assert resized.card.resized == ImageResize(size, rule)
    assert resized.card.arch.vision.image_size == resized.card.preprocess.image_size == new
    encode = functools.partial(resized.network.encode_image, precision="parity")
    features = jax.eval_shape(encode, resized.params, np.ones((1, new, new, 3), np.float32))
    assert features.shape == (1, resized.card.arch.vision.embed_dim)
    assert model.card.arch.vision.image_size == size  # the model that was given is as it was


def test_as_timm_builds_it_for_another_size(tmp_path: Path):
    """timm resamples a checkpoint's table when it loads it into a model of another size."""
    name = "vit_base_patch16_clip_224"
    arch = narrow_arch(load_arch(name))
    theirs = timm_narrow(name, arch, 48)
    condition(theirs, 0)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    larger = timm_narrow(name, arch, 80)
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(theirs.state_dict(), larger)
    larger.load_state_dict(filtered)
    images = np.random.default_rng(0).normal(size=(2, 80, 80, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = larger.forward_head(
            larger.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2)), pre_logits=True
        ).numpy()
    base = model_card("vit_b_32-openai")
    card = dataclasses.replace(
        base,
        arch=arch,
        source=dataclasses.replace(base.source, library="timm"),
        preprocess=dataclasses.replace(base.preprocess, image_size=48, resize_size=48),
        tokenizer=None,
        logit_scale=None,
    )
    model = clipjax.load_model(tmp_path / "w.pt", card=card, image_size=80)
    got = np.asarray(model.encode_image(images))
    assert np.abs(got - wanted).max() / np.abs(wanted).max() < 1e-5
    wrong = clipjax.load_model(tmp_path / "w.pt", card=card, image_size=80, position_rule="dinov2")
    assert np.abs(np.asarray(wrong.encode_image(images)) - wanted).max() / np.abs(wanted).max() > 1e-4

    # Never mixed up in the store, and the same after it was saved.
    original = clipjax.load_model(tmp_path / "w.pt", card=card)
    prints = {m.card.fingerprint for m in (model, wrong, original)}
    assert len(prints) == 3
    assert None not in prints
    again = clipjax.load_model(model.save(tmp_path / "saved"))
    assert again.card.resized == ImageResize(48, "timm")
    np.testing.assert_array_equal(np.asarray(again.encode_image(images)), got)
    with pytest.raises(UsageError, match="resized before, from 48 to 80 pixels"):
        resize_model(again, 96)


def timm_narrow(name: str, arch: Arch, size: int) -> Any:
    record = arch_to_dict(arch)
    record["vision"]["image_size"] = size
    torch.manual_seed(0)
    return build_model(name, "timm", record)


def test_a_table_in_half_precision_is_saved_whole(tmp_path: Path):
    arch = narrow_arch(load_arch("vit_base_patch16_clip_224"))
    theirs = timm_narrow("vit_base_patch16_clip_224", arch, 48)
    torch.save({key: tensor.half() for key, tensor in theirs.state_dict().items()}, tmp_path / "w.pt")
    base = small("vit_base_patch16_clip_224", "timm").card
    card = dataclasses.replace(base, tokenizer=None, logit_scale=None)
    model = clipjax.load_model(tmp_path / "w.pt", card=card, image_size=64)
    table = np.asarray(model.params["vision"]["positional_embedding"])
    assert not np.array_equal(table, table.astype(np.float16).astype(np.float32))
    again = clipjax.load_model(model.save(tmp_path / "saved"))
    np.testing.assert_array_equal(np.asarray(again.params["vision"]["positional_embedding"]), table)


def test_a_resized_card_is_read_back():
    card = resize_model(small("ViT-B-32", "open_clip"), 128).card
    assert card_from_dict(card.to_dict(), "card") == card
    assert card.to_dict()["resized"] == {"image_size": 96, "rule": "open_clip"}


def test_the_same_size_is_the_same_model():
    model = small("RN50", "open_clip")
    assert resize_model(model, model.card.arch.vision.image_size) is model


@pytest.mark.parametrize(
    ("name", "size", "rule", "message"),
    [
        ("ViT-B-32", 100, None, "image_size 100 is not a multiple of patch_size 32"),
        ("ViT-SO400M-14-SigLIP-384", 100, None, "image_size 100 is not a multiple of patch_size 14"),
        ("EVA02-B-16", 100, None, "image_size 100 is not a multiple of patch_size 16"),
        ("convnext_base_w", 100, None, "image_size 100 is not a multiple of 32"),
        ("ViT-B-32", 0, None, "image_size 0 is not"),
        ("RN50", 128, None, "takes images of 96 pixels only: its reference does not resample"),
        ("ViT-B-32", 128, "bilinear", "no rule 'bilinear' .*; known: open_clip, timm"),
        ("convnext_base_w", 128, "timm", "has no position table"),
    ],
)
def test_what_cannot_be_is_refused(name: str, size: int, rule: str | None, message: str):
    with pytest.raises(UsageError, match=message):
        resize_model(small(name, "open_clip"), size, rule)


def test_a_rule_needs_a_size(tmp_path: Path):
    with pytest.raises(UsageError, match="give image_size too"):
        clipjax.load_model(tmp_path, position_rule="timm")


@pytest.mark.parametrize("share", [1.0, 0.95, 0.9, 0.875, 0.965])
@pytest.mark.parametrize(("old", "new"), [(224, 336), (384, 224), (518, 224), (256, 320)])
def test_the_crop_keeps_its_share(share: float, old: int, new: int):
    given = Preprocess(old, math.floor(old / share), "shortest", "bicubic", HALVES, HALVES)
    resized = resized_preprocess(given, new)
    assert (resized.image_size, resized.resize_size) == (new, math.floor(new / share))


def test_every_vision_family_says_what_its_positions_are():
    grids = {
        "ViT-B-16": 14,
        "deit3_large_patch16_384": 24,
        "ViT-SO400M-14-SigLIP-384": 27,
        "EVA02-L-14-336": 24,
        "RN50": 7,
    }
    for name, grid in grids.items():
        vision = load_arch(name).vision
        positions = family_of(vision).positions
        assert positions is not None
        found = positions(vision)
        assert found is not None
        assert found.grid == grid
        leaf: Any = Network(load_arch(name)).abstract_params()["vision"]
        for part in found.path.split("/"):
            leaf = leaf[part]
        assert leaf.shape[0] == found.prefix + grid**2


def test_rotary_positions_keep_the_grid_of_their_reference():
    arch = load_arch("EVA02-B-16")
    assert resized_arch(arch, 448).vision.rope_grid == arch.vision.rope_grid == 16
