"""timm 1.0 `convnext.ConvNeXt` with a patch stem, and LayerScale (V1) or global response norms (V2)."""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("ConvNeXt",)


def tower(options: Options) -> dict[str, Any]:
    o = options
    o.only("global_pool", "avg")
    o.only("output_stride", 32)
    depths, widths = o.numbers("depths", 4), o.numbers("dims", 4)
    o.only("kernel_sizes", 7, [7, 7, 7, 7])
    scale, grn = o.take("ls_init_value"), o.only("use_grn", False, True)
    if (scale is None) != grn:
        raise o.refused("ls_init_value", scale)
    o.only("stem_type", "patch")
    o.only("patch_size", 4)
    o.only("head_norm_first", False)
    hidden = o.only("head_hidden_size", None, *range(1, 100_000))
    o.only("conv_mlp", False, True)  # 1x1 convolutions: another layout of the same numbers
    o.only("conv_bias", True)
    activation = o.activation("act_layer", "gelu", "gelu", "gelu_tanh", "quick_gelu")
    eps = o.eps("norm_layer", "LayerNorm", "LayerNorm", "LayerNorm2d", "layernorm", "layernorm2d")
    stated = o.take("norm_eps")
    if stated is not None and (not isinstance(stated, float) or not 0 <= stated < 1):
        raise o.refused("norm_eps", stated)
    return {
        "image_size": o.image_size,
        "widths": widths,
        "depths": depths,
        "activation": activation,
        "ln_eps": eps if stated is None else float(stated),
        "projection": "none" if hidden is None else "hidden",
        "embed_dim": widths[-1] if hidden is None else int(hidden),
        **({"grn": True} if grn else {}),
    }
