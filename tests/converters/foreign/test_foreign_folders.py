"""Whole folders as the libraries write them: loaded, and the same model as the library's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import reference
import timm
from timm.models._hub import save_for_hf

import clipjax
from clipjax.verification import verify
from converters.golden import build_model, model_config
from converters.golden.condition import condition


@pytest.mark.usefixtures("reference_here")
def test_a_fine_tuned_classifier_of_timm(tmp_path: Path) -> None:
    """As timm itself writes it: other pixels and other classes than the name's."""
    folder = tmp_path / "pets"
    theirs: Any = timm.create_model("tf_efficientnet_lite0.in1k", num_classes=10)
    condition(theirs.eval(), 0)
    save_for_hf(theirs, str(folder), safe_serialization=True, data_config={"input_size": (3, 96, 96)})
    model = clipjax.load_model(folder)
    assert (model.card.kind, model.card.id) == ("classifier", "tf_efficientnet_lite0-pets")
    assert (model.card.arch.num_classes, model.card.arch.vision.image_size) == (10, 96)
    report = verify.verify(folder)
    assert report.passed, report.to_json()
    assert (report.against, report.reference["arch"]) == ("timm", "tf_efficientnet_lite0.in1k")


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
