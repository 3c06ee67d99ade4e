"""timm 1.0 `beit.Beit` with a relative bias in each block: BEiT and BEiT v2."""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("Beit",)


def tower(options: Options) -> dict[str, Any]:
    o = options
    patch = o.only("patch_size", *range(1, 65))
    o.only("global_pool", "avg")
    width, depth, heads = o.count("embed_dim"), o.count("depth"), o.count("num_heads")
    o.only("qkv_bias", True)
    ratio = o.ratio("mlp_ratio")
    o.only("swiglu_mlp", False)
    o.only("scale_mlp", False)
    eps = o.eps("norm_layer", "LayerNorm", "LayerNorm", "nn.LayerNorm")
    if (scale := o.take("init_values")) is None:
        raise o.refused("init_values", scale)
    o.only("use_abs_pos_emb", False)
    o.only("use_rel_pos_bias", True)
    o.only("use_shared_rel_pos_bias", False)
    o.only("use_fc_norm", None, True)
    return {
        "image_size": o.image_size,
        "patch_size": patch,
        "width": width,
        "layers": depth,
        "heads": heads,
        "mlp_width": int(width * ratio),
        "activation": "gelu",
        "ln_eps": eps,
        "pooling": "patches",
        "embed_dim": width,
    }
