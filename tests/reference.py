"""Conditioned reference weights: PyTorch models in which every tensor matters (shared by the parity tests).

On a library's default initialisation whole tensors do not count: RN50's residual branches are multiplied by
zero, attention is uniform, biases are zero, and eps is lost in a large variance. Parity shown there proves
little. `conditioned` sets, from a seed, norm scales of 0.6 to 1.4 and biases of +-0.2, projections that keep
the signal's size, queries and keys that make attention choose, and BatchNorm statistics measured by a
train-mode pass. What is normalised is kept small, so that eps counts in every norm: a LayerNorm reads a
residual stream of scale STREAM (all that is written to it is scaled alike), a BatchNorm a convolution of gain
CONV_GAIN. tests/test_reference.py shows that every tensor, and every eps, then moves the output.

The narrow configs keep every flag of the full-size model (head width, MLP ratio, patch size, activation,
norms) and shrink width, depth, image and vocabulary.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from converters.golden import build_model, model_config

STREAM = 0.015  # a variance of 20 to 100 times eps = 1e-5
CONV_GAIN = 0.05
BRANCH_GAIN = 0.3  # of a ResNet's residual branches: at 1 RN50 amplifies its own rounding errors 200 times
ATTENTION_GAIN = 1.3  # attention logits of about this squared: neither uniform nor one-hot
LOGIT_SCALE = 50.0


# Small models, and tests that share a machine: more threads would only wait for each other.
torch.set_num_threads(1)


# ---------------------------------------------------------------------------------------------- configs


def narrow(name: str, **vision: Any) -> dict[str, Any]:
    """The open_clip config of `name`, two heads wide and two blocks deep, with 300 tokens and 16 positions.

    `vision` overrides keys of the vision config.
    """
    config = copy.deepcopy(model_config(name))
    tower, text = config["vision_cfg"], config["text_cfg"]
    if isinstance(tower["layers"], list):
        tower |= {"layers": [2, 1, 2, 1], "width": tower["width"] // 4, "image_size": 96}
    else:
        tower |= {
            "layers": 2,
            "width": 2 * tower.get("head_width", 64),
            "image_size": 3 * tower["patch_size"],
        }
    text |= {"width": 2 * (text["width"] // text["heads"]), "heads": 2, "layers": 2}
    text |= {"vocab_size": 300, "context_length": 16}
    tower |= vision
    return config | {"embed_dim": 96}


# ---------------------------------------------------------------------------------------------- weights


def conditioned(config: dict[str, Any] | str, seed: int = 0) -> Any:
    """An open_clip model (eval mode, float32) of a config or of a known name, with conditioned weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(config)
        condition(model, seed)
    return model


@torch.no_grad()
def condition(model: Any, seed: int) -> None:
    """Sets every tensor of an open_clip CLIP in place."""
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
            module.weight.uniform_(0.6, 1.4)
            module.bias.uniform_(-0.2, 0.2)
        elif isinstance(module, nn.Linear):
            scaled_normal(module.weight, 1.0)
            module.bias.uniform_(-0.2, 0.2)
        elif isinstance(module, nn.Conv2d):
            scaled_normal(module.weight, CONV_GAIN)
        elif isinstance(module, nn.MultiheadAttention):
            query_key, value = module.in_proj_weight.split([2 * module.embed_dim, module.embed_dim])
            scaled_normal(query_key, ATTENTION_GAIN)
            scaled_normal(value, 1.0)
            module.in_proj_bias.uniform_(-0.2, 0.2)
    condition_transformer(model)
    model.token_embedding.weight.normal_(std=STREAM)
    scaled_normal(model.text_projection.T, 1.0)
    model.logit_scale.fill_(float(np.log(LOGIT_SCALE)))
    if hasattr(model.visual, "attnpool"):
        condition_resnet(model.visual, seed)
    else:
        condition_transformer(model.visual)
        scaled_normal(model.visual.conv1.weight, STREAM)
        model.visual.class_embedding.normal_(std=STREAM)
        model.visual.ln_pre.weight *= STREAM
        model.visual.ln_pre.bias *= STREAM
        scaled_normal(model.visual.proj.T, 1.0)


def scaled_normal(weight: torch.Tensor, gain: float) -> None:
    """[out, in, ...] such that inputs of unit size give outputs of size `gain`."""
    weight.normal_(std=gain / weight[0].numel() ** 0.5)


def condition_transformer(tower: Any) -> None:
    """Scales everything that a transformer writes to its residual stream."""
    tower.positional_embedding.normal_(std=STREAM)
    for block in tower.transformer.resblocks:
        for last in (block.attn.out_proj, block.mlp.c_proj):
            last.weight *= STREAM
            last.bias *= STREAM


def condition_resnet(visual: Any, seed: int) -> None:
    """Measures BatchNorm statistics by a train-mode pass; fits the attention pool to what it is given."""
    for name, norm in visual.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = 1.0
            gain = BRANCH_GAIN if name.startswith("layer") and name.endswith("bn3") else 1.0
            norm.weight.mul_(gain)
            norm.bias.mul_(gain)
    given: list[torch.Tensor] = []
    hook = visual.attnpool.register_forward_pre_hook(lambda _module, args: given.append(args[0]))
    visual.train()
    visual(torch.from_numpy(images(visual.image_size, 8, seed)).permute(0, 3, 1, 2))
    visual.eval()
    hook.remove()
    size = given[0].std().item()
    pool = visual.attnpool
    pool.positional_embedding.normal_(std=size)
    for linear, gain in ((pool.q_proj, ATTENTION_GAIN), (pool.k_proj, ATTENTION_GAIN), (pool.v_proj, 1.0)):
        scaled_normal(linear.weight, gain / size)


# ----------------------------------------------------------------------------------------------- inputs


def images(size: int, batch: int, seed: int) -> np.ndarray:
    """[batch, size, size, 3] float32: noise over a coarse pattern, so that no two images look alike."""
    rng = np.random.default_rng([seed, 1])
    coarse = rng.normal(size=(batch, 4, 4, 3))
    cells = np.arange(size) * 4 // size
    fine = rng.normal(size=(batch, size, size, 3))
    return ((fine + coarse[:, cells][:, :, cells]) / 2**0.5).astype(np.float32)


def token_ids(vocab_size: int, context_length: int, batch: int, seed: int) -> np.ndarray:
    """[batch, context_length] int32: CLIP's start and end tokens around texts of every length, padded with 0.

    The first text is empty, the second fills the context.
    """
    rng = np.random.default_rng([seed, 2])
    ids = np.zeros((batch, context_length), np.int32)
    lengths = np.linspace(0, context_length - 2, batch).astype(int)
    lengths[1:] = lengths[1:][::-1]
    for row, length in zip(ids, lengths):
        row[0], row[length + 1] = vocab_size - 2, vocab_size - 1
        row[1 : length + 1] = rng.integers(1, vocab_size - 2, length)
    return ids


def inputs(config: dict[str, Any] | str, batch: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """`images` and `ids` for a config or known name; not the images that set the BatchNorm statistics."""
    known = model_config(config)
    text = known["text_cfg"]
    return {
        "images": images(known["vision_cfg"]["image_size"], batch, seed + 1000),
        "ids": token_ids(text["vocab_size"], text["context_length"], batch, seed + 1000),
    }


# ------------------------------------------------------------------------------------------------ files


def save(model: nn.Module, path: Path) -> Path:
    """Writes the state dict as safetensors, as the reference itself does."""
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return path


def save_folder(model: nn.Module, config: dict[str, Any], folder: Path) -> Path:
    """Writes a folder as open_clip's hub repositories are: weights and `open_clip_config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    save(model, folder / "open_clip_model.safetensors")
    size = config["vision_cfg"]["image_size"]
    preprocess = {
        "size": [size, size],
        "mode": "RGB",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    record = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(record, indent=1))
    return folder
