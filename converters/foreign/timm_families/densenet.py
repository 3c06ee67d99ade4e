"""timm 1.0 `densenet.DenseNet` with the plain stem."""

from __future__ import annotations

from typing import Any

from clipjax.models.families.convolutions.densenet import widths_of
from converters.foreign.timm_options import Options

CLASSES = ("DenseNet",)


def tower(options: Options) -> dict[str, Any]:
    o = options
    growth, depths = o.count("growth_rate"), o.numbers("block_config", 4)
    o.only("global_pool", "avg")
    o.only("bn_size", 4)
    o.only("stem_type", "")
    o.activation("act_layer", "relu", "relu")
    eps = o.eps("norm_layer", "batchnorm2d", "batchnorm2d", "nn.BatchNorm2d")
    o.only("aa_layer", None)
    o.take("aa_stem_only")
    stem = 2 * growth
    return {
        "image_size": o.image_size,
        "stem_width": stem,
        "growth": growth,
        "depths": depths,
        "bn_eps": eps,
        "embed_dim": widths_of(stem, growth, depths)[-1],
    }
