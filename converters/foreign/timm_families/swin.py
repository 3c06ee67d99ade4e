"""timm 1.0 `swin_transformer.SwinTransformer`, also with other windows in some stages (`swin_s3_*`)."""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("SwinTransformer",)


def tower(options: Options) -> dict[str, Any]:
    o = options
    patch = o.only("patch_size", *range(1, 65))
    o.only("global_pool", "avg")
    width, depths = o.count("embed_dim"), o.numbers("depths")
    heads = o.numbers("num_heads", len(depths))
    o.only("head_dim", None)
    windows = o.numbers("window_size", len(depths))
    o.only("always_partition", False)
    o.take("strict_img_size")  # of no effect at the model's own image size
    o.take("dynamic_img_size")
    o.only("mlp_ratio", 4)
    o.only("qkv_bias", True)
    o.only("embed_layer", "PatchEmbed")
    eps = o.eps("norm_layer", "nn.LayerNorm", "nn.LayerNorm", "LayerNorm")
    # A window larger than a map is the map.
    sides = [o.image_size // patch // 2**stage for stage in range(len(depths))]
    return {
        "image_size": o.image_size,
        "patch_size": patch,
        "width": width,
        "depths": depths,
        "heads": heads,
        "windows": [min(pair) for pair in zip(windows, sides, strict=True)],
        "activation": "gelu",
        "ln_eps": eps,
        "embed_dim": width * 2 ** (len(depths) - 1),
    }
