"""transformers' CLIPModel and SiglipModel, narrow: the same stages; what is wrong is seen at its stage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from _long import mostly_long
from transformers import CLIPConfig, CLIPImageProcessor, SiglipConfig, SiglipImageProcessor

import clipjax
from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.errors import UsageError
from clipjax.verification import verify
from clipjax.verification.verify import Golden, VerificationReport, compare
from converters.golden import build_model, run
from converters.golden.condition import condition
from converters.sources import open_source

TEXT = {"vocab_size": 300, "max_position_embeddings": 16, "hidden_size": 64, "intermediate_size": 96}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2}
# 33 pixels: three patches of 11 in CLIP, and in SigLIP two of 14 with five left over.
VISION = {"image_size": 33, "hidden_size": 64, "intermediate_size": 128}


class Case:
    """A narrow model of transformers: its folder as the hub has it, ours, and the reference's golden."""

    def __init__(self, kind: str, folder: Path, **flags: Any):
        self.config = config(kind, **flags)
        self.torch_model: Any = build_model(self.config, "transformers")
        condition(self.torch_model, 0)
        self.folder = folder
        save(self.torch_model, self.config, folder)
        self.given = inputs(kind)
        self.golden = Golden(self.given, run(self.torch_model, **self.given), {})
        self.model = clipjax.load_model(folder)

    def report(self, model: Model | None = None) -> VerificationReport:
        return compare(model or self.model, "golden", self.golden)

    def with_arch(self, tower: str, **changes: Any) -> VerificationReport:
        arch = self.model.card.arch
        changed = dataclasses.replace(arch, **{tower: dataclasses.replace(getattr(arch, tower), **changes)})
        return self.report(Model(dataclasses.replace(self.model.card, arch=changed), self.model.params))


def config(kind: str, **flags: Any) -> dict[str, Any]:
    """Sizes of our own; all flags are transformers' defaults unless given."""
    if kind == "clip":
        text = {**TEXT, **LAYERS, "bos_token_id": 298, "eos_token_id": 299, "pad_token_id": 0, **flags}
        made: Any = CLIPConfig(
            text_config=text, vision_config={**VISION, **LAYERS, "patch_size": 11, **flags}, projection_dim=48
        )
    else:
        text = {**TEXT, **LAYERS, "bos_token_id": 0, "eos_token_id": 1, **flags}
        made = SiglipConfig(text_config=text, vision_config={**VISION, **LAYERS, "patch_size": 14, **flags})
    return made.to_dict()


def save(model: Any, config: dict[str, Any], folder: Path) -> None:
    reference.save(model, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    size = VISION["image_size"]
    if config["model_type"] == "clip":
        processor: Any = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size)  # type: ignore[reportCallIssue]
    else:
        processor = SiglipImageProcessor(size={"height": size, "width": size})  # type: ignore[reportCallIssue]
    processor.save_pretrained(folder)


def inputs(kind: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    given = {"images": rng.normal(size=(3, 33, 33, 3)).astype(np.float32)}
    if kind == "clip":
        return given | {"ids": reference.token_ids(300, 16, 3, seed=7)}
    ids = np.ones((3, 16), np.int32)  # SigLIP ends and fills a text with 1
    for row, length in zip(ids, (0, 5, 15)):
        row[:length] = rng.integers(2, 300, length)
    return given | {"ids": ids}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("clip", tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("siglip", tmp_path_factory.mktemp("siglip"))


@pytest.fixture(params=["clip", "siglip"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.getfixturevalue(request.param)


# --- the same model ---


def test_every_stage_agrees(case: Case) -> None:
    report = case.report()
    assert report.passed, report.to_json()
    names = [stage.name for stage in report.stages]
    for name in ("vision.patch_embed", "vision.embed", "vision.blocks.1", "vision.pooled", "text.blocks.1"):
        assert name in names
    assert ("logit_bias" in names) == (case.config["model_type"] == "siglip")
    assert all(stage.error is not None and stage.error < 1e-5 for stage in report.stages)


def test_what_the_config_says(clip: Case, siglip: Case) -> None:
    ours: Any = clip.model.card.arch
    assert (ours.vision.activation, ours.text.activation) == ("quick_gelu", "quick_gelu")
    assert ours.text.causal is True
    ours = siglip.model.card.arch
    assert (ours.vision.activation, ours.text.activation) == ("gelu_tanh", "gelu_tanh")
    assert ours.text.causal is False
    assert siglip.model.card.logit_bias is not None


def test_the_whole_forward_of_transformers(case: Case) -> None:
    """`logits_per_image` of the library's own forward, not only of its parts."""
    pixels = torch.from_numpy(case.given["images"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = case.torch_model(pixel_values=pixels, input_ids=torch.from_numpy(case.given["ids"]).long())
    ours = verify.our_stages(case.model, case.given)["logits"]
    np.testing.assert_allclose(ours, theirs.logits_per_image.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", mostly_long(["gelu", "gelu_new"], keep=["gelu_new"]))
def test_other_activations_are_read_from_the_config(activation: str, tmp_path: Path) -> None:
    assert Case("siglip", tmp_path, hidden_act=activation).report().passed


def test_files_of_older_transformers_keep_the_positions_as_a_buffer(clip: Case, tmp_path: Path) -> None:
    config = clip.config
    model = build_model(config, "transformers")
    model.load_state_dict(clip.torch_model.state_dict())
    for half, count in ((model.text_model, 16), (model.vision_model, 10)):  # type: ignore[reportArgumentType]
        half.embeddings.register_buffer("position_ids", torch.arange(count)[None].clone())  # type: ignore
    save(model, config, tmp_path)
    assert "text_model.embeddings.position_ids" in open_source(tmp_path / "model.safetensors")
    assert clip.report(clipjax.load_model(tmp_path)).passed


# --- what is wrong is seen at its stage ---


@pytest.mark.parametrize("tower", mostly_long(["vision", "text"], keep=["vision"]))
def test_siglip_exact_vs_tanh_gelu(siglip: Case, tower: str) -> None:
    """transformers (and the original) take the tanh form, open_clip and timm the exact one."""
    assert siglip.with_arch(tower, activation="gelu").first_difference == f"{tower}.blocks.0"


@pytest.mark.parametrize(
    ("kind", "tower", "change", "stage"),
    mostly_long(
        [
            ("clip", "vision", {"activation": "gelu"}, "vision.blocks.0"),
            ("clip", "text", {"activation": "gelu_tanh"}, "text.blocks.0"),
            ("clip", "vision", {"ln_eps": 1e-6}, "vision.embed"),
            ("clip", "text", {"ln_eps": 1e-6}, "text.blocks.0"),
            ("clip", "text", {"causal": False}, "text.blocks.0"),
            ("clip", "text", {"pooling": "last"}, "text.pooled"),
            ("siglip", "vision", {"activation": "quick_gelu"}, "vision.blocks.0"),
            ("siglip", "vision", {"ln_eps": 1e-5}, "vision.blocks.0"),
            ("siglip", "text", {"ln_eps": 1e-5}, "text.blocks.0"),
            ("siglip", "text", {"causal": True}, "text.blocks.0"),
            ("siglip", "text", {"pooling": "argmax"}, "text.pooled"),
            ("siglip", "vision", {"pool_heads": 4}, "vision.pooled"),
            ("siglip", "vision", {"heads": 4}, "vision.blocks.0"),
        ],
        keep=[
            ("clip", "text", {"causal": False}, "text.blocks.0"),
            ("siglip", "text", {"ln_eps": 1e-5}, "text.blocks.0"),
            ("clip", "vision", {"ln_eps": 1e-6}, "vision.embed"),
            ("siglip", "vision", {"pool_heads": 4}, "vision.pooled"),
        ],
    ),
)
def test_a_wrong_record_shows_in_its_stage(
    kind: str, tower: str, change: dict[str, Any], stage: str, request: pytest.FixtureRequest
) -> None:
    case: Case = request.getfixturevalue(kind)
    assert case.with_arch(tower, **change).first_difference == stage


@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_probes_fused_matrix_is_cut_in_order(siglip: Case, part: int) -> None:
    """Query, key and value of the pooling's attention lie in one matrix."""
    attention = dict(siglip.model.params["vision"]["pool"]["attn"])
    one, two = ("q", "k", "v")[part], ("k", "v", "q")[part]
    attention[one], attention[two] = attention[two], attention[one]
    vision = siglip.model.params["vision"]
    changed = {**vision, "pool": {**vision["pool"], "attn": attention}}
    swapped = Model(siglip.model.card, {**siglip.model.params, "vision": changed})
    assert siglip.report(swapped).first_difference == "vision.pooled"


def test_every_tensor_moves_the_embedding(case: Case) -> None:
    """Otherwise agreement would say little. A bias of the keys cancels in the softmax."""
    state = case.torch_model.state_dict()
    names = ("image_embedding", "text_embedding")
    still = []
    for key, tensor in state.items():
        if key in ("logit_scale", "logit_bias") or "k_proj.bias" in key:
            continue
        kept = tensor.clone()
        tensor.copy_(kept.flip(-1) if not key.endswith("in_proj_bias") else kept.roll(1))
        now = run(case.torch_model, **case.given)
        moved = max(np.abs(now[name] - case.golden.stages[name]).max() for name in names)
        tensor.copy_(kept)
        if moved < 1000 * verify.EMBEDDING_TOLERANCE:
            still.append(key)
    assert still == []


# --- files ---


def test_export_back_to_transformers_is_bit_identical(case: Case, tmp_path: Path) -> None:
    layout = {"clip": "hf_clip", "siglip": "hf_siglip"}[case.config["model_type"]]
    export_model(case.model, tmp_path / "back.safetensors", layout)
    back, source = open_source(tmp_path / "back.safetensors"), open_source(case.folder / "model.safetensors")
    assert set(back) == set(source)
    for key in source:
        assert back[key].shape == source[key].shape
        assert back[key].read().tobytes() == source[key].read().tobytes()


@pytest.mark.usefixtures("reference_here")
def test_by_default_a_folder_of_transformers_is_verified_against_transformers(siglip: Case) -> None:
    report = verify.verify(siglip.folder)
    assert report.passed, report.to_json()
    assert (report.against, report.reference["library"]) == ("transformers", "transformers")


@pytest.mark.usefixtures("reference_here")
def test_a_record_alone_is_verified_against_transformers(clip: Case, siglip: Case, tmp_path: Path) -> None:
    """Only the converted folder is at hand: config and weights go back to what transformers reads."""
    clip.model.save(tmp_path / "clip")
    assert verify.verify(tmp_path / "clip", "transformers").passed
    exact = dataclasses.replace(siglip.model.card.arch.vision, activation="quick_gelu")
    card = dataclasses.replace(
        siglip.model.card, arch=dataclasses.replace(siglip.model.card.arch, vision=exact)
    )
    wrong = Model(card, siglip.model.params)
    report = verify.verify(wrong, "transformers", arch=siglip.folder / "config.json")
    assert report.first_difference == "vision.blocks.0"


def test_what_transformers_does_not_have() -> None:
    with pytest.raises(UsageError, match="which transformers does not have: verify it against timm"):
        verify.verify(Model(model_card("tf_efficientnet_lite0-in1k"), {}), "transformers")
