"""timm 1.0 `eva.Eva` as DINOv3; EVA and PE are read as towers of open_clip's models alone."""

from __future__ import annotations

from typing import Any

from converters.foreign.timm_options import Options

CLASSES = ("Eva",)


def tower(options: Options) -> dict[str, Any]:
    o = options
    _refuse_variants(o)
    patch = o.only("patch_size", *range(1, 65))
    width, depth, heads = o.count("embed_dim"), o.count("depth"), o.count("num_heads")
    ratio, gated = o.ratio("mlp_ratio"), o.only("swiglu_mlp", False, True)
    align = o.only("swiglu_align_to", *((8, 16, 32, 64) if gated else (0,)))
    mlp_width = int(width * ratio)
    registers = o.only("num_reg_tokens", *range(17))
    return {
        "image_size": o.image_size,
        "patch_size": patch,
        "width": width,
        "layers": depth,
        "heads": heads,
        "mlp_width": mlp_width + (-mlp_width % align if align else 0),
        "class_token": True,
        "registers": registers,
        "position_table": False,
        "pre_norm": False,
        "rope": "centred",
        "rope_grid": 0,
        "rope_offset": 0,
        "qkv_bias": False,
        "layer_scale": o.take("init_values") is not None,
        "gated": gated,
        "activation": "silu" if gated else "gelu",
        "ln_eps": o.eps("norm_layer", "LayerNorm", "LayerNorm", "nn.LayerNorm"),
        "pooling": "mean",
        "pool_heads": 0,
        "pool_mlp_width": 0,
        "projection": False,
        "embed_dim": width,
    }


def _refuse_variants(o: Options) -> None:
    """Raises DataError for an option that no DINOv3 has; takes those without effect on a trained model."""
    o.only("rope_type", "dinov3")
    o.only("use_rot_pos_emb", True)
    o.only("use_abs_pos_emb", False)
    o.only("global_pool", "avg")
    o.only("use_fc_norm", False)
    o.only("qkv_bias", False)
    o.only("qkv_fused", True)
    o.only("qk_norm", False)
    o.only("num_kv_heads", None)
    o.only("scale_mlp", False)
    o.only("scale_attn_inner", False)
    o.only("attn_type", "eva")
    o.only("attn_only_layer_scale", False)
    o.only("class_token", True)
    o.take("no_embed_class")  # concerns the table of positions, which DINOv3 does not have
    o.only("rope_grid_offset", 0.0)
    o.only("rope_grid_indexing", "ij")
    o.only("rope_temperature", 100)
    o.only("rope_rotate_half", True)
    for training in ("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords"):
        o.take(training)
    o.only("rope_mrope_section", None)
    o.only("use_post_norm", False)
    o.only("use_pre_transformer_norm", False)
    o.only("use_post_transformer_norm", None, True)
    o.only("attn_pool_num_heads", None)
    o.only("attn_pool_mlp_ratio", None)
    o.take("dynamic_img_size")  # allows other image sizes; without effect at the model's own
    o.only("dynamic_img_pad", False)
    o.only("ref_feat_shape", None)
