"""PyTorch towers with random weights that all matter, and their weights as our params, mapped by hand.

The mapping is written out here a second time, apart from the converter's tables: a forward pass is tested
without the converter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

Tree = dict[str, Any]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Norm scales of 0.6 to 1.4, biases of +-0.2, BatchNorm statistics of its own input: in eval mode.

    Inputs of norms are small, so that their epsilon counts.
    """
    torch.manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.uniform_(child.weight, 0.6, 1.4)
            nn.init.uniform_(child.bias, -0.2, 0.2)
        if isinstance(child, nn.BatchNorm2d):
            assert child.running_mean is not None
            assert child.running_var is not None
            nn.init.normal_(child.running_mean, std=0.05)
            nn.init.uniform_(child.running_var, 0.005, 0.02)
        if isinstance(child, nn.Conv2d):
            fan_in = child.weight[0].numel()
            nn.init.normal_(child.weight, std=0.1 * fan_in**-0.5)
        if isinstance(child, nn.Linear | nn.MultiheadAttention):
            for name, parameter in child.named_parameters(recurse=False):
                if "bias" in name:
                    nn.init.uniform_(parameter, -0.2, 0.2)
    return module.eval()


def array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def norm(layer: Any) -> Tree:
    """A LayerNorm or, with its statistics, a BatchNorm."""
    tree = {"scale": array(layer.weight), "bias": array(layer.bias)}
    if isinstance(layer, nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        tree |= {"mean": array(layer.running_mean), "var": array(layer.running_var)}
    return tree


def linear(layer: Any) -> Tree:
    return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}


def conv(layer: Any) -> Tree:
    return {"kernel": array(layer.weight).transpose(2, 3, 1, 0)}


def stacked(trees: list[Tree]) -> Tree:
    first = trees[0]
    return {
        key: stacked([tree[key] for tree in trees])
        if isinstance(first[key], dict)
        else np.stack([tree[key] for tree in trees])
        for key in first
    }


def transformer_block(block: Any) -> Tree:
    weights = np.split(array(block.attn.in_proj_weight), 3)
    biases = np.split(array(block.attn.in_proj_bias), 3)
    qkv = {name: {"kernel": w.T, "bias": b} for name, w, b in zip("qkv", weights, biases, strict=True)}
    return {
        "ln_1": norm(block.ln_1),
        "attn": {**qkv, "out": linear(block.attn.out_proj)},
        "ln_2": norm(block.ln_2),
        "mlp": {"c_fc": linear(block.mlp.c_fc), "c_proj": linear(block.mlp.c_proj)},
    }


def vit(tower: Any) -> Tree:
    return {
        "patch_embed": conv(tower.conv1),
        "class_embedding": array(tower.class_embedding),
        "positional_embedding": array(tower.positional_embedding),
        "ln_pre": norm(tower.ln_pre),
        "blocks": stacked([transformer_block(block) for block in tower.transformer.resblocks]),
        "ln_post": norm(tower.ln_post),
        "proj": array(tower.proj),
    }


def text(tower: Any) -> Tree:
    """open_clip's text tower, or the CLIP that holds it."""
    tree = {
        "token_embedding": array(tower.token_embedding.weight),
        "positional_embedding": array(tower.positional_embedding),
        "blocks": stacked([transformer_block(block) for block in tower.transformer.resblocks]),
        "ln_final": norm(tower.ln_final),
    }
    if getattr(tower, "cls_emb", None) is not None:
        tree["cls_embedding"] = array(tower.cls_emb)
    if not isinstance(tower.text_projection, nn.Linear):
        return tree | {"text_projection": array(tower.text_projection)}
    kernel, bias = linear(tower.text_projection).values()
    return tree | {"text_projection": kernel, "text_projection_bias": bias}


def roberta(encoder: Any) -> Tree:
    """transformers' RobertaModel or XLMRobertaModel."""
    embeddings = encoder.embeddings
    tables = {"token": "word", "positional": "position", "token_type": "token_type"}
    tree = {
        f"{ours}_embedding": array(getattr(embeddings, f"{theirs}_embeddings").weight)
        for ours, theirs in tables.items()
    }
    blocks = stacked([roberta_block(layer) for layer in encoder.encoder.layer])
    return tree | {"ln_embed": norm(embeddings.LayerNorm), "blocks": blocks}


def roberta_block(layer: Any) -> Tree:
    attention = layer.attention
    names = {"q": "query", "k": "key", "v": "value"}
    qkv = {ours: linear(getattr(attention.self, theirs)) for ours, theirs in names.items()}
    return {
        "attn": {**qkv, "out": linear(attention.output.dense)},
        "ln_1": norm(attention.output.LayerNorm),
        "mlp": {"c_fc": linear(layer.intermediate.dense), "c_proj": linear(layer.output.dense)},
        "ln_2": norm(layer.output.LayerNorm),
    }


def roberta_projection(proj: Any) -> Tree:
    """HFTextEncoder's `proj`, linear or of two layers."""
    if isinstance(proj, nn.Linear):
        return {"kernel": array(proj.weight).T}
    return {"c_fc": {"kernel": array(proj[0].weight).T}, "c_proj": {"kernel": array(proj[2].weight).T}}


def bottleneck(block: Any) -> Tree:
    tree: Tree = {f"conv{i}": conv(getattr(block, f"conv{i}")) for i in (1, 2, 3)}
    tree |= {f"bn{i}": norm(getattr(block, f"bn{i}")) for i in (1, 2, 3)}
    if block.downsample is not None:
        tree["downsample"] = {"conv": conv(block.downsample[1]), "bn": norm(block.downsample[2])}
    return tree


def stage(blocks: list[Tree]) -> Tree:
    return {"first": blocks[0]} | ({"rest": stacked(blocks[1:])} if len(blocks) > 1 else {})


def modified_resnet(tower: Any) -> Tree:
    stem = {f"conv{i}": conv(getattr(tower, f"conv{i}")) for i in (1, 2, 3)}
    stem |= {f"bn{i}": norm(getattr(tower, f"bn{i}")) for i in (1, 2, 3)}
    pool = tower.attnpool
    heads = {name: linear(getattr(pool, f"{name}_proj")) for name in "qkv"}
    attnpool = {"positional_embedding": array(pool.positional_embedding), **heads, "out": linear(pool.c_proj)}
    layers = {
        f"layer{i}": stage([bottleneck(block) for block in getattr(tower, f"layer{i}")]) for i in (1, 2, 3, 4)
    }
    return {"stem": stem, **layers, "attnpool": attnpool}


def mbconv_block(block: Any) -> Tree:
    def pair(conv_name: str, norm_name: str) -> Tree:
        return {"conv": conv(getattr(block, conv_name)), "bn": norm(getattr(block, norm_name))}

    if hasattr(block, "conv_pwl"):
        return {
            "expand": pair("conv_pw", "bn1"),
            "depthwise": pair("conv_dw", "bn2"),
            "project": pair("conv_pwl", "bn3"),
        }
    return {"depthwise": pair("conv_dw", "bn1"), "project": pair("conv_pw", "bn2")}


def mbconv(model: Any) -> Tree:
    """A timm EfficientNet without its classifier."""
    stages = {
        f"stage{i}": stage([mbconv_block(block) for block in blocks]) for i, blocks in enumerate(model.blocks)
    }
    return {
        "stem": {"conv": conv(model.conv_stem), "bn": norm(model.bn1)},
        **stages,
        "final": {"conv": conv(model.conv_head), "bn": norm(model.bn2)},
    }
