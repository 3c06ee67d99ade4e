"""The versions of the forward passes."""

from __future__ import annotations

# Bump it whenever a forward pass may return other numbers: every key of the embedding store contains it.
FORWARD_VERSION = 3
# As `FORWARD_VERSION`, of what only "fast" changes. 1: attention, norms, average pools, Swin's windows,
# tables of distances and a decoder's step have forms for TPUs. 2: GELU, ConvNeXt's convolutions and norms,
# and a decoder's cache, too; Swin's windows have the exact softmax. 3: every layer of every family takes them
# (norms, GELU and MLPs of BEiT, EVA, RoPE ViTs, Swin, Mixers, FastViT, RoBERTa, of heads and pools did not),
# and FastViT's stages run in chunks. 4: params are cast once, before a pass; on GPUs attention is cuDNN's.
_FAST = 4


def forward_version(precision: str) -> int | str:
    """The version of a tower in a precision. A change to "fast" alone leaves parity's rows valid."""
    return f"{FORWARD_VERSION}.{_FAST}" if precision == "fast" else FORWARD_VERSION
