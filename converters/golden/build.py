"""The reference's own model, by the library's name.

`sizes` (a clipjax arch record of a narrow variant) changes only widths, depths and image size. The flags stay
the library's, so that an error in our record's flags shows.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import timm
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from converters.foreign.templates import CLIP as PLAIN
from converters.foreign.templates import RESNET, is_like
from converters.golden.llava import build_llava
from converters.golden.tower import families
from converters.golden.towers.convolutions.resnet import simclr_model
from converters.golden.towers.texts.roberta import hub_configs
from converters.golden.transformers_models import build_transformers

LIBRARIES = {
    "open_clip": open_clip.__version__,
    "timm": timm.__version__,
    "simclr": timm.__version__,  # built of timm's blocks
    "transformers": version("transformers"),
    "prismatic": version("transformers"),  # built of open_clip's and transformers' parts
}

TIMM_BUFFERS = ("*.attn.relative_position_index", "layers.*.blocks.*.attn_mask")


def build_model(
    arch: str | dict[str, Any], library: str = "open_clip", sizes: dict[str, Any] | None = None
) -> nn.Module:
    """Build a model with its own initialisation, float32 on the CPU, in eval mode.

    Args:
        arch: the library's name ("resnet50xWIDTH" for simclr, "VISION+LANGUAGE" for prismatic), or for
            open_clip a config (dict or JSON file); for transformers always a config.
        sizes: our record of a narrow variant (not for transformers) or for another image size.
    """
    if library == "transformers":
        return build_transformers(arch, sizes)
    if library == "timm":
        return timm_model(str(arch), sizes).eval()
    if library == "simclr":
        return simclr_model(str(arch), sizes).eval()
    if library == "prismatic":
        return build_llava(str(arch), sizes, build_model)
    config = copy.deepcopy(model_config(arch))
    trunk: dict[str, Any] = {}
    if sizes is not None:
        trunk = resize(config, sizes)
    config["text_cfg"] |= {"hf_model_pretrained": False}  # no download
    narrow_timm = functools.partial(timm.create_model, **trunk)
    hub = hub_configs(None if sizes is None else sizes["text"])
    with mock.patch.object(timm, "create_model", narrow_timm), hub:
        return open_clip_class(config)(**config).eval()


def timm_model(arch: str, sizes: dict[str, Any] | None) -> nn.Module:
    """Families whose sizes `create_model` cannot change build narrow models themselves."""
    if sizes is None:
        return timm.create_model(arch, pretrained=False)
    vision, classes = sizes["vision"], sizes["num_classes"]
    build = getattr(families()[vision["family"]], "timm_model", None)
    if build is not None:
        return build(arch, vision, classes)
    return timm.create_model(arch, pretrained=False, num_classes=classes, **timm_options(vision))


def open_clip_class(config: dict[str, Any]) -> type[nn.Module]:
    """The class of a config's model. Removes the key that only selects it from `config`."""
    custom = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "multimodal_cfg" in config:
        return CoCa
    return CustomTextCLIP if custom else CLIP


def resize(config: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """Put `sizes` into `config`; returns arguments for a timm trunk."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    narrow = config.get("embed_dim") != sizes["vision"]["embed_dim"]
    config["embed_dim"] = sizes["vision"]["embed_dim"]
    text |= families()[sizes["text"]["family"]].open_clip_sizes(sizes["text"])
    if narrow and "multimodal_cfg" in config:  # CoCa's decoder is built but never run
        config["multimodal_cfg"] |= {"width": 64, "heads": 1, "layers": 1, "attn_pooler_heads": 1}
    if "timm_model_name" in vision:
        vision["image_size"] = sizes["vision"]["image_size"]
        return timm_options(sizes["vision"])
    vision |= families()[sizes["vision"]["family"]].open_clip_sizes(sizes["vision"])
    return {}


def timm_options(vision: dict[str, Any]) -> dict[str, Any]:
    return families()[vision["family"]].timm_sizes(vision)


def model_config(arch: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(arch, dict):
        return arch
    if not arch.endswith(".json"):
        config = open_clip.get_model_config(arch)
    else:
        config = json.loads(Path(arch).read_text())
        config = from_record(config) if "vision" in config else config.get("model_cfg", config)
    if not config:
        raise SystemExit(f"open_clip has no model config named {arch!r}: give a known name or a JSON file")
    return config


def from_record(record: dict[str, Any]) -> dict[str, Any]:
    """Plain CLIP towers without a name in open_clip; here the flags come from the record too."""
    if not (is_like(record, PLAIN) or is_like(record, RESNET)):
        raise SystemExit(
            f"{record['name']}: name the reference's architecture (--arch), this one is not plain"
        )
    vision, text = record["vision"], record["text"]
    activations = {tower["activation"] for tower in (vision, text) if "activation" in tower}
    if len(activations) != 1 or not activations <= {"gelu", "quick_gelu"}:
        raise SystemExit(
            f"open_clip has one activation, gelu or quick_gelu, for both towers; not {activations}"
        )
    config = {"quick_gelu": activations == {"quick_gelu"}, "vision_cfg": {}, "text_cfg": {}}
    resize(config, record)
    for tower, ours in (("vision_cfg", vision), ("text_cfg", text)):
        if "ln_eps" in ours:
            config[tower]["norm_kwargs"] = {"eps": ours["ln_eps"]}
    return config


def load_strict(model: nn.Module, checkpoint: Path) -> None:
    """Load any checkpoint that open_clip reads; every key must match.

    Exceptions: a buffer that transformers drops since 4.31, and what timm's filters drop from older Swins and
    BEiTs.
    """
    state: Any = open_clip.factory.load_state_dict(str(checkpoint))
    state.pop("text.transformer.embeddings.position_ids", None)
    dropped = [key for pattern in TIMM_BUFFERS for key in fnmatch.filter(state, pattern)]
    for key in dropped:
        del state[key]
    model.load_state_dict(state, strict=True)
