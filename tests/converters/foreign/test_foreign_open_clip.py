"""open_clip_config.json gives the records of configs/archs, or a refusal that names the field."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
from _foreign import card, known, without_name, write

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.models.arch import arch_names, load_arch
from converters.foreign import read_foreign_card
from converters.golden import model_config

# Without timm's classifiers whose names open_clip gives to CLIPs of its own ("convnext_tiny").
ARCHS = [name for name in arch_names() if name in open_clip.list_models() and load_arch(name).text]
PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
TOKENIZERS = {32000: "siglip", 50265: "roberta", 250002: "xlm_roberta", 49408: "openai_bpe"}
TOKENIZERS |= {256000: "gemma", 901629: "xlm_v"}


def test_our_copy_of_the_librarys_configs_is_theirs() -> None:
    """Where this fails: make records."""
    ours = json.loads((config_dir() / "open_clip.json").read_text())
    assert ours == {name: open_clip.get_model_config(name) for name in open_clip.list_models()}


@pytest.mark.parametrize("name", ARCHS)
def test_configs_give_our_arch_records(name: str, tmp_path: Path) -> None:
    write(tmp_path, {"model_cfg": model_config(name), "preprocess_cfg": PREPROCESS})
    record = card(tmp_path)
    assert without_name(record["arch"]) == without_name(known(name))
    assert without_name(record["arch"]) == without_name(known(record["source"]["arch"]))
    size, text = record["arch"]["vision"]["image_size"], record["arch"]["text"]
    assert record["preprocess"] == {"image_size": size, "resize_size": size, "crop": "round", **PREPROCESS}
    assert record["tokenizer"]["name"] == TOKENIZERS[text["vocab_size"]]
    assert record["tokenizer"]["context_length"] == text["context_length"]
    assert record["source"]["library"] == "open_clip"
    assert {"facts", "source.sha256", "logit_scale", "logit_bias"} <= set(record["unknown"])


def test_the_defaults_where_the_file_says_nothing(tmp_path: Path) -> None:
    """The reference fills CLIPVisionCfg, CLIPTextCfg and PreprocessCfg in the same way."""
    write(tmp_path, {"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": {}})
    record = card(tmp_path)
    assert record["arch"] == known("ViT-B-16")
    assert record["preprocess"]["mean"] == list(open_clip.OPENAI_DATASET_MEAN)
    assert record["preprocess"]["std"] == list(open_clip.OPENAI_DATASET_STD)
    assert (record["preprocess"]["interpolation"], record["preprocess"]["resize_mode"]) == (
        "bicubic",
        "shortest",
    )


def changed(path: str, value: Any, name: str = "ViT-B-32") -> dict[str, Any]:
    record = {"model_cfg": copy.deepcopy(model_config(name)), "preprocess_cfg": dict(PREPROCESS)}
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
            "vision_cfg.pos_embed_type",
            "sin_cos_2d",
            r"pos_embed_type is 'sin_cos_2d'; the towers that clipjax has can only have 'learnable'",
        ),
        ("vision_cfg.pool_type", "avg", r"vision_cfg\.final_ln_after_pool is False; .* can only have True"),
        ("vision_cfg.pool_type", "none", r"vision_cfg\.pool_type is 'none'; .* only have 'tok' or 'avg'"),
        ("vision_cfg.attentional_pool", "parallel", r"attentional_pool is 'parallel'; .* False or True"),
        ("vision_cfg.qk_norm", True, r"vision_cfg\.qk_norm is True; .* only have False"),
        ("vision_cfg.act_kwargs", {"approximate": "erf"}, r"vision_cfg\.act_kwargs is .*'tanh'"),
        ("vision_cfg.norm_kwargs", {"elementwise_affine": False}, "'elementwise_affine', which clipjax"),
        ("vision_cfg.news", 1, "vision_cfg has the field 'news', which clipjax does not know"),
        ("vision_cfg.image_size", [224, 336], r"image_size is \[224, 336\]; clipjax has square"),
        ("vision_cfg.image_size", 225, r"image_size 225 is not a multiple of patch_size 32"),
        ("vision_cfg.head_width", 60, "width 768 is not a multiple of head_width 60"),
        ("text_cfg.pool_type", "first", r"text_cfg\.pool_type is 'first'; .* 'argmax' or 'eos' or 'last'"),
        ("text_cfg.ls_init_value", 1e-5, r"text_cfg\.ls_init_value is 1e-05; .* only have None"),
        ("text_cfg.proj_type", "mlp", r"text_cfg\.proj_type is 'mlp'; .* 'linear' or 'none'"),
        ("text_cfg.tokenizer_kwargs", {"clean": "odd"}, r"tokenizer_kwargs\.clean is 'odd'"),
        ("text_cfg.news", 1, "text_cfg has the field 'news', which clipjax does not know"),
        ("news", {}, "model_cfg has the field 'news', which clipjax does not know"),
        ("multimodal_cfg", {}, r"multimodal_cfg is CoCa's, but text_cfg\.embed_cls is not true"),
        ("quick_gelu", "yes", r"model_cfg\.quick_gelu is 'yes'; it should be true or false"),
        ("text_cfg", None, "text_cfg is None; it should be an object"),
    ],
)
def test_fields_that_would_be_another_network(path: str, value: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, changed(f"model_cfg.{path}", value))
    with pytest.raises(DataError, match=message) as caught:
        read_foreign_card(tmp_path)
    assert "open_clip_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("convnext_base_w", "vision_cfg.timm_pool", "max", r"timm_pool is 'max', but '' in convnext_base_"),
        ("convnext_base_w", "vision_cfg.timm_proj_bias", True, r"timm_proj_bias is True; .* only have False"),
        ("convnext_base_w", "vision_cfg.timm_proj", None, r"timm_proj is None; .* 'linear' or 'mlp'"),
        ("convnext_base_w", "vision_cfg.image_size", 290, r"image_size 290 is not a multiple of 32"),
        (
            "convnext_base_w",
            "vision_cfg.timm_model_name",
            "resnet50",
            r"timm_model_name is 'resnet50', of the family 'resnet', which clipjax has as a classifier and",
        ),
        ("convnext_base_w", "vision_cfg.timm_model_name", 5, r"timm_model_name is 5, a tower that clipjax d"),
        ("EVA02-B-16", "embed_dim", 640, r"vision_cfg\.embed_dim is 640, but 512 in EVA02-B-16"),
        ("EVA02-B-16", "vision_cfg.timm_proj", "linear", r"timm_proj is 'linear', but None in EVA02-B-16"),
        ("coca_ViT-B-32", "vision_cfg.pool_type", "avg", r"pool_type is 'avg'; .* only have 'tok'"),
        ("coca_ViT-B-32", "vision_cfg.attn_pooler_queries", 0, r"attn_pooler_queries is 0; it should be"),
        ("coca_ViT-B-32", "text_cfg.no_causal_mask", True, r"no_causal_mask is True; .* only have False"),
        ("roberta-ViT-B-32", "text_cfg.hf_pooler_type", "cls_pooler", r"hf_pooler_type is 'cls_pooler'; the"),
        ("roberta-ViT-B-32", "text_cfg.hf_proj_type", None, r"hf_proj_type is None; .* 'linear' or 'mlp'"),
        ("roberta-ViT-B-32", "text_cfg.hf_model_name", "bert", r"hf_model_name is 'bert', a tower that cli"),
        (
            "ViT-SO400M-14-SigLIP-384",
            "vision_cfg.timm_pool",
            "avg",
            r"timm_pool is 'avg', but 'map' in ViT-SO",
        ),
        ("ViT-SO400M-14-SigLIP-384", "vision_cfg.timm_proj", "mlp", r"timm_proj is 'mlp'; .* None or 'none'"),
        ("ViT-SO400M-14-SigLIP-384", "embed_dim", 640, r"timm_proj is 'none', so embed_dim is the width, 1"),
    ],
)
def test_fields_of_towers_that_are_not_plain(
    name: str, path: str, value: Any, message: str, tmp_path: Path
) -> None:
    write(tmp_path, changed(f"model_cfg.{path}", value, name))
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("preprocess_cfg.news", 1, "preprocess_cfg has the field 'news', which clipjax does not know"),
        ("preprocess_cfg.size", 336, r"preprocess_cfg\.size is 336, the image size is 224"),
        ("preprocess_cfg", [1], r"preprocess_cfg is \[1\]; it should be an object"),
        ("preprocess_cfg.mode", "L", r"preprocess_cfg\.mode is 'L'; clipjax knows RGB"),
        ("preprocess_cfg.resize_mode", "odd", r"resize_mode is 'odd'; clipjax knows shortest, longest, sq"),
        ("preprocess_cfg.interpolation", "random", r"interpolation is 'random'; clipjax knows bicubic, bil"),
        ("preprocess_cfg.mean", [0.5, 0.5], r"mean is \[0\.5, 0\.5\]; it should be a list of three finite"),
        ("preprocess_cfg.mean", [0.5, 0.5, float("nan")], r"is not JSON \(NaN is not a JSON number\)"),
        ("preprocess_cfg.std", [0.5, 0, 0.5], r"std is \[0\.5, 0, 0\.5\]; it should be .* above 0"),
    ],
)
def test_pixels_that_contradict(path: str, value: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, changed(path, value))
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


def test_what_fills_a_padded_image_is_black(tmp_path: Path) -> None:
    pixels = {"resize_mode": "longest", "fill_color": 127}
    write(tmp_path, changed("preprocess_cfg", pixels))
    with pytest.raises(DataError, match=r"preprocess_cfg\.fill_color is 127; clipjax knows 0"):
        read_foreign_card(tmp_path)
    write(tmp_path, changed("preprocess_cfg", {**pixels, "fill_color": 0}))
    assert card(tmp_path)["preprocess"]["resize_mode"] == "longest"
    write(tmp_path, changed("preprocess_cfg", {**pixels, "resize_mode": "squash"}))  # nothing is padded
    assert card(tmp_path)["preprocess"]["resize_mode"] == "squash"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("embed_dim", "96", r"model_cfg\.embed_dim is '96'; it should be a whole number"),
        ("vision_cfg.head_width", 0, r"vision_cfg\.head_width is 0; it should be a whole number from 1"),
        ("vision_cfg.patch_size", 0, r"vision_cfg\.patch_size is 0; clipjax has square images and patches"),
        ("vision_cfg.width", None, r"vision_cfg\.width is None; it should be a whole number from 1"),
        ("vision_cfg.layers", 10**7, r"vision_cfg\.layers is 10000000; .* from 1 to 1000$"),
        ("vision_cfg.layers", [1, "2", 1, 1], r"vision_cfg\.layers is '2'; it should be a whole number"),
        ("vision_cfg.mlp_ratio", "4", r"vision_cfg\.mlp_ratio is '4'; it should be a finite number above 0"),
        ("vision_cfg.norm_kwargs", "eps", r"vision_cfg\.norm_kwargs is 'eps'; it should be an object"),
        (
            "vision_cfg.norm_kwargs",
            {"eps": -1},
            r"norm_kwargs\.eps is -1; it should be a finite number above",
        ),
        ("text_cfg.layers", [1], r"text_cfg\.layers is \[1\]; it should be a whole number from 1 to 1000"),
        ("text_cfg.heads", 0, r"text_cfg\.heads is 0; it should be a whole number from 1"),
        ("text_cfg.tokenizer_kwargs", ["a"], r"text_cfg\.tokenizer_kwargs is \['a'\]; it should be an obj"),
        ("text_cfg.tokenizer_kwargs", {"clean": ["a"]}, r"tokenizer_kwargs\.clean is \['a'\]; clipjax knows"),
    ],
)
def test_values_of_a_wrong_kind(path: str, value: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path, changed(f"model_cfg.{path}", value))
    with pytest.raises(DataError, match=message):
        read_foreign_card(tmp_path)


def test_fields_that_are_understood(tmp_path: Path) -> None:
    write(tmp_path, changed("model_cfg.vision_cfg.norm_kwargs", {"eps": 1e-6}))
    assert card(tmp_path)["arch"]["vision"]["ln_eps"] == 1e-6
    assert card(tmp_path)["arch"]["text"]["ln_eps"] == 1e-5
    assert card(tmp_path)["source"]["arch"] is None
    write(tmp_path, changed("model_cfg.quick_gelu", True))
    assert card(tmp_path)["arch"] == known("ViT-B-32-quickgelu")
    write(tmp_path, changed("model_cfg.init_logit_bias", -10))
    assert card(tmp_path)["arch"]["logit_bias"] is True
    write(tmp_path, changed("model_cfg.text_cfg.tokenizer_kwargs", {"clean": "canonicalize"}))
    assert card(tmp_path)["tokenizer"]["clean"] == "canonicalize"
    write(tmp_path, changed("model_cfg.vision_cfg.patch_dropout", 0.5))
    assert card(tmp_path)["arch"] == known("ViT-B-32")
    write(tmp_path, changed("model_cfg.vision_cfg.attentional_pool", True))
    assert card(tmp_path)["arch"]["vision"] == known("coca_ViT-B-32")["vision"]


@pytest.mark.parametrize(
    ("name", "path", "value", "tower", "is_now"),
    [
        ("ViT-B-32", "vision_cfg.ls_init_value", 1e-5, "vision", {"layer_scale": True}),
        ("ViT-B-32", "vision_cfg.no_ln_pre", True, "vision", {"pre_norm": False}),
        ("ViT-B-32", "vision_cfg.final_ln_after_pool", True, "vision", {"pooling": "class"}),
        ("ViT-L-14-CLIPA", "vision_cfg.patch_size", 16, "vision", {"pooling": "mean", "pre_norm": False}),
        ("ViT-B-32", "vision_cfg.act_kwargs", {"approximate": "tanh"}, "vision", {"activation": "gelu_tanh"}),
        ("ViT-B-32", "text_cfg.act_kwargs", {"approximate": "none"}, "text", {"activation": "gelu"}),
        ("ViT-B-32", "text_cfg.pool_type", "last", "text", {"pooling": "last", "causal": True}),
        ("ViT-B-32", "text_cfg.pool_type", "eos", "text", {"pooling": "eos", "eos_id": 2}),
        ("ViT-L-14-worldwide", "text_cfg.eos_id", 3, "text", {"pooling": "eos", "eos_id": 3}),
        ("ViT-B-32", "text_cfg.no_causal_mask", True, "text", {"pooling": "argmax", "causal": False}),
        ("ViT-B-32", "text_cfg.proj_bias", True, "text", {"projection_bias": True}),
        ("ViT-SO400M-16-SigLIP-i18n-256", "text_cfg.proj_bias", True, "text", {"projection": False}),
        ("MobileCLIP2-L-14", "vision_cfg.image_size", 224, "vision", {"projection_bias": True}),
        ("convnext_base_w", "vision_cfg.timm_pool", "avg", "vision", {"projection": "linear"}),
        (
            "convnext_large_d",
            "vision_cfg.image_size",
            288,
            "vision",
            {"projection": "mlp", "image_size": 288},
        ),
        ("coca_ViT-B-32", "vision_cfg.attn_pooler_queries", 9, "vision", {"pool_queries": 9}),
        ("coca_base", "text_cfg.pad_id", 1, "text", {"family": "coca_text", "pad_id": 1}),
        ("roberta-ViT-B-32", "text_cfg.hf_proj_type", "linear", "text", {"projection": "linear"}),
        (
            "roberta-ViT-B-32",
            "text_cfg.context_length",
            50,
            "text",
            {"context_length": 50, "family": "roberta"},
        ),
    ],
)
def test_fields_of_towers_that_are_derived(
    name: str, path: str, value: Any, tower: str, is_now: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, changed(f"model_cfg.{path}", value, name))
    record = card(tmp_path)["arch"][tower]
    assert {key: record[key] for key in is_now} == is_now


def test_the_librarys_name_is_the_reference_of_a_derived_architecture(tmp_path: Path) -> None:
    write(tmp_path, changed("model_cfg.init_logit_scale", 2.0, "ViT-H-14-CLIPA"))
    assert card(tmp_path)["source"]["arch"] == "ViT-H-14-CLIPA"
    write(tmp_path, changed("model_cfg.custom_text", True, "ViT-H-14-CLIPA"))  # other keys
    assert card(tmp_path)["source"]["arch"] is None


def test_towers_of_two_known_architectures(tmp_path: Path) -> None:
    text = model_config("ViT-L-14")["text_cfg"]
    write(tmp_path, changed("model_cfg.text_cfg", text, "EVA02-B-16"))
    record = card(tmp_path)
    assert record["arch"]["vision"] == known("EVA02-B-16")["vision"]
    assert record["arch"]["text"] == {**known("ViT-L-14")["text"], "embed_dim": 512}
    assert record["arch"]["name"] == tmp_path.name
    assert record["source"]["arch"] is None


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("vocab_size", 300, "300 ids"),
        ("hf_tokenizer_name", "x/y", "hf_tokenizer_name is 'x/y'"),
        ("tokenizer_mode", "pinyin", "tokenizer_mode is 'pinyin'"),
    ],
)
def test_another_vocabulary_has_no_tokenizer(path: str, value: Any, why: str, tmp_path: Path) -> None:
    write(tmp_path, changed(f"model_cfg.text_cfg.{path}", value))
    assert card(tmp_path)["tokenizer"] is None
    assert why in card(tmp_path)["unknown"]["tokenizer"]


def test_another_tokenizer_of_as_many_ids_is_not_taken_for_ours(tmp_path: Path) -> None:
    """CLIPA's BERT has as many ids as SigLIP."""
    write(tmp_path, {"model_cfg": model_config("ViT-L-14-CLIPA")})
    assert card(tmp_path)["tokenizer"] is None
    assert "'bert-base-uncased', which is not known to be siglip" in card(tmp_path)["unknown"]["tokenizer"]
