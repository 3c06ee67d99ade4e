"""Conditioned reference weights (`converters.golden.condition`) on narrow configs, for the parity tests.

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
from converters.golden.condition import condition
from converters.golden.weights import images

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
    model = build_model(config)
    condition(model, seed)
    return model


# ----------------------------------------------------------------------------------------------- inputs


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
