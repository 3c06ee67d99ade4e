"""timm 1.0 `resnet.ResNet` with the plain stem and shortcut; ResNeXt, SE and wide nets too."""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options
from converters.foreign.timm_rounding import make_divisible

CLASSES = ("ResNet",)

STEM = 64  # timm's `stem_width` is of deep stems only
_BLOCKS = {"BasicBlock": "basic", "Bottleneck": "bottleneck"}


def tower(options: Options) -> dict[str, Any]:
    o = options
    block = _BLOCKS[o.only("block", *_BLOCKS)]
    layers = o.numbers("layers", 4)
    o.only("output_stride", 32)
    o.only("global_pool", "avg")
    basic = block == "basic"
    groups = o.only("cardinality", 1) if basic else o.count("cardinality")
    base = o.only("base_width", 64) if basic else o.count("base_width")
    o.only("stem_type", "")
    o.take("stem_width")
    o.only("replace_stem_pool", False)
    o.only("block_reduce_first", 1)
    o.only("down_kernel_size", 1)
    o.only("avg_down", False)
    planes = o.numbers("channels", 4)
    o.activation("act_layer", "relu", "relu")
    eps = o.eps("norm_layer", "nn.BatchNorm2d", "nn.BatchNorm2d", "batchnorm", "batchnorm2d")
    o.only("aa_layer", None)
    squeezed = o.only("block_args", None, {}, {"attn_layer": "se"})
    widths = planes if basic else [4 * each for each in planes]
    return {
        "image_size": o.image_size,
        "block": block,
        "stem_width": STEM,
        "layers": layers,
        "widths": widths,
        "middle": planes if basic else [int(each * (base / 64)) * groups for each in planes],
        "groups": groups,
        # `SEModule` takes a 16th of the width.
        "se_widths": [make_divisible(width / 16, round_limit=0) if squeezed else 0 for width in widths],
        "bn_eps": eps,
        "embed_dim": widths[-1],
    }
