"""transformers' `config.json` of a CLIPModel or SiglipModel, with its `preprocessor_config.json`.

Source: transformers 5.24 models/clip, models/siglip. SigLIP's files omit the library's defaults, which never
changed; a value that CLIP's files lack is refused.

Pixels follow `CLIPImageProcessorPil` on RGB images: the crop starts at the floor of half the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from clipjax.storage.reading import check_exists, read_json
from converters.foreign.card import card_record, choose, get, refuse_unknown, square
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
# For old files without these steps, for which the library rescales and does not crop.
_PIXEL_DEFAULTS = {"do_rescale": True, "rescale_factor": 1 / 255, "do_center_crop": False}
READ = {*_SIGLIP_DEFAULTS, "eos_token_id", "projection_dim", "projection_size"}
# Fields that change no number of a tower's features: of training, storage and a forward pass's output, and of
# text generation (transformers 4 wrote those into every file).
WITHOUT_EFFECT = {
    *("attention_dropout", "dropout", "initializer_factor", "initializer_range", "gradient_checkpointing"),
    *("model_type", "architectures", "_name_or_path", "transformers_version", "dtype", "torch_dtype"),
    *("use_bfloat16", "torchscript", "_attn_implementation", "_attn_implementation_autoset"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_return_dict", "use_cache"),
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
    *("bos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class", "prefix"),
    *("chunk_size_feed_forward", "pruned_heads", "tie_word_embeddings", "tie_encoder_decoder"),
    *("is_decoder", "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size"),
    *("do_sample", "temperature", "top_k", "top_p", "typical_p", "num_beams", "num_beam_groups"),
    *("num_return_sequences", "max_length", "min_length", "early_stopping", "length_penalty"),
    *("diversity_penalty", "repetition_penalty", "exponential_decay_length_penalty", "remove_invalid_values"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens"),
    *("begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("output_scores", "return_dict_in_generate", "tf_legacy_loss"),
}

_SIGLIP_2 = "SigLIP 2's tokenizer.json cleans texts itself, and clipjax reads its vocabulary alone"


def read(record: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """See `converters.foreign.read_foreign_card`."""
    kind = record["model_type"]
    if record.get("architectures") not in (None, [MODELS[kind]]):
        raise DataError(f"{where}: architectures is {record['architectures']!r}, not [{MODELS[kind]!r}]")
    vision, text = (get(record, f"{tower}_config", where, "object") for tower in ("vision", "text"))
    for tower, config in (("vision", vision), ("text", text)):
        refuse_unknown(config, READ | WITHOUT_EFFECT, f"{where}: {tower}_config")
    towers = (_clip if kind == "clip" else _siglip)(record, vision, text, where)
    arch = {"name": folder.name, "logit_bias": kind == "siglip", **towers}
    preprocess = pixels(folder / "preprocessor_config.json", towers["vision"]["image_size"])
    clean = "canonicalize_hf" if kind == "siglip" else None
    card = card_record(folder.name, arch, where, {"library": "transformers"}, preprocess, clean)
    if card["tokenizer"] and card["tokenizer"]["name"] == "gemma":
        card["tokenizer"], card["unknown"]["tokenizer"] = None, _SIGLIP_2
        card["unknown"].pop("tokenizer.sha256")
    return card


def _clip(
    record: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], where: str
) -> dict[str, Any]:
    embed_dim = {"embed_dim": get(record, "projection_dim", where, "size")}
    _pools_at_highest_id(text, f"{where}: text_config")
    for tower, config in (("vision", vision), ("text", text)):
        second = record.get(f"{tower}_config_dict") or {}
        get({"second": second}, "second", f"{where}: {tower}_config_dict", "object")
        _refuse_second_values(config, second, f"{where}: {tower}_config_dict")
    return {
        "vision": tower_like(CLIP, "vision", **image_tower(vision, f"{where}: vision_config"), **embed_dim),
        "text": tower_like(CLIP, "text", **_words(text, f"{where}: text_config"), **embed_dim),
    }


def _refuse_second_values(config: Mapping[str, Any], second: Any, where: str) -> None:
    """Raises DataError where an old file's `*_config_dict` contradicts its `*_config`.

    transformers reads the former. `second` is that section, None without one; `where` names it.
    """
    for key, value in (second or {}).items():
        if key in READ and value != config.get(key, value):
            raise DataError(f"{where}.{key} is {value!r}, but {config[key]!r} in the section without _dict")


def _siglip(
    record: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], where: str
) -> dict[str, Any]:
    text = {**_SIGLIP_DEFAULTS, **text}
    words = _words(text, f"{where}: text_config")
    words |= {"embed_dim": words["width"]}
    if text.get("projection_size") is not None:
        words |= {"embed_dim": get(text, "projection_size", f"{where}: text_config", "size")}
    image = siglip_image_tower(vision, f"{where}: vision_config")
    return {"vision": image, "text": tower_like(SIGLIP, "text", **words)}


def siglip_image_tower(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A SiglipVisionConfig, which may leave defaults out."""
    settings = {**_SIGLIP_DEFAULTS, **config}
    if settings["vision_use_head"] is not True:
        raise DataError(f"{where}.vision_use_head is not true; clipjax has SigLIP with its head")
    image = image_tower(settings, where)
    return tower_like(SIGLIP, "vision", **image, embed_dim=image["width"], pool_heads=image["heads"])


def image_tower(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    if config.get("num_channels", 3) != 3:
        raise DataError(f"{where}.num_channels is {config['num_channels']!r}; clipjax has RGB images only")
    sizes = {name: square(config, name, where) for name in ("image_size", "patch_size")}
    return {**sizes, **_tower(config, where)}


def _words(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        "context_length": get(config, "max_position_embeddings", where, "size"),
        "vocab_size": get(config, "vocab_size", where, "size"),
        **_tower(config, where),
    }


def _tower(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        "width": get(config, "hidden_size", where, "size"),
        "layers": get(config, "num_hidden_layers", where, "layers"),
        "heads": get(config, "num_attention_heads", where, "size"),
        "mlp_width": get(config, "intermediate_size", where, "size"),
        "activation": choose(config, "hidden_act", where, _ACTIVATIONS),
        "ln_eps": get(config, "layer_norm_eps", where, "positive"),
    }


def _pools_at_highest_id(text: Mapping[str, Any], where: str) -> None:
    """The library reads out at the first `eos_token_id`, or, if that is 2 (old files), at the highest id.

    Both are the highest id if the end of text is the vocabulary's last.
    """
    end, size = get(text, "eos_token_id", where, "any"), get(text, "vocab_size", where, "size")
    if end not in (2, size - 1):
        raise DataError(f"{where}.eos_token_id is {end!r}; clipjax reads out at the highest id, {size - 1}")


def pixels(path: Path, image_size: int) -> dict[str, Any]:
    where = str(path)
    check_exists(path, ", so the model's pixels are unknown; name a card instead")
    record = {**_PIXEL_DEFAULTS, **read_json(path)}
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if get(record, step, where, "switch") is not True:
            raise DataError(f"{where}: {step} is false; clipjax only has models that do it")
    if not math.isclose(get(record, "rescale_factor", where, "positive"), 1 / 255, rel_tol=1e-6):
        raise DataError(f"{where}: rescale_factor is {record['rescale_factor']}, not 1/255")
    return {
        "image_size": image_size,
        **_resize(record, image_size, where),
        "interpolation": choose(record, "resample", where, _RESAMPLE),
        "mean": get(record, "image_mean", where, "three"),
        "std": get(record, "image_std", where, "three positive"),
    }


def _resize(record: Mapping[str, Any], image_size: int, where: str) -> dict[str, Any]:
    """The short side and a centre crop, or both sides to the image size."""
    both = {"height": image_size, "width": image_size}
    size, crops = get(record, "size", where, "any"), get(record, "do_center_crop", where, "switch")
    crop = record.get("crop_size", image_size) if crops else image_size
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    if crop in (image_size, both):
        if size == both:
            return {"resize_size": image_size, "resize_mode": "squash", "crop": "round"}
        if crops and type(shortest) is int and image_size <= shortest <= 10**6:
            return {"resize_size": shortest, "resize_mode": "shortest", "crop": "floor"}
    raise DataError(f"{where}: size {size} and crop_size {crop} do not give {image_size} pixels")
