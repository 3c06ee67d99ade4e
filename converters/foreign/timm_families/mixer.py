"""timm 1.0 `mlp_mixer.MlpMixer`: MLP-Mixer, gMixer, ResMLP and gMLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("MlpMixer",)

# {timm's block and MLP: ours}.
_BLOCKS = {
    ("MixerBlock", "Mlp"): "mixer",
    ("MixerBlock", "GluMlp"): "gmixer",
    ("ResBlock", "Mlp"): "resmlp",
    ("SpatialGatingBlock", "GatedMlp"): "gmlp",
}
_GATE_EPS = 1e-5  # of `SpatialGatingUnit`, which takes torch's LayerNorm


def tower(options: Options) -> dict[str, Any]:
    o = options
    patch = o.only("patch_size", *range(1, 65))
    depth, width, ratio = o.count("num_blocks"), o.count("embed_dim"), o.take("mlp_ratio")
    layer, mlp = o.take("block_layer"), o.take("mlp_layer")
    stated = dict(layer) if isinstance(layer, Mapping) else {"call": layer}
    timm_block = stated.pop("call", None)
    if not stated.keys() <= {"init_values"} or timm_block not in [name for name, _ in _BLOCKS]:
        raise o.refused("block_layer", layer)
    if (timm_block, mlp) not in list(_BLOCKS):
        raise o.refused("mlp_layer", mlp)
    block = _BLOCKS[timm_block, mlp]
    ratios = ratio if isinstance(ratio, list) else [ratio] * 2
    if timm_block != "MixerBlock":  # no MLP over tokens, and no list
        ratios = [0, ratio]
    if len(ratios) != 2 or not all(isinstance(each, int | float) and 0 <= each < 1000 for each in ratios):
        raise o.refused("mlp_ratio", ratio)
    tokens, channels = (int(width * each) for each in ratios)
    halves = 2 if block in ("gmixer", "gmlp") else 1  # a gate takes one of the halves
    norm = "Affine" if block == "resmlp" else "nn.LayerNorm"
    eps = o.eps("norm_layer", norm, norm)
    activation = o.activation("act_layer", "gelu", "gelu", "silu")
    o.only("stem_norm", False)
    o.only("global_pool", "avg")
    return {
        "image_size": o.image_size,
        "patch_size": patch,
        "width": width,
        "layers": depth,
        "block": block,
        "token_width": tokens // halves,
        "mlp_width": channels // halves,
        "activation": activation,
        "ln_eps": eps,
        "gate_eps": _GATE_EPS if block == "gmlp" else 0.0,
        "embed_dim": width,
    }
