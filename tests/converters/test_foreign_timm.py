"""timm's config.json gives a record of configs/archs, or a refusal that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
from _foreign import card, change, known, write
from timm.models import get_pretrained_cfg

from clipjax.config import config_dir, read_csv
from clipjax.errors import DataError
from converters.foreign import read_foreign_card

ROWS = [row for row in read_csv(config_dir() / "models.csv") if row["library"] == "timm"]


def timm_record(name: str = "tf_efficientnet_lite0.in1k", **changes: Any) -> dict[str, Any]:
    """As timm's push_to_hf_hub writes it, then `changes`."""
    cfg = get_pretrained_cfg(name)
    assert cfg is not None
    pretrained = {key: value for key, value in cfg.to_dict().items() if value is not None}
    record: dict[str, Any] = {"architecture": pretrained.pop("architecture"), "num_classes": cfg.num_classes}
    record |= {"pretrained_cfg": pretrained}
    for path, value in changes.items():
        change(record, path, value)
    return json.loads(json.dumps(record))


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_every_registered_row(row: dict[str, str], tmp_path: Path) -> None:
    """The file beside the weights says what the registry says."""
    name = f"{row['library_arch']}.{row['tag']}"
    write(tmp_path, timm_record(name), "config.json")
    record = card(tmp_path)
    assert record["id"] == name
    assert record["source"]["arch"] == row["library_arch"]
    assert record["arch"] == known(row["arch"])
    pixels = record["preprocess"]
    assert [str(pixels[key]) for key in ("image_size", "resize_size", "resize_mode", "interpolation")] == [
        row[key] for key in ("crop_size", "resize_size", "resize_mode", "interpolation")
    ]


def test_timm_config(tmp_path: Path) -> None:
    write(tmp_path, timm_record(), "config.json")
    record = card(tmp_path)
    assert record["arch"] == known("tf_efficientnet_lite0")
    assert record["id"] == "tf_efficientnet_lite0.in1k"
    data = timm.data.resolve_data_config({}, model=timm.create_model("tf_efficientnet_lite0"))  # type: ignore[reportAttributeAccessIssue]
    assert record["preprocess"] == {
        "image_size": 224,
        "resize_size": int(224 / data["crop_pct"]),
        "resize_mode": "shortest",
        "interpolation": data["interpolation"],
        "mean": list(data["mean"]),
        "std": list(data["std"]),
    }


def test_timm_fields(tmp_path: Path) -> None:
    write(tmp_path, timm_record(num_classes=10, **{"pretrained_cfg.crop_mode": "squash"}), "config.json")
    record = card(tmp_path)
    assert record["arch"]["num_classes"] == 10
    assert record["preprocess"]["resize_mode"] == "squash"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("architecture", "resnet50", "unknown architecture 'resnet50'"),
        ("architecture", "ViT-B-32", "unknown architecture 'ViT-B-32'"),
        ("model_args", {"act_layer": "relu"}, r"model_args\.act_layer is unknown to clipjax"),
        (
            "model_args",
            {"img_size": 256},
            r"model_args\.img_size is 256, but pretrained_cfg\.input_size is 224",
        ),
        ("model_args", {"num_classes": 10}, "num_classes is 10; clipjax has 1000"),
        ("global_pool", "max", r"global_pool is 'max'; clipjax has 'avg' for tf_efficientnet_lite0"),
        ("pretrained_cfg.crop_mode", "border", "crop_mode is 'border'"),
        ("pretrained_cfg.input_size", [3, 224, 256], "input_size is"),
        ("pretrained_cfg.input_size", [1, 224, 224], "clipjax has RGB images only"),
    ],
)
def test_timm_fields_that_would_be_another_network(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, timm_record(**{path: value}), "config.json")
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)
