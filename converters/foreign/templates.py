"""Towers of a kind in configs/archs, which supplies everything but the sizes."""

from __future__ import annotations

from typing import Any, Literal

from clipjax.models.arch import arch_records

CLIP, RESNET, SIGLIP = "ViT-B-32", "RN50", "ViT-SO400M-14-SigLIP-384"
COCA = "coca_ViT-B-32"
_OWN = {
    *("image_size", "patch_size", "context_length", "vocab_size", "width", "layers", "heads", "mlp_width"),
    *("embed_dim", "activation", "ln_eps", "pool_heads"),
}


def tower_like(name: str, tower: Literal["vision", "text"], **own: Any) -> dict[str, Any]:
    return {**arch_records()[name][tower], **own}


def is_like(record: dict[str, Any], name: str) -> bool:
    """Whether both towers equal those of `name` except in `_OWN`."""
    known = arch_records()[name]

    def kind(tower: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in tower.items() if key not in _OWN}

    return "text" in record and all(kind(record[tower]) == kind(known[tower]) for tower in ("vision", "text"))
