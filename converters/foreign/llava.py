"""transformers' `config.json` of a LlavaForConditionalGeneration of LLaVA-1.5's kind.

Source: transformers 5.24 models/llava, models/clip, models/siglip. Files leave out values of the classes that
they name, and those defaults have never changed. Pixels are in `preprocessor_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipjax.errors import DataError
from converters.foreign.card import at, card_record, choose, get, refuse_unknown
from converters.foreign.llama import LLAMA_DEFAULTS, decoder_config
from converters.foreign.templates import CLIP, SIGLIP, tower_like
from converters.foreign.transformers import READ, WITHOUT_EFFECT, image_tower, pixels, siglip_image_tower

MODEL = "llava"
_NAME = "LlavaForConditionalGeneration"
_VISION_DEFAULTS = {  # of CLIPVisionConfig
    "model_type": "clip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
}
_DEFAULTS = {  # of LlavaConfig
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "multimodal_projector_bias": True,
}
# Ids and sizes that the tokenizer and the tensors state again.
_REPEATED = {"image_token_index", "image_token_id", "image_seq_length", "pad_token_id", "ignore_index"}
_REPEATED |= {"vocab_size"}


def read(record: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """See `converters.foreign.read_foreign_card`."""
    if record.get("architectures") not in (None, [_NAME]):
        raise DataError(f"{where}: architectures is {record['architectures']!r}, not [{_NAME!r}]")
    refuse_unknown(record, {"vision_config", "text_config", *_DEFAULTS, *_REPEATED, *WITHOUT_EFFECT}, where)
    settings = {**_DEFAULTS, **record}
    choose(settings, "projector_hidden_act", where, {"gelu": "exact GELU"})
    choose(settings, "multimodal_projector_bias", where, {True: "with biases"})
    vision = _vision(get(settings, "vision_config", where, "object"), f"{where}: vision_config")
    # "default" leaves the first position out: a class token, but a patch of a tower that has none.
    reads = {"default": "without the class token"} if vision["class_token"] else {"full": "every patch"}
    choose(settings, "vision_feature_select_strategy", where, reads)
    arch = {
        "name": folder.name,
        "vision": vision,
        "language": {
            "layer": _layer(settings, where),
            "projector": "gelu-mlp",
            "decoder": _decoder(get(settings, "text_config", where, "object"), f"{where}: text_config"),
        },
    }
    preprocess = pixels(folder / "preprocessor_config.json", arch["vision"]["image_size"])
    return card_record(folder.name, arch, where, {"library": "transformers"}, preprocess)


def _vision(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings = {**_VISION_DEFAULTS, **config}
    kinds = {"clip_vision_model": CLIP, "siglip_vision_model": SIGLIP}
    kind = choose(settings, "model_type", where, kinds)
    refuse_unknown(config, READ | WITHOUT_EFFECT, where)
    if kind == SIGLIP:
        return siglip_image_tower(config, where)
    tower = image_tower(settings, where)
    # The file has no projection to text: the features are the normalised class token.
    return tower_like(CLIP, "vision", **tower, projection=False, embed_dim=tower["width"])


def _layer(record: Mapping[str, Any], where: str) -> int:
    layer = record["vision_feature_layer"]
    if type(layer) is not int or layer >= 0:
        raise DataError(
            f"{at(where, 'vision_feature_layer')} is {layer!r}; clipjax reads one layer, counted from the end"
        )
    return layer


def _decoder(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    llama = config.get("model_type", "llama") == "llama"
    settings = {**(LLAMA_DEFAULTS if llama else {}), "model_type": "llama", **config}
    decoder = decoder_config(settings, where)
    return {name: value for name, value in vars(decoder).items() if value is not None}
