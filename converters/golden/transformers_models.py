"""transformers' own CLIPModel and SiglipModel, from a config.json or a clipjax arch record of their kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from torch import nn

from converters.foreign.templates import CLIP, SIGLIP, is_like

# By the name of transformers' classes, which it imports in a second when they are asked for.
_KINDS = {"clip": "CLIP", "siglip": "Siglip"}
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_tanh": "gelu_pytorch_tanh"}
_NAMES = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "ln_eps": "layer_norm_eps",
}


def build_transformers(arch: str | dict[str, Any], sizes: dict[str, Any] | None = None) -> nn.Module:
    """The model of a config (a dict, or the path of its JSON), in eval mode.

    Args:
        sizes: our record for another image size.

    Raises:
        SystemExit: another model's config, or an arch record without a transformers model.
    """
    record = arch if isinstance(arch, dict) else json.loads(Path(arch).read_text())
    record = from_record(record) if "vision" in record else record
    if record.get("model_type") not in _KINDS:
        raise SystemExit(
            f"transformers' {record.get('model_type')!r} is neither a CLIPModel nor a SiglipModel"
        )
    if sizes is not None:
        vision = {**record["vision_config"], "image_size": sizes["vision"]["image_size"]}
        record = {**record, "vision_config": vision}
    kind = _KINDS[record["model_type"]]
    config, model = (getattr(transformers, f"{kind}{part}") for part in ("Config", "Model"))
    return model(config.from_dict(record)).eval()


def from_record(record: dict[str, Any]) -> dict[str, Any]:
    """Here the flags come from the record too."""
    towers = {
        f"{name}_config": {
            theirs: record[name][ours] for ours, theirs in _NAMES.items() if ours in record[name]
        }
        | {"hidden_act": _ACTIVATIONS[record[name]["activation"]]}
        for name in ("vision", "text")
        if name in record and "activation" in record[name]
    }
    if is_like(record, CLIP):
        towers["text_config"] |= {"eos_token_id": record["text"]["vocab_size"] - 1}
        return {"model_type": "clip", "projection_dim": record["vision"]["embed_dim"], **towers}
    if is_like(record, SIGLIP):
        towers["text_config"] |= {"projection_size": record["text"]["embed_dim"]}
        return {"model_type": "siglip", **towers}
    raise SystemExit(
        f"{record['name']}: transformers has no model of this kind; verify it against another library"
    )
