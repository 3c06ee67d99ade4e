"""MobileCLIP-B, a ViT with a stem of convolutions: every stage is open_clip's; mistakes are seen."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import open_clip
import pytest
import torch
from _mutants import Wrong, seen_with
from _parity import Case, edited, narrow_case, source_of

from clipjax.models.arch import load_arch
from clipjax.models.families.patches import vit
from clipjax.models.modules import layers
from clipjax.models.network import Network
from clipjax.models.training import Training
from converters.engine import conversion_of, detect_table, export, flatten
from converters.golden import build_model

NAME = "MobileCLIP-B"
LAYOUT = "open_clip_mobileclip_b"


def case() -> Case:
    return narrow_case(NAME, "open_clip")


def test_every_stage() -> None:
    report = case().compare()
    assert report.passed, report.to_json()
    errors = {stage.name: stage.error or 0 for stage in report.stages}
    names = ["patch_embed", "embed", "blocks.0", "blocks.1", "pooled", "projected"]
    vision = [name for name in errors if name.startswith("vision.")]
    assert vision == [f"vision.{name}" for name in names]
    # Said again, so that nobody loosens them in one place.
    assert max(error for stage, error in errors.items() if stage != "logits") <= 5e-5
    assert max(errors["image_embedding"], errors["text_embedding"]) <= 1e-5


def test_export_is_the_state_dict_bit_for_bit() -> None:
    source, state = source_of(case().theirs), case().theirs.state_dict()
    table = detect_table(source)
    assert table.name == LAYOUT
    carried = {key: tensor.read() for key, tensor in source.items() if table.carries(key)}
    assert set(carried) == {key for key in state if key.endswith("num_batches_tracked")}
    written = export(flatten(case().params), table, carried)
    assert set(written) == set(state)
    for key, tensor in state.items():
        assert np.asarray(written[key]).tobytes() == tensor.contiguous().numpy().tobytes(), key


@pytest.mark.parametrize("name", [NAME, "MobileCLIP2-B"])
def test_full_size_is_the_librarys(name: str) -> None:
    """Keys and shapes, and what they cannot tell."""
    with torch.device("meta"):
        model: Any = build_model(name)
    source, arch = source_of(model), load_arch(name)
    conversion = conversion_of(source, Network(arch).abstract_params(), detect_table(source))
    used = {piece.key for pieces in conversion.pieces.values() for piece in pieces}
    assert used | set(conversion.carried) == set(source)
    trunk, vision = model.visual.trunk, arch.vision
    assert [layer.conv.kernel_size[0] for layer in trunk.patch_embed.backbone] == list(vision.stem.sides)
    assert trunk.blocks[0].attn.num_heads == vision.heads
    assert trunk.patch_embed.img_size[0] == vision.image_size
    config: Any = open_clip.get_model_config(name)
    assert arch.text is not None
    assert arch.text.causal == (not config["text_cfg"]["no_causal_mask"])


@torch.no_grad()
def test_every_tensor_and_every_eps_moves_the_features() -> None:
    own, moved = case(), {}
    for key, tensor in own.tower.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            kept = tensor.clone()
            tensor.copy_(kept.roll(1, 0) if len(kept) > 1 else kept * 2)
            moved[key] = own.movement()
            tensor.copy_(kept)
    for key, module in own.tower.named_modules():
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
            kept, module.eps = module.eps, 1e-6 if module.eps == 1e-5 else 1e-5
            moved[f"{key}.eps"] = own.movement()
            module.eps = kept
    assert sum(key.endswith(".eps") for key in moved) == 7
    assert {key: m for key, m in moved.items() if m < 1e-4} == {}
    assert own.movement() == 0


def test_a_training_step_moves_the_statistics() -> None:
    """As torch in train mode: the batch's own statistics, and the running ones after it."""
    own, network = case(), Network(case().arch)
    images, tower = own.golden.inputs["images"], copy.deepcopy(own.tower).train()
    with torch.no_grad():
        wanted = tower(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    train = functools.partial(network.train_image, precision="parity", training=Training("batch"))
    features, moved = jax.jit(train)(own.params, images)
    assert np.abs(features - wanted).max() <= 1e-5 * np.abs(wanted).max()
    state = tower.trunk.patch_embed.backbone.state_dict()
    after = moved["vision"]["patch_embed"]
    assert set(after) == {"bn0", "bn1"}
    for i in range(2):
        for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
            np.testing.assert_allclose(after[f"bn{i}"][ours], state[f"{i}.bn.{theirs}"], rtol=1e-5, atol=1e-7)


# --- mistakes ---


@pytest.mark.parametrize(
    "change", [{"activation": "gelu_tanh"}, {"activation": "quick_gelu"}, {"bn_eps": 1e-6}]
)
def test_another_stem_is_seen(change: dict[str, Any]) -> None:
    stem = dataclasses.replace(case().arch.vision.stem, **change)
    assert case().first_difference(until="patch_embed", stem=stem) == "vision.patch_embed"


@pytest.mark.parametrize(
    ("part", "edit", "seen"),
    [
        ("conv0/kernel", lambda x: x.swapaxes(0, 1), "patch_embed"),
        ("conv2/kernel", lambda x: x.swapaxes(0, 1), "patch_embed"),
        ("conv2/bias", np.zeros_like, "patch_embed"),
        ("bn0/mean", np.zeros_like, "patch_embed"),
        ("bn1/var", np.ones_like, "patch_embed"),
        ("positional_embedding", lambda x: x[::-1], "embed"),
        ("vision/proj/bias", np.zeros_like, "projected"),
    ],
)
def test_another_tensor_is_seen(part: str, edit: Any, seen: str) -> None:
    assert case().difference_of(edited(case().params, part, edit)) == f"vision.{seen}"


def norm_last(call: Wrong) -> Wrong:
    """BatchNorm after the activation."""

    def wrong(self: Any, images: Any) -> Any:
        x = images
        for i in range(self.last):
            x = layers.ACTIVATIONS["gelu"](getattr(self, f"conv{i}")(x))
            x = getattr(self, f"bn{i}")(x)
        return getattr(self, f"conv{self.last}")(x)

    return wrong


def test_another_order_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        seen_with(case(), monkeypatch, "patch_embed", (vit.ConvStem, "__call__", norm_last))
        == "vision.patch_embed"
    )
