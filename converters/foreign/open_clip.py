"""`open_clip_config.json` (open_clip 3.3 model.py: CLIPVisionCfg and CLIPTextCfg; coca_model.py).

The classes' defaults are part of the format. A tower with the fields of one in configs/open_clip.json (the
library's configs for configs/archs) is that tower; a plain CLIP tower is derived at any size.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.models.arch import arch_names, arch_to_dict, load_arch
from clipjax.storage.reading import read_json
from converters.foreign.card import at, card_record, choose, get, refuse_unknown, square
from converters.foreign.templates import CLIP, RESNET, tower_like

Kind = Literal["vision", "text"]

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

# Field -> default: first the sizes of a plain tower, then what makes it another network.
_SIZES: dict[Kind, dict[str, Any]] = {
    "vision": {
        "layers": 12,
        "width": 768,
        "head_width": 64,
        "mlp_ratio": 4.0,
        "patch_size": 16,
        "image_size": 224,
        "norm_kwargs": None,
    },
    "text": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 512,
        "heads": 8,
        "layers": 12,
        "mlp_ratio": 4.0,
        "norm_kwargs": None,
    },
}
_BOTH = {
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
_KIND: dict[Kind, dict[str, Any]] = {
    "vision": _BOTH
    | {
        "attentional_pool": False,
        "no_ln_pre": False,
        "pos_embed_type": "learnable",
        "pool_type": "tok",
        "timm_model_name": None,
    },
    "text": _BOTH
    | {
        "embed_cls": False,
        "no_causal_mask": False,
        "pool_type": "argmax",
        "proj_bias": False,
        "proj_type": "linear",
        "hf_model_name": None,
    },
}
# Fields read only if another one is set: {that one: {field: default}}.
_UNDER = {
    "attentional_pool": {"attn_pooler_queries": 256, "attn_pooler_heads": 8},
    "timm_model_name": {
        "timm_pool": "avg",
        "timm_proj": "linear",
        "timm_proj_bias": False,
        "image_size": 224,
    },
    "embed_cls": {"pad_id": 0},
    "hf_model_name": {"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler", "context_length": 77},
}
# Fields that change no number at inference, or only the ids of texts.
_WITHOUT_EFFECT = {
    *("patch_dropout", "output_tokens", "timm_model_pretrained", "timm_drop", "timm_drop_path"),
    *("pad_id", "eos_id", "hf_model_pretrained", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
}
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
        "vision": _tower(model, "vision", where),
        "text": _tower(model, "text", where),
    }
    if "multimodal_cfg" in model and arch["text"]["family"] != "coca_text":
        raise DataError(f"{where}: model_cfg.multimodal_cfg is CoCa's, but text_cfg.embed_cls is not true")
    clean = _clean(model["text_cfg"], f"{where}: text_cfg")
    pixels = get({"preprocess_cfg": {}, **record}, "preprocess_cfg", where, "object")
    preprocess = _preprocess(pixels, arch["vision"]["image_size"], f"{where}: preprocess_cfg")
    card = card_record(name, arch, where, {"library": "open_clip"}, preprocess, clean)
    if card["arch"]["name"] in known_configs():
        card["source"]["arch"] = card["arch"]["name"]
    if own := next((k for k in ("hf_tokenizer_name", "tokenizer_mode") if model["text_cfg"].get(k)), None):
        _refuse_openai_ids(card, f"text_cfg.{own} is {model['text_cfg'][own]!r}, not OpenAI's merges")
    return card


def _refuse_openai_ids(card: dict[str, Any], why: str) -> None:
    """Clears the tokenizer where the file names another one with as many ids as OpenAI's merges."""
    if card["tokenizer"] and card["tokenizer"]["name"] == "openai_bpe":
        card["tokenizer"], card["unknown"]["tokenizer"] = None, why


@functools.cache
def known_configs() -> dict[str, dict[str, Any]]:
    configs = read_json(config_dir() / "open_clip.json")
    return {name: configs[name] for name in arch_names() if name in configs}


def _clean(text: Mapping[str, Any], where: str) -> str | None:
    """None if the file does not state it."""
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
        "interpolation": choose(pixels, "interpolation", where, _INTERPOLATIONS),
        "mean": get(pixels, "mean", where, "three"),
        "std": get(pixels, "std", where, "three positive"),
    }


# --- towers ---


def _tower(model: Mapping[str, Any], kind: Kind, where: str) -> dict[str, Any]:
    section = f"{kind}_cfg"
    given = get(model, section, f"{where}: model_cfg", "object")
    known = {**_SIZES[kind], **_KIND[kind], **{k: v for under in _UNDER.values() for k, v in under.items()}}
    refuse_unknown(given, {*known, *_WITHOUT_EFFECT}, f"{where}: {section}")
    meaning = _meaning(model, kind, f"{where}: {section}")
    for name, config in known_configs().items():
        if _meaning(config, kind) == meaning:
            return arch_to_dict(load_arch(name))[kind]
    if all(meaning.get(key) == value for key, value in _KIND[kind].items()):
        return (_vision if kind == "vision" else _text)(meaning, f"{where}: {section}")
    raise _unknown(model, kind, f"{where}: {section}")


def _meaning(model: Mapping[str, Any], kind: Kind, where: str = "") -> dict[str, Any]:
    """All that decides a tower's numbers: the fields that its class reads, with defaults."""
    given = model[f"{kind}_cfg"]
    foreign = next((key for key in ("timm_model_name", "hf_model_name") if given.get(key)), None)
    fields = {foreign: None} if foreign else {**_SIZES[kind], **_KIND[kind]}
    for switch, under in _UNDER.items():
        fields |= under if given.get(switch) else {}
    meaning = {key: given.get(key, default) for key, default in fields.items()}
    if kind == "vision" and isinstance(meaning.get("layers"), list):
        del meaning["patch_size"]  # a ResNet
    for key in meaning.keys() & {"image_size", "patch_size"}:
        meaning[key] = square(meaning, key, where)
    for key in meaning.keys() & {"timm_proj", "norm_kwargs"}:
        meaning[key] = meaning[key] or None  # "", {} and null mean the same
    if not foreign:
        meaning["quick_gelu"] = model.get("quick_gelu", False)
    return {**meaning, "embed_dim": model["embed_dim"]}


def _unknown(model: Mapping[str, Any], kind: Kind, where: str) -> DataError:
    """Names the first field that differs from the nearest known tower."""

    def differences(config: Mapping[str, Any], kind: Kind) -> list[str]:
        ours, theirs = _meaning(model, kind, where), _meaning(config, kind)
        keys = sorted({*ours, *theirs}, key=lambda key: (key not in _KIND[kind], key))
        return [key for key in keys if ours.get(key) != theirs.get(key)]

    def distance(name: str) -> tuple[int, int]:
        by_tower = {tower: len(differences(known_configs()[name], tower)) for tower in _KIND}
        return by_tower[kind], sum(by_tower.values())

    name = min(known_configs(), key=distance)
    key = differences(known_configs()[name], kind)[0]
    ours, theirs = _meaning(model, kind, where).get(key), _meaning(known_configs()[name], kind).get(key)
    return DataError(
        f"{where}.{key} is {ours!r}, but {theirs!r} in {name}, the nearest architecture that clipjax has"
    )


def _vision(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    width, head_width = (get(fields, key, where, "size") for key in ("width", "head_width"))
    sizes = {name: fields[name] for name in ("image_size", "width", "embed_dim")}
    if isinstance(fields["layers"], list):
        layers = [get({"layers": n}, "layers", where, "layers") for n in fields["layers"]]
        heads = _divide(32 * width, head_width, where)
        return tower_like(RESNET, "vision", **sizes, layers=layers, heads=heads)
    return tower_like(
        CLIP,
        "vision",
        **sizes,
        patch_size=fields["patch_size"],
        heads=_divide(width, head_width, where),
        **_blocks(fields, where),
    )


def _text(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    names = ("context_length", "vocab_size", "width", "heads", "embed_dim")
    sizes = {name: get(fields, name, where, "size") for name in names}
    return tower_like(CLIP, "text", **sizes, **_blocks(fields, where))


def _blocks(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    norm = {
        "eps": 1e-5,
        **get({**fields, "norm_kwargs": fields["norm_kwargs"] or {}}, "norm_kwargs", where, "object"),
    }
    refuse_unknown(norm, {"eps"}, f"{where}.norm_kwargs")
    return {
        "layers": get(fields, "layers", where, "layers"),
        "mlp_width": int(fields["width"] * get(fields, "mlp_ratio", where, "positive")),
        "activation": "quick_gelu" if fields["quick_gelu"] else "gelu",
        "ln_eps": get(norm, "eps", f"{where}.norm_kwargs", "positive"),
    }


def _divide(width: int, head_width: int, where: str) -> int:
    if width % head_width:
        raise DataError(f"{where}: width {width} is not a multiple of head_width {head_width}")
    return width // head_width
