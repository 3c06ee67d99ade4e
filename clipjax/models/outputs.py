"""A classifier's head: one linear layer over the features, or two that each read half of them.

Params: head/{kernel [E,K], bias [K]}; with two layers
head/{class_token,distillation_token}/{kernel [E/2,K], bias [K]}, whose logits are averaged (timm 1.0
`deit.VisionTransformerDistilled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.models.arch import Arch, family_of

# In the order of their vectors in the features.
PARTS = ("class_token", "distillation_token")


def parts_of(arch: Arch) -> tuple[str, ...]:
    """The names of a head's two layers; () if it has one."""
    heads = family_of(arch.vision).heads
    return PARTS if heads is not None and heads(arch.vision) == len(PARTS) else ()


def one_layer(head: Mapping[str, Any]) -> dict[str, Any]:
    """A head as one layer: {"kernel" [E,K], "bias" [K]}. Two kernels are halved, exactly in floats."""
    if "kernel" in head:
        return {name: head[name] for name in ("kernel", "bias")}
    parts = [{name: np.asarray(x, np.float32) for name, x in head[part].items()} for part in PARTS]
    kernel = np.concatenate([part["kernel"] for part in parts]) / np.float32(len(parts))
    bias = np.mean([part["bias"] for part in parts], axis=0)
    return {"kernel": kernel, "bias": bias}


def as_built(arch: Arch, layer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inverse of `one_layer`."""
    if not parts_of(arch):
        return layer
    kernels = np.split(np.asarray(layer["kernel"]) * len(PARTS), len(PARTS))
    return {name: {"kernel": k, "bias": layer["bias"]} for name, k in zip(PARTS, kernels, strict=True)}


def count(head: Mapping[str, Any]) -> int:
    """The number of classes."""
    return np.shape(head.get("bias", head.get(PARTS[0], {}).get("bias")))[0]
