"""Small open_clip models and the files that they are distributed in."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from torch import nn

from clipjax.models.arch import Arch, arch_from_dict
from clipjax.models.network import Network

EMBED, VOCABULARY, CONTEXT = 12, 30, 7
VIT = {"layers": 3, "width": 16, "head_width": 8, "patch_size": 4, "image_size": 8, "mlp_ratio": 4.0}
RESNET = {"layers": [2, 1, 3, 1], "width": 8, "head_width": 64, "image_size": 32}
TEXT = {
    "context_length": CONTEXT,
    "vocab_size": VOCABULARY,
    "width": 16,
    "heads": 2,
    "layers": 2,
    "mlp_ratio": 4.0,
}


def model(kind: str, custom_text: bool = False, seed: int = 0) -> nn.Module:
    """A narrow open_clip model with every tensor random, kind "vit" or "resnet"."""
    config: dict[str, Any] = {
        "embed_dim": EMBED,
        "vision_cfg": VIT if kind == "vit" else RESNET,
        "text_cfg": TEXT,
    }
    built = (CustomTextCLIP if custom_text else CLIP)(**config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in built.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            else:
                tensor.fill_(11)
    return built


def state_dict(kind: str = "vit", half: bool = False, **options: Any) -> dict[str, torch.Tensor]:
    """The state dict of `model`; `half`: matrices and convolutions in float16, as OpenAI keeps them."""
    state = model(kind, **options).state_dict()
    return {k: v.half() if half and v.ndim > 1 else v.clone() for k, v in state.items()}


@functools.cache
def arch(kind: str) -> Arch:
    if kind == "vit":
        vision = {"family": "vit", "image_size": 8, "patch_size": 4, "width": 16, "layers": 3, "heads": 2}
        vision |= {"mlp_width": 64, "crop_to_patches": False, "patch_bias": False, "class_token": True}
        vision |= {"positions": "all", "pre_norm": True, "layer_scale": False, "activation": "gelu"}
        vision |= {"ln_eps": 1e-5, "pooling": "class", "pool_queries": 0, "pool_heads": 0, "projection": True}
    else:
        vision = {"family": "modified_resnet", "image_size": 32, "width": 8, "layers": [2, 1, 3, 1]}
        vision |= {"heads": 4, "bn_eps": 1e-5}
    text = {"family": "text", "context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 16, "layers": 2}
    text |= {"heads": 2, "mlp_width": 64, "activation": "gelu", "ln_eps": 1e-5, "causal": True}
    text |= {"pooling": "argmax", "projection_bias": False}
    towers = {"vision": vision | {"embed_dim": EMBED}, "text": text | {"embed_dim": EMBED}}
    return arch_from_dict({"name": kind, "logit_bias": False, **towers}, "test")


def target(kind: str = "vit") -> dict[str, Any]:
    return Network(arch(kind)).abstract_params()


class Shaped:
    """A tensor of which only shape and dtype are known."""

    def __init__(self, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    def rows(self, start: int, stop: int) -> Shaped:
        return Shaped((stop - start, *self.shape[1:]), self.dtype)

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        raise AssertionError("only shapes may be looked at")


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, Shaped]:
    kinds = {False: np.int64, True: np.float32}
    return {key: Shaped(tuple(t.shape), kinds[t.is_floating_point()]) for key, t in state.items()}


# --- files ---


def save_safetensors(state: dict[str, torch.Tensor], path: Path) -> None:
    save_file(state, path, metadata={"format": "pt"})


def save_zip(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_npz(state: dict[str, torch.Tensor], path: Path) -> None:
    arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in state.items()}
    with path.open("wb") as file:
        np.savez(file, **arrays)


def save_torchscript(state: dict[str, torch.Tensor], path: Path) -> None:
    """An archive as OpenAI's: nested modules, with the model's sizes as buffers beside the weights."""
    sizes = {"input_resolution": 8, "context_length": CONTEXT, "vocab_size": VOCABULARY}
    root = _Node()
    for key, tensor in {**state, **{name: torch.tensor(n) for name, n in sizes.items()}}.items():
        *parents, name = key.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in dict(node.named_children()):
                node.add_module(parent, _Node())
            node = node.get_submodule(parent)
        if tensor.is_floating_point() and "running" not in name:
            node.register_parameter(name, nn.Parameter(tensor))
        else:
            node.register_buffer(name, tensor)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        torch.jit.script(root).save(str(path))


class _Node(nn.Module):
    def forward(self, x: int) -> int:
        return x


def save_training(state: dict[str, torch.Tensor], path: Path) -> None:
    """A checkpoint as open_clip's training writes it after distributed training (the LAION-80M files)."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    record = {"epoch": 32, "name": "a run", "state_dict": wrapped, "optimizer": optimizer.state_dict()}
    torch.save({**record, "scaler": {"scale": 65536.0, "_growth_tracker": 3}}, path)


def save_sharded(state: dict[str, torch.Tensor], path: Path) -> None:
    """Two safetensors files and an index at `path`."""
    import json

    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: state[key] for key in keys}, path.parent / file)
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


FORMATS = {
    "safetensors": save_safetensors,
    "torch zip": save_zip,
    "torch legacy": save_legacy,
    "TorchScript": save_torchscript,
    "npz": save_npz,
    "sharded safetensors": save_sharded,
    "training": save_training,
}
