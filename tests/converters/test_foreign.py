"""Configuration beside weights gives the records of configs/archs, or a refusal that names the field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
from transformers import CLIPConfig, CLIPImageProcessor

from clipjax.card import card_from_dict
from clipjax.config import config_dir, read_csv
from clipjax.errors import DataError
from clipjax.models.arch import arch_to_dict, load_arch
from converters.foreign import read_foreign_card
from converters.golden import model_config

OPEN_CLIP_ARCHS = sorted(
    {r["arch"] for r in read_csv(config_dir() / "models.csv") if r["library"] == "open_clip"}
)
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def write(folder: Path, record: dict[str, Any], name: str = "open_clip_config.json") -> None:
    (folder / name).write_text(json.dumps(record))


def card(folder: Path) -> dict[str, Any]:
    record = read_foreign_card(folder)
    assert record is not None
    card_from_dict(record, "test")  # what clipjax makes of it must be whole
    return record


def without_name(arch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arch.items() if key != "name"}


# --- open_clip ---


@pytest.mark.parametrize("name", OPEN_CLIP_ARCHS)
def test_open_clip_configs_give_our_arch_records(name: str, tmp_path: Path) -> None:
    write(tmp_path, {"model_cfg": model_config(name), "preprocess_cfg": PREPROCESS})
    record = card(tmp_path)
    assert without_name(record["arch"]) == without_name(arch_to_dict(load_arch(name)))
    size = record["arch"]["vision"]["image_size"]
    assert record["preprocess"] == {"image_size": size, "resize_size": size, **PREPROCESS}
    assert record["tokenizer"]["context_length"] == 77
    assert record["source"]["library"] == "open_clip"
    assert set(record["unknown"]) == {"facts", "source.sha256", "logit_scale", "logit_bias"}


def test_open_clips_defaults_where_the_file_says_nothing(tmp_path: Path) -> None:
    """The reference fills CLIPVisionCfg, CLIPTextCfg and PreprocessCfg in the same way."""
    write(tmp_path, {"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {}})
    record = card(tmp_path)
    assert without_name(record["arch"]) == without_name(arch_to_dict(load_arch("ViT-B-16")))
    assert record["preprocess"]["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert record["preprocess"]["std"] == list(open_clip.OPENAI_DATASET_STD)
    assert (record["preprocess"]["interpolation"], record["preprocess"]["resize_mode"]) == (
        "bicubic",
        "shortest",
    )


def changed(path: str, value: Any) -> dict[str, Any]:
    record = {"model_cfg": copy.deepcopy(model_config("ViT-B-32")), "preprocess_cfg": dict(PREPROCESS)}
    *parents, last = path.split(".")
    node = record
    for parent in parents:
        node = node[parent]
    node[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "model_cfg.vision_cfg.ls_init_value",
            1e-5,
            r"vision_cfg\.ls_init_value is 1e-05; clipjax only has None",
        ),
        ("model_cfg.vision_cfg.attentional_pool", True, r"vision_cfg\.attentional_pool is True"),
        ("model_cfg.vision_cfg.pool_type", "avg", r"vision_cfg\.pool_type is 'avg'"),
        ("model_cfg.vision_cfg.no_ln_pre", True, r"vision_cfg\.no_ln_pre is True"),
        (
            "model_cfg.vision_cfg.timm_model_name",
            "convnext_base",
            r"vision_cfg\.timm_model_name is 'convnext_base'",
        ),
        ("model_cfg.vision_cfg.qk_norm", True, r"vision_cfg\.qk_norm is True"),
        ("model_cfg.vision_cfg.act_kwargs", {"approximate": "tanh"}, r"vision_cfg\.act_kwargs is"),
        (
            "model_cfg.vision_cfg.norm_kwargs",
            {"elementwise_affine": False},
            "'elementwise_affine', which clipjax",
        ),
        ("model_cfg.vision_cfg.news", 1, "vision_cfg has the field 'news', which clipjax does not know"),
        ("model_cfg.vision_cfg.image_size", [224, 336], r"image_size is \[224, 336\]; clipjax has square"),
        ("model_cfg.vision_cfg.head_width", 60, "width 768 is not a multiple of head_width 60"),
        ("model_cfg.text_cfg.pool_type", "last", r"text_cfg\.pool_type is 'last'"),
        ("model_cfg.text_cfg.no_causal_mask", True, r"text_cfg\.no_causal_mask is True"),
        ("model_cfg.text_cfg.proj_bias", True, r"text_cfg\.proj_bias is True"),
        ("model_cfg.text_cfg.hf_model_name", "roberta-base", r"text_cfg\.hf_model_name is 'roberta-base'"),
        ("model_cfg.text_cfg.hf_tokenizer_name", "x/y", r"text_cfg\.hf_tokenizer_name is 'x/y'"),
        ("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "odd"}, r"tokenizer_kwargs\.clean is 'odd'"),
        ("model_cfg.text_cfg.news", 1, "text_cfg has the field 'news', which clipjax does not know"),
        (
            "model_cfg.multimodal_cfg",
            {},
            "model_cfg has the field 'multimodal_cfg', which clipjax does not know",
        ),
        ("model_cfg.quick_gelu", "yes", "quick_gelu is 'yes', not true or false"),
        ("model_cfg.text_cfg", None, "text_cfg should be an object"),
        ("preprocess_cfg.news", 1, "preprocess_cfg has the field 'news', which clipjax does not know"),
        ("preprocess_cfg.size", 336, r"preprocess_cfg\.size is 336, the image size is 224"),
    ],
)
def test_open_clip_fields_that_would_be_another_network(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, changed(path, value))
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


def test_open_clip_fields_that_are_understood(tmp_path: Path) -> None:
    write(tmp_path, changed("model_cfg.vision_cfg.norm_kwargs", {"eps": 1e-6}))
    assert card(tmp_path)["arch"]["vision"]["ln_eps"] == 1e-6
    assert card(tmp_path)["arch"]["text"]["ln_eps"] == 1e-5
    write(tmp_path, changed("model_cfg.quick_gelu", True))
    arch = card(tmp_path)["arch"]
    assert (arch["vision"]["activation"], arch["text"]["activation"]) == ("quick_gelu", "quick_gelu")
    write(tmp_path, changed("model_cfg.init_logit_bias", -10))
    assert card(tmp_path)["arch"]["logit_bias"] is True
    write(tmp_path, changed("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}))
    assert card(tmp_path)["tokenizer"]["clean"] == "canonicalize"
    write(tmp_path, changed("model_cfg.vision_cfg.patch_dropout", 0.5))
    assert without_name(card(tmp_path)["arch"]) == without_name(arch_to_dict(load_arch("ViT-B-32")))


def test_another_vocabulary_has_no_tokenizer(tmp_path: Path) -> None:
    write(tmp_path, changed("model_cfg.text_cfg.vocab_size", 300))
    assert card(tmp_path)["tokenizer"] is None
    assert "300 ids" in card(tmp_path)["unknown"]["tokenizer"]


# --- transformers ---


def hf_files(folder: Path, **changes: Any) -> None:
    """What transformers itself writes for ViT-L/14, then `changes` ("vision_config.hidden_act": ...)."""
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = CLIPConfig(vision_config={**vision, "patch_size": 14}, text_config=text, projection_dim=768)
    config.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)  # type: ignore[reportCallIssue]
    for path, value in changes.items():
        name = "preprocessor_config.json" if path.startswith("pixels.") else "config.json"
        record = json.loads((folder / name).read_text())
        *parents, last = path.removeprefix("pixels.").split(".")
        node = record
        for parent in parents:
            node = node[parent]
        node.pop(last) if value is None else node.__setitem__(last, value)
        write(folder, record, name)


def test_transformers_config_gives_the_same_record_as_open_clips(tmp_path: Path) -> None:
    hf_files(tmp_path)
    record = card(tmp_path)
    assert without_name(record["arch"]) == without_name(arch_to_dict(load_arch("ViT-L-14-quickgelu")))
    assert record["preprocess"] == {
        "image_size": 224,
        "resize_size": 224,
        "resize_mode": "shortest",
        "interpolation": "bicubic",
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
    }
    assert record["source"]["library"] == "transformers"


@pytest.mark.parametrize(
    ("path", "value", "arch", "preprocess"),
    [
        ("vision_config.hidden_act", "gelu", {"activation": "gelu"}, {}),
        ("vision_config.layer_norm_eps", 1e-6, {"ln_eps": 1e-6}, {}),
        ("vision_config.num_attention_heads", 8, {"heads": 8}, {}),
        ("text_config.eos_token_id", 2, {}, {}),  # as in the files of transformers 4.2x
        ("pixels.size", 224, {}, {"resize_size": 224}),
        ("pixels.crop_size", 224, {}, {}),
        ("pixels.resample", 2, {}, {"interpolation": "bilinear"}),
        ("pixels.size", {"height": 224, "width": 224}, {}, {"resize_mode": "squash"}),
        ("pixels.size", {"shortest_edge": 256}, {}, {"resize_size": 256}),
    ],
)
def test_transformers_fields(path: str, value: Any, arch: dict, preprocess: dict, tmp_path: Path) -> None:
    hf_files(tmp_path, **{path: value})
    record = card(tmp_path)
    assert arch.items() <= record["arch"]["vision"].items()
    assert preprocess.items() <= record["preprocess"].items()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vision_config.hidden_act", None, "vision_config lacks 'hidden_act', and clipjax does not guess it"),
        ("vision_config.layer_norm_eps", None, "vision_config lacks 'layer_norm_eps'"),
        ("text_config.num_attention_heads", None, "text_config lacks 'num_attention_heads'"),
        ("text_config.eos_token_id", None, "text_config lacks 'eos_token_id'"),
        (
            "text_config.eos_token_id",
            7,
            r"text_config\.eos_token_id is 7; clipjax reads out at the highest id, 49407",
        ),
        ("text_config.hidden_act", "mish", r"text_config\.hidden_act is 'mish'; clipjax knows"),
        ("architectures", ["CLIPVisionModelWithProjection"], "clipjax reads a CLIPModel"),
        ("vision_config", None, "lacks 'vision_config'"),
        ("pixels.do_resize", False, "do_resize is False"),
        ("pixels.image_mean", None, "lacks 'image_mean'"),
        ("pixels.resample", 1, "resample is 1"),
        ("pixels.rescale_factor", 1.0, "rescale_factor is 1.0, not 1/255"),
        ("pixels.crop_size", 336, "do not give 224 pixels"),
        ("pixels.do_center_crop", False, "do not give 224 pixels"),
    ],
)
def test_transformers_fields_left_open(path: str, value: Any, message: str, tmp_path: Path) -> None:
    hf_files(tmp_path, **{path: value})
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


def test_transformers_without_its_pixels(tmp_path: Path) -> None:
    hf_files(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match=r"preprocessor_config\.json does not exist"):
        read_foreign_card(tmp_path)


# --- timm ---


def timm_record(**changes: Any) -> dict[str, Any]:
    """As timm's push_to_hf_hub writes it."""
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg("tf_efficientnet_lite0.in1k")
    assert cfg is not None
    record = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000, "num_features": 1280}
    record |= {"pretrained_cfg": cfg.to_dict()}
    for path, value in changes.items():
        *parents, last = path.split(".")
        node: Any = record
        for parent in parents:
            node = node[parent]
        node[last] = value
    return json.loads(json.dumps(record))


def test_timm_config(tmp_path: Path) -> None:
    write(tmp_path, timm_record(), "config.json")
    record = card(tmp_path)
    assert record["arch"] == arch_to_dict(load_arch("tf_efficientnet_lite0"))
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
        ("architecture", "ViT-B-32", "is not a classifier of timm"),
        ("model_args", {"act_layer": "relu"}, r"model_args \['act_layer'\] are unknown to clipjax"),
        ("global_pool", "max", "global_pool is 'max'"),
        ("pretrained_cfg.crop_mode", "border", "crop_mode is 'border'"),
        ("pretrained_cfg.input_size", [3, 224, 256], "input_size is"),
    ],
)
def test_timm_fields_that_would_be_another_network(
    path: str, value: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, timm_record(**{path: value}), "config.json")
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


# --- which one is it ---


def test_kinds_are_told_apart_by_their_fields(tmp_path: Path) -> None:
    assert read_foreign_card(tmp_path) is None
    write(tmp_path, {"model_cfg": model_config("ViT-B-32"), "preprocess_cfg": {}}, "config.json")
    assert card(tmp_path)["source"]["library"] == "open_clip"
    write(tmp_path, {"model_type": "bert"}, "config.json")
    with pytest.raises(DataError, match="is neither open_clip's, nor a CLIPModel's, nor timm's"):
        read_foreign_card(tmp_path)
    write(tmp_path, {"model_cfg": model_config("ViT-B-16"), "preprocess_cfg": {}})
    assert card(tmp_path)["arch"]["vision"]["patch_size"] == 16  # open_clip's own file goes first
    (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_foreign_card(tmp_path)
