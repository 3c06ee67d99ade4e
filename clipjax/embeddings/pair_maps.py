"""Pairs of images -> their maps of features, and maps that are kept in a store.

A device takes one pair at a time, so bits do not depend on the number of devices, or on the pairs beside a
pair. Each pair's maps are a shard of their own: a killed run loses none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from clipjax.checkpoints.encoder import ModelCard
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.pair import Pair, PairSet
from clipjax.devices.platforms import platform_of
from clipjax.devices.sharding import local_mesh
from clipjax.embeddings.forward import Forward, ProgramKey, Step, compiled, on_devices, tower_sharding
from clipjax.embeddings.keys import entry_key
from clipjax.embeddings.placements import REPLICATED
from clipjax.embeddings.sets import StoredRows
from clipjax.embeddings.stream import Batch, Order, Stream, read_ahead
from clipjax.errors import DataError
from clipjax.models.dense import DenseRecipe, dense_map
from clipjax.models.network import Network
from clipjax.models.precision import Precision, stated_platform
from clipjax.storage.entry import Entry

LOADERS = 8  # threads that read pairs


def maps_key(
    card: ModelCard, manifest: Manifest, recipe: DenseRecipe, precision: str, placement: str = REPLICATED
) -> dict[str, Any]:
    """The key of pairs' maps; the pairs' digest covers how their images are prepared."""
    assert manifest.pairs is not None
    return entry_key(
        card,
        "maps",
        precision,
        placement,
        maps=dataclasses.asdict(recipe),
        data=manifest.images_digest,
        pairs=manifest.pairs.digest,
    )


@dataclasses.dataclass(frozen=True)
class PairStream(Stream):
    """The pairs of one data set through the image tower: float32 [devices, 2, h, w, C]."""

    recipe: DenseRecipe

    unit: ClassVar[str] = "pair"
    nothing: ClassVar[str] = "no pair could be used"
    batch: ClassVar[int] = 1

    @property
    def images(self) -> int:
        return 2

    @property
    def mesh(self) -> Mesh:
        return local_mesh()

    def ids(self, manifest: Manifest) -> Sequence[str]:
        assert manifest.pairs is not None
        return manifest.pairs.ids

    def forward(self, per_device_batch: int, placement: str) -> Forward:
        network = self.model.network
        assert network is not None
        step = _maps_step(network, self.mesh, self.precision, self.recipe, placement)
        params = network.in_precision({"vision": self.model.params["vision"]}, self.precision)
        return on_devices(step, params, per_device_batch, self.model)

    def batches(self, order: Order) -> Generator[Batch]:
        """Inputs are a `Pair` with an array [B, ...] for each of a pair's."""
        [(of, _)] = order.parts()
        for pairs in read_ahead(self.loader(of), order.steps, LOADERS):
            yield _batch(pairs)

    def loader(self, of: StoredRows) -> Callable[[int], Pair]:
        """Row -> pair; raises DataError."""
        pairs = of.manifest.checked_pairs  # after the key, which hashes them
        assert pairs is not None
        return pairs.load

    def inputs(self, batch: Batch, rows: np.ndarray) -> Any:
        return batch.inputs.images


@dataclasses.dataclass(frozen=True)
class MapStream(PairStream):
    """Pairs -> maps of features, which another stream matches."""

    verb: ClassVar[str] = "mapping"
    keeps: ClassVar[bool] = False

    def key(self, manifest: Manifest, placement: str) -> dict[str, Any]:
        return maps_key(self.model.card, manifest, self.recipe, self.precision, placement)


def _batch(results: Sequence[Pair | DataError | None]) -> Batch:
    """The last pair fills up the step."""
    errors = [each for each in results if isinstance(each, DataError)]
    pairs = [each for each in results if isinstance(each, Pair)]
    read = np.array([isinstance(each, Pair) for each in results])
    if not pairs:
        return Batch(None, read, errors)
    rows = [each if isinstance(each, Pair) else pairs[-1] for each in results]
    return Batch(jax.tree.map(lambda *arrays: np.stack(arrays), *rows), read, errors)


@functools.lru_cache(maxsize=16)
def _maps_step(
    network: Network, mesh: Mesh, precision: Precision, recipe: DenseRecipe, placement: str
) -> Step:
    """Params and the images of a pair per device -> its maps."""
    platform = stated_platform(platform_of(mesh), precision)

    def maps_of_pair(params: Any, images: jax.Array) -> jax.Array:
        compiled[ProgramKey(network.arch.name, "pairs", images.shape[2], 1, precision)] += 1
        return dense_map(network, params, images[0], recipe, precision, platform)[None]

    where = tower_sharding(network, mesh, placement)
    return Step(maps_of_pair, mesh, network.compiler_options("vision", precision), where)


@dataclasses.dataclass(frozen=True)
class StoredMaps:
    """Pairs whose `images` are their stored maps, float32 [2, h, w, C]."""

    name: str
    pairs: PairSet
    entry: Entry

    def load(self, i: int) -> Pair:
        pair, shard = self.pairs.load(i), self.entry.load_shard(i)
        if shard is None:
            raise DataError(f"{self.entry.shard_path(i)} is missing or damaged; run the task again")
        if not shard[0]:
            raise DataError(
                f"{self.name}: pair {self.pairs.ids[i]} could not be read when the maps were kept: run "
                "without --on-error skip to make its maps"
            )
        return Pair(shard[1][0], pair.geometry)
