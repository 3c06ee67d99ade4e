"""The versions of the forward passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The field of a key, and its value, of "fast" in another form than most hosts'; otherwise it is absent.
FORM, FLOAT32_PRODUCTS = "form", "float32_products"

# Bump it whenever a forward pass may return other numbers: every key of the embedding store contains it.
FORWARD_VERSION = 3
# As `FORWARD_VERSION`, of what only "fast" changes. 1: attention, norms, average pools, Swin's windows,
# tables of distances and a decoder's step have forms for TPUs. 2: GELU, ConvNeXt's convolutions and norms,
# and a decoder's cache, too; Swin's windows have the exact softmax. 3: every layer of every family takes them
# (norms, GELU and MLPs of BEiT, EVA, RoPE ViTs, Swin, Mixers, FastViT, RoBERTa, of heads and pools did not),
# and FastViT's stages run in chunks. 4: params are cast once, before a pass; dense maps, texts with a shared
# beginning and image tokens take a platform's forms, too; on TPUs norms are in the products that read them;
# on GPUs attention is cuDNN's; on a CPU with AVX512_BF16 products have float32 results, and keys the field
# `form`.
_FAST = 4


def forward_version(precision: str) -> int | str:
    """The version of a tower in a precision. A change to "fast" alone leaves parity's rows valid."""
    return f"{FORWARD_VERSION}.{_FAST}" if precision == "fast" else FORWARD_VERSION


def in_each_form(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The recipe, and the one that a host with the other form of "fast" would have."""
    if recipe["precision"] in ("parity", None):
        return [recipe]
    others = {name: value for name, value in recipe.items() if name != FORM}
    return [recipe, others if FORM in recipe else {**others, FORM: FLOAT32_PRODUCTS}]
