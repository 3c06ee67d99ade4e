"""The config of a plain ViT, and which params each variant has; its numbers are in test_parity_vit.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import open_clip
import pytest
import timm
import torch
from _drawn import initialised
from _long import mostly_long
from flax import nnx
from timm.layers.layer_scale import LayerScale
from torch.nn import LayerNorm

from clipjax.errors import DataError
from clipjax.models.arch import arch_from_dict, arch_names, arch_to_dict, load_arch, narrow_arch
from clipjax.models.families.patches.vit import LAYER_SCALE_INIT, PatchEmbed, ViTConfig
from clipjax.models.modules.attention_pools import CocaPool
from clipjax.models.network import Network
from converters.engine import flatten
from tests.models._modes import bound

CLIP, DEIT, SIGLIP, COCA = (
    "ViT-B-32",
    "deit3_large_patch16_384",
    "ViT-SO400M-14-SigLIP-384",
    "coca_ViT-B-32",
)
STEM = {"sides": [4, 2, 2], "divisor": 4, "activation": "gelu", "bn_eps": 1e-5}


def parts(name: str) -> set[str]:
    """The first one or two parts of each leaf's path."""
    leaves = flatten(Network(load_arch(name)).abstract_params()["vision"])
    return {"/".join(path.split("/")[:2]) for path in leaves}


def test_each_variant_has_its_params_and_no_others():
    common = {"patch_embed/kernel", "positional_embedding", "ln_post/scale", "ln_post/bias"}
    common |= {f"blocks/{part}" for part in ("ln_1", "ln_2", "attn", "mlp")}
    pre = {"ln_pre/scale", "ln_pre/bias"}
    bias, token, scale = {"patch_embed/bias"}, {"class_embedding"}, {"blocks/ls_1", "blocks/ls_2"}
    assert parts(CLIP) == common | token | pre | {"proj"}
    assert parts("vit_base_patch16_clip_224") == common | token | pre
    assert parts(DEIT) == parts("vit_large_patch14_dinov2") == common | token | bias | scale
    registers = {"register_embedding"}
    assert parts("vit_base_patch14_reg4_dinov2") == parts(DEIT) | registers
    pool = {"pool/query", "pool/attn"}
    assert parts(SIGLIP) == common | bias | pool | {"pool/ln", "pool/mlp"}
    assert parts("MobileCLIP-B") - parts(DEIT) == {
        *(f"patch_embed/{part}" for part in ("conv0", "bn0", "conv1", "bn1", "conv2")),
        *("proj/kernel", "proj/bias"),
    }
    assert parts(COCA) == common | token | pre | pool | {"pool/ln_q", "pool/ln_k", "proj"}


def test_a_network_of_features_alone_has_no_head():
    arch = load_arch("vit_large_patch14_dinov2")
    assert arch.num_classes == 0
    assert set(Network(arch).abstract_params()) == {"vision"}
    assert arch_from_dict(arch_to_dict(arch), "here") == arch


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (CLIP, {"image_size": 100}, "image_size 100 is not a multiple of patch_size 32"),
        (CLIP, {"registers": 4}, "4 registers: give 1 or more, pooling 'class' and positions 'patches'"),
        (DEIT, {"registers": 0}, "0 registers: give 1 or more"),
        (CLIP, {"heads": 7}, "width 768 is not a multiple of heads 7"),
        (CLIP, {"class_token": False}, "need class_token = true"),
        (SIGLIP, {"positions": "all"}, "need class_token = true"),
        (CLIP, {"pool_queries": 1}, "pooling 'class' has pool_queries 0 and pool_heads 0"),
        (CLIP, {"pool_heads": 8}, "pooling 'class' has pool_queries 0 and pool_heads 0"),
        (CLIP, {"projection": False}, "without a projection embed_dim is the width, 768"),
        (DEIT, {"embed_dim": 512}, "without a projection embed_dim is the width, 1024"),
        (SIGLIP, {"pool_queries": 2}, "pooling 'map' cannot have 2 pool_queries"),
        (SIGLIP, {"pool_heads": 7}, "1152 is not a multiple of pool_heads 7"),
        (COCA, {"pool_queries": 0}, "pooling 'attention' cannot have 0 pool_queries"),
        (COCA, {"pool_heads": 0}, "512 is not a multiple of pool_heads 0"),
        (CLIP, {"activation": "relu"}, "'gelu', 'gelu_tanh', 'quick_gelu'"),
        (CLIP, {"positions": "none"}, "'all', 'patches'"),
        (CLIP, {"pooling": "max"}, "'class', 'distilled', 'map', 'attention', 'mean'"),
        (SIGLIP, {"projection_bias": True}, "projection_bias needs projection = true"),
        (CLIP, {"stem": STEM}, r"the stem's sides \[4, 2, 2\] are not two or more whose product is 32"),
        (DEIT, {"stem": STEM | {"sides": [16]}}, "are not two or more whose product is 16"),
        (DEIT, {"stem": STEM | {"divisor": 3000}}, "width 1024 is not a multiple of the stem's divisor 3000"),
    ],
)
def test_an_impossible_record_is_refused(name: str, change: dict[str, Any], message: str):
    record = arch_to_dict(load_arch(name))
    record["vision"] |= change
    with pytest.raises(DataError, match=message):
        arch_from_dict(record, "here")


@pytest.mark.parametrize(
    "key",
    [
        field.name
        for field in dataclasses.fields(ViTConfig)
        if field.name not in ("registers", "projection_bias", "stem")
    ],
)
def test_no_field_has_a_default(key: str):
    """But those without which the checkpoint's tensors have no place (`registers`: test_parity_vit.py)."""
    record = arch_to_dict(load_arch(DEIT))
    del record["vision"][key]
    with pytest.raises(DataError, match=f"the key '{key}' is missing"):
        arch_from_dict(record, "here")


def test_narrow_keeps_every_flag():
    sizes = {"image_size", "width", "layers", "heads", "mlp_width", "embed_dim"}
    for name in arch_names():
        full: Any = load_arch(name).vision
        if not isinstance(full, ViTConfig):
            continue
        small: Any = narrow_arch(load_arch(name)).vision
        own = sizes | {"map": {"pool_heads"}, "attention": {"pool_queries"}}.get(full.pooling, set())
        a, b = ({k: v for k, v in dataclasses.asdict(c).items() if k not in own} for c in (full, small))
        assert a == b
        assert small.width // small.heads == full.width // full.heads
        assert small.image_size % small.patch_size == full.image_size % full.patch_size


# ------------------------------------------------------------------- records against the libraries' models


TIMM = [
    name
    for name in arch_names()
    if name.startswith(("vit_", "deit")) and isinstance(load_arch(name).vision, ViTConfig)
]


@pytest.mark.parametrize(
    "name",
    mostly_long(
        [*TIMM, SIGLIP],
        keep=["vit_base_patch16_clip_224", "vit_base_patch14_reg4_dinov2", SIGLIP],
        guard="models/test_parity_record.py::test_the_committed_record_is_complete_and_of_this_forward_pass",
    ),
)
def test_records_are_timms(name: str):
    with torch.device("meta"):
        model: Any = timm.create_model(name if name in TIMM else "vit_so400m_patch14_siglip_384")
    block, vision = model.blocks[0], load_arch(name).vision
    eps = {module.eps for module in model.modules() if isinstance(module, LayerNorm)}
    wanted = {
        "image_size": model.patch_embed.img_size[0],
        "patch_size": model.patch_embed.patch_size[0],
        "width": model.embed_dim,
        "layers": len(model.blocks),
        "heads": block.attn.num_heads,
        "mlp_width": block.mlp.fc1.out_features,
        "patch_bias": model.patch_embed.proj.bias is not None,
        "class_token": model.cls_token is not None,
        "pre_norm": isinstance(model.norm_pre, LayerNorm),
        "layer_scale": isinstance(block.ls1, LayerScale),
        "activation": {"none": "gelu", "tanh": "gelu_tanh"}[block.mlp.act.approximate],
        "pooling": "distilled"
        if hasattr(model, "dist_token")
        else {"token": "class", "map": "map"}[model.global_pool],
        "pool_heads": model.attn_pool.num_heads if model.attn_pool else 0,
        "projection": False,
    }
    assert {key: getattr(vision, key) for key in wanted} == wanted
    assert {vision.ln_eps} == eps
    tokens = vision.grid**2 + vision.table_prefix
    assert model.pos_embed.shape == (1, tokens, vision.width)
    assert vision.crop_to_patches == (vision.image_size % vision.patch_size > 0)
    assert load_arch(name).num_classes == (model.num_classes if name in TIMM else None)


@pytest.mark.parametrize("name", [COCA, "coca_ViT-L-14"])
def test_records_are_open_clips(name: str):
    vision, config = load_arch(name).vision, open_clip.get_model_config(name)
    assert config is not None
    theirs = config["vision_cfg"]
    assert theirs["attentional_pool"] is True
    for key in ("image_size", "patch_size", "width", "layers"):
        assert getattr(vision, key) == theirs[key]
    assert vision.embed_dim == config["embed_dim"]
    assert vision.pool_heads == theirs["attn_pooler_heads"]
    assert vision.pool_queries == open_clip.model.CLIPVisionCfg().attn_pooler_queries


# ------------------------------------------------------------------------------------------ the parts


def test_pixels_that_fill_no_patch_are_left_out():
    embed = jax.jit(PatchEmbed(4, 8, use_bias=True, rngs=nnx.Rngs(0)))
    images = np.random.default_rng(0).normal(size=(2, 14, 14, 3)).astype(np.float32)
    found = embed(images)
    np.testing.assert_array_equal(found, embed(images[:, :12, :12]))
    assert found.shape == (2, 3, 3, 8)


def test_only_the_first_query_is_read():
    pool = bound(CocaPool(8, 12, 2, 5, ln_eps=1e-5, rngs=nnx.Rngs(0)))
    tokens = jax.device_put(np.random.default_rng(0).standard_normal((3, 7, 12)).astype(np.float32))
    graphdef, params = nnx.split(pool)
    run = jax.jit(lambda params: nnx.merge(graphdef, params)(tokens))
    before, query = run(params), np.array(pool.query[...])
    query[1:] = 100
    pool.query[...] = jax.device_put(query)
    np.testing.assert_array_equal(run(nnx.state(pool)), before)
    query[0] = np.arange(8)
    pool.query[...] = jax.device_put(query)
    assert np.abs(run(nnx.state(pool)) - before).max() > 1e-3


def test_layer_scale_starts_small():
    params = initialised(narrow_arch(load_arch(DEIT)))
    for part in ("ls_1", "ls_2"):
        np.testing.assert_array_equal(params["vision"]["blocks"][part]["scale"], np.float32(LAYER_SCALE_INIT))
