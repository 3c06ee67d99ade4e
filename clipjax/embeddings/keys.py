"""The keys of stored rows: what each kind of rows depends on."""

from __future__ import annotations

from typing import Any

from clipjax.checkpoints.encoder import ModelCard, embeds_at_unit_norm
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings.placements import REPLICATED
from clipjax.models.precision import forward_fields


def entry_key(
    card: ModelCard, output: str, precision: str, placement: str = REPLICATED, **fields: Any
) -> dict[str, Any]:
    """Everything that rows depend on: the model, its forward pass, and the `fields` of their kind.

    The fingerprint covers weights, architecture, mean and std. Sharded params have their own key: equal bits
    are not guaranteed.
    """
    return {
        "model": card.fingerprint,
        **forward_fields(precision),
        "output": output,
        "precision": precision,
        **({} if placement == REPLICATED else {"params": placement}),
        **fields,
    }


def image_key(
    card: ModelCard,
    manifest: Manifest,
    recipe: PixelRecipe,
    precision: str,
    output: str,
    placement: str = REPLICATED,
) -> dict[str, Any]:
    """The key of the rows of a data set's images, in the `output` "embedding" or "features".

    Where embeddings are not normalised they are the features: both outputs share one entry.
    """
    kind = output if embeds_at_unit_norm(card) else "features"
    return entry_key(card, kind, precision, placement, pixels=recipe.key(), data=manifest.images_digest)
