"""Fine-tuned CLIPs as classifiers: features and a linear head through the API of zero-shot models."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import reference
import timm
import torch
from _long import mostly_long

import clipjax
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.errors import UsageError
from clipjax.heads.build import classifier_head
from clipjax.heads.head import logits
from clipjax.models.arch import arch_to_dict, narrow_arch
from converters.golden import build_model
from converters.golden.condition import condition

pytestmark = pytest.mark.usefixtures("one_device")

# A class token behind the last norm; a mean in front of it; the same with a hidden layer. Each row has its
# own crop, of which two do not show the whole image.
ROWS = [
    "vit_base_patch32_clip_224.laion2b_ft_in1k",
    "convnext_base.clip_laion2b_augreg_ft_in1k",
    "convnext_large_mlp.clip_laion2b_augreg_ft_in1k",
]


def pair(row: str, folder: Path) -> tuple[Any, Model]:
    """timm's narrow model of a row, with all 1000 classes, and ours of the file that it wrote."""
    card = model_card(row)
    arch = dataclasses.replace(narrow_arch(card.arch), num_classes=card.arch.num_classes)
    theirs = build_model(card.source.arch or "", "timm", arch_to_dict(arch))
    condition(theirs, seed=0)
    size, full = arch.vision.image_size, card.preprocess
    crop = timm.get_pretrained_cfg(f"{card.source.arch}.{card.source.tag}").crop_pct  # type: ignore[reportPrivateImportUsage]
    small = dataclasses.replace(full, image_size=size, resize_size=math.floor(size / crop))
    card = dataclasses.replace(card, arch=arch, preprocess=small)
    return theirs, clipjax.load_model(reference.save(theirs, folder / "model.safetensors"), card=card)


def transform(model: Any, row: str, size: int) -> Any:
    """timm's own evaluation transform of the row's weights, at another size."""
    given = timm.get_pretrained_cfg(row).to_dict()  # type: ignore[reportPrivateImportUsage]
    given |= {"input_size": (3, size, size)}
    return timm.data.create_transform(**timm.data.resolve_data_config(given, pretrained_cfg=given))  # type: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("row", mostly_long(ROWS, keep=[ROWS[0]]))
def test_evaluate_takes_a_fine_tuned_clip(row: str, tmp_path: Path):
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(5):
        noise = np.random.default_rng(n).integers(0, 256, (40 + 9 * n, 70, 3), np.uint8)
        PIL.Image.fromarray(noise).resize((300, 200 + 30 * n)).save(folder / f"{n}.png")
    theirs, ours = pair(row, tmp_path)
    result = clipjax.evaluate(ours, dataset=folder, progress=False)

    prepare = transform(theirs, row, ours.card.arch.vision.image_size)
    images = [PIL.Image.open(folder / name).convert("RGB") for name in result.images["id"].to_pylist()]
    pixels = torch.stack([prepare(image) for image in images])
    with torch.no_grad():
        expected = theirs(pixels).numpy()
        features = theirs.forward_head(theirs.forward_features(pixels), pre_logits=True).numpy()
    given = ours.encode_image(pixels.permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(given, features, atol=1e-5 * np.abs(features).max())
    np.testing.assert_allclose(logits(classifier_head(ours), given), expected, atol=1e-3)
    assert result.images["prediction"].to_pylist() == expected.argmax(axis=1).tolist()
    with pytest.raises(UsageError, match="classifier"):
        ours.encode_text(["a photo of a cat"])
