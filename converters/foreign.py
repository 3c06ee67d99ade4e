"""What the configuration beside foreign weights says: an architecture record and the fields of a model card.

Three kinds, told apart by their fields: open_clip's `open_clip_config.json` (open_clip 3.3 model.py,
CLIPVisionCfg and CLIPTextCfg, whose defaults are part of the format), transformers' `config.json` of a
CLIPModel with its `preprocessor_config.json`, and timm's `config.json`. A field that changes what a network
computes is either understood or refused by name; a number that is not there is refused too.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.models.arch import arch_from_dict, arch_to_dict, load_arch

_VOCABULARY = 49408  # of OpenAI's merges, configs/tokenizers/openai_bpe.txt
_OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]  # open_clip constants.py, the default of its transforms
_OPENAI_STD = [0.26862954, 0.26130258, 0.27577711]

# open_clip's fields: {name: default}. Those of _NEUTRAL may have no other value than this one: anything else
# would be another network. Those of _TRAINING change nothing at inference.
_OPEN_CLIP_VISION = {
    "layers": 12,
    "width": 768,
    "head_width": 64,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "image_size": 224,
}
_OPEN_CLIP_TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
}
_NEUTRAL = {
    "ls_init_value": None,
    "final_ln_after_pool": False,
    "act_kwargs": None,
    "block_type": None,
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
}
_NEUTRAL_VISION = _NEUTRAL | {
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "pool_type": "tok",
    "timm_model_name": None,
}
_NEUTRAL_TEXT = _NEUTRAL | {
    "embed_cls": False,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_bias": False,
    "proj_type": "linear",
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "tokenizer_mode": None,
}
_TRAINING_VISION = {
    *("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads", "timm_model_pretrained"),
    *("timm_pool", "timm_proj", "timm_proj_bias", "timm_drop", "timm_drop_path"),
}
_TRAINING_TEXT = {
    *("output_tokens", "pad_id", "eos_id", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
}
_TOP = {
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"),
    *("init_logit_scale", "init_logit_bias"),
}

_AT_CONVERSION = "filled at conversion: only the weights can tell"
_HF_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_HF_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling


def read_foreign_card(folder: Path) -> dict[str, Any] | None:
    """The card record (`clipjax.card.card_from_dict`) that the configuration in `folder` describes.

    Returns: None when there is no configuration.

    Raises:
        DataError: a configuration of an unknown kind, with an unknown field, or that leaves open a number
        that
            changes the result.
    """
    open_clip, config = folder / "open_clip_config.json", folder / "config.json"
    if open_clip.is_file():
        return _open_clip(_read(open_clip), str(open_clip), folder.name)
    if not config.is_file():
        return None
    record, where = _read(config), str(config)
    if "model_cfg" in record:
        return _open_clip(record, where, folder.name)
    if record.get("model_type") == "clip":
        return _hf_clip(record, where, folder)
    if "architecture" in record and "pretrained_cfg" in record:
        return _timm(record, where)
    raise DataError(f"{where} is neither open_clip's, nor a CLIPModel's, nor timm's; name a card instead")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{path} should hold one JSON object")
    return record


def _card(
    name: str,
    arch: Mapping[str, Any],
    where: str,
    source: Mapping[str, Any],
    preprocess: Mapping[str, Any],
    clean: str,
) -> dict[str, Any]:
    """The card's JSON record; what a configuration does not say is null with its reason."""
    unknown = {"facts": "the configuration beside the weights does not say how they were trained"}
    unknown["source.sha256"] = _AT_CONVERSION
    tokenizer = None
    if "text" in arch:
        unknown |= dict.fromkeys(("logit_scale", "logit_bias"), _AT_CONVERSION)
        if arch["text"]["vocab_size"] == _VOCABULARY:
            tokenizer = _tokenizer(arch["text"]["context_length"], clean)
        else:
            unknown["tokenizer"] = f"{arch['text']['vocab_size']} ids are not those of OpenAI's merges"
    else:
        unknown["classes"] = "the configuration names no classes"
    empty = dict.fromkeys(("arch", "tag", "repo", "file", "url", "revision", "format", "sha256"))
    return {
        "card_version": 1,
        "id": name,
        "arch": arch_to_dict(arch_from_dict(dict(arch), where)),
        "source": {**empty, **source},
        "preprocess": dict(preprocess),
        "tokenizer": tokenizer,
        "logit_scale": None,
        "logit_bias": None,
        "classes": None,
        "facts": {},
        "unknown": unknown,
    }


def _tokenizer(context_length: int, clean: str) -> dict[str, Any]:
    merges = (config_dir() / "tokenizers" / "openai_bpe.txt").read_bytes()
    digest = hashlib.sha256(merges).hexdigest()
    return {"name": "openai_bpe", "context_length": context_length, "clean": clean, "sha256": digest}


# --- open_clip ---


def _open_clip(record: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    model = _table(record, "model_cfg", where)
    for key in set(model) - _TOP:
        raise DataError(f"{where}: model_cfg has the field {key!r}, which clipjax does not know")
    quick = model.get("quick_gelu", False)
    if type(quick) is not bool:
        raise DataError(f"{where}: model_cfg.quick_gelu is {quick!r}, not true or false")
    text = dict(_table(model, "text_cfg", where))
    clean = (text.pop("tokenizer_kwargs", None) or {"clean": "lower"}).get("clean", "lower")
    if clean not in ("lower", "whitespace", "canonicalize"):
        raise DataError(f"{where}: text_cfg.tokenizer_kwargs.clean is {clean!r}, which clipjax does not know")
    vision = dict(_table(model, "vision_cfg", where))
    activation = "quick_gelu" if quick else "gelu"
    width = _get(model, "embed_dim", where)
    arch = {
        "name": name,
        "logit_bias": model.get("init_logit_bias") is not None,
        "vision": _open_clip_vision(vision, f"{where}: vision_cfg", activation, width),
        "text": _open_clip_text(text, f"{where}: text_cfg", activation, width),
    }
    given = record.get("preprocess_cfg") or {}
    size = arch["vision"]["image_size"]
    if given.get("size", size) not in (size, [size, size]):
        raise DataError(f"{where}: preprocess_cfg.size is {given['size']!r}, the image size is {size}")
    for key in set(given) - {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}:
        raise DataError(f"{where}: preprocess_cfg has the field {key!r}, which clipjax does not know")
    preprocess = {
        "image_size": size,
        "resize_size": size,
        "resize_mode": given.get("resize_mode", "shortest"),
        "interpolation": given.get("interpolation", "bicubic"),
        "mean": given.get("mean", _OPENAI_MEAN),
        "std": given.get("std", _OPENAI_STD),
    }
    return _card(name, arch, where, {"library": "open_clip"}, preprocess, clean)


def _fields(
    given: dict[str, Any], where: str, defaults: dict[str, Any], neutral: dict[str, Any], training: set[str]
) -> tuple[dict[str, Any], float]:
    """(the fields that size the tower, LayerNorm's epsilon); the others are neutral, or refused by name."""
    norm = given.pop("norm_kwargs", None) or {}
    for key, value in given.items():
        if key in neutral and value != neutral[key]:
            raise DataError(f"{where}.{key} is {value!r}; clipjax only has {neutral[key]!r}")
        if key not in {*defaults, *neutral, *training}:
            raise DataError(f"{where} has the field {key!r}, which clipjax does not know")
    for key in set(norm) - {"eps"}:
        raise DataError(f"{where}.norm_kwargs has the field {key!r}, which clipjax does not know")
    return {key: given.get(key, default) for key, default in defaults.items()}, norm.get("eps", 1e-5)


def _open_clip_vision(given: dict[str, Any], where: str, activation: str, embed_dim: int) -> dict[str, Any]:
    sizes, eps = _fields(given, where, _OPEN_CLIP_VISION, _NEUTRAL_VISION, _TRAINING_VISION)
    common = {"image_size": _square(sizes["image_size"], f"{where}.image_size"), "width": sizes["width"]}
    if isinstance(sizes["layers"], list):
        heads = _divide(32 * sizes["width"], sizes["head_width"], where)
        tower = {"layers": sizes["layers"], "heads": heads, "bn_eps": 1e-5}
        return {"family": "modified_resnet", **common, **tower, "embed_dim": embed_dim}
    return {
        "family": "vit",
        **common,
        "patch_size": _square(sizes["patch_size"], f"{where}.patch_size"),
        "layers": sizes["layers"],
        "heads": _divide(sizes["width"], sizes["head_width"], where),
        "mlp_width": int(sizes["width"] * sizes["mlp_ratio"]),
        "activation": activation,
        "ln_eps": eps,
        "pooling": "class",
        "embed_dim": embed_dim,
    }


def _open_clip_text(given: dict[str, Any], where: str, activation: str, embed_dim: int) -> dict[str, Any]:
    sizes, eps = _fields(given, where, _OPEN_CLIP_TEXT, _NEUTRAL_TEXT, _TRAINING_TEXT)
    ratio = sizes.pop("mlp_ratio")
    tower = {"mlp_width": int(sizes["width"] * ratio), "activation": activation, "ln_eps": eps}
    tower |= {"causal": True, "pooling": "argmax", "projection_bias": False}
    return {"family": "text", **sizes, **tower, "embed_dim": embed_dim}


def _square(size: Any, where: str) -> int:
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if type(size) is not int:
        raise DataError(f"{where} is {size!r}; clipjax has square images and patches only")
    return size


def _divide(width: int, head_width: int, where: str) -> int:
    if width % head_width:
        raise DataError(f"{where}: width {width} is not a multiple of head_width {head_width}")
    return width // head_width


# --- transformers ---


def _hf_clip(record: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    if record.get("architectures", ["CLIPModel"]) != ["CLIPModel"]:
        raise DataError(f"{where} is of a {record['architectures']}; clipjax reads a CLIPModel")
    vision = _table(record, "vision_config", where)
    text = _table(record, "text_config", where)
    embed_dim = _get(record, "projection_dim", where)
    _hf_pooling(text, f"{where}: text_config")
    arch = {
        "name": folder.name,
        "logit_bias": False,
        "vision": {
            "family": "vit",
            "image_size": _get(vision, "image_size", f"{where}: vision_config"),
            "patch_size": _get(vision, "patch_size", f"{where}: vision_config"),
            **_hf_tower(vision, f"{where}: vision_config"),
            "pooling": "class",
            "embed_dim": embed_dim,
        },
        "text": {
            "family": "text",
            "context_length": _get(text, "max_position_embeddings", f"{where}: text_config"),
            "vocab_size": _get(text, "vocab_size", f"{where}: text_config"),
            **_hf_tower(text, f"{where}: text_config"),
            "causal": True,
            "pooling": "argmax",
            "projection_bias": False,
            "embed_dim": embed_dim,
        },
    }
    preprocess = _hf_preprocess(folder / "preprocessor_config.json", arch["vision"]["image_size"])
    return _card(folder.name, arch, where, {"library": "transformers"}, preprocess, "lower")


def _hf_tower(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    activation = _get(config, "hidden_act", where)
    if activation not in _HF_ACTIVATIONS:
        raise DataError(f"{where}.hidden_act is {activation!r}; clipjax knows {', '.join(_HF_ACTIVATIONS)}")
    return {
        "width": _get(config, "hidden_size", where),
        "layers": _get(config, "num_hidden_layers", where),
        "heads": _get(config, "num_attention_heads", where),
        "mlp_width": _get(config, "intermediate_size", where),
        "activation": _HF_ACTIVATIONS[activation],
        "ln_eps": _get(config, "layer_norm_eps", where),
    }


def _hf_pooling(text: Mapping[str, Any], where: str) -> None:
    """transformers reads out at the first `eos_token_id`, but at the highest id where that is 2 (its old
    files): both are the highest id, as long as the end of text is the last of the vocabulary."""
    end, size = _get(text, "eos_token_id", where), _get(text, "vocab_size", where)
    if end not in (2, size - 1):
        raise DataError(f"{where}.eos_token_id is {end}; clipjax reads out at the highest id, {size - 1}")


def _hf_preprocess(path: Path, image_size: int) -> dict[str, Any]:
    """CLIPImageProcessor's fields: resize, centre crop, scale by 1/255, normalise."""
    where = str(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist, so the model's pixels are unknown; name a card instead")
    record = _read(path)
    for step in ("do_resize", "do_normalize"):
        if _get(record, step, where) is not True:
            raise DataError(f"{where}: {step} is {record[step]!r}; clipjax only has models that do it")
    if not math.isclose(record.get("rescale_factor", 1 / 255), 1 / 255):
        raise DataError(f"{where}: rescale_factor is {record['rescale_factor']}, not 1/255")
    resample = _get(record, "resample", where)
    if resample not in _HF_RESAMPLE:
        raise DataError(f"{where}: resample is {resample!r}; clipjax knows {_HF_RESAMPLE}")
    size = _get(record, "size", where)
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    squash = shortest is None and size == {"height": image_size, "width": image_size}
    crop = record.get("crop_size", image_size) if record.get("do_center_crop", False) else image_size
    fits = crop in (image_size, {"height": image_size, "width": image_size})
    cropped = squash or (record.get("do_center_crop") is True and type(shortest) is int)
    if not fits or not cropped:
        raise DataError(f"{where}: size {size} and crop_size {crop} do not give {image_size} pixels")
    return {
        "image_size": image_size,
        "resize_size": image_size if squash else shortest,
        "resize_mode": "squash" if squash else "shortest",
        "interpolation": _HF_RESAMPLE[resample],
        "mean": _get(record, "image_mean", where),
        "std": _get(record, "image_std", where),
    }


# --- timm ---


def _timm(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """timm names the architecture, configs/archs has its sizes; what `model_args` adds is refused."""
    name = record["architecture"]
    try:
        arch = arch_to_dict(load_arch(name))
    except UsageError as error:
        raise DataError(f"{where}: {error}") from None
    if "num_classes" not in arch:
        raise DataError(f"{where}: {name} is not a classifier of timm")
    if record.get("model_args"):
        raise DataError(f"{where}: model_args {sorted(record['model_args'])} are unknown to clipjax")
    if record.get("global_pool", "avg") != "avg":
        raise DataError(f"{where}: global_pool is {record['global_pool']!r}; clipjax has avg for {name}")
    config = _table(record, "pretrained_cfg", where)
    inside = f"{where}: pretrained_cfg"
    arch["num_classes"] = _get(record, "num_classes", where)
    channels, height, width = _get(config, "input_size", inside)
    if channels != 3 or height != width:
        raise DataError(f"{inside}.input_size is {config['input_size']}; clipjax has square RGB images only")
    arch["vision"]["image_size"] = height
    modes = {"center": "shortest", "squash": "squash"}
    mode = config.get("crop_mode") or "center"
    if mode not in modes:
        raise DataError(f"{inside}.crop_mode is {mode!r}; clipjax knows {', '.join(modes)}")
    preprocess = {
        "image_size": height,
        "resize_size": math.floor(height / _get(config, "crop_pct", inside)),
        "resize_mode": modes[mode],
        "interpolation": _get(config, "interpolation", inside),
        "mean": _get(config, "mean", inside),
        "std": _get(config, "std", inside),
    }
    tag = config.get("tag") or None
    source = {"library": "timm", "arch": name, "tag": tag}
    return _card(f"{name}.{tag}" if tag else name, arch, where, source, preprocess, "")


def _get(record: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise DataError(f"{where} lacks {key!r}, and clipjax does not guess it; name a card instead")
    return record[key]


def _table(record: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = _get(record, key, where)
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: {key} should be an object")
    return value
