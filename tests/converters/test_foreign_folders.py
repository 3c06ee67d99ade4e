"""Whole folders as the libraries write them: loaded, and the same model as the library's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import timm
from timm.models import get_pretrained_cfg

import clipjax
from clipjax import verify
from converters.golden import build_model, model_config
from converters.golden.condition import condition


def timm_folder(name: str, folder: Path, size: int, classes: int) -> Path:
    """A fine-tuned classifier of timm: other pixels and other classes than the name's."""
    cfg: Any = get_pretrained_cfg(name)
    model: Any = timm.create_model(name, num_classes=classes)
    condition(model.eval(), 0)
    pretrained = {**cfg.to_dict(), "input_size": (3, size, size), "tag": "", "num_classes": classes}
    record = {"architecture": name.partition(".")[0], "num_classes": classes, "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(record))
    reference.save(model, folder / "model.safetensors")
    return folder


def test_a_fine_tuned_classifier_of_timm(tmp_path: Path) -> None:
    folder = timm_folder("tf_efficientnet_lite0.in1k", tmp_path, size=96, classes=10)
    model = clipjax.load_model(folder)
    assert model.card.kind == "classifier"
    assert (model.card.arch.num_classes, model.card.arch.vision.image_size) == (10, 96)
    report = verify.verify(folder)
    assert report.passed, report.to_json()
    assert (report.against, report.reference["arch"]) == ("timm", "tf_efficientnet_lite0")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_base", "EVA02-B-16", "coca_ViT-B-32", "roberta-ViT-B-32"])
def test_full_size_folders_of_open_clip(name: str, tmp_path: Path) -> None:
    model = build_model(name)
    condition(model, 0)
    config = model_config(name)
    folder = reference.save_folder(model, config, tmp_path / name)
    del model
    loaded = clipjax.load_model(folder)
    assert loaded.card.arch.name == name
    del loaded
    report = verify.verify(folder)
    assert report.passed, report.to_json()
