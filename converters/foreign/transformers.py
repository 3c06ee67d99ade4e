"""transformers' `config.json` of a CLIPModel or SiglipModel, with its `preprocessor_config.json`
(transformers 5.24 models/clip, models/siglip).

SigLIP's files leave out what equals the library's defaults, which have never changed and so are part of the
format. CLIP's say everything, and what one does not say is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from converters.foreign.card import card_record, get, read_json, square, table
from converters.foreign.templates import CLIP, SIGLIP, tower_like

MODELS = {"clip": "CLIPModel", "siglip": "SiglipModel"}
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_SIGLIP_DEFAULTS = {  # of SiglipTextConfig and SiglipVisionConfig
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "vision_use_head": True,
    "vocab_size": 32000,
    "max_position_embeddings": 64,
}
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling


def read(record: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """The card record of a folder's config.json; see `converters.foreign.read_foreign_card`."""
    kind = record["model_type"]
    if record.get("architectures") not in (None, [MODELS[kind]]):
        raise DataError(f"{where} is of a {record['architectures']}; clipjax reads a {MODELS[kind]}")
    vision = dict(table(record, "vision_config", where))
    text = dict(table(record, "text_config", where))
    towers = (_clip if kind == "clip" else _siglip)(record, vision, text, where)
    arch = {"name": folder.name, "logit_bias": kind == "siglip", **towers}
    pixels = _preprocess(folder / "preprocessor_config.json", towers["vision"]["image_size"])
    clean = "canonicalize_hf" if kind == "siglip" else None
    return card_record(folder.name, arch, where, {"library": "transformers"}, pixels, clean)


def _clip(
    record: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], where: str
) -> dict[str, Any]:
    embed_dim = {"embed_dim": get(record, "projection_dim", where)}
    _pools_at_highest_id(text, f"{where}: text_config")
    return {
        "vision": tower_like(CLIP, "vision", **_image(vision, f"{where}: vision_config"), **embed_dim),
        "text": tower_like(CLIP, "text", **_words(text, f"{where}: text_config"), **embed_dim),
    }


def _siglip(
    record: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], where: str
) -> dict[str, Any]:
    vision, text = {**_SIGLIP_DEFAULTS, **vision}, {**_SIGLIP_DEFAULTS, **text}
    if vision["vision_use_head"] is not True:
        raise DataError(
            f"{where}: vision_config.vision_use_head is not true; clipjax has SigLIP with its head"
        )
    image = _image(vision, f"{where}: vision_config")
    words = _words(text, f"{where}: text_config")
    image |= {"embed_dim": image["width"], "pool_heads": image["heads"]}
    words |= {"embed_dim": text.get("projection_size") or words["width"]}
    return {"vision": tower_like(SIGLIP, "vision", **image), "text": tower_like(SIGLIP, "text", **words)}


def _image(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    if config.get("num_channels", 3) != 3:
        raise DataError(f"{where}.num_channels is {config['num_channels']}; clipjax has RGB images only")
    sizes = {
        name: square(get(config, name, where), f"{where}.{name}") for name in ("image_size", "patch_size")
    }
    return {**sizes, **_tower(config, where)}


def _words(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        "context_length": get(config, "max_position_embeddings", where),
        "vocab_size": get(config, "vocab_size", where),
        **_tower(config, where),
    }


def _tower(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    activation = get(config, "hidden_act", where)
    if activation not in _ACTIVATIONS:
        raise DataError(f"{where}.hidden_act is {activation!r}; clipjax knows {', '.join(_ACTIVATIONS)}")
    return {
        "width": get(config, "hidden_size", where),
        "layers": get(config, "num_hidden_layers", where),
        "heads": get(config, "num_attention_heads", where),
        "mlp_width": get(config, "intermediate_size", where),
        "activation": _ACTIVATIONS[activation],
        "ln_eps": get(config, "layer_norm_eps", where),
    }


def _pools_at_highest_id(text: Mapping[str, Any], where: str) -> None:
    """transformers reads out at the first `eos_token_id`, but at the highest id where that is 2 (its old
    files): both are the highest id, as long as the end of text is the last of the vocabulary."""
    end, size = get(text, "eos_token_id", where), get(text, "vocab_size", where)
    if end not in (2, size - 1):
        raise DataError(f"{where}.eos_token_id is {end}; clipjax reads out at the highest id, {size - 1}")


def _preprocess(path: Path, image_size: int) -> dict[str, Any]:
    """The image processor's fields: resize, centre crop, scale by 1/255, normalise."""
    where = str(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist, so the model's pixels are unknown; name a card instead")
    record = read_json(path)
    for step in ("do_resize", "do_normalize"):
        if get(record, step, where) is not True:
            raise DataError(f"{where}: {step} is {record[step]!r}; clipjax only has models that do it")
    if not math.isclose(record.get("rescale_factor", 1 / 255), 1 / 255):
        raise DataError(f"{where}: rescale_factor is {record['rescale_factor']}, not 1/255")
    resample = get(record, "resample", where)
    if resample not in _RESAMPLE:
        raise DataError(f"{where}: resample is {resample!r}; clipjax knows {_RESAMPLE}")
    size = get(record, "size", where)
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
        "interpolation": _RESAMPLE[resample],
        "mean": get(record, "image_mean", where),
        "std": get(record, "image_std", where),
    }
