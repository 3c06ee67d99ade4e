"""State dicts of timm that are something else than their card says, refused in one sentence.

tests/models/test_parity_record.py accounts for those of every registered architecture.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipjax.errors import DataError
from clipjax.models.arch import load_arch
from clipjax.storage.formats.tensors import Source
from converters.engine import ConversionError
from converters.golden.sweep import shapes
from converters.nearest import conversion_for


@dataclasses.dataclass(frozen=True)
class Described:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    dtype: np.dtype


@functools.cache
def state_dict(name: str) -> dict[str, Any]:
    found = shapes({"shapes": name, "library": "timm"})["shapes"]
    return {key: Described(tuple(shape), np.dtype(kind)) for key, (shape, kind) in found.items()}


def source_of(tensors: dict[str, Any]) -> Source:
    return Source(tensors, "safetensors", (Path("given.safetensors"),))


def reshaped(tensors: dict[str, Any], of: str, first: int) -> dict[str, Any]:
    """The state dict with another number of rows in the tensors `of`."""
    changed = {
        key: dataclasses.replace(tensor, shape=(first, *tensor.shape[1:]))
        for key, tensor in tensors.items()
        if key.rpartition(".")[0] == of
    }
    return tensors | changed


@pytest.mark.parametrize(
    ("arch", "name", "head", "classes"),
    [
        ("convnext_tiny", "convnext_tiny", "head.fc", 21841),
        ("vit_base_patch16_224", "vit_base_patch16_224", "head", 21843),
        ("mobilenetv2_100", "mobilenetv2_100", "classifier", 11821),
    ],
)
def test_a_head_of_other_classes_is_named(arch: str, name: str, head: str, classes: int) -> None:
    source = source_of(reshaped(state_dict(name), head, classes))
    width = source[f"{head}.weight"].shape[1]
    says = (
        rf"^given.safetensors: {head}\.weight has shape \({classes}, {width}\), a head of {classes} classes"
    )
    with pytest.raises(DataError, match=says):
        conversion_for(source, load_arch(arch))


def test_a_file_of_another_member_is_named() -> None:
    source = source_of(state_dict("convnext_small"))
    says = r"^given.safetensors does not fit the architecture convnext_tiny .*those of convnext_small"
    with pytest.raises(ConversionError, match=says):
        conversion_for(source, load_arch("convnext_tiny"))


def test_folded_batch_norms_are_named() -> None:
    whole = state_dict("mobilenetv2_100")
    norms = {key.rpartition(".")[0] for key in whole if key.endswith("running_var")}
    folded = {key: tensor for key, tensor in whole.items() if key.rpartition(".")[0] not in norms}
    with pytest.raises(DataError, match=r"^given.safetensors: bn1\.running_var is missing, .* folded into"):
        conversion_for(source_of(folded), load_arch("mobilenetv2_100"))


def test_quantised_weights_are_named() -> None:
    tensors = state_dict("convnext_tiny")
    key = "stages.0.blocks.0.mlp.fc1.weight"
    tensors |= {key: dataclasses.replace(tensors[key], dtype=np.dtype(np.int8))}
    with pytest.raises(
        ConversionError, match=rf"^given.safetensors .*: {key} holds int8, not floating-point"
    ):
        conversion_for(source_of(tensors), load_arch("convnext_tiny"))
