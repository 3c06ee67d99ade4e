"""LoRA's tensors: which matrices get a low-rank update, and its two factors.

Source: Hu et al. 2022 (arXiv 2106.09685), section 4.1: W + (alpha / rank) * A B. A [in, rank] is random and B
[rank, out] zero. A is drawn as in peft (`lora/layer.py`, Kaiming uniform): U(-1/sqrt(in), 1/sqrt(in)).

The factors' tree has "a" and "b" for each "kernel":

    vision/blocks/attn/q/{a [layers, in, rank], b [layers, rank, out]}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import safetensors

from clipjax.errors import DataError, UsageError
from clipjax.finetune.training.trees import Params, flatten, nest
from clipjax.storage.formats.safetensors import write_safetensors

Targets = Literal["attention", "mlp", "both"]

# Block leaves have these names in every transformer family (gate: EVA's SwiGLU); pooling is excluded.
_PATTERNS = {"attention": r"attn/(q|k|v|out)/kernel", "mlp": r"mlp/(gate|c_fc|c_proj)/kernel"}
_FORMAT = "clipjax low-rank"


def target_paths(params: Params, towers: Sequence[str], targets: Targets, name: str) -> list[str]:
    """Paths of the kernels to update, sorted; `towers` are "vision" and "text".

    Raises UsageError for a tower without transformer blocks.
    """
    pattern = _PATTERNS.get(targets) or "|".join(_PATTERNS.values())
    kernels = []
    for tower in towers:
        matches = re.compile(rf"{tower}/blocks/({pattern})").fullmatch
        paths = [path for path in flatten({tower: params.get(tower, {})}) if matches(path)]
        if not paths:
            kind = "image" if tower == "vision" else "text"
            raise UsageError(
                f"lora updates attention and MLP matrices of transformer blocks, and the {kind} tower of "
                f"{name} has none: choose a model whose towers have, or leave this one out (options.towers)"
            )
        kernels += paths
    return sorted(kernels)


def init(params: Params, paths: Sequence[str], rank: int, seed: int) -> Params:
    """Initial factors, float32: a random, b zero.

    Raises:
        UsageError: a rank below 1, or above a matrix's own.
    """
    leaves, kernels = {}, flatten(params)
    for index, path in enumerate(paths):
        *stack, rows, columns = kernels[path].shape
        if not 1 <= rank <= min(rows, columns):
            raise UsageError(
                f"lora: rank {rank} is not between 1 and {min(rows, columns)}, the rank of {path}"
            )
        key = jax.random.fold_in(jax.random.key(seed), index)
        bound = rows**-0.5
        a = jax.random.uniform(key, (*stack, rows, rank), jnp.float32, -bound, bound)
        stem = path.removesuffix("kernel")
        leaves |= {f"{stem}a": a, f"{stem}b": jnp.zeros((*stack, rank, columns), jnp.float32)}
    return nest(leaves)


def merged(params: Params, factors: Params, scaling: float) -> Params:
    """Params with kernel + scaling * a @ b; float32, HIGHEST precision. With b zero, no number changes."""
    leaves, factors = flatten(params), flatten(factors)
    for path in [path for path in factors if path.endswith("/a")]:
        stem = path.removesuffix("a")
        update = jnp.matmul(factors[path], factors[f"{stem}b"], precision="highest")
        leaves[f"{stem}kernel"] = leaves[f"{stem}kernel"] + scaling * update
    return nest(leaves)


def save(path: str | Path, factors: Params, scaling: float) -> None:
    """Raises DataError if the file cannot be written."""
    tensors = {name: jax.device_get(leaf) for name, leaf in flatten(factors).items()}
    write_safetensors(path, tensors, {"format": _FORMAT, "scaling": repr(float(scaling))})


def load(path: str | Path, params: Params) -> tuple[Params, float]:
    """Read factors and scaling for these params.

    Raises:
        DataError: a missing file, another kind of file, or another model's factors.
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            factors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise DataError(f"{path} was not written by clipjax's lora")
    _check(path, factors, {name: leaf.shape for name, leaf in flatten(params).items()})
    return nest(factors), float(metadata["scaling"])


def _check(path: str | Path, factors: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for name in factors:
        stem = name[:-1]  # .../a and .../b, [..., rows, rank] and [..., rank, columns], of .../kernel
        a, b = factors.get(f"{stem}a"), factors.get(f"{stem}b")
        kernel = shapes.get(f"{stem}kernel")
        if a is None or b is None or kernel != (*a.shape[:-1], b.shape[-1]):
            raise DataError(f"{path}: {name} does not fit the model, whose {stem}kernel is {kernel}")
