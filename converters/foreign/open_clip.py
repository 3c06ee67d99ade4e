"""`open_clip_config.json`: its towers (`open_clip_towers`), pixels and tokenizer.

Sources: open_clip 3.3 model.py, coca_model.py, transform.py and tokenizer.py, whose defaults are part of the
format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.storage.reading import read_toml
from converters.foreign.card import at, card_record, choose, get, refuse_unknown
from converters.foreign.open_clip_towers import known_configs, library_name, tower

_PIXELS = {  # PreprocessCfg's defaults (transform.py)
    "mode": "RGB",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
_INTERPOLATIONS = {name: name for name in ("bicubic", "bilinear")}
_RESIZE_MODES = {name: name for name in ("shortest", "longest", "squash")}

_TOP = {
    *("embed_dim", "vision_cfg", "text_cfg", "multimodal_cfg", "quick_gelu", "custom_text"),
    *("init_logit_scale", "init_logit_bias"),
}
_CLEANINGS = {None: None, **{name: name for name in ("lower", "whitespace", "canonicalize")}}


def read(record: Mapping[str, Any], where: str, name: str) -> dict[str, Any]:
    """See `converters.foreign.read_foreign_card`."""
    model, inside = get(record, "model_cfg", where, "object"), f"{where}: model_cfg"
    refuse_unknown(model, _TOP, inside)
    get({"quick_gelu": False, **model}, "quick_gelu", inside, "switch")
    get(model, "embed_dim", inside, "size")
    arch = {
        "name": name,
        "logit_bias": model.get("init_logit_bias") is not None,
        "vision": tower(model, "vision", where),
        "text": tower(model, "text", where),
    }
    if "multimodal_cfg" in model and arch["text"]["family"] == "text":
        raise DataError(f"{where}: model_cfg.multimodal_cfg is CoCa's, but text_cfg.embed_cls is not true")
    clean = _clean(model["text_cfg"], f"{where}: text_cfg")
    pixels = get({"preprocess_cfg": {}, **record}, "preprocess_cfg", where, "object")
    preprocess = _preprocess(pixels, arch["vision"]["image_size"], f"{where}: preprocess_cfg")
    card = card_record(name, arch, where, {"library": "open_clip"}, preprocess, clean)
    card["source"]["arch"] = library_name(model)
    if own := next((k for k in ("hf_tokenizer_name", "tokenizer_mode") if model["text_cfg"].get(k)), None):
        _refuse_other_ids(card, own, model["text_cfg"][own])
    return card


def _refuse_other_ids(card: dict[str, Any], key: str, value: Any) -> None:
    """Clears the tokenizer where the file names another one with as many ids."""
    if not card["tokenizer"]:
        return
    name = card["tokenizer"]["name"]
    if key == "hf_tokenizer_name" and name != "openai_bpe":
        size = card["arch"]["text"]["vocab_size"]
        texts = [config["text_cfg"] for config in known_configs().values()]
        same = [text[key] for text in texts if text.get("vocab_size") == size and key in text]
        if value in [*read_toml(config_dir() / "tokenizers" / f"{name}.toml")["repos"], *same]:
            return
    card["tokenizer"] = None
    card["unknown"]["tokenizer"] = f"text_cfg.{key} is {value!r}, which is not known to be {name}"
    card["unknown"].pop("tokenizer.sha256", None)


def _clean(text: Mapping[str, Any], where: str) -> str | None:
    """The tokenizer's cleaning of texts, in our words; None if the file does not state it."""
    given = {"tokenizer_kwargs": {}, **{key: value for key, value in text.items() if value is not None}}
    options = get(given, "tokenizer_kwargs", where, "object")
    return choose({"clean": None, **options}, "clean", at(where, "tokenizer_kwargs"), _CLEANINGS)


def _preprocess(given: Mapping[str, Any], size: int, where: str) -> dict[str, Any]:
    refuse_unknown(given, {"size", *_PIXELS}, where)
    if given.get("size", size) not in (size, [size, size]):
        raise DataError(f"{where}.size is {given['size']!r}, the image size is {size}")
    pixels = {**_PIXELS, **given}
    choose(pixels, "mode", where, {"RGB": "RGB"})
    resize_mode = choose(pixels, "resize_mode", where, _RESIZE_MODES)
    if resize_mode == "longest":  # the only mode that pads
        choose(pixels, "fill_color", where, {0: "black"})
    return {
        "image_size": size,
        "resize_size": size,
        "resize_mode": resize_mode,
        "crop": "round",
        "interpolation": choose(pixels, "interpolation", where, _INTERPOLATIONS),
        "mean": get(pixels, "mean", where, "three"),
        "std": get(pixels, "std", where, "three positive"),
    }
