"""The keys of stored embeddings of images."""

from __future__ import annotations

from typing import Any

from clipjax.checkpoints.encoder import ModelCard, embeds_at_unit_norm
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.params import REPLICATED
from clipjax.models.version import forward_version


def image_key(
    card: ModelCard,
    manifest: Manifest,
    recipe: PixelRecipe,
    precision: str,
    output: str,
    params: str = REPLICATED,
) -> dict[str, Any]:
    """Everything that an embedding depends on; the fingerprint covers weights, architecture, mean and std.

    Sharded params have their own key: equal bits are not guaranteed.
    """
    return {
        "model": card.fingerprint,
        "forward": forward_version(precision),
        "output": output if embeds_at_unit_norm(card) else "features",
        "pixels": recipe.key(),
        "data": manifest.images_digest,
        "precision": precision,
        **({} if params == REPLICATED else {"params": params}),
    }
