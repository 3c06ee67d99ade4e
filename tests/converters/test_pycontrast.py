"""PyContrast's two files, laid out as its loader reads them, opened as one source."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from clipjax.errors import DataError
from converters.sources import open_source


def save_pair(folder: Path, encoder: str, classifier: str) -> dict[str, torch.Tensor]:
    """Files as their training scripts write them; the tensors by the keys that clipjax gives them."""
    kernel = torch.randn(3, 3, 7, 7).transpose(0, 1)  # not contiguous
    tensors = {"encoder.conv1.weight": kernel, "encoder.bn1.num_batches_tracked": torch.tensor(5)}
    tensors |= {"head.0.weight": torch.randn(4, 2), "head_jig.fc1.weight": torch.randn(2)}
    last = {"weight": torch.randn(10, 2), "bias": torch.randn(10)}
    beside = {"optimizer": {"state": {}, "lr": 0.1}, "epoch": 200, "opt": argparse.Namespace(lr=0.1)}
    model = {f"module.{key}": tensor for key, tensor in tensors.items()}
    bank = {"memory_1": torch.randn(6, 2)}
    torch.save({"model": model, "contrast": bank, **beside}, folder / encoder)
    wrapped = {f"module.{key}": tensor for key, tensor in last.items()}
    torch.save({"classifier": wrapped, **beside}, folder / classifier)
    return tensors | {f"classifier.{key}": tensor for key, tensor in last.items()}


@pytest.mark.parametrize(
    ("encoder", "classifier"),
    [
        ("InsDis.pth", "InsDis_classifier.pth"),
        ("InfoMin_800.pth", "InfoMin_classifier.pth"),
    ],
)
def test_the_two_files_are_one_source(encoder: str, classifier: str, tmp_path: Path) -> None:
    tensors = save_pair(tmp_path, encoder, classifier)
    source = open_source(tmp_path / encoder)
    assert set(source) == set(tensors)
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(source[key].read(), tensor.numpy())
    assert [file.name for file in source.files] == [encoder, classifier]


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path, "MoCov2.pth", "MoCo_classifier.pth")  # that of another encoder
    says = r"MoCov2.pth is a PyContrast encoder without its classifier: put MoCov2_classifier.pth beside it"
    with pytest.raises(DataError, match=says):
        open_source(tmp_path / "MoCov2.pth")


def test_another_file_is_no_classifier(tmp_path: Path) -> None:
    save_pair(tmp_path, "InsDis.pth", "other.pth")
    save_pair(tmp_path, "InsDis_classifier.pth", "PIRL_classifier.pth")
    says = r"InsDis_classifier.pth is not PyContrast's classifier, a weight and a bias: it has encoder.bn1"
    with pytest.raises(DataError, match=says):
        open_source(tmp_path / "InsDis.pth")
