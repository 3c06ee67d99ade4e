"""Bare weights by their library's name of the architecture: its numbers and pixels, or a refusal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import timm
import torch
from open_clip.transform import PreprocessCfg

from clipjax.checkpoints.identity.library_card import library_card
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.commands.shared.names import check_names
from clipjax.errors import DataError, UsageError
from clipjax.models.outputs import one_layer
from converters.foreign import open_clip_towers
from converters.golden.condition import condition

NAME = "open_clip:ViT-S-32"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """timm's smallest ViT with 7 outputs, and its bare file."""
    theirs: Any = timm.create_model("test_vit", num_classes=7).eval()  # type: ignore[reportPrivateImportUsage]
    condition(theirs, 0)
    return theirs, reference.save(theirs, tmp_path_factory.mktemp("bare") / "mine.safetensors")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Path]:
    """open_clip's model of that name, made narrow, its config, and its bare file, by torch.save."""
    config = reference.narrow("ViT-S-32")
    theirs, path = reference.conditioned(config), tmp_path_factory.mktemp("bare") / "clip.pt"
    torch.save(theirs.state_dict(), path)
    return theirs, config, path


def known_as(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    """Give the narrow config the name."""
    open_clip_towers.library_name(config)  # is cached, of the true ones
    configs = open_clip_towers.configs() | {NAME.partition(":")[2]: config}
    monkeypatch.setattr(open_clip_towers, "configs", lambda: configs)


def test_a_classifier_of_timm(classifier: tuple[Any, Path], caplog: pytest.LogCaptureFixture) -> None:
    theirs, path = classifier
    ours = load_model(path, card="timm:test_vit")
    card, size = ours.card, ours.card.arch.vision.image_size
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    with torch.inference_mode():
        given = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        features = theirs.forward_head(theirs.forward_features(given), pre_logits=True).numpy()
        logits = theirs(given).numpy()
    found = ours.encode_image(images)
    np.testing.assert_allclose(found, features, rtol=1e-4, atol=1e-5 * np.abs(features).max())
    head = one_layer(ours.params["head"])
    np.testing.assert_allclose(found @ head["kernel"] + head["bias"], logits, atol=1e-3)

    config = timm.data.resolve_data_config({}, model=theirs)  # type: ignore[reportAttributeAccessIssue]
    assert (card.preprocess.image_size, card.preprocess.resize_size) == (
        config["input_size"][1],
        int(config["input_size"][1] / config["crop_pct"]),
    )
    assert (card.preprocess.mean, card.preprocess.std) == (config["mean"], config["std"])
    assert card.preprocess.interpolation == config["interpolation"]
    assert (card.id, card.facts, card.facts_origin, card.classes) == ("mine", {}, "unknown", None)
    assert card.unknown["preprocess"] in caplog.text
    assert card.unknown["preprocess"] == "not stated by the weights: the default of timm for test_vit"


def test_a_clip_of_open_clip(
    clip: tuple[Any, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    theirs, config, path = clip
    known_as(monkeypatch, config)
    given = reference.inputs(config)
    ours = load_model(path, card=NAME)
    with torch.inference_mode():
        pixels = torch.from_numpy(given["images"].transpose(0, 3, 1, 2).copy())
        image = theirs.encode_image(pixels, normalize=True).numpy()
        text = theirs.encode_text(torch.from_numpy(given["ids"]).long(), normalize=True).numpy()
    np.testing.assert_allclose(ours.encode_image(given["images"]), image, atol=1e-5)
    np.testing.assert_allclose(ours.encode_text(given["ids"]), text, atol=1e-5)

    default, size = PreprocessCfg(), config["vision_cfg"]["image_size"]
    expected = [size, size, default.resize_mode, default.interpolation, default.mean, default.std, "round"]
    assert list(dataclasses.astuple(ours.card.preprocess)) == expected
    assert (ours.card.id, ours.card.source.arch, ours.card.facts) == ("clip", "ViT-S-32", {})
    folder, written = convert_model(path, tmp_path / "mine", card=NAME)
    assert written.unknown["preprocess"] == "not stated by the weights: the default of open_clip for ViT-S-32"
    assert load_model(folder, card=NAME).card.unknown == written.unknown


def test_the_wrong_card_is_refused_by_a_tensor(classifier: tuple[Any, Path]) -> None:
    _, path = classifier
    with pytest.raises(DataError, match=r"does not fit the architecture vit_tiny_patch16_384 .*blocks"):
        load_model(path, card="timm:vit_tiny_patch16_384")
    with pytest.raises(DataError, match=r"does not fit the architecture ViT-S-32 "):
        load_model(path, card=NAME)


def test_classes_of_the_outputs_are_stated_at_conversion(
    classifier: tuple[Any, Path], tmp_path: Path
) -> None:
    names = tmp_path / "names.csv"
    names.write_text("id,name\n" + "".join(f"n{i},thing {i}\n" for i in range(7)))
    folder, card = convert_model(classifier[1], tmp_path / "seven", card="timm:test_vit", classes=names)
    assert (card.id, card.arch.num_classes, card.classes) == ("seven", 7, "labels.csv")
    assert load_model(folder).card.preprocess == library_card("timm:test_vit").preprocess


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-S32", "unknown architecture of open_clip 'ViT-S32'; did you mean ViT-S-32"),
        ("timm:resnet81", "unknown architecture of timm 'resnet81'; did you mean"),
        ("transformers:clip", "unknown library 'transformers'; known: open_clip, timm"),
        ("timm:resnet50.a1_in1k", "the architecture, timm:resnet50, or the registered resnet50.a1_in1k"),
    ],
)
def test_a_name_that_is_not_known(name: str, said: str) -> None:
    for refused in (lambda: check_names(card=name), lambda: library_card(name)):
        with pytest.raises(UsageError) as error:
            refused()
        assert said in str(error.value)


def test_an_architecture_out_of_reach_is_refused_by_its_field() -> None:
    with pytest.raises(DataError, match=r"open_clip:ViTamin-B: vision_cfg.timm_model_name is"):
        library_card("open_clip:ViTamin-B")
    with pytest.raises(DataError, match=r"timm:resnet50d: timm's resnet50d has stem_type = 'deep'"):
        library_card("timm:resnet50d")


def test_registered_models_with_other_pixels_are_named() -> None:
    """torchvision's ResNet-18 has another crop than the weights that timm's bare name loads."""
    card = library_card("timm:resnet18")
    assert card.unknown["preprocess"].endswith("for resnet18, but resnet18.tv_in1k has another")
    assert card.preprocess.resize_size == 235
