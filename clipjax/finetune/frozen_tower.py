"""Features of training batches by an image tower that is not trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
from jax import Array
from jax.sharding import Mesh

from clipjax.data.pixels.normalize import normalize
from clipjax.devices.platforms import chip_of, platform_of
from clipjax.finetune.method import Setup
from clipjax.finetune.training.trees import Params
from clipjax.models.network import Network
from clipjax.models.precision import Precision


@dataclass(frozen=True)
class FrozenTower:
    """An image tower, its BatchNorm in eval mode.

    Attributes:
        normalization: the mean and std of "pixels" uint8 [B,S,S,3]; None: the batches have "features".
    """

    network: Network
    normalization: tuple[tuple[float, float, float], tuple[float, float, float]] | None
    precision: Precision
    mesh: Mesh

    def features(self, params: Params, batch: Mapping[str, Array]) -> Array:
        """[B, D] without a gradient, not normalised: the batch's "features", or those of its "pixels"."""
        if self.normalization is None:
            return batch["features"]
        platform = platform_of(self.mesh)
        features = self.network.encode_image(
            params,
            normalize(batch["pixels"], *self.normalization, platform),
            precision=self.precision,
            platform=platform,
            devices=self.mesh.size,
            chip=chip_of(self.mesh),
        )
        return jax.lax.stop_gradient(features)


def frozen_tower(setup: Setup) -> FrozenTower:
    """The model's tower. It runs only if the recipe augments: otherwise features are computed once."""
    recipe, preprocess = setup.recipe, setup.model.card.preprocess
    normalization = None if recipe.augmentation is None else (preprocess.mean, preprocess.std)
    return FrozenTower(setup.model.network, normalization, recipe.precision, setup.settings.mesh)
