"""timm 1.0 `vision_transformer.VisionTransformer`, pooled by its class token or by SigLIP's query, and
`deit.VisionTransformerDistilled`, by the class and the distillation token.
"""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("VisionTransformer", "VisionTransformerDistilled")


def tower(options: Options) -> dict[str, Any]:
    o = options
    patch = o.only("patch_size", *range(1, 65))
    distilled = o.timm_class == "VisionTransformerDistilled"
    pool = o.only("global_pool", "token") if distilled else o.only("global_pool", "token", "map")
    width, depth, heads = o.count("embed_dim"), o.count("depth"), o.count("num_heads")
    ratio = o.ratio("mlp_ratio")
    o.only("qkv_bias", True)
    o.only("qk_norm", False)
    o.only("scale_attn_norm", False)
    o.only("scale_mlp_norm", False)
    o.only("proj_bias", True)
    scaled = o.take("init_values") is not None
    # timm drops the class token before SigLIP's query pools; clipjax's pooling reads every token.
    class_token = o.only("class_token", *([False] if pool == "map" else [True, False]))
    o.only("pos_embed", "learn")
    patches_only = o.only("no_embed_class", False, True)
    registers = o.only("reg_tokens", 0, *(range(1, 17) if pool == "token" and patches_only else ()))
    pre_norm = o.only("pre_norm", False, True)
    o.only("final_norm", True)
    o.only("fc_norm", None, False)
    o.only("pool_include_prefix", False)
    o.take("dynamic_img_size")  # other image sizes: of no effect at the model's own
    o.only("dynamic_img_pad", False)
    o.only("embed_layer", "PatchEmbed")
    o.only("embed_norm_layer", None)
    eps = o.eps("norm_layer", "LayerNorm", "LayerNorm", "nn.LayerNorm", "layernorm")
    activation = o.activation("act_layer", "gelu", "gelu", "gelu_tanh", "quick_gelu")
    o.only("block_fn", "Block")
    o.only("mlp_layer", "Mlp")
    o.only("attn_layer", "Attention")
    return {
        "image_size": o.image_size,
        "patch_size": patch,
        "width": width,
        "layers": depth,
        "heads": heads,
        "mlp_width": int(width * ratio),
        "crop_to_patches": bool(o.image_size % patch),
        "patch_bias": not pre_norm,
        "class_token": class_token,
        "positions": "patches" if patches_only or not class_token else "all",
        "pre_norm": pre_norm,
        "layer_scale": scaled,
        "activation": activation,
        "ln_eps": eps,
        "pooling": "distilled" if distilled else {"token": "class", "map": "map"}[pool],
        "pool_queries": int(pool == "map"),
        "pool_heads": heads if pool == "map" else 0,
        "projection": False,
        "embed_dim": 2 * width if distilled else width,
        **({"registers": registers} if registers else {}),
    }
