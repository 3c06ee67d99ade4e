"""timm 1.0 `resnetv2.ResNetV2` with standardised kernels and GroupNorm: BiT."""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("ResNetV2",)

_POOLS = {"fixed": "zeros", "": "lowest"}
_CONV_EPS = 1e-6  # of StdConv2d, where it is not stated


def tower(options: Options) -> dict[str, Any]:
    o = options
    depths, planes = o.numbers("layers", 4), o.numbers("channels", 4)
    o.only("global_pool", "avg")
    o.only("output_stride", 32)
    factor, stem = o.count("width_factor"), o.count("stem_chs")
    pool = _POOLS[o.only("stem_type", *_POOLS)]
    o.only("avg_down", False)
    o.only("preact", True)
    o.only("basic", False)
    o.only("bottle_ratio", 0.25)
    o.activation("act_layer", "relu", "relu")
    norm = o.call("norm_layer", "GroupNormAct", "num_groups", "eps")
    conv = o.call("conv_layer", "StdConv2d", "eps")
    widths = [factor * each for each in planes]
    return {
        "image_size": o.image_size,
        "stem_width": factor * stem,
        "widths": widths,
        "depths": depths,
        "bottleneck": 4,
        "groups": norm.get("num_groups", 32),
        "gn_eps": norm.get("eps", 1e-5),
        "conv_eps": conv.get("eps", _CONV_EPS),
        "activation": "relu",
        "padding": "symmetric",
        "pool_padding": pool,
        "embed_dim": widths[-1],
    }
