"""The towers of an `open_clip_config.json`: a section of its `model_cfg` -> the record of a family.

The defaults of open_clip's classes (open_clip 3.3 model.py: CLIPVisionCfg and CLIPTextCfg) are part of the
format. A tower with the fields of one whose record is in configs/archs is that tower. The others are derived:
each field is understood, or the first that a family cannot express is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.guards import multiple_of
from clipjax.models.arch import arch_records
from clipjax.storage.reading import read_json
from converters.foreign import timm_options
from converters.foreign.card import get, refuse_unknown, square
from converters.foreign.templates import CLIP, COCA, RESNET, tower_like

Kind = Literal["vision", "text"]

# Field -> default: first the sizes, then what makes it another network.
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
_EOS = {"eos_id": 2}  # read only with pool_type "eos"
# Fields that change no number at inference, or only the ids of texts.
_WITHOUT_EFFECT = {
    *("patch_dropout", "output_tokens", "timm_model_pretrained", "timm_drop", "timm_drop_path"),
    *("pad_id", "eos_id", "hf_model_pretrained", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"),
}
# Values of open_clip's fields that each family can express. Any other is refused.
_PLAIN = {key: (default,) for key, default in _BOTH.items()}
_CAN: dict[str, dict[str, tuple[Any, ...]]] = {
    "modified_resnet": {**_PLAIN, **{key: (value,) for key, value in _KIND["vision"].items()}},
    "vit": {
        **{key: values for key, values in _PLAIN.items() if key not in ("ls_init_value", "act_kwargs")},
        "final_ln_after_pool": (False, True),
        "pos_embed_type": ("learnable",),
        "attentional_pool": (False, True),
        "no_ln_pre": (False, True),
        "pool_type": ("tok", "avg"),
    },
    "text": {
        **{key: values for key, values in _PLAIN.items() if key != "act_kwargs"},
        "no_causal_mask": (False, True),
        "pool_type": ("argmax", "eos", "last"),
        "proj_bias": (False, True),
        "proj_type": ("linear", "none"),
    },
    "coca_text": {
        **{key: values for key, values in _PLAIN.items() if key != "act_kwargs"},
        "no_causal_mask": (False,),
        "proj_bias": (False,),
        "proj_type": ("linear",),
    },
}
_CONVNEXT_HEADS = {"linear": "linear", "mlp": "mlp"}


def tower(model: Mapping[str, Any], kind: Kind, where: str) -> dict[str, Any]:
    """Our record of a tower of a `model_cfg`.

    Raises DataError for the first field that no family can express.
    """
    section = f"{kind}_cfg"
    given, inside = get(model, section, f"{where}: model_cfg", "object"), f"{where}: {section}"
    known = {**_SIZES[kind], **_KIND[kind], **{k: v for under in _UNDER.values() for k, v in under.items()}}
    refuse_unknown(given, {*known, *_WITHOUT_EFFECT}, inside)
    fields = meaning(model, kind, inside)
    for name, config in known_configs().items():
        if meaning(config, kind) == fields:
            return arch_records()[name][kind]
    return (_vision if kind == "vision" else _text)(model, fields, inside)


@functools.cache
def configs() -> dict[str, dict[str, Any]]:
    """open_clip's model configs, by the name of the architecture."""
    return read_json(config_dir() / "open_clip.json")


@functools.cache
def known_configs() -> dict[str, dict[str, Any]]:
    """The library's configurations of the dual encoders in configs/archs, by name.

    The others are left out, since some of timm's classifiers share a name with a CLIP.
    """
    names = [name for name, record in sorted(arch_records().items()) if "text" in record]
    return {name: configs()[name] for name in names if name in configs()}


def meaning(model: Mapping[str, Any], kind: Kind, where: str = "") -> dict[str, Any]:
    """All that decides a tower's numbers: the fields that its class reads, with defaults."""
    given = model[f"{kind}_cfg"]
    foreign = next((key for key in ("timm_model_name", "hf_model_name") if given.get(key)), None)
    # A timm or Hugging Face tower has its sizes from its library.
    fields = {foreign: None} if foreign else {**_SIZES[kind], **_KIND[kind]}
    for switch, under in _UNDER.items():
        if given.get(switch):
            fields |= under
    if kind == "text" and not foreign and given.get("pool_type") == "eos":
        fields |= _EOS
    found = {key: given.get(key, default) for key, default in fields.items()}
    if kind == "vision" and isinstance(found.get("layers"), list):
        del found["patch_size"]  # a ResNet
    for key in found.keys() & {"image_size", "patch_size"}:
        found[key] = square(found, key, where)
    for key in found.keys() & {"timm_proj", "norm_kwargs"}:
        found[key] = found[key] or None  # "", {} and null mean the same
    if not foreign:
        found["quick_gelu"] = model.get("quick_gelu", False)
    return {**found, "embed_dim": model["embed_dim"]}


def library_name(model: Mapping[str, Any]) -> str | None:
    """The library's name for this `model_cfg`; None if it has none, or gives other keys to the tensors."""
    own = _whole(model)
    return next((name for name, config in configs().items() if _whole(config) == own), None)


def _whole(model: Mapping[str, Any]) -> list[Any]:
    flags = [bool(model.get("custom_text")), "multimodal_cfg" in model, model.get("init_logit_bias") is None]
    return [*flags, meaning(model, "vision"), meaning(model, "text")]


# --- the image tower ---


def _vision(model: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    if fields.get("timm_model_name"):
        return _trunk(model, fields, where)
    width, head_width = (get(fields, key, where, "size") for key in ("width", "head_width"))
    sizes = {name: fields[name] for name in ("image_size", "width", "embed_dim")}
    if isinstance(fields["layers"], list):
        _refuse(fields, "modified_resnet", where)
        layers = [get({"layers": n}, "layers", where, "layers") for n in fields["layers"]]
        heads = _divide(32 * width, head_width, where)
        return tower_like(RESNET, "vision", **sizes, layers=layers, heads=heads)
    _refuse(fields, "vit", where)
    return tower_like(
        CLIP,
        "vision",
        **sizes,
        patch_size=fields["patch_size"],
        heads=_divide(width, head_width, where),
        pre_norm=not fields["no_ln_pre"],
        layer_scale=fields["ls_init_value"] is not None,
        **_pooling(fields, where),
        **_blocks(fields, where),
    )


def _pooling(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    if fields["attentional_pool"]:
        _only(fields, "pool_type", ("tok",), where)
        queries, heads = (get(fields, f"attn_pooler_{key}", where, "size") for key in ("queries", "heads"))
        return {"pooling": "attention", "pool_queries": queries, "pool_heads": heads}
    if fields["pool_type"] == "tok":  # one token is the same normalised before or after it is taken
        return {"pooling": "class"}
    _only(fields, "final_ln_after_pool", (True,), where)
    return {"pooling": "mean"}


def _trunk(model: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A tower of timm's, with open_clip's head or timm's own (open_clip 3.3 timm_model.py)."""
    name, pool, head = (fields[key] for key in ("timm_model_name", "timm_pool", "timm_proj"))
    if not isinstance(name, str) or not timm_options.has_family(name):
        raise _unlike(model, "vision", "timm_model_name", where)
    inside = f"{where}.timm_model_name"
    args = {"global_pool": pool} if pool else {}
    try:
        vision = timm_options.tower(name, args, fields["image_size"], inside)
    except DataError:
        if any(config["vision_cfg"].get("timm_model_name") == name for config in known_configs().values()):
            raise _unlike(model, "vision", "timm_model_name", where) from None
        raise
    sizes = {"embed_dim": fields["embed_dim"]}
    if vision["family"] == "convnext" and vision["projection"] == "none":
        _only(fields, "timm_proj", tuple(_CONVNEXT_HEADS), where)
        _only(fields, "timm_proj_bias", (False,), where)
        return {**vision, **sizes, "projection": _CONVNEXT_HEADS[head]}
    if vision["family"] == "vit" and vision["pooling"] != "distilled":
        _only(fields, "timm_proj", (None, "none"), where)
        if head is None:
            return {**vision, **sizes, "projection": True, "projection_bias": True}
        if fields["embed_dim"] != vision["embed_dim"]:
            raise DataError(
                f"{where}.timm_proj is 'none', so embed_dim is the width, {vision['embed_dim']}, "
                f"and not {fields['embed_dim']}"
            )
        return vision
    raise DataError(
        f"{inside} is {name!r}, of the family {vision['family']!r}, which clipjax has as a classifier and "
        "not as the image tower of a CLIP"
    )


# --- the text tower ---


def _text(model: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    if fields.get("hf_model_name"):
        return _hub_text(model, fields, where)
    names = ("context_length", "vocab_size", "width", "heads", "embed_dim")
    sizes = {name: get(fields, name, where, "size") for name in names}
    if fields["embed_cls"]:
        _refuse(fields, "coca_text", where)
        pad = {"pad_id": get(fields, "pad_id", where, "count")}
        return tower_like(COCA, "text", **sizes, **pad, **_blocks(fields, where))
    _refuse(fields, "text", where)
    return tower_like(
        CLIP,
        "text",
        **sizes,
        causal=not fields["no_causal_mask"],
        pooling=fields["pool_type"],
        **({"eos_id": get(fields, "eos_id", where, "count")} if "eos_id" in fields else {}),
        projection_bias=fields["proj_bias"] and fields["proj_type"] == "linear",
        **({"projection": False} if fields["proj_type"] == "none" else {}),
        **_blocks(fields, where),
    )


def _hub_text(model: Mapping[str, Any], fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A tower of transformers': the encoder of a known one, with this projection and length."""
    encoders = {config["text_cfg"].get("hf_model_name"): name for name, config in known_configs().items()}
    name = encoders.get(fields["hf_model_name"]) if isinstance(fields["hf_model_name"], str) else None
    if name is None:
        raise _unlike(model, "text", "hf_model_name", where)
    _only(fields, "hf_pooler_type", ("mean_pooler",), where)
    _only(fields, "hf_proj_type", ("linear", "mlp"), where)
    own = {"projection": fields["hf_proj_type"], "embed_dim": fields["embed_dim"]}
    own["context_length"] = get(fields, "context_length", where, "size")
    return tower_like(name, "text", **own)


# --- both ---


def _blocks(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    norm = {
        "eps": 1e-5,
        **get({**fields, "norm_kwargs": fields["norm_kwargs"] or {}}, "norm_kwargs", where, "object"),
    }
    refuse_unknown(norm, {"eps"}, f"{where}.norm_kwargs")
    return {
        "layers": get(fields, "layers", where, "layers"),
        "mlp_width": int(fields["width"] * get(fields, "mlp_ratio", where, "positive")),
        "activation": _activation(fields, where),
        "ln_eps": get(norm, "eps", f"{where}.norm_kwargs", "positive"),
    }


def _activation(fields: Mapping[str, Any], where: str) -> str:
    """open_clip gives `act_kwargs` to torch's GELU, which has a tanh form, or QuickGELU, which has none."""
    kinds = {None: "gelu", "none": "gelu", "tanh": "gelu_tanh"}
    options = fields["act_kwargs"]
    if options is None:
        return "quick_gelu" if fields["quick_gelu"] else "gelu"
    known = [{"approximate": value} for value in kinds if value]
    _only(fields, "act_kwargs", (None, *([] if fields["quick_gelu"] else known)), where)
    return kinds[options["approximate"]]


def _divide(width: int, head_width: int, where: str) -> int:
    multiple_of(f"{where}: width", width, head_width, "head_width", DataError)
    return width // head_width


def _refuse(fields: Mapping[str, Any], family: str, where: str) -> None:
    for key, values in _CAN[family].items():
        if key in fields:
            _only(fields, key, values, where)


def _only(fields: Mapping[str, Any], key: str, values: Iterable[Any], where: str) -> None:
    """Raises DataError for another value: 1 is not true, and true is not 1."""
    value, values = fields[key], tuple(values)
    if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in values):
        raise DataError(
            f"{where}.{key} is {value!r}; the towers that clipjax has can only have "
            f"{' or '.join(map(repr, values))}"
        )


def _unlike(model: Mapping[str, Any], kind: Kind, key: str, where: str) -> DataError:
    """The error for a tower of another library (`key` names it) that no record can be derived for.

    Names it, or the first field that differs from the nearest known tower of that name.
    """
    fields = meaning(model, kind, where)
    known = {name: config for name, config in known_configs().items() if config[f"{kind}_cfg"].get(key)}
    same = [name for name, config in known.items() if config[f"{kind}_cfg"][key] == fields[key]]
    if not same:
        return DataError(f"{where}.{key} is {fields[key]!r}, a tower that clipjax does not have")
    differences = {
        name: [each for each in sorted(fields) if fields[each] != meaning(known[name], kind).get(each)]
        for name in same
    }
    name = min(same, key=lambda name: len(differences[name]))
    first = differences[name][0]
    theirs = meaning(known[name], kind).get(first)
    return DataError(
        f"{where}.{first} is {fields[first]!r}, but {theirs!r} in {name}, the nearest architecture that "
        "clipjax has"
    )
