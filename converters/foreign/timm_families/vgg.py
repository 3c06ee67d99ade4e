"""timm 1.0 `vgg.VGG`, with and without BatchNorm."""

from __future__ import annotations

import itertools
from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("VGG",)

HIDDEN = 4096  # timm's `num_features`
_EPS = 1e-5  # of torch's BatchNorm2d


def tower(options: Options) -> dict[str, Any]:
    o = options
    plan = o.take("cfg")
    o.only("output_stride", 32)
    o.only("mlp_ratio", 1)
    o.activation("act_layer", "relu", "relu")
    o.only("conv_layer", "nn.Conv2d")
    norm = o.only("norm_layer", None, "nn.BatchNorm2d")
    o.only("global_pool", "avg")
    # [64, 64, "M", 128, "M"]: two convolutions of 64 channels, pooling, one of 128, pooling.
    groups = [list(group) for pool, group in itertools.groupby(plan, lambda item: item == "M") if not pool]
    pooled_each = plan[-1] == "M" and plan.count("M") == len(groups)
    if not pooled_each or any(len(set(group)) > 1 for group in groups):
        raise o.refused("cfg", plan)
    return {
        "image_size": o.image_size,
        "widths": [group[0] for group in groups],
        "depths": [len(group) for group in groups],
        "batch_norm": norm is not None,
        "bn_eps": _EPS,
        "hidden": HIDDEN,
        "embed_dim": HIDDEN,
    }
