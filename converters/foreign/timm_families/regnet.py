"""timm 1.0 `regnet.RegNet`: RegNetX and RegNetY, whose widths follow from four numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from converters.foreign.timm_options import Options
from converters.foreign.timm_rounding import make_divisible

CLASSES = ("RegNet",)

_PLAIN = {"bottle_ratio": 1.0, "downsample": "conv1x1", "linear_out": False, "preact": False}
_PLAIN |= {"num_features": 0, "act_layer": "relu", "norm_layer": "batchnorm"}
_EPS = 1e-5  # of torch's BatchNorm2d
_STEP = 8  # widths are its multiples


def tower(options: Options) -> dict[str, Any]:
    o = options
    cfg = dict(o.take("cfg"))
    o.only("output_stride", 32)
    o.only("global_pool", "avg")
    for key, known in _PLAIN.items():
        if (value := cfg.pop(key)) != known:
            raise o.refused(key, value)
    widths, depths = _stages(cfg["w0"], cfg["wa"], cfg["wm"], cfg["depth"])
    sizes = [min(cfg["group_size"], width) for width in widths]
    least = cfg["group_min_ratio"]
    widths = [
        make_divisible(width, size, least) if least else int(round(width / size) * size)
        for width, size in zip(widths, sizes, strict=True)
    ]
    squeezed = [round(width * cfg["se_ratio"]) for width in (cfg["stem_width"], *widths)]
    return {
        "image_size": o.image_size,
        "stem_width": cfg["stem_width"],
        "depths": depths,
        "widths": widths,
        "groups": [width // size for width, size in zip(widths, sizes, strict=True)],
        "se_first": squeezed[:-1],
        "se_rest": squeezed[1:],
        "bn_eps": _EPS,
        "embed_dim": widths[-1],
    }


def _stages(first: int, slope: float, factor: float, depth: int) -> tuple[list[int], list[int]]:
    """Widths and depths, in the precision of timm's `generate_regnet`."""
    wanted = np.arange(depth, dtype=np.float32) * np.float32(slope) + np.float32(first)
    powers = np.round(np.log(wanted / np.float32(first)) / np.float32(math.log(factor)))
    each = np.round(first * np.float32(factor) ** powers / _STEP) * _STEP
    widths, depths = np.unique(each.astype(int), return_counts=True)
    return widths.tolist(), depths.tolist()
