"""timm's config.json gives a record of configs/archs, or a refusal that names the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from _foreign import card, change, known, write
from timm.data import ImageNetInfo  # type: ignore[reportPrivateImportUsage]
from timm.models import get_pretrained_cfg
from timm.models._hub import save_config_for_hf

from clipjax.checkpoints.card import card_from_dict
from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.storage.reading import read_csv
from converters.foreign import read_foreign_card, read_label_names
from converters.nearest import conversion_for

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
    assert (record["classes"] or f"? {record['unknown']['classes']}") == row["classes"]
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
        "crop": "round",
        "interpolation": data["interpolation"],
        "mean": list(data["mean"]),
        "std": list(data["std"]),
    }


def test_timm_fields(tmp_path: Path) -> None:
    write(tmp_path, timm_record(num_classes=10, **{"pretrained_cfg.crop_mode": "squash"}), "config.json")
    record = card(tmp_path)
    assert record["arch"]["num_classes"] == 10
    assert record["id"] == f"tf_efficientnet_lite0-{tmp_path.name}"  # not the registered model's
    assert record["classes"] is None
    assert record["preprocess"]["resize_mode"] == "squash"


def known_size(name: str) -> int:
    row = next(row for row in ROWS if name == f"{row['library_arch']}.{row['tag']}")
    return int(row["crop_size"])


def test_classes_of_its_own(tmp_path: Path) -> None:
    """As many classes as the registered model, under other names."""
    write(tmp_path, timm_record(label_names=[f"pet {i}" for i in range(1000)]), "config.json")
    record = card(tmp_path)
    assert record["id"] == f"tf_efficientnet_lite0-{tmp_path.name}"
    assert record["classes"] is None
    assert read_label_names(tmp_path) == {f"pet {i}": f"pet {i}" for i in range(1000)}


@pytest.mark.parametrize("place", ["", "pretrained_cfg."])
def test_label_names_that_are_a_label_space(place: str, tmp_path: Path) -> None:
    """timm's own list of ImageNet; the weights of a registered model keep its id."""
    imagenet = ImageNetInfo()
    changes = {
        f"{place}label_names": imagenet.label_names(),
        f"{place}label_descriptions": {"n01440764": "x"},
    }
    write(tmp_path, timm_record(**changes), "config.json")
    record = card(tmp_path)
    assert (record["id"], record["classes"]) == ("tf_efficientnet_lite0.in1k", "imagenet")
    write(tmp_path, timm_record(**changes, **{"pretrained_cfg.tag": "mine"}), "config.json")
    record = card(tmp_path)
    assert (record["id"], record["classes"]) == (f"tf_efficientnet_lite0-{tmp_path.name}", "imagenet")
    assert "classes" not in record["unknown"]


@pytest.mark.parametrize(
    ("names", "words", "read"),
    [
        (["b", "a"], None, {"b": "b", "a": "a"}),
        ({"1": "a", "0": "b"}, {"a": "an a", "c": "not there"}, {"b": "b", "a": "an a"}),
        (["a"], None, None),
        (["a", "b", "c"], None, None),
        ({"0": "a", "2": "b"}, None, None),
        (["a", "a"], None, None),
        (["a", " "], None, None),
        (["a", 1], None, None),
        ("ab", None, None),
        (7, None, None),
        (["a", "b"], ["an a", "a b"], {"a": "a", "b": "b"}),
        (["a", "b"], {"a": "", "b": 3}, {"a": "a", "b": "b"}),
    ],
)
def test_label_names_fit_the_outputs_or_are_not_used(
    names: Any, words: Any, read: Any, tmp_path: Path
) -> None:
    changes = {"label_names": names} | ({} if words is None else {"label_descriptions": words})
    write(tmp_path, timm_record(num_classes=2, **changes), "config.json")
    assert read_label_names(tmp_path) == read
    told = card(tmp_path)["unknown"]["classes"]
    assert told == (
        "the configuration names no classes"
        if read
        else "the label_names of its config.json do not name 2 outputs"
    )


@pytest.mark.parametrize(
    ("name", "changes", "registered"),
    [
        ("vit_base_patch32_clip_224.laion2b_ft_in1k", {}, True),
        ("vit_base_patch32_clip_224.laion2b_ft_in1k", {"img_size": 96, "num_classes": 37}, False),
        ("convnext_base.clip_laion2b_augreg_ft_in1k", {}, True),
        ("convnext_base.clip_laion2b_augreg_ft_in1k", {"num_classes": 37}, False),
        ("tf_efficientnet_lite0.in1k", {"num_classes": 37}, False),
    ],
)
def test_what_timm_itself_writes(name: str, changes: dict, registered: bool, tmp_path: Path) -> None:
    """Its config.json, and the shapes of its weights, which are not made."""
    with torch.device("meta"):
        model = timm.create_model(name, **changes)  # type: ignore[reportPrivateImportUsage]
    save_config_for_hf(model, str(tmp_path / "config.json"))
    record = card(tmp_path)
    assert record["arch"]["num_classes"] == model.num_classes
    assert record["arch"]["vision"]["image_size"] == changes.get("img_size", known_size(name))
    assert (record["id"] == name) == registered
    assert record["classes"] == ("imagenet" if registered else None)
    weights: Any = {key: np.broadcast_to(np.float32(0), w.shape) for key, w in model.state_dict().items()}
    conversion_for(weights, card_from_dict(record, "test").arch)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "architecture",
            "resnet51",
            "does not have timm's architecture 'resnet51'; it has timm's families beit, conv.*, vgg, vit$",
        ),
        ("model_args", {"act_layer": "tanh"}, "has act_layer = 'tanh', which clipjax's family 'mbconv' does"),
        (
            "model_args",
            {"img_size": 256},
            r"model_args\.img_size is 256, but the model has 224",
        ),
        ("model_args", {"num_classes": 10}, r"model_args\.num_classes is 10, but the model has 1000"),
        ("global_pool", "max", r"global_pool is 'max', but the model has 'avg'"),
        ("pretrained_cfg.crop_mode", "border", "crop_mode is 'border'"),
        ("pretrained_cfg.input_size", [3, 224, 256], "input_size is"),
        ("pretrained_cfg.input_size", [1, 224, 224], "clipjax has RGB images only"),
        ("model_args", {"in_chans": 1}, r"model_args\.in_chans is 1, but the model has 3"),
        ("model_args", ["in_chans"], r"model_args is \['in_chans'\]; it should be an object"),
        ("architecture", ["resnet50"], r"architecture is \['resnet50'\]; it should be a string"),
        ("num_classes", "10", "num_classes is '10'; it should be a whole number from 0"),
        ("pretrained_cfg.input_size", 224, r"input_size is 224; it should be a list of three"),
        ("pretrained_cfg.crop_pct", "0.8", r"crop_pct is '0\.8'; it should be a number from 0\.01 to 1"),
        ("pretrained_cfg.crop_pct", 0, "crop_pct is 0; it should be a number"),
        ("pretrained_cfg.crop_pct", 1.5, r"crop_pct is 1\.5; it should be a number"),
        ("pretrained_cfg.interpolation", "lanczos", "interpolation is 'lanczos'; clipjax knows bicubic, bil"),
        ("pretrained_cfg.std", [1, 1, 0], r"std is \[1, 1, 0\]; it should be a list of three .* above 0"),
    ],
)
def test_timm_fields_that_would_be_another_network(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, timm_record(**{path: value}), "config.json")
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)
