"""Decoders on a mesh of two axes: rows over "data", heads, hidden channels and ids over "model".

As Megatron (Shoeybi et al. 2019, arXiv 1909.08053, section 3): the first matrices of a branch are cut by
columns and its last by rows, so that a block takes one sum over the model axis for each branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from clipjax.devices.sharding import DATA, Rules, make_mesh, params_sharding
from clipjax.models.language.cache import Cache
from clipjax.models.language.config import DecoderConfig

MODEL = "model"


def decoder_mesh(parts: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The devices (default: all) as data x `parts`. Raises UsageError if `parts` do not divide them."""
    return make_mesh(devices, {DATA: -1, MODEL: parts})


def decoder_rules(config: DecoderConfig, parts: int) -> Rules:
    """Rules that cut the params over a model axis of `parts`; an axis that it does not divide stays whole."""

    def cut(size: int) -> str | None:
        return None if size % parts else MODEL

    heads, hidden, ids = cut(config.kv_heads), cut(config.mlp_width), cut(config.vocab_size)
    return (
        (r"attn/[qkv]/kernel$", PartitionSpec(None, None, heads)),
        (r"attn/out/kernel$", PartitionSpec(None, heads)),
        (r"mlp/(gate|up)/kernel$", PartitionSpec(None, None, hidden)),
        (r"mlp/down/kernel$", PartitionSpec(None, hidden)),
        (r"embedding$", PartitionSpec(ids)),
        (r"head/kernel$", PartitionSpec(None, ids)),
        (r"scale$", PartitionSpec()),
    )


def decoder_sharding(config: DecoderConfig, params: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each param (or ShapeDtypeStruct)."""
    return params_sharding(params, mesh, decoder_rules(config, mesh.shape[MODEL]))


def cache_sharding(config: DecoderConfig, mesh: Mesh) -> Any:
    """The NamedShardings of a `Cache`, as one."""
    heads = None if config.kv_heads % mesh.shape[MODEL] else MODEL
    specs = PartitionSpec(None, DATA, heads), PartitionSpec(DATA), PartitionSpec()
    stored, valid, length = (NamedSharding(mesh, spec) for spec in specs)
    leaves: Any = (stored, stored, valid, length)
    return Cache(*leaves)
